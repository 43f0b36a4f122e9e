//! Costs of a call, as reported by its handler.

use std::sync::Arc;

use jiff::Timestamp;
use tollgate_domain::llm::{LlmPrices, Tokens};
use tollgate_domain::money::{MicroUsd, PicoUsd};
use tollgate_domain::usage::{Cost, MAX_COST, MAX_COSTS, MAX_MODEL, MAX_NUMBER, MAX_PROVIDER};

use crate::call::Call;

/// Provider name for the costs that exceed the parts of a record.
const OTHERS: &str = "others";

/// Collector of the costs of one call, which the layer inserts as a request extension. A handler, or the
/// response body, adds a cost for each use of a provider, any number of times.
///
/// The record of the call is made when the response body ends, fails or is dropped. Adding a cost later
/// is an error, and the cost is in no record.
#[derive(Debug, Clone)]
pub struct RequestCost {
    prices: Arc<LlmPrices>,
    at: Timestamp,
    call: Arc<Call>,
}

/// The error of adding a cost after the record of its call was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the usage record of the call was made before this cost was added")]
pub struct LateCost;

impl RequestCost {
    /// Creates the collector of a call at the time `at`, which decides the prices.
    pub(crate) fn new(prices: Arc<LlmPrices>, at: Timestamp, call: Arc<Call>) -> Self {
        Self { prices, at, call }
    }

    /// Adds language-model tokens, not separated into input and output, at the provider's price. Tokens
    /// of a provider without a price are recorded as unpriced, at no cost.
    ///
    /// # Errors
    /// When the record of the call is already made.
    pub fn add_tokens(&self, provider: &str, tokens: u64) -> Result<MicroUsd, LateCost> {
        self.add_priced(provider, None, Tokens::of(tokens))
    }

    /// Adds tokens of a provider's model, at the model's price or else at the provider's. If there is
    /// neither, they are recorded as unpriced, at no cost.
    ///
    /// # Errors
    /// When the record of the call is already made.
    pub fn add_model_tokens(
        &self,
        provider: &str,
        model: &str,
        tokens: Tokens,
    ) -> Result<MicroUsd, LateCost> {
        self.add_priced(provider, Some(model), tokens)
    }

    fn add_priced(
        &self,
        provider: &str,
        model: Option<&str>,
        tokens: Tokens,
    ) -> Result<MicroUsd, LateCost> {
        let price = self.prices.cost(provider, model, tokens, self.at);
        let amount = price.unwrap_or_default();
        let part = Cost {
            provider: Some(name(provider, MAX_PROVIDER)),
            model: model.map(|model| name(model, MAX_MODEL)),
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            tokens: tokens.other,
            micro_usd: MicroUsd(0),
            unpriced: price.is_none(),
        };
        self.call.add_cost(part, amount)?;
        Ok(amount.to_micros())
    }

    /// Adds an amount that does not depend on tokens.
    ///
    /// # Errors
    /// When the record of the call is already made.
    pub fn add_amount(&self, micro_usd: MicroUsd) -> Result<(), LateCost> {
        self.call.add_cost(Cost::default(), micro_usd.into())
    }
}

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

/// Returns the name as records have it: in lower case, printable, and neither empty nor longer than `max`
/// bytes.
fn name(given: &str, max: usize) -> String {
    let lower = given.chars().map(|c| c.to_ascii_lowercase());
    let mut name: String = lower
        .map(|c| if c.is_control() { '_' } else { c })
        .collect();
    name.truncate(name.floor_char_boundary(max));
    if name.is_empty() {
        name.push_str("unnamed");
    }
    name
}
