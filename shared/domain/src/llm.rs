//! What language-model tokens cost: a price list by provider.

use serde::{Deserialize, Serialize};

use crate::money::MicroUsd;

/// A provider's price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmPrice {
    /// The provider's name in lower case.
    pub provider: String,
    /// Micro-dollars for a million tokens.
    pub micro_usd_per_million_tokens: u64,
}

/// Prices of language-model tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmPrices(Vec<LlmPrice>);

impl Default for LlmPrices {
    /// DeepSeek $0.27, Anthropic $3 and OpenAI $10 for a million tokens.
    fn default() -> Self {
        let price = |provider: &str, micro_usd_per_million_tokens| LlmPrice {
            provider: provider.to_owned(),
            micro_usd_per_million_tokens,
        };
        Self(vec![
            price("deepseek", 270_000),
            price("anthropic", 3_000_000),
            price("openai", 10_000_000),
        ])
    }
}

impl LlmPrices {
    /// Prices from configuration. Provider names are compared without regard to case.
    #[must_use]
    pub fn new(prices: Vec<LlmPrice>) -> Self {
        Self(prices)
    }

    /// What `tokens` of `provider` cost, to the nearest micro-dollar; `None` for a provider
    /// without a price, whose tokens are recorded all the same.
    #[must_use]
    pub fn cost(&self, provider: &str, tokens: u64) -> Option<MicroUsd> {
        let price = self
            .0
            .iter()
            .find(|price| price.provider.eq_ignore_ascii_case(provider))?;
        let per_million = u128::from(price.micro_usd_per_million_tokens);
        let micro_usd = (u128::from(tokens) * per_million + 500_000) / 1_000_000;
        Some(MicroUsd(u64::try_from(micro_usd).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cost_what_the_list_says() {
        let check = |provider: &str, tokens, micro_usd: Option<u64>| {
            let cost = LlmPrices::default().cost(provider, tokens);
            assert_eq!(cost, micro_usd.map(MicroUsd), "{tokens} of {provider}");
        };
        check("deepseek", 1_000_000, Some(270_000));
        check("Anthropic", 1_000_000, Some(3_000_000));
        check("openai", 1_234, Some(12_340));
        check("deepseek", 1, Some(0));
        check("deepseek", 2, Some(1));
        check("openai", 0, Some(0));
        check("openai", u64::MAX, Some(u64::MAX));
        check("nobody", 1_000, None);
    }
}
