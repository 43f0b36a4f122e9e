//! What a call cost its provider, as the handler tells it.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tollgate_domain::llm::{LlmPrices, Tokens};
use tollgate_domain::money::MicroUsd;
use tollgate_domain::usage::{Cost, MAX_COST, MAX_COSTS, MAX_MODEL, MAX_NUMBER, MAX_PROVIDER};

/// The provider of what is added beyond the parts that a record has.
const OTHERS: &str = "others";

/// Collects the cost of one call. A request extension that the layer puts there: a handler adds to
/// it as often as it likes, one time for each provider that served the call.
#[derive(Debug, Clone)]
pub struct RequestCost {
    prices: Arc<LlmPrices>,
    at: Timestamp,
    costs: Arc<Mutex<Vec<Cost>>>,
}

impl RequestCost {
    /// For a call at that time, which decides the prices.
    pub(crate) fn new(prices: Arc<LlmPrices>, at: Timestamp) -> Self {
        Self {
            prices,
            at,
            costs: Arc::default(),
        }
    }

    /// Adds language-model tokens that are not told apart, at the provider's price. Tokens of a
    /// provider without a price are recorded as such, at no cost.
    pub fn add_tokens(&self, provider: &str, tokens: u64) -> MicroUsd {
        self.add_of(provider, None, Tokens::of(tokens))
    }

    /// Adds tokens of a provider's model, at the model's price or else at the provider's. Those of
    /// neither are recorded as such, at no cost.
    pub fn add_model_tokens(&self, provider: &str, model: &str, tokens: Tokens) -> MicroUsd {
        self.add_of(provider, Some(model), tokens)
    }

    fn add_of(&self, provider: &str, model: Option<&str>, tokens: Tokens) -> MicroUsd {
        let price = self.prices.cost(provider, model, tokens, self.at);
        let micro_usd = price.unwrap_or_default();
        self.add(Cost {
            provider: Some(name(provider, MAX_PROVIDER)),
            model: model.map(|model| name(model, MAX_MODEL)),
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            tokens: tokens.other,
            micro_usd,
            unpriced: price.is_none(),
        });
        micro_usd
    }

    /// Adds an amount that is not by tokens.
    pub fn add_amount(&self, micro_usd: MicroUsd) {
        self.add(Cost {
            micro_usd,
            ..Cost::default()
        });
    }

    /// Keeps one part for each model, and no more than a record may have: what is refused is not billed.
    fn add(&self, mut cost: Cost) {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |part: &Cost| (part.provider.clone(), part.model.clone(), part.unpriced);
        let is_new = !costs.iter().any(|part| of(part) == of(&cost));
        // Two are left for the rest: with a price and without.
        if is_new && costs.len() >= MAX_COSTS - 2 {
            cost.provider = Some(OTHERS.to_owned());
            cost.model = None;
        }
        match costs.iter_mut().find(|part| of(part) == of(&cost)) {
            Some(part) => {
                part.input_tokens = part.input_tokens.saturating_add(cost.input_tokens);
                part.output_tokens = part.output_tokens.saturating_add(cost.output_tokens);
                part.tokens = part.tokens.saturating_add(cost.tokens);
                part.micro_usd = part.micro_usd + cost.micro_usd;
            }
            None => costs.push(cost),
        }
    }

    /// The parts, none beyond the bounds of a record.
    pub(crate) fn take(&self) -> Vec<Cost> {
        let mut costs =
            std::mem::take(&mut *self.costs.lock().unwrap_or_else(PoisonError::into_inner));
        for cost in &mut costs {
            let tokens = [
                &mut cost.input_tokens,
                &mut cost.output_tokens,
                &mut cost.tokens,
            ];
            for count in tokens {
                *count = (*count).min(MAX_NUMBER);
            }
            cost.micro_usd = cost.micro_usd.min(MAX_COST);
        }
        costs
    }
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
