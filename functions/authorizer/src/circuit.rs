//! Circuit breaker: leaves a store alone that does not answer.
//!
//! Each call would otherwise wait as long as a decision may take, and be paid for that long, to
//! learn what the one before it has learnt. After a few failures in a row, one call in a while asks
//! the store, and all others are decided without it.
//!
//! A failure is a request that came to no answer, or to one that says that the service is broken. A
//! throttled request is none: it says that one item is in great demand, and nothing of the others.
//! Such requests are sent again, after pauses that grow and differ, for as long as the decision has.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep_until};
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::StoreError;

/// Failures in a row after which the store is left alone: one may be a lost connection.
const TOLERATED: u32 = 3;
const FIRST_PAUSE: SignedDuration = SignedDuration::from_millis(500);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(8);
/// The bound of one request. As many as are tolerated fit into a decision, so that the first call of
/// an outage already knows of it.
pub(crate) const REQUEST: Duration = Duration::from_millis(270);
/// How long one answer is asked for again. A decision does not wait for longer, nor does what it has
/// begun go on.
const ASKED_FOR: Duration = Duration::from_millis(850);
/// The longest pause before a request is sent again the first time, and at any time.
const FIRST_BACKOFF_US: u64 = 10_000;
const LONGEST_BACKOFF_US: u64 = 160_000;

/// Why the store had no part in a decision.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store did not answer in time")]
    Late,
    #[error("the store has not answered for a while, and was not asked")]
    NotAsked,
}

/// Knows whether the store answers. Cheap to clone; clones share what they know.
#[derive(Debug, Clone)]
pub(crate) struct Circuit {
    clock: Clock,
    entropy: Entropy,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    open: Option<Pause>,
}

/// While it lasts, the store is not asked.
#[derive(Debug, Clone, Copy)]
struct Pause {
    began: Timestamp,
    lasts: SignedDuration,
    /// Whether a call asks in it.
    is_probed: bool,
}

impl Circuit {
    /// A circuit that is closed. `entropy` spreads what is sent again.
    pub(crate) fn new(clock: Clock, entropy: Entropy) -> Self {
        Self {
            clock,
            entropy,
            state: Arc::default(),
        }
    }

