//! Costs of a call, as reported by its handler.

use std::sync::Arc;

use jiff::Timestamp;
use tollgate_domain::llm::{LlmPrices, Tokens};
use tollgate_domain::money::MicroUsd;
use tollgate_domain::usage::{Cost, MAX_MODEL, MAX_PROVIDER};

use crate::call::Call;
use crate::cost::LateCost;

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
