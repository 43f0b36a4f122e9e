//! Quota leases of this instance, by quota counter.
//!
//! A call spends a unit of its key's hour and one of its customer's month. If both leases have a unit
//! left, the call costs no write; otherwise units are reserved in both counters concurrently. A unit
//! that was reserved for a call which the other counter's limit denies is released before the
//! response, so that no counter includes a call that was not allowed. Calls that need units of a
//! counter while a reservation is under way wait for that reservation.
//!
//! After the end of a window its counters are settled: units left are released, and the calls of the
//! instance reported. That happens at the next invocation, whatever its outcome, or else at the
//! shutdown of the instance.

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
use tollgate_store::{AdmittedCalls, LeaseShare, ReserveOutcome, Store};

use crate::circuit_breaker::{CircuitBreaker, Operation, StoreUnavailable};

/// Counters of one window above which idle, settled ones are dropped.
const SWEEP_THRESHOLD: usize = 1_000;
/// Counters that are settled concurrently.
const SETTLE_CONCURRENCY: usize = 64;
/// Time from the end of a window until its counters are settled, in case the clock is set back a little
/// and the window is used again.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

/// Time before the deadline of a decision at which requests to the store are abandoned, so that a denial
/// by one counter is returned even if the other counter's request has no response.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);
/// Time between two attempts to settle ended windows, so that not every call waits for them.
const SETTLE_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The quota leases of an instance. Cheap to clone; clones share them.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Inner>);

struct Inner {
    store: Store,
    breaker: CircuitBreaker,
    clock: Clock,
    metrics: Metrics,
    hours: std::sync::Mutex<Counters<KeyId, Hour>>,
    months: std::sync::Mutex<Counters<CustomerId, Month>>,
    /// Earliest time of the next attempt to settle ended windows, if the last one was incomplete.
    settle_retry_at: std::sync::Mutex<Option<Instant>>,
}

/// Local state of the quota counter of one window.
struct Counter {
    /// Calls that were allowed without spending a unit.
    uncounted: AtomicU64,
    state: Mutex<CounterState>,
}

struct CounterState {
    lease: Lease,
    share: LeaseShare,
}

/// A call to count, in an hour of the key and in a month of the customer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CountedCall<'a> {
    pub(crate) key: &'a KeyId,
    pub(crate) customer: &'a CustomerId,
    /// Time of the call.
    pub(crate) now: Timestamp,
    /// Deadline of the decision.
    pub(crate) deadline: Instant,
}

/// One of the two counters of a call, locked, with the bounds of a reservation.
struct LockedCounter<'a> {
    counter: &'a Counter,
    state: &'a mut CounterState,
    limit: Option<u64>,
    max_lease: u64,
    /// Time at which requests to the store are abandoned.
    deadline: Instant,
}

/// Availability of a unit for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnitStatus {
    /// The lease has a unit left, or, if only looked up, the counter has.
    Available,
    /// Units were reserved for this call.
    Reserved,
    /// The limit is reached.
    Exhausted,
}

/// Order of the reservations for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    HourFirst,
    MonthFirst,
    Together,
}

