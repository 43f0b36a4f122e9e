//! Quota leases: units of a limit that an instance reserves in one write and spends from memory.
//!
//! A quota counter in the store has the number of units of a window's limit that all instances
//! together have reserved, which never exceeds the limit. An instance reserves many units at a time, so
//! that most calls cost no write. The size of a reservation follows the rate of the calls and the rest
//! of the limit.

use jiff::{SignedDuration, Timestamp};

/// Maximum units in one reservation on a plan that does not set its own maximum.
pub const MAX_LEASE: u64 = 1_000;
/// Maximum units in one reservation of a counter without a limit.
pub const MAX_UNLIMITED_LEASE: u64 = 10_000;

/// Divisor of the rest of the limit that bounds one reservation: at most a sixteenth, so that the
/// instances that share a limit exhaust it at about the same time.
const REST_DIVISOR: u64 = 16;
/// Most units that are reserved because an instance has spent as many, whatever their rate. If the instance crashes, they
/// are lost to the window, and fewer calls than reconciliation tolerates are not reported.
const MAX_AS_SPENT: u64 = 8;
/// Divisor of the rest of the limit that bounds such a reservation. Its units may stay unspent for long, so that they are
/// fewer where the limit is nearly reached.
const REST_DIVISOR_AS_SPENT: u64 = 64;
/// Time that a reservation under a limit should last.
const LEASE_DURATION: SignedDuration = SignedDuration::from_secs(1);
/// Time that a reservation without a limit should last. It is longer, because it takes no units from
/// other instances.
const UNLIMITED_LEASE_DURATION: SignedDuration = SignedDuration::from_secs(10);
/// Time during which an exhausted counter is not read again. Other instances may release units later.
const EXHAUSTED_FOR: SignedDuration = SignedDuration::from_secs(1);

/// Lease of one instance on one quota counter. A lease is valid in one window only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    left: u64,
    spent: u64,
    /// Units that all instances had reserved at the last reservation, or at least the limit if that
    /// failed because the counter was exhausted.
    total_reserved: u64,
    exhausted: Option<Exhausted>,
    last: Option<Reservation>,
}

/// Limit under which a request found no unit left, and its time.
///
/// A reservation of the last unit is no such finding: units that count as reserved may be unused in a
/// branch of the counter, from where a request for one more gets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exhausted {
    limit: u64,
    at: Timestamp,
}

/// Units of one reservation, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reservation {
    units: u64,
    at: Timestamp,
}

impl Lease {
    /// Whether a call under `limit` can spend a unit without a request to the store.
    ///
    /// The unspent units are included in the counter's total at the last reservation. A limit below that
    /// total, which another key of the customer or a new plan may have, does not allow spending them.
    #[must_use]
    pub fn covers(&self, limit: Option<u64>) -> bool {
        self.left > 0 && limit.is_none_or(|limit| self.total_reserved <= limit)
    }

    /// Spends a unit, if one is left, and returns the units used in the window as of the last
    /// reservation: all that were reserved, minus the unspent ones of this lease.
    pub fn spend(&mut self) -> u64 {
        if self.left > 0 {
            self.left -= 1;
            self.spent += 1;
        }
        self.total_reserved.saturating_sub(self.left)
    }

    /// Whether no unit is left in the lease, and less than a second ago none was left in the counter.
    #[must_use]
    pub fn is_exhausted(&self, limit: Option<u64>, now: Timestamp) -> bool {
        let ago = self.exhausted.map(|found| now.duration_since(found.at));
        let is_recent = ago.is_some_and(|ago| !ago.is_negative() && ago < EXHAUSTED_FOR);
        is_recent && self.was_exhausted(limit)
    }

