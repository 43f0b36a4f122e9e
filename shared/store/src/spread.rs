//! Customers whose tallies are spread, because writers meet at them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::CustomerId;

/// The most items that a tally is spread over.
const MOST: u32 = 16;
/// How long after its last conflict a customer's tallies are spread.
const KEPT: SignedDuration = SignedDuration::from_mins(10);

/// Over how many items the writers of this instance spread what they add to a customer's tallies.
///
/// One item each, until a transaction is refused because another one is at the same item: from then
/// on twice as many at each such conflict, up to 16, until ten minutes have passed without one.
/// Readers add up whatever items there are. Cheap to clone; all clones know the same.
#[derive(Debug, Clone, Default)]
pub struct ShardCounts(Arc<Mutex<HashMap<CustomerId, Hot>>>);

#[derive(Debug, Clone, Copy)]
struct Hot {
    over: u32,
    until: Timestamp,
}

impl ShardCounts {
    /// How many items the customer's tallies are to be spread over.
    pub(crate) fn over(&self, customer: &CustomerId, now: Timestamp) -> u32 {
        let hot = self.hot();
        let hot = hot.get(customer).filter(|hot| now < hot.until);
        hot.map_or(1, |hot| hot.over)
    }

    /// Takes down that writers have met at the customer's tallies.
    pub(crate) fn conflicted(&self, customer: &CustomerId, now: Timestamp) {
        let over = (self.over(customer, now) * 2).min(MOST);
        let until = now.saturating_add(KEPT).unwrap_or(Timestamp::MAX);
        let mut hot = self.hot();
        hot.retain(|_, hot| now < hot.until);
        hot.insert(customer.clone(), Hot { over, until });
    }

    fn hot(&self) -> MutexGuard<'_, HashMap<CustomerId, Hot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_conflict_doubles_the_spread_until_there_are_none() {
        let spread = ShardCounts::default();
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let at = |minute: i64| {
            let start: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
            start + SignedDuration::from_mins(minute)
        };
        assert_eq!(spread.over(&acme, at(0)), 1);
        for expected in [2, 4, 8, 16, 16] {
            spread.conflicted(&acme, at(0));
            assert_eq!(spread.over(&acme, at(0)), expected);
        }
        assert_eq!(spread.over(&globex, at(0)), 1);
        assert_eq!(spread.over(&acme, at(9)), 16);
        assert_eq!(spread.over(&acme, at(10)), 1);
        spread.conflicted(&globex, at(10));
        assert_eq!(spread.hot().len(), 1, "what is over is forgotten");
        spread.conflicted(&acme, at(10));
        assert_eq!(spread.over(&acme, at(10)), 2);
    }
}
