//! The quota leases of this instance, by counter.
//!
//! A call needs a unit of its key's hour and one of its customer's month. Where both are at hand, it
//! costs no write; where not, a block is reserved, of both counters side by side. What was reserved
//! for a call that the other counter refused is released beside the answer, so that a counter knows of no
//! call that was not allowed. Who needs units of a counter while they are being reserved waits for that.
//!
//! What a counter does not know yet when its window ends, it is told at the next invocation of this
//! instance, whatever comes of that, and otherwise when the instance ends.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, future, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tollgate_domain::decision::CountOutcome;
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::lease::{Lease, MAX_UNLIMITED_LEASE};
use tollgate_domain::plan::Limits;
use tollgate_domain::window::{Hour, Month};
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::{Calls, LeaseShare, ReserveOutcome, Store};

use crate::circuit::{Asking, Circuit, NoAnswer};

/// Counters of a window that are kept before those that hold nothing are dropped.
const KEPT: usize = 1_000;
/// Counters that are settled at the same time.
const SETTLED_AT_ONCE: usize = 64;
/// How long after the end of a window its counters are settled: a clock that wavers may still come
/// back to it.
const WAVERS: SignedDuration = SignedDuration::from_secs(2);

/// How long before a decision is due the store is asked no more, so that a refusal by one counter is
/// given whatever the other says.
const ASKED_UNTIL_BEFORE: Duration = Duration::from_millis(50);
/// How long those that could not be settled in time wait, so that not every call waits for them.
const SETTLED_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The quota leases of an instance. Cheap to clone; clones share them.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Inner>);

struct Inner {
    store: Store,
    circuit: Circuit,
    clock: Clock,
    metrics: Metrics,
    hours: std::sync::Mutex<Counters<KeyId, Hour>>,
    months: std::sync::Mutex<Counters<CustomerId, Month>>,
    /// When ended windows may be settled again, if some could not be.
    settled_again_at: std::sync::Mutex<Option<Instant>>,
}

/// A counter of one window, as this instance knows it.
struct Counter {
    /// Calls that were allowed without a unit.
    uncounted: AtomicU64,
    held: Mutex<Held>,
}

struct Held {
    lease: Lease,
    share: LeaseShare,
}

/// The key whose hour and the customer whose month a call counts in, and when it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counting<'a> {
    pub(crate) key: &'a KeyId,
    pub(crate) customer: &'a CustomerId,
    pub(crate) now: Timestamp,
    /// When the decision is due.
    pub(crate) deadline: Instant,
}

/// What a call may reserve.
#[derive(Debug, Clone, Copy)]
struct Terms {
    limit: Option<u64>,
    max_block: u64,
}

/// One of the two counters that a call counts in.
struct Side<'a> {
    counter: &'a Counter,
    held: &'a mut Held,
    terms: Terms,
    /// When the store is asked no more.
    until: Instant,
}

/// Whether a unit is there for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    AtHand,
    /// Reserved for this call.
    Reserved,
    /// There is none.
    Exhausted,
}

