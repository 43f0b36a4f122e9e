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

/// Point at which a process crashes.
struct Point {
    /// Points that the process passes before.
    left: AtomicU64,
    reached: Arc<Notify>,
}

tokio::task_local! {
    static POINT: Point;
}

/// Passes the point before or after a request, unless the process crashes there.
pub(crate) async fn pass() {
    let is_reached = POINT.try_with(|point| {
        let left = point.left.load(Ordering::Relaxed);
        point.left.store(left.wrapping_sub(1), Ordering::Relaxed);
        if left == 0 {
            point.reached.notify_one();
        }
        left == 0
    });
    if is_reached == Ok(true) {
        pending::<()>().await;
    }
}

/// Executes a process until it ends, it crashes, or its time is over. What it has sent arrives all the same.
pub(crate) async fn run(process: impl Future<Output = ()>, crash: Crash, at_most: Duration) {
    let reached = Arc::new(Notify::new());
    let (lasts, left) = match crash {
        Crash::Never => (at_most, u64::MAX),
        Crash::After(time) => (time.min(at_most), u64::MAX),
        Crash::AtPoint(point) => (at_most, point),
    };
    let point = Point {
        left: AtomicU64::new(left),
        reached: Arc::clone(&reached),
    };
    select! {
        biased;
        () = POINT.scope(point, process) => {}
        () = reached.notified() => {}
        () = sleep(lasts) => {}
    }
}
