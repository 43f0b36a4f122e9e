//! Shard counts of aggregates, by write conflicts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::usage::UsageScope;

/// The most shards of an aggregate.
const MAX_SHARDS: u32 = 16;
/// Time after a scope's last conflict for which its aggregates stay sharded.
const SHARDED_FOR: SignedDuration = SignedDuration::from_mins(10);

/// Number of shards over which this instance's writes to the aggregates of a scope are distributed: of a customer, or of
/// all customers.
///
/// One, until a transaction is cancelled because another one holds the same item: each such conflict
/// doubles the number, up to 16, until ten minutes have passed without one. Readers add up all
/// shards that exist. Cheap to clone; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct ShardCounts(Arc<Mutex<HashMap<UsageScope, Sharded>>>);

#[derive(Debug, Clone, Copy)]
struct Sharded {
    shards: u32,
    until: Timestamp,
}

impl ShardCounts {
    /// Returns the number of shards of the scope's aggregates.
    pub(crate) fn shards(&self, scope: &UsageScope, now: Timestamp) -> u32 {
        let sharded = self.lock();
        let sharded = sharded.get(scope).filter(|sharded| now < sharded.until);
        sharded.map_or(1, |sharded| sharded.shards)
    }

    /// Records that a write to the scope's aggregates met a conflict.
    pub(crate) fn record_conflict(&self, scope: &UsageScope, now: Timestamp) {
        let shards = (self.shards(scope, now) * 2).min(MAX_SHARDS);
        let until = now.saturating_add(SHARDED_FOR).unwrap_or(Timestamp::MAX);
        let mut sharded = self.lock();
        sharded.retain(|_, sharded| now < sharded.until);
        sharded.insert(scope.clone(), Sharded { shards, until });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UsageScope, Sharded>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_conflict_doubles_the_shard_count_until_ten_minutes_pass_without_one() {
        let counts = ShardCounts::default();
        let acme = UsageScope::Customer("acme".parse().unwrap());
        let globex = UsageScope::Customer("globex".parse().unwrap());
        let at = |minute: i64| {
            let start: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
            start + SignedDuration::from_mins(minute)
        };
        assert_eq!(counts.shards(&acme, at(0)), 1);
        for expected in [2, 4, 8, 16, 16] {
            counts.record_conflict(&acme, at(0));
            assert_eq!(counts.shards(&acme, at(0)), expected);
        }
        assert_eq!(counts.shards(&globex, at(0)), 1);
        assert_eq!(counts.shards(&acme, at(9)), 16);
        assert_eq!(counts.shards(&acme, at(10)), 1);
        counts.record_conflict(&globex, at(10));
        assert_eq!(counts.lock().len(), 1, "expired counts are removed");
        counts.record_conflict(&acme, at(10));
        assert_eq!(counts.shards(&acme, at(10)), 2);
    }
}
