//! The blocks of units that this instance has taken, by counter.
//!
//! A call needs a unit of its key's hour and one of its customer's month. Where both are at hand, it
//! costs no write; where not, a block is claimed, of both counters side by side. What one counter
//! granted while the other refused stays here for the next call. Who needs units of a counter while
//! a claim of it is under way waits for that claim.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, MutexGuard, PoisonError};

use futures_util::{StreamExt, future, stream};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tollgate_domain::decision::Counted;
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::lease::{Lease, MAX_BLOCK};
use tollgate_domain::plan::Limits;
use tollgate_domain::window::{Hour, Month};
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::{Account, Claimed, Store};

use crate::circuit::{Circuit, NoAnswer};

/// Keys, or customers, of which counters are held before those that hold nothing are dropped.
const HELD: usize = 1_000;
/// Accounts that are ended at the same time.
const ENDED_AT_ONCE: usize = 16;

/// What this instance has taken. Cheap to clone; all clones hold the same.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Inner>);

struct Inner {
    store: Store,
    circuit: Circuit,
    clock: Clock,
    metrics: Metrics,
    hours: std::sync::Mutex<Held<KeyId, Hour>>,
    months: std::sync::Mutex<Held<CustomerId, Month>>,
}

/// A counter of one window, as this instance knows it.
struct Counter {
    lease: Lease,
    account: Account,
}

type Shared = Arc<Mutex<Counter>>;

/// What a call may take.
#[derive(Debug, Clone, Copy)]
struct Terms {
    limit: Option<u64>,
    max_block: u64,
}

