//! Price list of language-model tokens by provider, model and time.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::money::PicoUsd;

/// Token counts of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Tokens of unknown direction.
    pub other: u64,
}

impl Tokens {
    /// Creates a count of tokens of unknown direction.
    #[must_use]
    pub fn of(other: u64) -> Self {
        Self {
            other,
            ..Self::default()
        }
    }
}

/// Micro-dollars per million tokens, by direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    input: u64,
    output: u64,
}

/// One price of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmPrice {
    /// Name of the provider.
    pub provider: String,
    /// Name of the model. If absent, the price is for all models of the provider without their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Time from which the price is in effect, until the next one. If absent, it always was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Micro-dollars per million tokens of either direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_usd_per_million_tokens: Option<u64>,
    /// Micro-dollars per million input tokens. This and the next replace the single price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_usd_per_million_input_tokens: Option<u64>,
    /// Micro-dollars per million output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_usd_per_million_output_tokens: Option<u64>,
}

impl LlmPrice {
    fn rate(&self) -> Option<Rate> {
        let given = (
            self.micro_usd_per_million_tokens,
            self.micro_usd_per_million_input_tokens,
            self.micro_usd_per_million_output_tokens,
        );
        match given {
            (Some(both), None, None) => Some(Rate {
                input: both,
                output: both,
            }),
            (None, Some(input), Some(output)) => Some(Rate { input, output }),
            _ => None,
        }
    }

    /// Returns the provider, model and start of the price. Each combination may occur once in a list.
    fn key(&self) -> (String, Option<String>, Option<Timestamp>) {
        let model = self.model.as_ref().map(|model| model.to_ascii_lowercase());
        (self.provider.to_ascii_lowercase(), model, self.from)
    }

    fn is_for(&self, provider: &str, model: Option<&str>) -> bool {
        let is_model = match (&self.model, model) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(model)) => own.eq_ignore_ascii_case(model),
        };
        is_model && self.provider.eq_ignore_ascii_case(provider)
    }
}

/// Error: the price list is invalid.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPrices {
    /// It is not a JSON list of prices.
    #[error("not a list of prices: {0}")]
    Shape(#[from] serde_json::Error),
    /// A price has no amount, or too many.
    #[error(
        "the price of {0} needs either micro_usd_per_million_tokens, or \
         micro_usd_per_million_input_tokens and micro_usd_per_million_output_tokens"
    )]
    Amount(String),
    /// Two prices have the same provider, model and start.
    #[error("there are two prices of {0} from the same time on")]
    Double(String),
}

/// Prices of language-model tokens. Names are compared ASCII case-insensitively.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmPrices(Vec<(LlmPrice, Rate)>);

impl LlmPrices {
    /// Returns the prices of `llm_prices.json`.
    ///
    /// # Errors
    /// Never: a test reads the file.
    pub fn shipped() -> Result<Self, InvalidPrices> {
        Self::from_json(include_str!("llm_prices.json"))
    }

    /// Parses a JSON list of [`LlmPrice`]s, such as `llm_prices.json`.
    ///
    /// # Errors
    /// When it is not such a list, a price has no amount, or two prices are for the same.
    pub fn from_json(json: &str) -> Result<Self, InvalidPrices> {
        Self::new(serde_json::from_str(json)?)
    }

    /// Creates a price list.
    ///
    /// # Errors
    /// When a price has no amount, or two prices are for the same.
    pub fn new(prices: Vec<LlmPrice>) -> Result<Self, InvalidPrices> {
        let name = |price: &LlmPrice| match &price.model {
            Some(model) => format!("{} {model}", price.provider),
            None => price.provider.clone(),
        };
        let mut rated: Vec<(LlmPrice, Rate)> = Vec::with_capacity(prices.len());
        for price in prices {
            if rated.iter().any(|(other, _)| other.key() == price.key()) {
                return Err(InvalidPrices::Double(name(&price)));
            }
            let Some(rate) = price.rate() else {
                return Err(InvalidPrices::Amount(name(&price)));
            };
            rated.push((price, rate));
        }
        Ok(Self(rated))
    }