impl Leases {
    pub(crate) fn new(store: Store, circuit: Circuit, clock: Clock, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            store,
            circuit,
            clock,
            metrics,
            hours: std::sync::Mutex::new(Counters::ending(Hour::end)),
            months: std::sync::Mutex::new(Counters::ending(Month::end)),
            settled_again_at: std::sync::Mutex::default(),
        }))
    }

    fn counters(&self, call: Counting<'_>) -> (Arc<Counter>, Arc<Counter>) {
        let Counting {
            key, customer, now, ..
        } = call;
        let store = &self.0.store;
        let hour = lock(&self.0.hours).counter(key, Hour::containing(now), |hour| {
            Counter::new(store.hour_share(key, hour))
        });
        let month = lock(&self.0.months).counter(customer, Month::containing(now), |month| {
            Counter::new(store.month_share(customer, month))
        });
        (hour, month)
    }

    /// Counts one call in its hour and its month: in both, or, if either is full, in neither.
    /// `max_block` of 1 is strict.
    ///
    /// What is dropped on the way loses nothing: the next reservation finds what this one took.
    pub(crate) async fn count(
        &self,
        call: Counting<'_>,
        limits: Limits,
        max_block: u64,
    ) -> Result<CountOutcome, NoAnswer> {
        let (hour, month) = self.counters(call);
        // Every call takes an hour before a month, so that none waits for another in a circle.
        let (mut hour_held, mut month_held) = (hour.held.lock().await, month.held.lock().await);
        let until = call.deadline - ASKED_UNTIL_BEFORE;
        let mut in_hour = Side {
            counter: &hour,
            held: &mut hour_held,
            terms: Terms {
                limit: Some(limits.per_hour),
                max_block,
            },
            until,
        };
        let mut in_month = Side {
            counter: &month,
            held: &mut month_held,
            terms: Terms {
                limit: limits.per_month,
                max_block: limits.per_month.map_or(MAX_UNLIMITED_LEASE, |_| max_block),
            },
            until,
        };
        let [hour_full, month_full] = [&in_hour, &in_month].map(|side| side.is_full(call.now));
        if let Some(full) = CountOutcome::full(hour_full, month_full) {
            return Ok(full);
        }
        // One after the other on a strict plan, so that no unit of a month lies with an instance whose
        // call the hour refused, while another instance finds the month full; and where one was full,
        // so that nothing is written for a call that it refuses again. Nor are both asked at once of a
        // store that was left alone: the first tells whether it answers.
        let is_strict = max_block == 1 && limits.per_month.is_some();
        let one_by_one = is_strict || self.0.circuit.is_open();
        let (for_hour, for_month) = if in_month.was_full() {
            let (month, hour) = self.provide_in_turn(&mut in_month, &mut in_hour).await?;
            (hour, Ok(month))
        } else if one_by_one || in_hour.was_full() {
            let (hour, month) = self.provide_in_turn(&mut in_hour, &mut in_month).await?;
            (Ok(hour), month)
        } else {
            future::join(self.provide(&mut in_hour), self.provide(&mut in_month)).await
        };
        let is_exhausted = |unit: &Result<Unit, NoAnswer>| matches!(unit, Ok(Unit::Exhausted));
        // A refusal by one window is final, whatever is known of the other.
        if let Some(full) = CountOutcome::full(is_exhausted(&for_hour), is_exhausted(&for_month)) {
            for (unit, side) in [(for_hour, in_hour), (for_month, in_month)] {
                if matches!(unit, Ok(Unit::Reserved)) {
                    let asking = self.0.circuit.asking();
                    let releasing = self.settle_held(side.counter, side.held, asking);
                    // The refusal stands whatever comes of it, and what has begun is completed later.
                    let _ = timeout_at(until, releasing).await;
                }
            }
            return Ok(full);
        }
        for_hour?;
        for_month?;
        Ok(CountOutcome::Both {
            in_hour: in_hour.held.lease.spend(),
            in_month: in_month.held.lease.spend(),
        })
    }

    /// Notes that a call was allowed without being counted.
    pub(crate) fn allowed_uncounted(&self, call: Counting<'_>) {
        let (hour, month) = self.counters(call);
        for counter in [hour, month] {
            counter.uncounted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Provides a unit of one counter, and then of the other. Where the first has none, the second
    /// is only looked at.
    async fn provide_in_turn(
        &self,
        first: &mut Side<'_>,
        second: &mut Side<'_>,
    ) -> Result<(Unit, Result<Unit, NoAnswer>), NoAnswer> {
        let of_first = self.provide(first).await?;
        let of_second = match of_first {
            Unit::Exhausted => self.look(second).await,
            Unit::AtHand | Unit::Reserved => self.provide(second).await,
        };
        Ok((of_first, of_second))
    }

    /// Reserves units if none are left.
    async fn provide(&self, side: &mut Side<'_>) -> Result<Unit, NoAnswer> {
        if side.held.lease.covers(side.terms.limit) {
            return Ok(Unit::AtHand);
        }
        // The SDK's futures are large, and most calls need none.
        let reserving = timeout_at(side.until, self.reserve(side)).boxed();
        reserving.await.unwrap_or(Err(NoAnswer::Late))
    }

    async fn reserve(&self, side: &mut Side<'_>) -> Result<Unit, NoAnswer> {
        let Terms { limit, max_block } = side.terms;
        let Inner { store, circuit, .. } = &*self.0;
        let mut asking = circuit.asking();
        while !side.held.lease.covers(limit) {
            let now = self.0.clock.now();
            let Held { lease, share } = &mut *side.held;
            let units = lease.next_lease(limit, max_block, now);
            let (mut calls, left) = (side.counter.calls(lease), lease.left());
            // The call at hand is as good as allowed, so that the last one of an hour or an instance
            // does not go unreported.
            calls.spent += 1;
            let Some(outcome) = asking
                .once(store.reserve(share, units, limit, calls, left))
                .await?
            else {
                continue;
            };
            match outcome {
                ReserveOutcome::Reserved {
                    units,
                    used,
                    in_branch,
                } => {
                    lease.reserved(units, used, in_branch, now);
                    self.0.metrics.record(metrics::LEASES, &[], 1);
                }
                ReserveOutcome::Exhausted => {
                    lease.refused(limit.unwrap_or(u64::MAX), now);
                    return Ok(Unit::Exhausted);
                }
            }
        }
        Ok(Unit::Reserved)
    }

    /// Finds out whether units are left, without reserving any.
    async fn look(&self, side: &mut Side<'_>) -> Result<Unit, NoAnswer> {
        let looking = timeout_at(side.until, self.look_until_known(side)).boxed();
        looking.await.unwrap_or(Err(NoAnswer::Late))
    }

    async fn look_until_known(&self, side: &mut Side<'_>) -> Result<Unit, NoAnswer> {
        let Held { lease, share } = &mut *side.held;
        let limit = side.terms.limit;
        let Some(limit) = limit.filter(|_| !lease.covers(limit)) else {
            return Ok(Unit::AtHand);
        };
        let Inner { store, circuit, .. } = &*self.0;
        let mut asking = circuit.asking();
        let has_room = loop {
            if let Some(has_room) = asking.once(store.has_room(share, limit)).await? {
                break has_room;
            }
        };
        if has_room {
            return Ok(Unit::AtHand);
        }
        lease.refused(limit, self.0.clock.now());
        Ok(Unit::Exhausted)
    }

    /// Settles counters whose windows have ended. What is dropped on the way goes on a while later.
    pub(crate) async fn settle_ended(&self, now: Timestamp) {
        let hours = lock(&self.0.hours).ended(now);
        let months = lock(&self.0.months).ended(now);
        let mut ended: Vec<Arc<Counter>> = hours.into_iter().chain(months).collect();
        if ended.is_empty() {
            return;
        }
        let began = Instant::now();
        {
            let mut again_at = lock(&self.0.settled_again_at);
            if again_at.is_some_and(|again_at| began < again_at) {
                return;
            }
            *again_at = Some(began + SETTLED_AGAIN_AFTER);
        }
        // Not always the same first, if some cannot be settled.
        let entropy = self.0.store.entropy();
        let first = entropy.below(u64::try_from(ended.len()).unwrap_or(1));
        ended.rotate_left(usize::try_from(first).unwrap_or(0));
        self.settle(ended, Circuit::asking).boxed().await;
        let is_done =
            lock(&self.0.hours).ended(now).is_empty() && lock(&self.0.months).ended(now).is_empty();
        if is_done {
            *lock(&self.0.settled_again_at) = None;
        }
    }

    /// Settles all counters: for the end of the instance.
    pub(crate) async fn end(&self) {
        let hours = lock(&self.0.hours).all();
        let months = lock(&self.0.months).all();
        let all = hours.into_iter().chain(months);
        self.settle(all, Circuit::insisting).await;
    }

    async fn settle(
        &self,
        counters: impl IntoIterator<Item = Arc<Counter>>,
        asking: fn(&Circuit) -> Asking<'_>,
    ) {
        stream::iter(counters)
            .for_each_concurrent(SETTLED_AT_ONCE, async |counter| {
                let mut held = counter.held.lock().await;
                let asking = asking(&self.0.circuit);
                self.settle_held(&counter, &mut held, asking).await;
            })
            .await;
    }

    /// Releases what is not spent, and reports what is.
    async fn settle_held(&self, counter: &Counter, held: &mut Held, mut asking: Asking<'_>) {
        if counter.is_settled(held) {
            return;
        }
        let store = &self.0.store;
        let Held { lease, share } = held;
        let calls = counter.calls(lease);
        let left = lease.release();
        // Whatever comes of it, they are not spent any more.
        share.release(left, calls);
        let settling = async {
            while asking.once(store.settle(share, calls)).await?.is_none() {}
            Ok::<(), NoAnswer>(())
        };
        match settling.boxed().await {
            // It is tried again, and that the store is left alone has been said.
            Ok(()) | Err(NoAnswer::NotAsked) => {}
            Err(error) => tracing::warn!(
                error = %Chain(&error),
                units = left,
                "units of a limit may not have been released"
            ),
        }
    }
}

impl Side<'_> {
    /// Whether a call is refused without asking the store.
    fn is_full(&self, now: Timestamp) -> bool {
        self.held.lease.is_full(self.terms.limit, now)
    }

    fn was_full(&self) -> bool {
        self.held.lease.was_full(self.terms.limit)
    }
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leases")
    }
}