impl Leases {
    pub(crate) fn new(store: Store, circuit: Circuit, clock: Clock, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            store,
            circuit,
            clock,
            metrics,
            hours: std::sync::Mutex::default(),
            months: std::sync::Mutex::default(),
        }))
    }

    /// Counts one call, made at `now` with `key` of `customer`, in its hour and its month: in
    /// both, or, if either is full, in neither. `max_block` of 1 is strict.
    ///
    /// What is dropped on the way loses nothing: the next claim finds what this one took.
    pub(crate) async fn count(
        &self,
        key: &KeyId,
        customer: &CustomerId,
        limits: Limits,
        max_block: u64,
        now: Timestamp,
    ) -> Result<Counted, NoAnswer> {
        let store = &self.0.store;
        let hour = lock(&self.0.hours).counter(key, Hour::containing(now), |hour| {
            Counter::new(store.hour_account(key, hour))
        });
        let month = lock(&self.0.months).counter(customer, Month::containing(now), |month| {
            Counter::new(store.month_account(customer, month))
        });
        // Every call takes an hour before a month, so that none waits for another in a circle.
        let (mut hour, mut month) = (hour.lock().await, month.lock().await);
        if hour.lease.is_full(Some(limits.per_hour), now) {
            return Ok(Counted::HourFull);
        }
        if month.lease.is_full(limits.per_month, now) {
            return Ok(Counted::MonthFull);
        }
        let of_hour = Terms {
            limit: Some(limits.per_hour),
            max_block,
        };
        let of_month = Terms {
            limit: limits.per_month,
            max_block: limits.per_month.map_or(MAX_BLOCK, |_| max_block),
        };
        let (has_hour, has_month) = if max_block == 1 && limits.per_month.is_some() {
            // One after the other, so that no unit of a month lies with an instance whose call the
            // hour refused, while another instance finds the month full.
            let has_hour = self.provide(&mut hour, of_hour).await;
            let has_month = match &has_hour {
                Ok(true) => self.provide(&mut month, of_month).await,
                _ => Ok(true),
            };
            (has_hour, has_month)
        } else {
            future::join(
                self.provide(&mut hour, of_hour),
                self.provide(&mut month, of_month),
            )
            .await
        };
        match (has_hour, has_month) {
            // A refusal by one window is final, whatever is known of the other.
            (Ok(false), _) => Ok(Counted::HourFull),
            (_, Ok(false)) => Ok(Counted::MonthFull),
            (Ok(true), Ok(true)) => Ok(Counted::Both {
                in_hour: hour.lease.spend(),
                in_month: month.lease.spend(),
            }),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// Sees to it that a unit is at hand, or finds that there is none.
    async fn provide(&self, counter: &mut Counter, terms: Terms) -> Result<bool, NoAnswer> {
        if counter.lease.covers(terms.limit) {
            return Ok(true);
        }
        // The SDK's futures are large, and most calls need none.
        Box::pin(self.claim(counter, terms)).await
    }

    async fn claim(&self, counter: &mut Counter, terms: Terms) -> Result<bool, NoAnswer> {
        let Terms { limit, max_block } = terms;
        let Inner { store, circuit, .. } = &*self.0;
        while !counter.lease.covers(limit) {
            let now = self.0.clock.now();
            let Counter { lease, account } = &mut *counter;
            let units = lease.next_block(limit, max_block, now);
            // The call at hand is as good as counted, so that the last call of an hour or an
            // instance does not go unreported.
            let spent = lease.spent() + 1;
            match circuit
                .ask(store.claim(account, units, limit, spent))
                .await?
            {
                Claimed::Granted { units, used } => {
                    lease.granted(units, used, now);
                    self.0.metrics.record(metrics::LEASES, &[], 1);
                }
                Claimed::Full => {
                    lease.refused(limit.unwrap_or(u64::MAX), now);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Gives back what is not spent, and reports what is: for the end of the instance.
    pub(crate) async fn give_back(&self) {
        let hours = lock(&self.0.hours).drain();
        let months = lock(&self.0.months).drain();
        stream::iter(hours.into_iter().chain(months))
            .for_each_concurrent(ENDED_AT_ONCE, async |counter| {
                let mut counter = counter.lock().await;
                if !counter.holds_something() {
                    return;
                }
                let Counter { lease, account } = &mut *counter;
                let lease = std::mem::take(lease);
                let store = &self.0.store;
                let ended = Box::pin(store.give_back(account, lease.left(), lease.spent()));
                let ended = ended.await;
                if let Err(error) = ended {
                    tracing::warn!(
                        error = %Chain(&error),
                        units = lease.left(),
                        "units of a limit may not have been given back"
                    );
                }
            })
            .await;
    }
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leases")
    }
}

impl Counter {
    fn new(account: Account) -> Self {
        Self {
            lease: Lease::default(),
            account,
        }
    }

    /// Whether the store does not know all of it.
    fn holds_something(&self) -> bool {
        self.lease.left() > 0 || !self.account.is_settled(self.lease.spent())
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters by key or customer, and by window.
struct Held<K, W> {
    windows: HashMap<K, Windows<W>>,
    /// How many there may be before those that hold nothing are dropped.
    sweep_at: usize,
}

/// The last two windows of one key or customer: a clock that wavers around the end of a window
/// finds in each what it had.
struct Windows<W> {
    newer: (W, Shared),
    older: Option<(W, Shared)>,
}

impl<K, W> Default for Held<K, W> {
    fn default() -> Self {
        Self {
            windows: HashMap::new(),
            sweep_at: HELD,
        }
    }
}

impl<K: Clone + Eq + Hash, W: Copy + Ord> Held<K, W> {
    fn counter(&mut self, of: &K, window: W, new: impl FnOnce(W) -> Counter) -> Shared {
        if let Some(windows) = self.windows.get_mut(of) {
            return windows.counter(window, new);
        }
        if self.windows.len() >= self.sweep_at {
            self.sweep();
        }
        let counter = Arc::new(Mutex::new(new(window)));
        let windows = Windows {
            newer: (window, Arc::clone(&counter)),
            older: None,
        };
        self.windows.insert(of.clone(), windows);
        counter
    }

    /// Drops what is not in use and holds nothing.
    fn sweep(&mut self) {
        self.windows.retain(|_, windows| windows.is_needed());
        self.sweep_at = HELD.max(self.windows.len() * 2);
    }

    fn drain(&mut self) -> Vec<Shared> {
        let windows = self.windows.drain().map(|(_, windows)| windows);
        windows
            .flat_map(|windows| [Some(windows.newer), windows.older])
            .flatten()
            .map(|(_, counter)| counter)
            .collect()
    }
}

impl<W: Copy + Ord> Windows<W> {
    fn counter(&mut self, window: W, new: impl FnOnce(W) -> Counter) -> Shared {
        if self.newer.0 == window {
            return Arc::clone(&self.newer.1);
        }
        if let Some((older, counter)) = &self.older
            && *older == window
        {
            return Arc::clone(counter);
        }
        let counter = Arc::new(Mutex::new(new(window)));
        let entry = (window, Arc::clone(&counter));
        if window > self.newer.0 {
            self.older = Some(std::mem::replace(&mut self.newer, entry));
        } else {
            self.older = Some(entry);
        }
        counter
    }

    fn is_needed(&self) -> bool {
        let counter = &self.newer.1;
        // In use, or about to be.
        let Ok(unused) = counter.try_lock() else {
            return true;
        };
        Arc::strong_count(counter) > 1 || unused.holds_something()
    }
}
