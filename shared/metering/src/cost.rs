//! What a call cost its provider, as the handler tells it.

use std::sync::Arc;

use jiff::Timestamp;
use tollgate_domain::llm::{LlmPrices, Tokens};
use tollgate_domain::money::{MicroUsd, PicoUsd};
use tollgate_domain::usage::{Cost, MAX_COST, MAX_COSTS, MAX_MODEL, MAX_NUMBER, MAX_PROVIDER};

use crate::call::Call;

/// The provider of what is added beyond the parts that a record has.
const OTHERS: &str = "others";

/// Collects the cost of one call. A request extension that the layer puts there: a handler, or the
/// body that it answers with, adds to it as often as it likes, one time for each provider that served
/// the call.
///
/// The record of the call is made when the body of its answer ends, fails or is dropped. A cost that is
/// added later is in no record, and an error.
#[derive(Debug, Clone)]
pub struct RequestCost {
    prices: Arc<LlmPrices>,
    at: Timestamp,
    call: Arc<Call>,
}

/// A cost that was added after the record of its call was made, and is in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the usage record of the call is made already, and does not have this cost")]
pub struct LateCost;

impl RequestCost {
    /// For a call at that time, which decides the prices.
    pub(crate) fn new(prices: Arc<LlmPrices>, at: Timestamp, call: Arc<Call>) -> Self {
        Self { prices, at, call }
    }

    /// Adds language-model tokens that are not told apart, at the provider's price. Tokens of a
    /// provider without a price are recorded as such, at no cost.
    ///
    /// # Errors
    /// When it comes too late.
    pub fn add_tokens(&self, provider: &str, tokens: u64) -> Result<MicroUsd, LateCost> {
        self.add_of(provider, None, Tokens::of(tokens))
    }

    /// Adds tokens of a provider's model, at the model's price or else at the provider's. Those of
    /// neither are recorded as such, at no cost.
    ///
    /// # Errors
    /// When it comes too late.
    pub fn add_model_tokens(
        &self,
        provider: &str,
        model: &str,
        tokens: Tokens,
    ) -> Result<MicroUsd, LateCost> {
        self.add_of(provider, Some(model), tokens)
    }

    fn add_of(
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
        self.call.add(part, amount)?;
        Ok(amount.to_micros())
    }

    /// Adds an amount that is not by tokens.
    ///
    /// # Errors
    /// When it comes too late.
    pub fn add_amount(&self, micro_usd: MicroUsd) -> Result<(), LateCost> {
        self.call.add(Cost::default(), micro_usd.into())
    }
}

/// What a call costs, part by part. Amounts are rounded once, when the record is made: a stream may
/// well report its tokens one by one.
#[derive(Default)]
pub(crate) struct Costs(Vec<(Cost, PicoUsd)>);

impl Costs {
    /// Keeps one part for each model, and no more than a record may have: what is refused is not billed.
    pub(crate) fn add(&mut self, mut cost: Cost, amount: PicoUsd) {
        let parts = &mut self.0;
        let mut place = parts.iter().position(|(part, _)| is_same(part, &cost));
        // Two are left for the rest: with a price and without.
        if place.is_none() && parts.len() >= MAX_COSTS - 2 {
            cost.provider = Some(OTHERS.to_owned());
            cost.model = None;
            place = parts.iter().position(|(part, _)| is_same(part, &cost));
        }
        match place {
            Some(place) => {
                let (part, sum) = &mut parts[place];
                part.input_tokens = part.input_tokens.saturating_add(cost.input_tokens);
                part.output_tokens = part.output_tokens.saturating_add(cost.output_tokens);
                part.tokens = part.tokens.saturating_add(cost.tokens);
                *sum = *sum + amount;
            }
            None => parts.push((cost, amount)),
        }
    }

    /// The parts as a record has them, none beyond its bounds.
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

/// Whether two costs are added up.
fn is_same(one: &Cost, other: &Cost) -> bool {
    one.provider == other.provider && one.model == other.model && one.unpriced == other.unpriced
}

/// A name as records have it: in lower case, printable, and neither empty nor longer than `max` bytes.
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