impl Counter {
    fn new(share: LeaseShare) -> Self {
        let lease = Lease::default();
        Self {
            uncounted: AtomicU64::new(0),
            held: Mutex::new(Held { lease, share }),
        }
    }

    /// The calls that this instance has allowed in the window.
    fn calls(&self, lease: &Lease) -> Calls {
        Calls {
            spent: lease.spent(),
            uncounted: self.uncounted.load(Ordering::Relaxed),
        }
    }

    /// Whether the store knows all of it.
    fn is_settled(&self, held: &Held) -> bool {
        held.lease.left() == 0 && held.share.is_settled(self.calls(&held.lease))
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters by window, and by key or customer.
struct Counters<K, W> {
    windows: Vec<Window<K, W>>,
    end: fn(W) -> Timestamp,
}

struct Window<K, W> {
    window: W,
    end: Timestamp,
    counters: HashMap<K, Arc<Counter>>,
    /// How many there may be before those that hold nothing are dropped.
    sweep_at: usize,
}

impl<K: Clone + Eq + Hash, W: Copy + Ord> Counters<K, W> {
    fn ending(end: fn(W) -> Timestamp) -> Self {
        Self {
            windows: Vec::new(),
            end,
        }
    }

    fn counter(&mut self, of: &K, window: W, new: impl FnOnce(W) -> Counter) -> Arc<Counter> {
        let at = self.windows.iter().position(|it| it.window == window);
        let at = at.unwrap_or_else(|| {
            self.windows.push(Window {
                window,
                end: (self.end)(window),
                counters: HashMap::new(),
                sweep_at: KEPT,
            });
            self.windows.len() - 1
        });
        let Window {
            counters, sweep_at, ..
        } = &mut self.windows[at];
        if let Some(counter) = counters.get(of) {
            return Arc::clone(counter);
        }
        if counters.len() >= *sweep_at {
            counters.retain(|_, counter| is_needed(counter));
            *sweep_at = KEPT.max(counters.len() * 2);
        }
        let counter = Arc::new(new(window));
        counters.insert(of.clone(), Arc::clone(&counter));
        counter
    }

    /// The counters of windows that have ended which the store does not know all of. The others are
    /// dropped.
    fn ended(&mut self, now: Timestamp) -> Vec<Arc<Counter>> {
        let mut ended = Vec::new();
        self.windows.retain_mut(|Window { end, counters, .. }| {
            if now.duration_since(*end) < WAVERS {
                return true;
            }
            counters.retain(|_, counter| is_needed(counter));
            ended.extend(counters.values().cloned());
            !counters.is_empty()
        });
        ended
    }

    fn all(&self) -> Vec<Arc<Counter>> {
        let counters = self.windows.iter().flat_map(|it| it.counters.values());
        counters.cloned().collect()
    }
}

/// Whether a counter is in use, or the store does not know all of it.
fn is_needed(counter: &Arc<Counter>) -> bool {
    let Ok(held) = counter.held.try_lock() else {
        return true;
    };
    Arc::strong_count(counter) > 1 || !counter.is_settled(&held)
}

#[cfg(test)]
mod tests {
    use tollgate_local_aws::fixture::Fixture;

    use super::*;

    /// Counts the counters that are kept of an hour in which so many keys were used.
    fn kept(keys: usize, spent: u64) -> usize {
        let at = Fixture::at("2026-11-22T10:00:00Z");
        let hour = Hour::containing(at.clock().now());
        let mut counters = Counters::ending(Hour::end);
        for n in 0..keys {
            let key: KeyId = format!("key_{n}").parse().unwrap();
            let counter = counters.counter(&key, hour, |hour| {
                Counter::new(at.store.hour_share(&key, hour))
            });
            counter.uncounted.fetch_add(spent, Ordering::Relaxed);
        }
        counters.all().len()
    }

    #[test]
    fn counters_that_hold_nothing_are_dropped_when_there_are_many() {
        assert_eq!(kept(KEPT, 0), KEPT);
        assert_eq!(kept(KEPT + 1, 0), 1);
        assert_eq!(
            kept(KEPT + 1, 1),
            KEPT + 1,
            "what the store does not know is kept"
        );
    }
}
