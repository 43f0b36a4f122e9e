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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_amount_has_a_sign() {
        let check = |micro_usd, shown: &str| assert_eq!(SignedAmount::of(micro_usd).display, shown);
        check(-230_000, "-$0.23");
        check(0, "$0.00");
        check(1, "$0.000001");
    }
}
