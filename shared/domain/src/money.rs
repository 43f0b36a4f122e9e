//! Money as integers: micro-US-dollars for costs and prices, cents for charges.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// Millionths of a US dollar. The price of one overage call is 1,000 of them.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MicroUsd(pub u64);

/// Millionths of a [`MicroUsd`]: the price of a language-model token is a whole number of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PicoUsd(pub u128);

/// US cents: the unit Stripe charges in.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Cents(pub u64);

/// US cents due to the seller, or if negative, to the customer.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SignedCents(pub i64);

const PICO_USD_PER_MICRO_USD: u128 = 1_000_000;
/// Micro-dollars in a cent.
const MICRO_USD_PER_CENT: u64 = 10_000;

impl MicroUsd {
    /// Rounds to the nearest cent, half a cent up. Of charges, only the cumulative overage of a month is
    /// rounded.
    #[must_use]
    pub fn to_cents(self) -> Cents {
        let rest = self.0 % MICRO_USD_PER_CENT;
        Cents(self.0 / MICRO_USD_PER_CENT + u64::from(rest >= MICRO_USD_PER_CENT / 2))
    }

    /// Multiplies this price by a number of calls. Saturates.
    #[must_use]
    pub fn times(self, calls: u64) -> Self {
        Self(self.0.saturating_mul(calls))
    }
}

impl Cents {
    /// Returns the difference to `other`. Saturates.
    #[must_use]
    pub fn minus(self, other: Self) -> SignedCents {
        let exact = i128::from(self.0) - i128::from(other.0);
        let saturated = if exact < 0 { i64::MIN } else { i64::MAX };
        SignedCents(i64::try_from(exact).unwrap_or(saturated))
    }

    /// Adds an amount that may be negative. Saturates at 0.
    #[must_use]
    pub fn plus(self, amount: SignedCents) -> Self {
        Self(self.0.saturating_add_signed(amount.0))
    }
}

impl SignedCents {
    /// Returns the amount without its sign.
    #[must_use]
    pub fn abs(self) -> Cents {
        Cents(self.0.unsigned_abs())
    }
}

impl fmt::Display for SignedCents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}", self.abs())
    }
}

impl From<Cents> for MicroUsd {
    fn from(cents: Cents) -> Self {
        Self(MICRO_USD_PER_CENT).times(cents.0)
    }
}

impl PicoUsd {
    /// Rounds to the nearest micro-dollar, half of one up. Saturates.
    #[must_use]
    pub fn to_micros(self) -> MicroUsd {
        let half_up = self.0.saturating_add(PICO_USD_PER_MICRO_USD / 2);
        MicroUsd(u64::try_from(half_up / PICO_USD_PER_MICRO_USD).unwrap_or(u64::MAX))
    }
}

impl From<MicroUsd> for PicoUsd {
    fn from(micros: MicroUsd) -> Self {
        Self(u128::from(micros.0) * PICO_USD_PER_MICRO_USD)
    }
}

impl Add for PicoUsd {
    type Output = Self;

    /// Adds two amounts. Saturates.
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Add for MicroUsd {
    type Output = Self;

    /// Adds two amounts. Saturates: a bill of $18 trillion is wrong whatever its last digits.
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for MicroUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self(0), Self::add)
    }
}

impl fmt::Display for MicroUsd {
    /// Formats as `$0.234`, with two to six decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = format!("{:06}", self.0 % 1_000_000);
        let shown = micros.trim_end_matches('0').len().max(2);
        write!(f, "${}.{}", self.0 / 1_000_000, &micros[..shown])
    }
}

impl fmt::Display for Cents {
    /// Formats as `$0.23`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micros_round_half_up() {
        let check = |pico, micro| assert_eq!(PicoUsd(pico).to_micros(), MicroUsd(micro), "{pico}");
        check(0, 0);
        check(499_999, 0);
        check(500_000, 1);
        check(1_499_999, 1);
        check(u128::MAX, u64::MAX);
        let most = PicoUsd::from(MicroUsd(u64::MAX));
        assert_eq!(most.to_micros(), MicroUsd(u64::MAX));
        assert_eq!((PicoUsd(u128::MAX) + most).0, u128::MAX);
    }

    #[test]
    fn cents_round_half_up() {
        let check = |micro, cents| assert_eq!(MicroUsd(micro).to_cents(), Cents(cents), "{micro}");
        check(0, 0);
        check(4_999, 0);
        check(5_000, 1);
        check(234_000, 23);
        check(235_000, 24);
        check(u64::MAX, 1_844_674_407_370_955);
    }

    #[test]
    fn amounts_display_in_dollars() {
        let check = |micro, shown: &str| assert_eq!(MicroUsd(micro).to_string(), shown);
        check(0, "$0.00");
        check(1, "$0.000001");
        check(234_000, "$0.234");
        check(1_500_000, "$1.50");
        assert_eq!(Cents(23).to_string(), "$0.23");
        assert_eq!(Cents(1_205).to_string(), "$12.05");
    }
}