    /// Begins to ask the store for one answer.
    pub(crate) fn asking(&self) -> Asking<'_> {
        Asking {
            circuit: self,
            until: Instant::now() + ASKED_FOR,
            backoff_us: FIRST_BACKOFF_US,
            insists: false,
        }
    }

    /// Begins to ask the store for one answer even if it is left alone: there will be no other chance.
    pub(crate) fn insisting(&self) -> Asking<'_> {
        Asking {
            insists: true,
            ..self.asking()
        }
    }

    /// Whether the store is left alone, but for a call in a while.
    pub(crate) fn is_open(&self) -> bool {
        self.state().open.is_some()
    }

    /// Counts a failure. Returns whether the store is left alone from now on.
    fn failed(&self) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures < TOLERATED {
            return false;
        }
        let lasts = match state.open {
            None => {
                tracing::warn!("the store does not answer, and is left alone");
                FIRST_PAUSE
            }
            // Sent before the store was left alone.
            Some(pause) if !pause.is_probed => return true,
            Some(pause) => LONGEST_PAUSE.min(pause.lasts * 2),
        };
        state.open = Some(Pause {
            began: now,
            lasts,
            is_probed: false,
        });
        true
    }

    fn answered(&self) {
        let mut state = self.state();
        if state.failures == 0 {
            return;
        }
        let state = std::mem::take(&mut *state);
        if state.open.is_some() {
            tracing::info!("the store answers again");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests for one answer.
pub(crate) struct Asking<'a> {
    circuit: &'a Circuit,
    until: Instant,
    insists: bool,
    backoff_us: u64,
}

impl Asking<'_> {
    /// Makes one request, unless the store is left alone. Returns nothing, after a pause, if it is to
    /// be made again.
    pub(crate) async fn once<T>(
        &mut self,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Option<T>, NoAnswer> {
        let circuit = self.circuit;
        if !self.insists && !circuit.state().may_ask(circuit.clock.now()) {
            return Err(NoAnswer::NotAsked);
        }
        let error = match request.await {
            Ok(answer) => {
                circuit.answered();
                return Ok(Some(answer));
            }
            Err(error) => error,
        };
        let is_left_alone = if error.is_outage() {
            circuit.failed() && !self.insists
        } else {
            circuit.answered();
            false
        };
        let pause_us = circuit.entropy.below(self.backoff_us);
        let again_at = Instant::now() + Duration::from_micros(pause_us);
        if is_left_alone || !error.is_transient() || again_at > self.until {
            return Err(error.into());
        }
        sleep_until(again_at).await;
        self.backoff_us = LONGEST_BACKOFF_US.min(self.backoff_us * 2);
        Ok(None)
    }
}

impl State {
    /// Whether the store may be asked now. The first call after a pause begins another, so that it
    /// is the only one that waits.
    fn may_ask(&mut self, now: Timestamp) -> bool {
        let Some(pause) = &mut self.open else {
            return true;
        };
        let since = now.duration_since(pause.began);
        // A clock that was set back tells nothing of the pause.
        let is_over = since.is_negative() || since >= pause.lasts;
        if is_over {
            pause.began = now;
            pause.is_probed = true;
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tollgate_runtime::clock::ManualClock;

    use super::*;

    struct Stand {
        time: ManualClock,
        circuit: Circuit,
    }

    impl Stand {
        fn new() -> Self {
            let time = ManualClock::at("2026-11-22T10:00:00Z".parse().unwrap());
            let circuit = Circuit::new(time.clock(), Entropy::seeded(1));
            Self { time, circuit }
        }

        /// After so many milliseconds, is the store asked?
        fn asked_after(&self, ms: i64) -> bool {
            self.time.advance(SignedDuration::from_millis(ms));
            self.circuit.state().may_ask(self.time.clock().now())
        }

        /// How often the store is asked if it gives no answer so many times, and one after that.
        async fn asked(&self, failures: usize) -> (u32, Result<(), NoAnswer>) {
            let asked = Cell::new(0);
            let mut left = failures;
            let mut asking = self.circuit.asking();
            loop {
                let request = async {
                    asked.set(asked.get() + 1);
                    if left == 0 {
                        return Ok(());
                    }
                    left -= 1;
                    Err(StoreError::late("testing"))
                };
                match asking.once(request).await {
                    Ok(Some(answer)) => return (asked.get(), Ok(answer)),
                    Ok(None) => {}
                    Err(error) => return (asked.get(), Err(error)),
                }
            }
        }
    }

    #[test]
    fn a_failure_or_two_change_nothing() {
        let stand = Stand::new();
        stand.circuit.failed();
        stand.circuit.failed();
        assert!(stand.asked_after(0));
        stand.circuit.answered();
        stand.circuit.failed();
        assert!(stand.asked_after(0));
        assert!(!stand.circuit.is_open());
    }

    #[test]
    fn one_call_in_a_pause_asks_and_pauses_grow_to_a_bound() {
        let stand = Stand::new();
        for _ in 0..TOLERATED {
            stand.circuit.failed();
        }
        for pause in [500, 1_000, 2_000, 4_000, 8_000, 8_000] {
            assert!(stand.circuit.is_open());
            assert!(!stand.asked_after(pause - 1), "{pause}");
            assert!(stand.asked_after(1), "{pause}");
            assert!(!stand.asked_after(0), "a second one in {pause}");
            stand.circuit.failed();
        }
        stand.circuit.answered();
        assert!(!stand.circuit.is_open());
        assert!(stand.asked_after(0));
        stand.circuit.failed();
        assert!(stand.asked_after(0), "the count begins again");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_prolong_a_pause() {
        let stand = Stand::new();
        for _ in 0..TOLERATED {
            stand.circuit.failed();
        }
        assert!(stand.asked_after(-60_000));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_call_of_an_outage_opens_the_circuit() {
        let stand = Stand::new();
        let (asked, answer) = stand.asked(4).await;
        assert_eq!(asked, TOLERATED);
        assert!(matches!(answer, Err(NoAnswer::Store(_))));
        assert!(stand.circuit.is_open());
        let (asked, answer) = stand.asked(0).await;
        assert_eq!(asked, 0);
        assert!(matches!(answer, Err(NoAnswer::NotAsked)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_made_up_for() {
        let stand = Stand::new();
        for _ in 0..5 {
            let (asked, answer) = stand.asked(2).await;
            assert_eq!(asked, 3);
            assert!(answer.is_ok());
        }
        assert!(!stand.circuit.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_after_a_pause_closes_the_circuit() {
        let stand = Stand::new();
        stand.asked(3).await.1.unwrap_err();
        stand.time.advance(SignedDuration::from_millis(500));
        let (asked, _) = stand.asked(3).await;
        assert_eq!(asked, 1, "one request tells that it goes on");
        stand.time.advance(SignedDuration::from_secs(1));
        stand.asked(0).await.1.unwrap();
        assert!(!stand.circuit.is_open());
    }
}
