//! Two ledgers of the same calls: those that the authorizer let in, and those that were metered.

/// What the ledgers say of a customer's day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerComparison {
    /// Calls that were let in, those while the store was down included.
    pub admitted: u64,
    /// Calls that were answered and counted as usage.
    pub metered: u64,
}

/// Calls by which the ledgers of a day may differ. A call that is let in just before midnight is
/// metered just after it, and one that a function did not live to answer is not metered.
pub const TOLERATED_CALLS: u64 = 10;
/// The part of the admitted calls by which they may differ: one in so many. Instances that end cleanly
/// report to the call, so this is for those that crash.
pub const TOLERATED_ONE_IN: u64 = 200;

impl LedgerComparison {
    /// Whether the ledgers differ by more than the larger of ten calls and one in two hundred, or
    /// calls were admitted and none at all was metered.
    #[must_use]
    pub fn is_discrepant(&self) -> bool {
        let of_share = self.admitted / TOLERATED_ONE_IN;
        self.is_silent() || self.admitted.abs_diff(self.metered) > of_share.max(TOLERATED_CALLS)
    }

    /// Whether calls were admitted, and none was metered.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.admitted > 0 && self.metered == 0
    }

    /// Calls that were admitted and not metered: usage that nobody pays for.
    #[must_use]
    pub fn unmetered(&self) -> u64 {
        self.admitted.saturating_sub(self.metered)
    }

    /// Calls that were metered and not admitted: reported from elsewhere, let in by an instance that
    /// crashed before it reported them, or counted twice.
    #[must_use]
    pub fn unadmitted(&self) -> u64 {
        self.metered.saturating_sub(self.admitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_calls_or_one_in_two_hundred_are_tolerated_and_silence_is_not() {
        let check = |admitted, metered, is_discrepant| {
            let comparison = LedgerComparison { admitted, metered };
            assert_eq!(comparison.is_discrepant(), is_discrepant, "{admitted} and {metered}");
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
