//! Virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tollgate_runtime::Clock;

/// Virtual time of a run: the paused time of the async runtime, which advances whenever all tasks wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    /// Instant at which the run started.
    pub(crate) began: Instant,
    /// UTC time at that instant.
    pub(crate) start: Timestamp,
}

impl Time {
    /// Starts virtual time now, at the UTC time `start`.
    pub(crate) fn starting_at(start: Timestamp) -> Self {
        Self {
            began: Instant::now(),
            start,
        }
    }

    /// Returns a clock that is ahead by `skew_ms`.
    pub(crate) fn clock(self, skew_ms: Arc<AtomicI64>) -> Clock {
        Clock::from_fn(move || {
            let elapsed = SignedDuration::try_from(self.began.elapsed()).unwrap_or_default();
            let skew = SignedDuration::from_millis(skew_ms.load(Ordering::Relaxed));
            let now = self.start.saturating_add(elapsed.saturating_add(skew));
            now.unwrap_or(self.start)
        })
    }
}
