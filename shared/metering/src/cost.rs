//! Parts of the costs of a call.

use tollgate_domain::money::PicoUsd;
use tollgate_domain::usage::{Cost, MAX_COST, MAX_COSTS, MAX_NUMBER};

/// Provider name for the costs that exceed the parts of a record.
const OTHERS: &str = "others";

/// The error of adding a cost after the record of its call was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the usage record of the call was made before this cost was added")]
pub struct LateCost;

/// The parts of a call's costs. Amounts are rounded once, when the record is made, because a stream may
/// report its tokens one by one.
#[derive(Default)]
pub(crate) struct Costs(Vec<(Cost, PicoUsd)>);

impl Costs {
    /// Adds a cost to the part of its provider and model. The number of parts is bounded, because a record
    /// with too many is rejected and not billed.
    pub(crate) fn add(&mut self, mut cost: Cost, amount: PicoUsd) {
        let parts = &mut self.0;
        let mut index = parts.iter().position(|(part, _)| is_same_part(part, &cost));
        // The last two parts are for all other providers: with a price and without.
        if index.is_none() && parts.len() >= MAX_COSTS - 2 {
            cost.provider = Some(OTHERS.to_owned());
            cost.model = None;
            index = parts.iter().position(|(part, _)| is_same_part(part, &cost));
        }
        match index {
            Some(index) => {
                let (part, sum) = &mut parts[index];
                part.input_tokens = part.input_tokens.saturating_add(cost.input_tokens);
                part.output_tokens = part.output_tokens.saturating_add(cost.output_tokens);
                part.tokens = part.tokens.saturating_add(cost.tokens);
                *sum = *sum + amount;
            }
            None => parts.push((cost, amount)),
        }
    }

    /// Returns the parts, clamped to the bounds of a record.
    pub(crate) fn into_parts(self) -> Vec<Cost> {
        let bounded = |(part, sum): (Cost, PicoUsd)| Cost {
            input_tokens: part.input_tokens.min(MAX_NUMBER),
            output_tokens: part.output_tokens.min(MAX_NUMBER),
            tokens: part.tokens.min(MAX_NUMBER),
            micro_usd: sum.to_micros().min(MAX_COST),
            ..part
        };
        self.0.into_iter().map(bounded).collect()
    }
}

/// Returns whether two costs belong to the same part.
fn is_same_part(one: &Cost, other: &Cost) -> bool {
    one.provider == other.provider && one.model == other.model && one.unpriced == other.unpriced
}
