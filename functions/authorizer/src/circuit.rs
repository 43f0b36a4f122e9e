//! Leaves a store alone that does not answer.
//!
//! Each call would otherwise wait as long as a decision may take, and be paid for that long, to
//! learn what the one before it has learnt. After a few failures in a row, one call in a while asks
//! the store, and all others are decided without it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tollgate_runtime::Clock;
use tollgate_store::StoreError;

/// Failures in a row after which the store is left alone: one may be a lost connection.
const TOLERATED: u32 = 3;
const FIRST_PAUSE: SignedDuration = SignedDuration::from_millis(500);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(8);

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

/// Knows whether the store answers. Cheap to clone; all clones know the same.
#[derive(Debug, Clone)]
pub(crate) struct Circuit {
    clock: Clock,
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
}

impl Circuit {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Arc::default(),
        }
    }

    /// What the store answers, if it is asked.
    pub(crate) async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, NoAnswer> {
        if !self.state().may_ask(self.clock.now()) {
            return Err(NoAnswer::NotAsked);
        }
        let answer = answer.await;
        match &answer {
            Err(error) if error.is_outage() => self.failed(),
            _ => self.answered(),
        }
        Ok(answer?)
    }

    /// The store was asked and has not answered, and nobody waits for it any more.
    pub(crate) fn failed(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures < TOLERATED {
            return;
        }
        let lasts = match state.open {
            None => {
                tracing::warn!("the store does not answer, and is left alone");
                FIRST_PAUSE
            }
            Some(pause) => LONGEST_PAUSE.min(pause.lasts * 2),
        };
        state.open = Some(Pause { began: now, lasts });
    }

    fn answered(&self) {
        let state = std::mem::take(&mut *self.state());
        if state.open.is_some() {
            tracing::info!("the store answers again");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use tollgate_runtime::clock::ManualClock;

    use super::*;

    struct Stand {
        time: ManualClock,
        circuit: Circuit,
    }

    impl Stand {
        fn new() -> Self {
            let time = ManualClock::at("2026-11-22T10:00:00Z".parse().unwrap());
            let circuit = Circuit::new(time.clock());
            Self { time, circuit }
        }

        /// After so many milliseconds, is the store asked?
        fn asked_after(&self, ms: i64) -> bool {
            self.time.advance(SignedDuration::from_millis(ms));
            self.circuit.state().may_ask(self.time.clock().now())
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
    }

    #[test]
    fn one_call_in_a_pause_asks_and_pauses_grow_to_a_bound() {
        let stand = Stand::new();
        for _ in 0..TOLERATED {
            stand.circuit.failed();
        }
        for pause in [500, 1_000, 2_000, 4_000, 8_000, 8_000] {
            assert!(!stand.asked_after(pause - 1), "{pause}");
            assert!(stand.asked_after(1), "{pause}");
            assert!(!stand.asked_after(0), "a second one in {pause}");
            stand.circuit.failed();
        }
        stand.circuit.answered();
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
}
