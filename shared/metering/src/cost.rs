//! What a call cost its provider, as the handler tells it.

use std::sync::{Arc, Mutex, PoisonError};

use tollgate_domain::llm::LlmPrices;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::usage::Cost;

/// Collects the cost of one call. A request extension that the layer puts there: a handler adds to
/// it as often as it likes, one time for each provider that served the call.
#[derive(Debug, Clone)]
pub struct RequestCost {
    prices: Arc<LlmPrices>,
    costs: Arc<Mutex<Vec<Cost>>>,
}

impl RequestCost {
    pub(crate) fn new(prices: Arc<LlmPrices>) -> Self {
        Self {
            prices,
            costs: Arc::default(),
        }
    }

    /// Adds language-model tokens, at the provider's price. Tokens of a provider without a price
    /// are recorded as such, at no cost.
    pub fn add_tokens(&self, provider: &str, tokens: u64) -> MicroUsd {
        let price = self.prices.cost(provider, tokens);
        let micro_usd = price.unwrap_or_default();
        self.add(Cost {
            provider: Some(provider.to_ascii_lowercase()),
            tokens,
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

    /// Keeps one part for each provider: a record with many is refused.
    fn add(&self, cost: Cost) {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        match costs.iter_mut().find(|part| part.provider == cost.provider) {
            Some(part) => {
                part.tokens = part.tokens.saturating_add(cost.tokens);
                part.micro_usd = part.micro_usd + cost.micro_usd;
            }
            None => costs.push(cost),
        }
    }

    pub(crate) fn take(&self) -> Vec<Cost> {
        std::mem::take(&mut self.costs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