    /// Computes the cost of tokens at a time, or `None` if there was no price. A model's own price takes
    /// precedence over its provider's. Tokens of unknown direction have the higher of the two prices.
    #[must_use]
    pub fn cost(
        &self,
        provider: &str,
        model: Option<&str>,
        tokens: Tokens,
        at: Timestamp,
    ) -> Option<PicoUsd> {
        let in_effect = |price: &LlmPrice| price.from.is_none_or(|from| from <= at);
        let (_, rate) = self
            .0
            .iter()
            .filter(|(price, _)| price.is_for(provider, model) && in_effect(price))
            .max_by_key(|(price, _)| (price.model.is_some(), price.from))?;
        let parts = [
            (tokens.input, rate.input),
            (tokens.output, rate.output),
            (tokens.other, rate.input.max(rate.output)),
        ];
        let product = |(tokens, rate): (u64, u64)| u128::from(tokens) * u128::from(rate);
        let parts = parts.into_iter().map(product);
        Some(PicoUsd(parts.fold(0, u128::saturating_add)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::MicroUsd;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    const NOW: &str = "2026-11-22T10:00:00Z";

    #[test]
    fn tokens_have_the_prices_of_the_shipped_list() {
        let prices = LlmPrices::shipped().unwrap();
        let check = |provider: &str, tokens, micro_usd: Option<u64>| {
            let cost = prices.cost(provider, None, Tokens::of(tokens), at(NOW));
            let cost = cost.map(PicoUsd::to_micros);
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

    const LIST: &str = r#"[
        { "provider": "acme", "micro_usd_per_million_tokens": 1000000 },
        { "provider": "acme", "model": "Large", "from": "2026-01-01T00:00:00Z",
          "micro_usd_per_million_input_tokens": 3000000,
          "micro_usd_per_million_output_tokens": 15000000 },
        { "provider": "acme", "model": "large", "from": "2026-11-01T00:00:00Z",
          "micro_usd_per_million_input_tokens": 2000000,
          "micro_usd_per_million_output_tokens": 10000000 },
        { "provider": "later", "from": "2027-01-01T00:00:00Z", "micro_usd_per_million_tokens": 1 }
    ]"#;

    #[test]
    fn the_price_is_that_of_the_model_at_the_time() {
        let prices = LlmPrices::from_json(LIST).unwrap();
        let both = Tokens {
            input: 1_000,
            output: 100,
            other: 0,
        };
        let check = |provider: &str, model: Option<&str>, time, micro_usd: Option<u64>| {
            let cost = prices.cost(provider, model, both, at(time));
            let cost = cost.map(PicoUsd::to_micros);
            assert_eq!(cost, micro_usd.map(MicroUsd), "{provider} {model:?} {time}");
        };
        check("acme", None, NOW, Some(1_100));
        check("acme", Some("small"), NOW, Some(1_100));
        check("ACME", Some("LARGE"), NOW, Some(3_000));
        check("acme", Some("large"), "2026-11-01T00:00:00Z", Some(3_000));
        check("acme", Some("large"), "2026-10-31T23:59:59Z", Some(4_500));
        check("acme", Some("large"), "2025-12-31T23:59:59Z", Some(1_100));
        check("later", None, NOW, None);
        // The higher price, for tokens of unknown direction.
        let cost = prices.cost("acme", Some("large"), Tokens::of(100), at(NOW));
        assert_eq!(cost, Some(MicroUsd(1_000).into()));
    }

    #[test]
    fn parts_are_rounded_together() {
        let list = r#"[{ "provider": "a", "micro_usd_per_million_input_tokens": 400000,
            "micro_usd_per_million_output_tokens": 300000 }]"#;
        let one_each = Tokens {
            input: 1,
            output: 1,
            other: 0,
        };
        let prices = LlmPrices::from_json(list).unwrap();
        let cost = prices.cost("a", None, one_each, at(NOW));
        assert_eq!(cost.map(PicoUsd::to_micros), Some(MicroUsd(1)));
    }

    #[test]
    fn prices_without_an_amount_and_duplicates_are_rejected() {
        let check = |list: &str, reason: &str| {
            let error = LlmPrices::from_json(list).unwrap_err().to_string();
            assert!(error.contains(reason), "{list}: {error}");
        };
        check("{}", "not a list of prices");
        check(
            r#"[{ "provider": "a", "price": 1 }]"#,
            "unknown field `price`",
        );
        check(r#"[{ "provider": "a" }]"#, "the price of a needs either");
        check(
            r#"[{ "provider": "a", "model": "m", "micro_usd_per_million_input_tokens": 1 }]"#,
            "the price of a m needs either",
        );
        let one = r#"{ "provider": "a", "micro_usd_per_million_tokens": 1 }"#;
        let same = one.replace("\"a\"", "\"A\"");
        check(
            &format!("[{one}, {same}]"),
            "two prices of A from the same time",
        );
    }
}
