//! Exact amounts: decimals with 12 places, products and shares, rounded half away from zero.

use std::fmt;

const PLACES: u32 = 12;
const ONE: i128 = 10_i128.pow(PLACES);

/// Amount of a currency's smallest unit, with up to 12 decimal places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decimal(i128);

impl Decimal {
    /// Parses a decimal such as `-0.125`. Returns `None` if it is not one, or has more than 12 places.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let all = whole.len() + places.len();
        if all == 0
            || whole.len() > 15
            || places.len() > PLACES as usize
            || !is_digits(whole)
            || !is_digits(places)
        {
            return None;
        }
        let number: i128 = format!("{whole}{places:0<12}").parse().ok()?;
        Some(Self(if is_negative { -number } else { number }))
    }

    /// Returns the amount in whole units, if it is whole.
    pub(crate) fn whole(self) -> Option<i64> {
        match self.0 % ONE {
            0 => i64::try_from(self.0 / ONE).ok(),
            _ => None,
        }
    }

    /// Multiplies by a quantity and rounds to whole units.
    pub(crate) fn times(self, quantity: i64) -> i64 {
        divide(self.0 * i128::from(quantity), ONE)
    }
}

impl From<i64> for Decimal {
    fn from(whole: i64) -> Self {
        Self(i128::from(whole) * ONE)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let number = self.0.unsigned_abs();
        let (whole, places) = (number / ONE.unsigned_abs(), number % ONE.unsigned_abs());
        let places = format!("{places:012}");
        match places.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            places => write!(f, "{sign}{whole}.{places}"),
        }
    }
}

/// Returns the share `part` / `of` of an amount, rounded. `of` is positive.
pub(crate) fn share(amount: i64, part: i64, of: i64) -> i64 {
    divide(i128::from(amount) * i128::from(part), i128::from(of).max(1))
}

/// Divides and rounds half away from zero.
fn divide(number: i128, by: i128) -> i64 {
    let half = if number < 0 { -by / 2 } else { by / 2 };
    i64::try_from((number + half) / by).unwrap_or(i64::MAX)
}

/// Returns the smallest amount that Stripe charges in a currency; what is due below it goes to the
/// customer's balance (<https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts>).
pub(crate) fn minimum_charge(currency: &str) -> i64 {
    match currency {
        "gbp" => 30,
        _ => 50,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        let check = |text: &str, quantity: i64, product: i64| {
            let decimal = Decimal::parse(text).unwrap();
            assert_eq!(decimal.times(quantity), product, "{text} × {quantity}");
            assert_eq!(Decimal::parse(&decimal.to_string()), Some(decimal));
        };
        check("0.5", 1, 1);
        check("0.1", 4, 0);
        check("-0.5", 1, -1);
        check("0.000000000001", 1_000_000_000_000, 1);
        check("12", 3, 36);
        for wrong in ["", "-", ".", "1e3", "1.0000000000001", "a", "1.2.3"] {
            assert_eq!(Decimal::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Decimal::from(7).whole(), Some(7));
        assert_eq!(Decimal::parse("7.1").and_then(Decimal::whole), None);
        assert_eq!(share(1000, 1, 3), 333);
        assert_eq!(share(-1000, 1, 2), -500);
        assert_eq!(share(5, 1, 2), 3);
    }
}
