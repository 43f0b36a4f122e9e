//! Circuit breaker: stops sending requests to a store that does not respond.
//!
//! Without it, each call of an outage would wait for the whole time of a decision, and be billed for
//! it. After [`FAILURE_THRESHOLD`] failures in a row the circuit breaker opens: one call in each
//! interval probes the store, and all others are decided without it.
//!
//! A failure is a request without a response, or with one that reports a failure of the whole
//! service. A throttled request is not a failure: it concerns one hot item and no others. Such
//! requests are retried with jittered exponential backoff, within the time of the decision.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep_until};
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::StoreError;

/// Failures in a row that open the circuit breaker. A single one may be a lost connection.
const FAILURE_THRESHOLD: u32 = 3;
/// Shortest and longest interval between two probes of an open circuit breaker. It doubles with each
/// failed probe.
const MIN_PROBE_INTERVAL: SignedDuration = SignedDuration::from_millis(500);
const MAX_PROBE_INTERVAL: SignedDuration = SignedDuration::from_secs(8);
/// Timeout of one request. [`FAILURE_THRESHOLD`] of them fit into one decision, so that the first call
/// of an outage already opens the circuit breaker.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_millis(270);
/// Time within which an operation is retried. A decision does not wait longer, and retries that nobody
/// waits for any more end then too.
const RETRY_TIMEOUT: Duration = Duration::from_millis(850);
/// Upper bounds of the backoff before the first retry, and before any.
const INITIAL_BACKOFF_US: u64 = 10_000;
const MAX_BACKOFF_US: u64 = 160_000;

/// The reason why an operation has no result from the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreUnavailable {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store did not respond in time")]
    TimedOut,
    #[error("the circuit breaker is open, so that the store was not called")]
    CircuitOpen,
}

/// Circuit breaker of the store. Cheap to clone; clones share the state.
#[derive(Debug, Clone)]
pub(crate) struct CircuitBreaker {
    clock: Clock,
    entropy: Entropy,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Failures since the last success.
    failures: u32,
    open: Option<ProbeInterval>,
}

/// Interval during which an open circuit breaker rejects requests, except for one probe.
#[derive(Debug, Clone, Copy)]
struct ProbeInterval {
    started: Timestamp,
    duration: SignedDuration,
    /// Whether the probe of this interval was sent.
    has_probe: bool,
}

impl CircuitBreaker {
    /// Creates a closed circuit breaker. `entropy` is the source of the backoffs' jitter.
    pub(crate) fn new(clock: Clock, entropy: Entropy) -> Self {
        Self {
            clock,
            entropy,
            state: Arc::default(),
        }
    }

