//! Quota leases: units of a limit that one instance has reserved in one write, and spends from memory.
//!
//! A counter in the store says how many units of a window's limit all instances together have
//! reserved, and never says more than the limit. An instance reserves a block of them at a time, so
//! that most calls cost no write. How many a block has follows the pace of the calls, and what is
//! left of the limit.

use jiff::{SignedDuration, Timestamp};

/// The largest block of a plan that says nothing.
pub const MAX_LEASE: u64 = 1_000;
/// The largest block of a counter that nothing limits.
pub const MAX_UNLIMITED_LEASE: u64 = 10_000;

/// A block is no more than this part of what is left, so that the instances that share a limit
/// come to its end together.
const SHARE: u64 = 16;
/// How long a block of a limit is to last.
const LASTS: SignedDuration = SignedDuration::from_secs(1);
/// How long one lasts where there is no limit, to whose end other instances could want the units.
const UNLIMITED_LASTS: SignedDuration = SignedDuration::from_secs(10);
/// How long a full counter is taken to be full. Other instances may release units meanwhile.
const STAYS_FULL: SignedDuration = SignedDuration::from_secs(1);

/// What one instance holds of one counter. A window's lease is never used in another window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    left: u64,
    spent: u64,
    /// Units that all instances had reserved, or more, when the counter was last asked.
    used: u64,
    /// Whether some may be left though `used` has come up to a limit.
    in_branch: bool,
    asked_at: Option<Timestamp>,
    block: Option<Block>,
}

/// The last block that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    units: u64,
    at: Timestamp,
}

impl Lease {
    /// Whether a call under `limit` can be let in without asking the store.
    ///
    /// The units at hand are among those that the counter had counted at the last reservation. A limit
    /// below that count, which another key of the customer or a new plan may have, covers none.
    #[must_use]
    pub fn covers(&self, limit: Option<u64>) -> bool {
        self.left > 0 && limit.is_none_or(|limit| self.used <= limit)
    }

    /// Spends a unit, and tells how many are used in the window with it, as far as is known here.
    /// Nothing is spent where nothing is left.
    pub fn spend(&mut self) -> u64 {
        if self.left > 0 {
            self.left -= 1;
            self.spent += 1;
        }
        self.used.saturating_sub(self.left)
    }

    /// Whether no unit is at hand, and a moment ago none was left.
    #[must_use]
    pub fn is_full(&self, limit: Option<u64>, now: Timestamp) -> bool {
        let ago = self.asked_at.map(|asked_at| now.duration_since(asked_at));
        let is_fresh = ago.is_some_and(|ago| !ago.is_negative() && ago < STAYS_FULL);
        is_fresh && self.was_full(limit)
    }

    /// How many units to ask for: as many as last a second at the pace of the last block, or ten
    /// without a limit, at most `max`, and fewer as the limit comes near; always one.
    #[must_use]
    pub fn next_lease(&self, limit: Option<u64>, max: u64, now: Timestamp) -> u64 {
        let lasts = limit.map_or(UNLIMITED_LASTS, |_| LASTS);
        let by_pace = self.block.map_or(1, |block| block.next(lasts, now));
        let by_room = limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.used) / SHARE);
        by_pace.min(by_room).min(max).max(1)
    }

    /// Takes in `units` that were reserved at `now`, after which the counter stood at `used`. Of a
    /// counter with branches, some may be left though that is the limit.
    pub fn reserved(&mut self, units: u64, used: u64, in_branch: bool, now: Timestamp) {
        self.left += units;
        self.used = used;
        self.in_branch = in_branch;
        self.asked_at = Some(now);
        self.block = Some(Block { units, at: now });
    }

    /// Remembers that at `now` nothing was left of `limit`.
    pub fn refused(&mut self, limit: u64, now: Timestamp) {
        self.used = self.used.max(limit);
        self.in_branch = false;
        self.asked_at = Some(now);
    }

    /// Parts with the units at hand, and tells how many those are. The pace is found anew.
    pub fn release(&mut self) -> u64 {
        self.block = None;
        std::mem::take(&mut self.left)
    }

    /// Whether nothing was left of `limit` when the counter was last asked, however long ago.
    #[must_use]
    pub fn was_full(&self, limit: Option<u64>) -> bool {
        let is_used_up = limit.is_some_and(|limit| limit <= self.used);
        is_used_up && !self.in_branch && !self.covers(limit)
    }

    /// Units at hand.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Units spent on calls.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent
    }
}

