//! Money in answers: the integer that counts, and a text to show.

use serde::Serialize;
use tollgate_domain::money::{Cents, MicroUsd};

/// An amount, such as `{"micro_usd": 230000, "display": "$0.23"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Millionths of a US dollar.
    pub micro_usd: u64,
    /// The same in dollars.
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

/// An amount that may be taken away, such as `{"micro_usd": -230000, "display": "-$0.23"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedAmount {
    /// Millionths of a US dollar.
    pub micro_usd: i64,
    /// The same in dollars.
    pub display: String,
}

impl SignedAmount {
    /// So many millionths of a US dollar.
    #[must_use]
    pub fn of(micro_usd: i64) -> Self {
        let sign = if micro_usd < 0 { "-" } else { "" };
        Self {
            micro_usd,
            display: format!("{sign}{}", MicroUsd(micro_usd.unsigned_abs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_away_has_a_sign() {
        let check = |micro_usd, shown: &str| assert_eq!(SignedAmount::of(micro_usd).display, shown);
        check(-230_000, "-$0.23");
        check(0, "$0.00");
        check(1, "$0.000001");
    }
}
