//! The overage of a month, computed from the list of its calls and not from aggregates.

use std::collections::BTreeMap;

/// Day of November on which the price of `pro` rises.
pub(crate) const PRICE_RISE: i64 = 16;

/// Calls of a customer, in the order in which they were counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// Plan, day of the month, and number of calls; negative for a correction.
    pub(crate) counted: Vec<(&'static str, i64, i64)>,
}

/// Included calls and prices in micro-dollars, before and after the rise, of the plans that charge.
const CHARGING: [(&str, i64, [i64; 2]); 2] =
    [("pro", 5, [3_333, 4_999]), ("team", 3, [7_777, 7_777])];

impl Usage {
    /// Returns the cents due for the month: overage by plan at the prices of the days, rounded once, half up.
    pub(crate) fn cents(&self) -> i64 {
        let micro_usd: i64 = CHARGING
            .iter()
            .map(|(plan, included, prices)| self.micro_usd(plan, *included, prices))
            .sum();
        (micro_usd + 5_000) / 10_000
    }

    fn micro_usd(&self, plan: &str, included: i64, prices: &[i64; 2]) -> i64 {
        let mut days: BTreeMap<i64, i64> = BTreeMap::new();
        for (_, day, calls) in self.counted.iter().filter(|(of, _, _)| *of == plan) {
            *days.entry(*day).or_default() += calls;
        }
        // Prices of the overage calls so far, in their order: a correction removes the latest.
        let mut charged = Vec::new();
        let mut total = 0;
        for (day, calls) in days {
            total += calls;
            let beyond = usize::try_from((total - included).max(0)).unwrap_or(0);
            let price = prices[usize::from(day >= PRICE_RISE)];
            charged.resize(beyond, price);
        }
        charged.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_remove_the_latest_overage_calls() {
        let check = |counted: &[(&'static str, i64, i64)], expected| {
            let usage = Usage {
                counted: counted.to_vec(),
            };
            assert_eq!(usage.cents(), expected, "{counted:?}");
        };
        check(&[("pro", 1, 5)], 0);
        check(&[("pro", 1, 8)], 1);
        check(&[("pro", 1, 8), ("pro", 16, 1)], 1);
        check(&[("pro", 1, 8), ("pro", 16, 2)], 2);
        check(&[("pro", 1, 8), ("pro", 16, 2), ("pro", 20, -2)], 1);
        check(&[("pro", 1, 5), ("team", 1, 5), ("free", 1, 99)], 2);
        check(&[("pro", 1, -3), ("pro", 2, 8)], 0);
    }
}