    /// Computes the number of units to reserve next: those of one second (ten without a limit) at the
    /// rate of the last reservation, or up to eight if as many were spent before, at most `max`, fewer close to the limit,
    /// and at least one.
    #[must_use]
    pub fn next_lease(&self, limit: Option<u64>, max: u64, now: Timestamp) -> u64 {
        let duration = limit.map_or(UNLIMITED_LEASE_DURATION, |_| LEASE_DURATION);
        let rest = limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.total_reserved));
        let by_rate = self.last.map_or(1, |last| last.next(duration, now));
        // Whoever has called often will call again: a slow key then costs a fraction of a write for each call.
        let as_spent = self.last.map_or(1, |_| self.spent.min(MAX_AS_SPENT));
        let as_spent = as_spent.min(rest / REST_DIVISOR_AS_SPENT);
        by_rate
            .max(as_spent)
            .min(rest / REST_DIVISOR)
            .min(max)
            .max(1)
    }

    /// Adds `units` that were reserved at `now`, after which the counter's total was `total`.
    pub fn reserved(&mut self, units: u64, total: u64, now: Timestamp) {
        self.left += units;
        self.total_reserved = total;
        // Units were left under a limit of at least `total`, and none may be left under a lower one.
        self.exhausted = self.exhausted.filter(|found| found.limit < total);
        self.last = Some(Reservation { units, at: now });
    }

    /// Records that at `now` no unit of `limit` was left in the counter.
    pub fn exhausted(&mut self, limit: u64, now: Timestamp) {
        self.total_reserved = self.total_reserved.max(limit);
        self.exhausted = Some(Exhausted { limit, at: now });
    }

    /// Removes the unspent units from the lease and returns their number. The next reservation starts
    /// again with one unit.
    pub fn release(&mut self) -> u64 {
        self.last = None;
        std::mem::take(&mut self.left)
    }

    /// Whether no unit of `limit` was left in the counter, and none has been reserved since, however long ago.
    #[must_use]
    pub fn was_exhausted(&self, limit: Option<u64>) -> bool {
        let found = self.exhausted.map(|found| found.limit);
        let is_reached = limit
            .zip(found)
            .is_some_and(|(limit, found)| limit <= found);
        is_reached && !self.covers(limit)
    }

    /// Whether the counter's total had reached `limit` at the last request, however long ago, so that the
    /// next one is likely to find no unit left.
    #[must_use]
    pub fn may_be_exhausted(&self, limit: Option<u64>) -> bool {
        let is_reached = limit.is_some_and(|limit| limit <= self.total_reserved);
        is_reached && !self.covers(limit)
    }

    /// Returns the number of unspent units.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Returns the number of units spent on calls.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent
    }
}

