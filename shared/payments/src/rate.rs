//! A bound on the rate of requests to Stripe.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tollgate_stripe::{Timing, Transport, TransportError};

/// Transport that sends at most so many requests a second, retries included, evenly spaced: a burst at the
/// start of each second could meet the bursts of other workers.
pub struct RateLimited<T> {
    inner: T,
    timing: Arc<dyn Timing>,
    interval: Duration,
    /// Time at which the next request may be sent.
    next: Mutex<Duration>,
}

impl<T: Transport> RateLimited<T> {
    /// Limits `inner` to a request in each `interval`.
    #[must_use]
    pub fn new(inner: T, timing: Arc<dyn Timing>, interval: Duration) -> Self {
        Self {
            inner,
            timing,
            interval,
            next: Mutex::default(),
        }
    }

    /// Takes the next free time, and returns how long to wait for it.
    fn reserve(&self) -> Duration {
        let now = self.timing.elapsed();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now.max(*next);
        *next = at + self.interval;
        at - now
    }
}

impl<T: Transport> Transport for RateLimited<T> {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        async move {
            let wait = self.reserve();
            if !wait.is_zero() {
                self.timing.sleep(wait).await;
            }
            self.inner.send(request).await
        }
        .boxed()
    }
}
