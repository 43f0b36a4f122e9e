//! Amounts of money in responses: an exact integer and a text for display.

use serde::Serialize;
use tollgate_domain::money::{Cents, MicroUsd, SignedCents};
use utoipa::ToSchema;

/// Amount, such as `{"micro_usd": 230000, "display": "$0.23"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Amount {
    /// Amount in millionths of a US dollar.
    pub micro_usd: u64,
    /// Amount in dollars, for display.
    #[schema(examples("$0.23"))]
    pub display: String,
}

impl From<MicroUsd> for Amount {
    fn from(amount: MicroUsd) -> Self {
        Self {
            micro_usd: amount.0,
            display: amount.to_string(),
        }
    }
}

impl From<Cents> for Amount {
    fn from(amount: Cents) -> Self {
        Self {
            micro_usd: amount.0.saturating_mul(10_000),
            display: amount.to_string(),
        }
    }
}

/// Amount that may be negative, such as `{"micro_usd": -230000, "display": "-$0.23"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SignedAmount {
    /// Amount in millionths of a US dollar.
    pub micro_usd: i64,
    /// Amount in dollars, for display.
    #[schema(examples("$0.23"))]
    pub display: String,
}

impl SignedAmount {
    /// Creates an amount of millionths of a US dollar.
    #[must_use]
    pub fn of(micro_usd: i64) -> Self {
        let sign = if micro_usd < 0 { "-" } else { "" };
        Self {
            micro_usd,
            display: format!("{sign}{}", MicroUsd(micro_usd.unsigned_abs())),
        }
    }
}

impl From<SignedCents> for SignedAmount {
    fn from(amount: SignedCents) -> Self {
        Self {
            micro_usd: amount.0.saturating_mul(10_000),
            display: amount.to_string(),
        }
    }
}

/// Amount in the currency of an invoice, such as `{"cents": 4900, "display": "$49.00"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CurrencyAmount {
    /// Amount in the smallest unit of the currency, which is the cent for most; negative for a credit.
    pub cents: i64,
    /// Amount for display: in dollars, or with the code of another currency.
    #[schema(examples("$49.00", "49.00 EUR"))]
    pub display: String,
}

impl CurrencyAmount {
    /// Creates an amount in a currency, whose code is in lower case.
    #[must_use]
    pub fn new(cents: i64, currency: &str) -> Self {
        let display = match (currency, decimals(currency)) {
            ("usd", _) => SignedCents(cents).to_string(),
            (_, 0) => format!("{cents} {}", currency.to_ascii_uppercase()),
            (_, decimals) => {
                let sign = if cents < 0 { "-" } else { "" };
                let digits = format!("{:0width$}", cents.unsigned_abs(), width = decimals + 1);
                let (whole, rest) = digits.split_at(digits.len() - decimals);
                format!("{sign}{whole}.{rest} {}", currency.to_ascii_uppercase())
            }
        };
        Self { cents, display }
    }
}

/// Returns the number of decimals with which Stripe counts a currency
/// (<https://docs.stripe.com/currencies#zero-decimal>).
fn decimals(currency: &str) -> usize {
    match currency {
        "bif" | "clp" | "djf" | "gnf" | "jpy" | "kmf" | "krw" | "mga" | "pyg" | "rwf" | "vnd"
        | "vuv" | "xaf" | "xof" | "xpf" => 0,
        "bhd" | "jod" | "kwd" | "omr" | "tnd" => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_displays_in_its_currency() {
        let check = |cents, currency, shown: &str| {
            assert_eq!(CurrencyAmount::new(cents, currency).display, shown);
        };
        check(4_900, "usd", "$49.00");
        check(-5, "usd", "-$0.05");
        check(4_905, "eur", "49.05 EUR");
        check(-5, "eur", "-0.05 EUR");
        check(i64::MIN, "eur", "-92233720368547758.08 EUR");
        check(500, "jpy", "500 JPY");
        check(1_234, "kwd", "1.234 KWD");
        check(0, "kwd", "0.000 KWD");
    }

    #[test]
    fn a_negative_amount_has_a_sign() {
        let check = |micro_usd, shown: &str| assert_eq!(SignedAmount::of(micro_usd).display, shown);
        check(-230_000, "-$0.23");
        check(0, "$0.00");
        check(1, "$0.000001");
    }
}