impl Reservation {
    /// Computes the units that last for `duration`, given that these have lasted for `lasted`.
    fn at_rate(self, duration: SignedDuration, lasted: SignedDuration) -> u64 {
        let in_time = u128::from(self.units) * duration.as_millis().unsigned_abs();
        let units = in_time / lasted.as_millis().unsigned_abs().max(1);
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// Computes the units of the next reservation, which should last for `duration`, given that these
    /// were spent by `now`.
    fn next(self, duration: SignedDuration, now: Timestamp) -> u64 {
        let lasted = now.duration_since(self.at);
        if lasted.is_negative() {
            // The clock was set back, so the rate is unknown.
            self.units
        } else if lasted < duration {
            // The rate of one short interval is uncertain: growth is limited to a factor of four.
            self.at_rate(duration, lasted)
                .min(self.units.saturating_mul(4))
        } else if lasted <= duration * 2 {
            self.units
        } else {
            self.at_rate(duration, lasted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the time `ms` milliseconds after the hour.
    fn at(ms: i64) -> Timestamp {
        let hour: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        hour + SignedDuration::from_millis(ms)
    }

    fn after_reservation(units: u64, total: u64) -> Lease {
        let mut lease = Lease::default();
        lease.reserved(units, total, at(0));
        lease
    }

    #[test]
    fn each_unit_is_spent_once() {
        let mut lease = after_reservation(2, 10);
        assert_eq!([lease.spend(), lease.spend()], [9, 10]);
        assert!(!lease.covers(None));
        assert_eq!((lease.left(), lease.spent()), (0, 2));
        lease.spend();
        assert_eq!((lease.left(), lease.spent()), (0, 2));
    }

    #[test]
    fn units_beyond_a_lower_limit_do_not_cover_calls_under_it() {
        let check = |total, limit, covered| {
            assert_eq!(
                after_reservation(5, total).covers(limit),
                covered,
                "{total}"
            );
        };
        check(50, None, true);
        check(50, Some(50), true);
        check(50, Some(49), false);
    }

    #[test]
    fn the_size_of_a_reservation_follows_the_rate() {
        let next = |units, limit, lasted_ms| {
            let lease = after_reservation(units, units);
            lease.next_lease(limit, MAX_LEASE, at(lasted_ms))
        };
        let check = |units, lasted_ms, expected| {
            let limited = next(units, Some(1_000_000), lasted_ms);
            assert_eq!(limited, expected, "{units} in {lasted_ms} ms");
            let unlimited = next(units, None, lasted_ms * 10);
            assert_eq!(unlimited, expected, "{units} in {lasted_ms} ms, ten times");
        };
        check(1, 0, 4);
        check(64, 200, 256);
        check(64, 500, 128);
        check(64, 999, 64);
        check(64, 1_000, 64);
        check(64, 2_000, 64);
        check(64, 2_010, 31);
        check(64, 60_000, 1);
        check(800, 10, 1_000);
        check(64, -5_000, 64);
        assert_eq!(Lease::default().next_lease(None, MAX_LEASE, at(0)), 1);
        let far = "2126-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(
            after_reservation(64, 64).next_lease(None, MAX_LEASE, far),
            1
        );
    }

    #[test]
    fn a_slow_key_reserves_as_many_units_as_it_has_spent_up_to_eight() {
        let slow = |limit: Option<u64>, max: u64, calls: u64| {
            let mut lease = Lease::default();
            let mut sizes = Vec::new();
            for call in 0..calls {
                // A call each minute.
                let now = at(i64::try_from(call).unwrap() * 60_000);
                if !lease.covers(limit) {
                    let units = lease.next_lease(limit, max, now);
                    let total = lease.spent() + units;
                    lease.reserved(units, total, now);
                    sizes.push(units);
                }
                lease.spend();
            }
            sizes
        };
        let check = |limit, max, expected: &[u64]| {
            assert_eq!(slow(limit, max, 40), expected, "{limit:?}, {max}");
        };
        check(Some(10_000), MAX_LEASE, &[1, 1, 2, 4, 8, 8, 8, 8]);
        check(None, MAX_LEASE, &[1, 1, 2, 4, 8, 8, 8, 8]);
        check(Some(10_000), 3, &[&[1, 1, 2][..], &[3; 12]].concat());
        // Strict, or close to the limit.
        check(Some(10_000), 1, &[1; 40]);
        check(Some(120), MAX_LEASE, &[1; 40]);
    }

    #[test]
    fn a_lease_that_was_released_begins_with_one_unit() {
        let mut lease = Lease::default();
        for now in [at(0), at(60_000), at(120_000)] {
            lease.reserved(2, 100, now);
            lease.spend();
            lease.spend();
        }
        assert_eq!(lease.next_lease(Some(10_000), MAX_LEASE, at(180_000)), 6);
        lease.release();
        assert_eq!(lease.next_lease(Some(10_000), MAX_LEASE, at(180_000)), 1);
    }

    #[test]
    fn reservations_shrink_towards_the_limit() {
        let check = |total, limit, max, expected| {
            let lease = after_reservation(500, total);
            let next = lease.next_lease(limit, max, at(10));
            assert_eq!(next, expected, "{total} of {limit:?}");
        };
        check(500, Some(100_000), MAX_LEASE, 1_000);
        check(500, Some(2_100), MAX_LEASE, 100);
        check(500, Some(531), MAX_LEASE, 1);
        check(500, Some(500), MAX_LEASE, 1);
        check(500, Some(100), MAX_LEASE, 1);
        check(500, Some(100_000), 7, 7);
        check(500, None, 1, 1);
    }

    #[test]
    fn an_exhausted_counter_is_read_again_after_a_second() {
        let mut lease = Lease::default();
        assert!(!lease.is_exhausted(Some(5), at(0)));
        lease.exhausted(5, at(0));
        let check = |lease: &Lease, limit, ms, full| {
            assert_eq!(lease.is_exhausted(limit, at(ms)), full, "{limit:?} at {ms}");
        };
        check(&lease, Some(5), 0, true);
        check(&lease, Some(4), 999, true);
        check(&lease, Some(6), 0, false);
        check(&lease, None, 0, false);
        check(&lease, Some(5), 1_000, false);
        check(&lease, Some(5), -1, false);
        // Another instance had released a unit.
        lease.reserved(1, 5, at(10));
        check(&lease, Some(5), 10, false);
        // It was the last one, but a branch of the counter may have more.
        lease.spend();
        check(&lease, Some(5), 10, false);
        lease.exhausted(5, at(20));
        check(&lease, Some(5), 20, true);
        check(&lease, Some(6), 20, false);
        // Units under a higher limit say nothing about this one.
        lease.reserved(2, 8, at(30));
        check(&lease, Some(5), 30, true);
        check(&lease, Some(8), 30, false);
        check(&lease, Some(5), 1_020, false);
    }

    #[test]
    fn a_counter_may_be_exhausted_when_its_total_has_reached_the_limit() {
        let check = |lease: &Lease, limit, expected| {
            assert_eq!(lease.may_be_exhausted(limit), expected, "{limit:?}");
        };
        check(&Lease::default(), Some(1), false);
        let mut lease = after_reservation(1, 5);
        // The unspent unit is under this limit, and not under the lower one.
        check(&lease, Some(5), false);
        check(&lease, Some(4), true);
        lease.spend();
        check(&lease, Some(5), true);
        check(&lease, Some(6), false);
        check(&lease, None, false);
    }

    #[test]
    fn released_units_are_not_spent() {
        let mut lease = after_reservation(3, 3);
        lease.spend();
        assert_eq!(lease.left(), 2);
        assert_eq!(lease.release(), 2);
        assert!(!lease.covers(None));
        assert_eq!((lease.left(), lease.spent()), (0, 1));
    }
}
