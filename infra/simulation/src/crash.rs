//! Crashes of processes: after a time, or before or after one of their requests.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::select;
use tokio::sync::Notify;
use tokio::time::sleep;
use tollgate_runtime::Entropy;

use crate::random::index;

/// Points before and after requests at which a process may crash. Few make more requests than half of that.
const MOST_POINTS: u64 = 60;

/// End of a process, whatever it does then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// It does not crash.
    Never,
    /// It crashes after this time.
    After(Duration),
    /// It crashes at one of the points before and after each of its requests, counted from 0. So a crash between two
    /// requests, which is an instant, is as likely as any other.
    AtPoint(u64),
}

impl Crash {
    /// Draws a crash that occurs in so many percent of cases: after one of two times at most, in milliseconds, or at a
    /// point.
    pub(crate) fn draw(entropy: &Entropy, percent: u64, max_ms: [u64; 2]) -> Self {
        let is_drawn = entropy.below(100) < percent;
        match is_drawn.then(|| index(entropy, 4)) {
            None => Self::Never,
            Some(kind @ (0 | 1)) => Self::After(Duration::from_millis(entropy.below(max_ms[kind]))),
            Some(_) => Self::AtPoint(entropy.below(MOST_POINTS)),
        }
    }
}

/// A process that may crash. Its connections have clones of it, so that requests of all its tasks count.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// Time after which it crashes.
    lasts: Duration,
    /// Points that it passes before it crashes.
    left: Arc<AtomicU64>,
    /// Whether it has reached the point at which it crashes.
    reached: Arc<Notify>,
}

impl Process {
    pub(crate) fn new(crash: Crash) -> Self {
        let (lasts, left) = match crash {
            Crash::Never => (Duration::MAX, u64::MAX),
            Crash::After(time) => (time, u64::MAX),
            Crash::AtPoint(point) => (Duration::MAX, point),
        };
        Self {
            lasts,
            left: Arc::new(left.into()),
            reached: Arc::default(),
        }
    }

    /// Passes the point before or after a request, unless the process crashes there.
    pub(crate) async fn pass(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.reached.notify_one();
            pending::<()>().await;
        }
    }

    /// Executes a future of the process until it ends, the process crashes, or its time is over. What it has sent arrives
    /// all the same.
    pub(crate) async fn run(self, future: impl Future<Output = ()>, at_most: Duration) {
        select! {
            biased;
            () = future => {}
            () = self.reached.notified() => {}
            () = sleep(self.lasts.min(at_most)) => {}
        }
    }
}