impl Block {
    /// Units that last for `lasts` if these have lasted for `lasted`.
    fn at_pace(self, lasts: SignedDuration, lasted: SignedDuration) -> u64 {
        let in_time = u128::from(self.units) * lasts.as_millis().unsigned_abs();
        let units = in_time / lasted.as_millis().unsigned_abs().max(1);
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// The block after this one, which took until `now` to use up, and is to last so long.
    fn next(self, lasts: SignedDuration, now: Timestamp) -> u64 {
        let lasted = now.duration_since(self.at);
        if lasted.is_negative() {
            // The clock was set back, and tells nothing of the pace.
            self.units
        } else if lasted < lasts {
            // One short interval is no pace yet, and a few of them are.
            self.at_pace(lasts, lasted)
                .min(self.units.saturating_mul(4))
        } else if lasted <= lasts * 2 {
            self.units
        } else {
            self.at_pace(lasts, lasted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many milliseconds after the hour.
    fn at(ms: i64) -> Timestamp {
        let hour: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        hour + SignedDuration::from_millis(ms)
    }

    fn after_reservation(units: u64, used: u64) -> Lease {
        let mut lease = Lease::default();
        lease.reserved(units, used, false, at(0));
        lease
    }

    #[test]
    fn a_unit_is_spent_once() {
        let mut lease = after_reservation(2, 10);
        assert_eq!([lease.spend(), lease.spend()], [9, 10]);
        assert!(!lease.covers(None));
        assert_eq!((lease.left(), lease.spent()), (0, 2));
        lease.spend();
        assert_eq!((lease.left(), lease.spent()), (0, 2));
    }

    #[test]
    fn units_beyond_a_lower_limit_are_not_spent_under_it() {
        let check = |used, limit, covered| {
            assert_eq!(after_reservation(5, used).covers(limit), covered, "{used}");
        };
        check(50, None, true);
        check(50, Some(50), true);
        check(50, Some(49), false);
    }

    #[test]
    fn a_block_follows_the_pace() {
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
    fn a_block_shrinks_towards_the_limit() {
        let check = |used, limit, max, expected| {
            let lease = after_reservation(500, used);
            let next = lease.next_lease(limit, max, at(10));
            assert_eq!(next, expected, "{used} of {limit:?}");
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
    fn a_full_counter_is_asked_again_after_a_second() {
        let mut lease = Lease::default();
        assert!(!lease.is_full(Some(5), at(0)));
        lease.refused(5, at(0));
        let check = |lease: &Lease, limit, ms, full| {
            assert_eq!(lease.is_full(limit, at(ms)), full, "{limit:?} at {ms}");
        };
        check(&lease, Some(5), 0, true);
        check(&lease, Some(4), 999, true);
        check(&lease, Some(6), 0, false);
        check(&lease, None, 0, false);
        check(&lease, Some(5), 1_000, false);
        check(&lease, Some(5), -1, false);
        // The last unit: there is one, and after it none.
        lease.reserved(1, 5, false, at(10));
        check(&lease, Some(5), 10, false);
        lease.spend();
        check(&lease, Some(5), 10, true);
        check(&lease, Some(6), 10, false);
        // Other branches may have some.
        lease.reserved(1, 5, true, at(20));
        lease.spend();
        check(&lease, Some(5), 20, false);
        lease.refused(5, at(30));
        check(&lease, Some(5), 30, true);
    }

    #[test]
    fn what_is_released_is_not_spent() {
        let mut lease = after_reservation(3, 3);
        lease.spend();
        assert_eq!(lease.release(), 2);
        assert!(!lease.covers(None));
        assert_eq!((lease.left(), lease.spent()), (0, 1));
    }
}
