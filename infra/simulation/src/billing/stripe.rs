//! The way to the stand-in for Stripe, on which requests and responses are lost and late.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use stripe_fake::{Fault, FaultRule, StripeFake};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tollgate_runtime::Entropy;
use tollgate_stripe::{
    Config, FixedSecret, InvalidSecretKey, SecretKey, StripeClient, TokioTiming, Transport,
    TransportError,
};

use crate::Trace;
use crate::crash::Process;

/// Percentages of requests that meet each fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StripeFaults {
    /// The connection is lost before the request arrives.
    pub(crate) request_lost: u64,
    /// The connection is lost after the request took effect.
    pub(crate) response_lost: u64,
    /// The request arrives up to a minute later, when its sender may have given up.
    pub(crate) late: u64,
    /// A fault of Stripe's own: a limit, an error that is replayed or not, a key in use, a request that is executed
    /// up to twelve hours later.
    pub(crate) own: u64,
}

impl StripeFaults {
    pub(crate) const NONE: Self = Self {
        request_lost: 0,
        response_lost: 0,
        late: 0,
        own: 0,
    };
}

/// Connection of one process to Stripe. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    fake: StripeFake,
    entropy: Entropy,
    faults: StripeFaults,
    process: Process,
    trace: Trace,
}

impl Connection {
    pub(crate) fn new(
        fake: StripeFake,
        seed: u64,
        faults: StripeFaults,
        process: &Process,
        trace: Trace,
    ) -> Self {
        let entropy = Entropy::seeded(seed);
        Self {
            fake,
            entropy,
            faults,
            process: process.clone(),
            trace,
        }
    }

    /// Returns a client over the connection.
    pub(crate) fn client(&self) -> Result<StripeClient, InvalidSecretKey> {
        let key = SecretKey::parse("sk_test_stripe_fake")?;
        let entropy = self.entropy.clone();
        let timing = TokioTiming::new(move || entropy.below(u64::MAX));
        Ok(StripeClient::new(
            Arc::new(self.clone()),
            Arc::new(FixedSecret(key)),
            Arc::new(timing),
            Config::default(),
        ))
    }

    fn meets(&self, percent: u64) -> bool {
        self.entropy.below(100) < percent
    }

    /// Draws a fault of Stripe's own.
    fn own_fault(&self) -> Fault {
        match self.entropy.below(7) {
            0 => Fault::RateLimited { retry_after: None },
            1 => Fault::RateLimited {
                retry_after: Some(600),
            },
            2 => Fault::ServerError,
            3 => Fault::StoredServerError { executes: true },
            4 => Fault::StoredServerError { executes: false },
            5 => Fault::KeyInUse,
            _ => Fault::Late {
                seconds: i64::try_from(self.entropy.below(43_200)).unwrap_or(0),
            },
        }
    }
}

impl Transport for Connection {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let lost = || TransportError::Lost("the connection was lost".into());
        async move {
            self.process.pass().await;
            if self.meets(self.faults.request_lost) {
                sleep(Duration::from_millis(self.entropy.below(2_000))).await;
                return Err(lost());
            }
            let is_post = request.method() == http::Method::POST;
            if is_post && self.meets(self.faults.own) {
                let fault = self.own_fault();
                let path = request.uri().path().to_owned();
                self.trace.log(|| format!("fault at {path}: {fault:?}"));
                self.fake.add_fault(FaultRule {
                    method: Some("POST".to_owned()),
                    path,
                    times: 1,
                    fault,
                    should_retry: None,
                });
            }
            let delay = match self.meets(self.faults.late) {
                true => Duration::from_millis(self.entropy.below(60_000)),
                false => Duration::from_millis(20 + self.entropy.below(200)),
            };
            let response_lost = self.meets(self.faults.response_lost);
            // A request that was sent arrives, even if its sender no longer exists.
            let (respond, responded) = oneshot::channel();
            let fake = self.fake.clone();
            tokio::spawn(async move {
                sleep(delay).await;
                let _ = respond.send(fake.send(request).await);
            });
            let responded = responded.await;
            self.process.pass().await;
            match responded {
                Ok(Ok(response)) if !response_lost => Ok(response),
                _ => Err(lost()),
            }
        }
        .boxed()
    }
}