    /// Starts an operation on the store, which may take several requests.
    pub(crate) fn operation(&self) -> Operation<'_> {
        Operation {
            breaker: self,
            deadline: Instant::now() + RETRY_TIMEOUT,
            backoff_us: INITIAL_BACKOFF_US,
            ignores_breaker: false,
        }
    }

    /// Starts an operation whose requests are sent even while the circuit breaker is open: for the
    /// shutdown of the instance, after which nothing can be retried.
    pub(crate) fn forced_operation(&self) -> Operation<'_> {
        Operation {
            ignores_breaker: true,
            ..self.operation()
        }
    }

    /// Returns whether the circuit breaker is open.
    pub(crate) fn is_open(&self) -> bool {
        self.state().open.is_some()
    }

    /// Records a failure. Returns whether the circuit breaker is open now.
    fn record_failure(&self) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures < FAILURE_THRESHOLD {
            return false;
        }
        let duration = match state.open {
            None => {
                tracing::warn!("the store does not respond; the circuit breaker opens");
                MIN_PROBE_INTERVAL
            }
            // The request was sent before the circuit breaker opened.
            Some(interval) if !interval.has_probe => return true,
            Some(interval) => MAX_PROBE_INTERVAL.min(interval.duration * 2),
        };
        state.open = Some(ProbeInterval {
            started: now,
            duration,
            has_probe: false,
        });
        true
    }

    fn record_success(&self) {
        let mut state = self.state();
        if state.failures == 0 {
            return;
        }
        let state = std::mem::take(&mut *state);
        if state.open.is_some() {
            tracing::info!("the store responds again; the circuit breaker closes");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One operation on the store with its retries.
pub(crate) struct Operation<'a> {
    breaker: &'a CircuitBreaker,
    deadline: Instant,
    ignores_breaker: bool,
    backoff_us: u64,
}

impl Operation<'_> {
    /// Sends one request, unless the circuit breaker is open. Returns `None`, after the backoff, if
    /// the request is to be retried.
    ///
    /// # Errors
    /// When the circuit breaker is open, the error is not transient, or no time is left for a retry.
    pub(crate) async fn attempt<T>(
        &mut self,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Option<T>, StoreUnavailable> {
        let breaker = self.breaker;
        if !self.ignores_breaker && !breaker.state().allows_request(breaker.clock.now()) {
            return Err(StoreUnavailable::CircuitOpen);
        }
        let error = match request.await {
            Ok(value) => {
                breaker.record_success();
                return Ok(Some(value));
            }
            Err(error) => error,
        };
        let is_open = if error.is_outage() {
            breaker.record_failure() && !self.ignores_breaker
        } else {
            breaker.record_success();
            false
        };
        let backoff_us = breaker.entropy.below(self.backoff_us);
        let retry_at = Instant::now() + Duration::from_micros(backoff_us);
        if is_open || !error.is_transient() || retry_at > self.deadline {
            return Err(error.into());
        }
        sleep_until(retry_at).await;
        self.backoff_us = MAX_BACKOFF_US.min(self.backoff_us * 2);
        Ok(None)
    }
}

impl State {
    /// Returns whether a request may be sent now. The first one after an interval is its probe, and
    /// starts another interval, so that it is the only one that waits for the store.
    fn allows_request(&mut self, now: Timestamp) -> bool {
        let Some(interval) = &mut self.open else {
            return true;
        };
        let elapsed = now.duration_since(interval.started);
        // If the clock was set back, the elapsed time is unknown, and counts as over.
        let is_over = elapsed.is_negative() || elapsed >= interval.duration;
        if is_over {
            interval.started = now;
            interval.has_probe = true;
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tollgate_runtime::clock::ManualClock;

    use super::*;

    struct Harness {
        time: ManualClock,
        breaker: CircuitBreaker,
    }

    impl Harness {
        fn new() -> Self {
            let time = ManualClock::at("2026-11-22T10:00:00Z".parse().unwrap());
            let breaker = CircuitBreaker::new(time.clock(), Entropy::seeded(1));
            Self { time, breaker }
        }

        /// Advances the clock by `ms` and returns whether a request is allowed then.
        fn allows_after(&self, ms: i64) -> bool {
            self.time.advance(SignedDuration::from_millis(ms));
            let now = self.time.clock().now();
            self.breaker.state().allows_request(now)
        }

        /// Runs an operation whose first `failures` requests time out. Returns the number of requests
        /// sent, and the result.
        async fn run(&self, failures: usize) -> (u32, Result<(), StoreUnavailable>) {
            let sent = Cell::new(0);
            let mut left = failures;
            let mut operation = self.breaker.operation();
            loop {
                let request = async {
                    sent.set(sent.get() + 1);
                    if left == 0 {
                        return Ok(());
                    }
                    left -= 1;
                    Err(StoreError::timed_out("testing"))
                };
                match operation.attempt(request).await {
                    Ok(Some(value)) => return (sent.get(), Ok(value)),
                    Ok(None) => {}
                    Err(error) => return (sent.get(), Err(error)),
                }
            }
        }
    }

    #[test]
    fn one_or_two_failures_do_not_open_it() {
        let harness = Harness::new();
        harness.breaker.record_failure();
        harness.breaker.record_failure();
        assert!(harness.allows_after(0));
        harness.breaker.record_success();
        harness.breaker.record_failure();
        assert!(harness.allows_after(0));
        assert!(!harness.breaker.is_open());
    }

    #[test]
    fn one_call_per_interval_probes_the_store_and_intervals_grow_to_a_bound() {
        let harness = Harness::new();
        for _ in 0..FAILURE_THRESHOLD {
            harness.breaker.record_failure();
        }
        for interval in [500, 1_000, 2_000, 4_000, 8_000, 8_000] {
            assert!(harness.breaker.is_open());
            assert!(!harness.allows_after(interval - 1), "{interval}");
            assert!(harness.allows_after(1), "{interval}");
            assert!(!harness.allows_after(0), "a second one in {interval}");
            harness.breaker.record_failure();
        }
        harness.breaker.record_success();
        assert!(!harness.breaker.is_open());
        assert!(harness.allows_after(0));
        harness.breaker.record_failure();
        assert!(harness.allows_after(0), "failures are counted from zero");
    }

    #[test]
    fn a_clock_set_back_does_not_prolong_an_interval() {
        let harness = Harness::new();
        for _ in 0..FAILURE_THRESHOLD {
            harness.breaker.record_failure();
        }
        assert!(harness.allows_after(-60_000));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_call_of_an_outage_opens_it() {
        let harness = Harness::new();
        let (sent, result) = harness.run(4).await;
        assert_eq!(sent, FAILURE_THRESHOLD);
        assert!(matches!(result, Err(StoreUnavailable::Store(_))));
        assert!(harness.breaker.is_open());
        let (sent, result) = harness.run(0).await;
        assert_eq!(sent, 0);
        assert!(matches!(result, Err(StoreUnavailable::CircuitOpen)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_retried() {
        let harness = Harness::new();
        for _ in 0..5 {
            let (sent, result) = harness.run(2).await;
            assert_eq!(sent, 3);
            assert!(result.is_ok());
        }
        assert!(!harness.breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_successful_probe_closes_it() {
        let harness = Harness::new();
        harness.run(3).await.1.unwrap_err();
        harness.time.advance(SignedDuration::from_millis(500));
        let (sent, _) = harness.run(3).await;
        assert_eq!(sent, 1, "a failed probe is one request");
        harness.time.advance(SignedDuration::from_secs(1));
        harness.run(0).await.1.unwrap();
        assert!(!harness.breaker.is_open());
    }
}
