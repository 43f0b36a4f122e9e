//! Events of customers who reach a threshold of the month's included calls.
//!
//! A decision knows the calls of the month anyway. The first one of an instance that sees a threshold reached stores
//! the event, which the store has once, whatever other instances do; the instance remembers that. It is no part of
//! the decision: what cannot be stored in time is stored by a later one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tollgate_domain::event::{Event, QuotaThreshold, reached_thresholds};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::window::Month;
use tollgate_runtime::Chain;
use tollgate_store::Store;

use crate::circuit_breaker::CircuitBreaker;

/// Time after a failed attempt during which none is made for the customer, so that not every call waits for it.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Thresholds that this instance has announced. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Thresholds(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    /// Only asked, and never told: a failed event must not open it.
    breaker: CircuitBreaker,
    announced: Mutex<Announced>,
}

/// Announcements of one month, by customer. Only customers who have reached a threshold are in it.
#[derive(Debug, Default)]
struct Announced {
    month: Option<Month>,
    customers: HashMap<CustomerId, Announcement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Announcement {
    included: u64,
    /// Highest threshold whose event is stored; 0 for none.
    percent: u8,
    /// Earliest time of the next attempt.
    retry_at: Instant,
}

/// Calls of a customer's month, as a decision knows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MonthUsage<'a> {
    pub(crate) customer: &'a CustomerId,
    pub(crate) plan: &'a PlanId,
    pub(crate) month: Month,
    /// Calls of the customer, on whichever plan.
    pub(crate) calls: u64,
    /// Calls that the plan includes.
    pub(crate) included: u64,
}

impl Thresholds {
    pub(crate) fn new(store: Store, breaker: CircuitBreaker) -> Self {
        Self(Arc::new(Inner {
            store,
            breaker,
            announced: Mutex::default(),
        }))
    }

    /// Stores the events of the thresholds that are reached, unless this instance has done so.
    pub(crate) async fn announce(&self, usage: MonthUsage<'_>, now: Timestamp, deadline: Instant) {
        let Some(highest) = reached_thresholds(usage.calls, usage.included).next_back() else {
            return;
        };
        let Some(stored) = self.begin(usage, highest) else {
            return;
        };
        for percent in reached_thresholds(usage.calls, usage.included) {
            if percent <= stored {
                continue;
            }
            let reached = QuotaThreshold {
                customer: usage.customer.clone(),
                month: usage.month,
                plan: usage.plan.clone(),
                included: usage.included,
                percent,
                calls: usage.calls,
            };
            let event = Event::quota_threshold(&reached, now);
            // Boxed, because the SDK's future is large, and nearly no call needs it.
            let storing = timeout_at(deadline, self.0.store.record_event(&event)).boxed();
            match storing.await {
                Ok(Ok(())) => self.stored(usage, percent),
                Ok(Err(error)) => {
                    let customer = usage.customer;
                    tracing::warn!(%customer, percent, error = %Chain(&error), "a threshold is not announced");
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// Decides whether an attempt begins now, and delays the next one. Returns the highest threshold that was
    /// announced.
    fn begin(&self, usage: MonthUsage<'_>, highest: u8) -> Option<u8> {
        let now = Instant::now();
        let mut announced = self.announced();
        if announced.month != Some(usage.month) {
            *announced = Announced {
                month: Some(usage.month),
                customers: HashMap::new(),
            };
        }
        let known = announced.customers.get(usage.customer).copied();
        let known = known.filter(|known| known.included == usage.included);
        let stored = known.map_or(0, |known| known.percent);
        let is_waiting = known.is_some_and(|known| now < known.retry_at);
        if stored >= highest || is_waiting || self.0.breaker.is_open() {
            return None;
        }
        let begun = Announcement {
            included: usage.included,
            percent: stored,
            retry_at: now + RETRY_INTERVAL,
        };
        announced.customers.insert(usage.customer.clone(), begun);
        Some(stored)
    }

    fn stored(&self, usage: MonthUsage<'_>, percent: u8) {
        let mut announced = self.announced();
        if announced.month == Some(usage.month)
            && let Some(announcement) = announced.customers.get_mut(usage.customer)
            && announcement.included == usage.included
        {
            announcement.percent = percent.max(announcement.percent);
            // The next threshold does not wait for the end of an interval after a success.
            announcement.retry_at = Instant::now();
        }
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, Announced> {
        let announced = self.0.announced.lock();
        announced.unwrap_or_else(PoisonError::into_inner)
    }
}
