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
