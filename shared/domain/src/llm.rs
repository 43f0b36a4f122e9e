//! What language-model tokens cost: a price list by provider, model and time.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::money::PicoUsd;

/// Tokens of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Those that were sent.
    pub input: u64,
    /// Those that were made.
    pub output: u64,
    /// Those of which neither is known.
    pub other: u64,
}

impl Tokens {
    /// Tokens that are not told apart.
    #[must_use]
    pub fn of(other: u64) -> Self {
        Self {
            other,
            ..Self::default()
        }
    }
}

/// Micro-dollars for a million tokens, one price for all or one for each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    input: u64,
    output: u64,
}

/// A price, as the list has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmPrice {
    /// The provider's name.
    pub provider: String,
    /// The model's name; left out, the price is for all models that have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// When it came into effect; left out, it always was. It ends where the next one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Micro-dollars for a million tokens, whichever their direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_usd_per_million_tokens: Option<u64>,
    /// The same for those sent; with the next, in place of the former.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_usd_per_million_input_tokens: Option<u64>,
    /// The same for those made.
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

    /// Two prices with the same of this cannot both hold.
    fn of(&self) -> (String, Option<String>, Option<Timestamp>) {
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

/// Why a price list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPrices {
    /// It is no such list.
    #[error("not a list of prices: {0}")]
    Shape(#[from] serde_json::Error),
    /// A price without an amount, or with one too many.
    #[error(
        "the price of {0} needs either micro_usd_per_million_tokens, or \
         micro_usd_per_million_input_tokens and micro_usd_per_million_output_tokens"
    )]
    Amount(String),
    /// Two prices for the same.
    #[error("there are two prices of {0} from the same time on")]
    Double(String),
}

/// Prices of language-model tokens. Names are compared without regard to ASCII case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmPrices(Vec<(LlmPrice, Rate)>);

impl LlmPrices {
    /// Those of `llm_prices.json`.
    ///
    /// # Errors
    /// Never: a test reads the file.
    pub fn shipped() -> Result<Self, InvalidPrices> {
        Self::from_json(include_str!("llm_prices.json"))
    }

    /// A list in JSON, of the form of `llm_prices.json` and [`LlmPrice`].
    ///
    /// # Errors
    /// When it is no such list, or says two things of the same.
    pub fn from_json(json: &str) -> Result<Self, InvalidPrices> {
        Self::new(serde_json::from_str(json)?)
    }

    /// A list of these prices.
    ///
    /// # Errors
    /// When one has no amount, or two are for the same.
    pub fn new(prices: Vec<LlmPrice>) -> Result<Self, InvalidPrices> {
        let name = |price: &LlmPrice| match &price.model {
            Some(model) => format!("{} {model}", price.provider),
            None => price.provider.clone(),
        };
        let mut rated: Vec<(LlmPrice, Rate)> = Vec::with_capacity(prices.len());
        for price in prices {
            if rated.iter().any(|(other, _)| other.of() == price.of()) {
                return Err(InvalidPrices::Double(name(&price)));
            }
            let Some(rate) = price.rate() else {
                return Err(InvalidPrices::Amount(name(&price)));
            };
            rated.push((price, rate));
        }
        Ok(Self(rated))
    }

    /// What tokens cost at that time; `None` if there was no price. A model's own price goes before its
    /// provider's. Tokens that are not told apart cost what the dearer direction does.
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
    fn tokens_cost_what_the_shipped_list_says() {
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
    fn the_price_is_the_models_at_the_time() {
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
        // Which they were is not known: the dearer.
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
    fn a_list_that_says_too_little_or_too_much_is_refused() {
        let check = |list: &str, reason: &str| {
            let refused = LlmPrices::from_json(list).unwrap_err().to_string();
            assert!(refused.contains(reason), "{list}: {refused}");
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
