//! The time of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tollgate_runtime::Clock;

/// The time of a run: the runtime's, which passes when there is nothing else to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    pub(crate) began: Instant,
    pub(crate) start: Timestamp,
}

impl Time {
    /// Begins now, at this time by clocks that are right.
    pub(crate) fn beginning(start: Timestamp) -> Self {
        Self {
            began: Instant::now(),
            start,
        }
    }

    /// The time by a clock that is so far ahead.
    pub(crate) fn clock(self, skew_ms: Arc<AtomicI64>) -> Clock {
        Clock::from_fn(move || {
            let passed = SignedDuration::try_from(self.began.elapsed()).unwrap_or_default();
            let ahead = SignedDuration::from_millis(skew_ms.load(Ordering::Relaxed));
            let now = self.start.saturating_add(passed.saturating_add(ahead));
            now.unwrap_or(self.start)
        })
    }
}
