//! Comparison of the two ledgers of calls: admitted by the authorizer, and metered as usage.

/// Calls of a customer on a day, according to each ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerComparison {
    /// Calls that the authorizer allowed, including those while the store was unavailable.
    pub admitted: u64,
    /// Calls that usage records report.
    pub metered: u64,
}

/// Tolerated difference between the ledgers of a day, in calls. A call admitted just before midnight
/// may be metered just after it, and one whose instance crashed before the response is not metered.
pub const TOLERATED_CALLS: u64 = 10;
/// Tolerated difference as a fraction of the admitted calls: one in this many. An instance that shuts
/// down cleanly reports each call; the tolerance is for those that crash.
pub const TOLERATED_ONE_IN: u64 = 200;

impl LedgerComparison {
    /// Whether the ledgers differ by more than ten calls and more than one in two hundred, or calls were
    /// admitted and none was metered.
    #[must_use]
    pub fn is_discrepant(&self) -> bool {
        let tolerated = (self.admitted / TOLERATED_ONE_IN).max(TOLERATED_CALLS);
        self.is_silent() || self.admitted.abs_diff(self.metered) > tolerated
    }

    /// Whether calls were admitted, and none was metered.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.admitted > 0 && self.metered == 0
    }

    /// Returns the calls that were admitted and not metered, and so are not billed.
    #[must_use]
    pub fn unmetered(&self) -> u64 {
        self.admitted.saturating_sub(self.metered)
    }

    /// Returns the calls that were metered and not admitted: reported by another producer, allowed by an
    /// instance that crashed before it reported them, or counted twice.
    #[must_use]
    pub fn unadmitted(&self) -> u64 {
        self.metered.saturating_sub(self.admitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_calls_or_one_in_two_hundred_are_tolerated_and_no_metered_calls_at_all_are_not() {
        let check = |admitted, metered, is_discrepant| {
            let comparison = LedgerComparison { admitted, metered };
            assert_eq!(
                comparison.is_discrepant(),
                is_discrepant,
                "{admitted} and {metered}"
            );
        };
        check(0, 0, false);
        check(1, 0, true);
        check(11, 1, false);
        check(12, 1, true);
        check(0, 10, false);
        check(0, 11, true);
        check(10_000, 9_950, false);
        check(10_000, 9_949, true);
        check(10_000, 10_050, false);
        check(10_000, 10_051, true);
        check(u64::MAX, u64::MAX, false);
        let more = LedgerComparison {
            admitted: 5,
            metered: 7,
        };
        assert_eq!((more.unmetered(), more.unadmitted()), (0, 2));
    }
}