impl Leases {
    pub(crate) fn new(
        store: Store,
        breaker: CircuitBreaker,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            breaker,
            clock,
            metrics,
            hours: std::sync::Mutex::new(Counters::new(Hour::end)),
            months: std::sync::Mutex::new(Counters::new(Month::end)),
            settle_retry_at: std::sync::Mutex::default(),
        }))
    }

    fn counters(&self, call: CountedCall<'_>) -> (Arc<Counter>, Arc<Counter>) {
        let CountedCall {
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

    /// Counts one call in its hour and its month: in both, or, if either limit is reached, in neither.
    /// A `max_lease` of 1 is strict: the instance reserves each unit by itself.
    ///
    /// Dropping the future loses nothing: the next reservation finds the units that this one reserved.
    pub(crate) async fn count(
        &self,
        call: CountedCall<'_>,
        limits: Limits,
        max_lease: u64,
    ) -> Result<CountOutcome, StoreUnavailable> {
        let (hour, month) = self.counters(call);
        // Every call locks its hour before its month, which rules out a deadlock.
        let (mut hour_state, mut month_state) = (hour.state.lock().await, month.state.lock().await);
        let deadline = call.deadline - DEADLINE_MARGIN;
        let mut in_hour = LockedCounter {
            counter: &hour,
            state: &mut hour_state,
            limit: Some(limits.per_hour),
            max_lease,
            deadline,
        };
        let mut in_month = LockedCounter {
            counter: &month,
            state: &mut month_state,
            limit: limits.per_month,
            max_lease: limits.per_month.map_or(MAX_UNLIMITED_LEASE, |_| max_lease),
            deadline,
        };
        let [hour_exhausted, month_exhausted] =
            [&in_hour, &in_month].map(|counter| counter.is_exhausted(call.now));
        if let Some(full) = CountOutcome::full(hour_exhausted, month_exhausted) {
            return Ok(full);
        }
        let is_strict = max_lease == 1 && limits.per_month.is_some();
        let month_is_exhausted = is_strict
            && in_month.may_be_exhausted()
            && self.look_up_room(&mut in_month).await? == UnitStatus::Exhausted;
        let order = self.order(is_strict, &in_hour, &in_month);
        let (hour_unit, month_unit) = if month_is_exhausted {
            (
                self.look_up_room(&mut in_hour).await,
                Ok(UnitStatus::Exhausted),
            )
        } else {
            match order {
                Order::HourFirst => {
                    let units = self.ensure_units_in_turn(&mut in_hour, &mut in_month);
                    let (hour, month) = units.await?;
                    (Ok(hour), month)
                }
                Order::MonthFirst => {
                    let units = self.ensure_units_in_turn(&mut in_month, &mut in_hour);
                    let (month, hour) = units.await?;
                    (hour, Ok(month))
                }
                Order::Together => {
                    let in_hour = self.ensure_unit(&mut in_hour);
                    future::join(in_hour, self.ensure_unit(&mut in_month)).await
                }
            }
        };
        let is_exhausted =
            |unit: &Result<UnitStatus, StoreUnavailable>| matches!(unit, Ok(UnitStatus::Exhausted));
        // A denial by one window is final, even if the other one's status is unknown.
        if let Some(full) = CountOutcome::full(is_exhausted(&hour_unit), is_exhausted(&month_unit))
        {
            for (unit, locked) in [(hour_unit, in_hour), (month_unit, in_month)] {
                if matches!(unit, Ok(UnitStatus::Reserved)) {
                    let operation = self.0.breaker.operation();
                    let releasing = self.settle_counter(locked.counter, locked.state, operation);
                    // If the release is cut off or fails, it is completed later.
                    let _ = timeout_at(deadline, releasing).await;
                }
            }
            return Ok(full);
        }
        hour_unit?;
        month_unit?;
        Ok(CountOutcome::Both {
            in_hour: in_hour.state.lease.spend(),
            in_month: in_month.state.lease.spend(),
        })
    }

    /// Records a call that was allowed without being counted. It is reported with the next write to
    /// its counters.
    pub(crate) fn record_uncounted(&self, call: CountedCall<'_>) {
        let (hour, month) = self.counters(call);
        for counter in [hour, month] {
            counter.uncounted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the order of the reservations for a call: one after the other so that nothing is written to one
    /// window for a call that the other one denies, or at the same time.
    ///
    /// On a strict plan, no unit of a month is reserved for a call that the hour denies: another instance would
    /// find the month exhausted meanwhile, and deny early. With an open circuit breaker, a single request probes
    /// the store.
    fn order(
        &self,
        is_strict: bool,
        in_hour: &LockedCounter<'_>,
        in_month: &LockedCounter<'_>,
    ) -> Order {
        if is_strict {
            return Order::HourFirst;
        }
        // What was found exhausted goes first, and then what may be.
        let is_likely = [
            LockedCounter::was_exhausted,
            LockedCounter::may_be_exhausted,
        ];
        for is_exhausted in is_likely {
            if is_exhausted(in_month) {
                return Order::MonthFirst;
            }
            if is_exhausted(in_hour) {
                return Order::HourFirst;
            }
        }
        match self.0.breaker.is_open() {
            true => Order::HourFirst,
            false => Order::Together,
        }
    }

    /// Ensures a unit of one counter, and then of the other. If the first is exhausted, the second is
    /// only looked up.
    async fn ensure_units_in_turn(
        &self,
        first: &mut LockedCounter<'_>,
        second: &mut LockedCounter<'_>,
    ) -> Result<(UnitStatus, Result<UnitStatus, StoreUnavailable>), StoreUnavailable> {
        let first_unit = self.ensure_unit(first).await?;
        let second_unit = match first_unit {
            UnitStatus::Exhausted => self.look_up_room(second).await,
            UnitStatus::Available | UnitStatus::Reserved => self.ensure_unit(second).await,
        };
        Ok((first_unit, second_unit))
    }

    /// Reserves units if none are left.
    async fn ensure_unit(
        &self,
        locked: &mut LockedCounter<'_>,
    ) -> Result<UnitStatus, StoreUnavailable> {
        if locked.state.lease.covers(locked.limit) {
            return Ok(UnitStatus::Available);
        }
        // Boxed, because the SDK's futures are large and most calls do not need them.
        let reserving = timeout_at(locked.deadline, self.reserve(locked)).boxed();
        reserving.await.unwrap_or(Err(StoreUnavailable::TimedOut))
    }

    async fn reserve(
        &self,
        locked: &mut LockedCounter<'_>,
    ) -> Result<UnitStatus, StoreUnavailable> {
        let LockedCounter {
            limit, max_lease, ..
        } = *locked;
        let Inner { store, breaker, .. } = &*self.0;
        let mut operation = breaker.operation();
        while !locked.state.lease.covers(limit) {
            let now = self.0.clock.now();
            let CounterState { lease, share } = &mut *locked.state;
            let units = lease.next_lease(limit, max_lease, now);
            let (mut calls, left) = (locked.counter.calls(lease), lease.left());
            // Includes the call that is being decided, so that the last one before a crash or before
            // the end of the hour is reported too.
            calls.spent += 1;
            let Some(outcome) = operation
                .attempt(store.reserve(share, units, limit, calls, left))
                .await?
            else {
                continue;
            };
            match outcome {
                ReserveOutcome::Reserved { units, used } => {
                    lease.reserved(units, used, now);
                    self.0.metrics.record(metrics::RESERVED_LEASES, &[], 1);
                }
                ReserveOutcome::Exhausted => {
                    lease.exhausted(limit.unwrap_or(u64::MAX), now);
                    return Ok(UnitStatus::Exhausted);
                }
            }
        }
        Ok(UnitStatus::Reserved)
    }

    /// Checks whether units are left, without reserving any.
    async fn look_up_room(
        &self,
        locked: &mut LockedCounter<'_>,
    ) -> Result<UnitStatus, StoreUnavailable> {
        let looking_up = timeout_at(locked.deadline, self.look_up_with_retries(locked)).boxed();
        looking_up.await.unwrap_or(Err(StoreUnavailable::TimedOut))
    }

    async fn look_up_with_retries(
        &self,
        locked: &mut LockedCounter<'_>,
    ) -> Result<UnitStatus, StoreUnavailable> {
        let limit = locked.limit;
        let CounterState { lease, share } = &mut *locked.state;
        let Some(limit) = limit.filter(|_| !lease.covers(limit)) else {
            return Ok(UnitStatus::Available);
        };
        let Inner { store, breaker, .. } = &*self.0;
        let mut operation = breaker.operation();
        let has_room = loop {
            if let Some(has_room) = operation.attempt(store.has_room(share, limit)).await? {
                break has_room;
            }
        };
        if has_room {
            return Ok(UnitStatus::Available);
        }
        lease.exhausted(limit, self.0.clock.now());
        Ok(UnitStatus::Exhausted)
    }

    /// Settles counters whose windows have ended. If the future is dropped, a later call continues.
    pub(crate) async fn settle_ended(&self, now: Timestamp) {
        let hours = lock(&self.0.hours).ended(now);
        let months = lock(&self.0.months).ended(now);
        let mut ended: Vec<Arc<Counter>> = hours.into_iter().chain(months).collect();
        if ended.is_empty() {
            return;
        }
        let started = Instant::now();
        {
            let mut retry_at = lock(&self.0.settle_retry_at);
            if retry_at.is_some_and(|retry_at| started < retry_at) {
                return;
            }
            *retry_at = Some(started + SETTLE_RETRY_INTERVAL);
        }
        // Starts at a random one, so that counters which cannot be settled do not block the others.
        let entropy = self.0.store.entropy();
        let first = entropy.below(u64::try_from(ended.len()).unwrap_or(1));
        ended.rotate_left(usize::try_from(first).unwrap_or(0));
        self.settle(ended, CircuitBreaker::operation).boxed().await;
        let is_done =
            lock(&self.0.hours).ended(now).is_empty() && lock(&self.0.months).ended(now).is_empty();
        if is_done {
            *lock(&self.0.settle_retry_at) = None;
        }
    }

    /// Settles all counters: for the shutdown of the instance.
    pub(crate) async fn shut_down(&self) {
        let hours = lock(&self.0.hours).all();
        let months = lock(&self.0.months).all();
        let all = hours.into_iter().chain(months);
        self.settle(all, CircuitBreaker::forced_operation).await;
    }

    async fn settle(
        &self,
        counters: impl IntoIterator<Item = Arc<Counter>>,
        operation: fn(&CircuitBreaker) -> Operation<'_>,
    ) {
        stream::iter(counters)
            .for_each_concurrent(SETTLE_CONCURRENCY, async |counter| {
                let mut state = counter.state.lock().await;
                let operation = operation(&self.0.breaker);
                self.settle_counter(&counter, &mut state, operation).await;
            })
            .await;
    }

    /// Releases the units left, and reports the calls.
    async fn settle_counter(
        &self,
        counter: &Counter,
        state: &mut CounterState,
        mut operation: Operation<'_>,
    ) {
        if counter.is_settled(state) {
            return;
        }
        let store = &self.0.store;
        let CounterState { lease, share } = state;
        let calls = counter.calls(lease);
        let left = lease.release();
        // From here on the units are not spent, whether or not the write succeeds.
        share.release(left, calls);
        let settling = async {
            while operation
                .attempt(store.settle(share, calls))
                .await?
                .is_none()
            {}
            Ok::<(), StoreUnavailable>(())
        };
        match settling.boxed().await {
            // Not logged: it is retried, and the circuit breaker logged that it opened.
            Ok(()) | Err(StoreUnavailable::CircuitOpen) => {}
            Err(error) => tracing::warn!(
                error = %Chain(&error),
                units = left,
                "quota units may not have been released"
            ),
        }
    }
}

impl LockedCounter<'_> {
    /// Returns whether a call is denied without a request to the store.
    fn is_exhausted(&self, now: Timestamp) -> bool {
        self.state.lease.is_exhausted(self.limit, now)
    }

    fn was_exhausted(&self) -> bool {
        self.state.lease.was_exhausted(self.limit)
    }

    fn may_be_exhausted(&self) -> bool {
        self.state.lease.may_be_exhausted(self.limit)
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
            state: Mutex::new(CounterState { lease, share }),
        }
    }

    /// Returns the calls that this instance has allowed in the window.
    fn calls(&self, lease: &Lease) -> AdmittedCalls {
        AdmittedCalls {
            spent: lease.spent(),
            uncounted: self.uncounted.load(Ordering::Relaxed),
        }
    }

    /// Returns whether no units are left and the store has all calls.
    fn is_settled(&self, state: &CounterState) -> bool {
        state.lease.left() == 0 && state.share.is_settled(self.calls(&state.lease))
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters by window, and by key or customer.
struct Counters<K, W> {
    windows: Vec<Window<K, W>>,
    end_of: fn(W) -> Timestamp,
}

struct Window<K, W> {
    window: W,
    end: Timestamp,
    counters: HashMap<K, Arc<Counter>>,
    /// Number of counters at which idle, settled ones are dropped.
    sweep_at: usize,
}

impl<K: Clone + Eq + Hash, W: Copy + Ord> Counters<K, W> {
    fn new(end_of: fn(W) -> Timestamp) -> Self {
        Self {
            windows: Vec::new(),
            end_of,
        }
    }

    fn counter(&mut self, key: &K, window: W, new: impl FnOnce(W) -> Counter) -> Arc<Counter> {
        let index = self.windows.iter().position(|it| it.window == window);
        let index = index.unwrap_or_else(|| {
            self.windows.push(Window {
                window,
                end: (self.end_of)(window),
                counters: HashMap::new(),
                sweep_at: SWEEP_THRESHOLD,
            });
            self.windows.len() - 1
        });
        let Window {
            counters, sweep_at, ..
        } = &mut self.windows[index];
        if let Some(counter) = counters.get(key) {
            return Arc::clone(counter);
        }
        if counters.len() >= *sweep_at {
            counters.retain(|_, counter| is_in_use_or_unsettled(counter));
            *sweep_at = SWEEP_THRESHOLD.max(counters.len() * 2);
        }
        let counter = Arc::new(new(window));
        counters.insert(key.clone(), Arc::clone(&counter));
        counter
    }

    /// Returns the unsettled counters of ended windows, and drops the settled ones.
    fn ended(&mut self, now: Timestamp) -> Vec<Arc<Counter>> {
        let mut ended = Vec::new();
        self.windows.retain_mut(|Window { end, counters, .. }| {
            if now.duration_since(*end) < CLOCK_TOLERANCE {
                return true;
            }
            counters.retain(|_, counter| is_in_use_or_unsettled(counter));
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

fn is_in_use_or_unsettled(counter: &Arc<Counter>) -> bool {
    let Ok(state) = counter.state.try_lock() else {
        return true;
    };
    Arc::strong_count(counter) > 1 || !counter.is_settled(&state)
}

#[cfg(test)]
mod tests {
    use tollgate_local_aws::fixture::Fixture;

    use super::*;

    /// Returns the number of counters kept of an hour in which `keys` keys were used, each with
    /// `uncounted` calls to report.
    fn kept(keys: usize, uncounted: u64) -> usize {
        let at = Fixture::at("2026-11-22T10:00:00Z");
        let hour = Hour::containing(at.clock().now());
        let mut counters = Counters::new(Hour::end);
        for n in 0..keys {
            let key: KeyId = format!("key_{n}").parse().unwrap();
            let counter = counters.counter(&key, hour, |hour| {
                Counter::new(at.store.hour_share(&key, hour))
            });
            counter.uncounted.fetch_add(uncounted, Ordering::Relaxed);
        }
        counters.all().len()
    }

    #[test]
    fn idle_settled_counters_are_dropped_above_the_threshold() {
        assert_eq!(kept(SWEEP_THRESHOLD, 0), SWEEP_THRESHOLD);
        assert_eq!(kept(SWEEP_THRESHOLD + 1, 0), 1);
        assert_eq!(
            kept(SWEEP_THRESHOLD + 1, 1),
            SWEEP_THRESHOLD + 1,
            "counters with unreported calls are kept"
        );
    }
}
