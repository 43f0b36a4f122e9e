//! Time and randomness of the client, as an argument.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

/// Source of the time and the randomness of retries.
pub trait Timing: Send + Sync + 'static {
    /// Returns the time since a fixed instant. It must not go backwards.
    fn elapsed(&self) -> Duration;

    /// Waits for `time`.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;

    /// Draws 64 random bits, for the jitter of delays.
    fn random(&self) -> u64;
}

/// Time of the Tokio runtime, with a given source of randomness.
pub struct TokioTiming<R> {
    started: Instant,
    random: R,
}

impl<R: Fn() -> u64> TokioTiming<R> {
    /// Creates a source whose randomness is `random`.
    #[must_use]
    pub fn new(random: R) -> Self {
        let started = Instant::now();
        Self { started, random }
    }
}

impl<R: Fn() -> u64 + Send + Sync + 'static> Timing for TokioTiming<R> {
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn random(&self) -> u64 {
        (self.random)()
    }
}

impl<R> fmt::Debug for TokioTiming<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokioTiming")
    }
}
