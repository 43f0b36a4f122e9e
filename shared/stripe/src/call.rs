//! One call: its attempts, and the conclusion from them.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::Response;
use serde::de::DeserializeOwned;

use crate::client::StripeClient;
use crate::error::{
    RequestId, StripeError, Unavailable, UnavailableCause, UnknownCause, UnknownOutcome,
};
use crate::request::ApiRequest;
use crate::response::{self, AttemptFailure, Effect};
use crate::secret::{Mode, SecretKey};

/// Progress of a call.
#[derive(Default)]
struct Progress {
    attempts: u32,
    /// Cause of the last failed attempt that may have taken effect.
    uncertain: Option<UnknownCause>,
    /// Whether the secret key was read again.
    key_replaced: bool,
    request_id: Option<RequestId>,
}

impl StripeClient {
    /// Makes a call, in as many attempts as it takes and the configuration allows.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        request: &ApiRequest,
    ) -> Result<T, StripeError> {
        let mut progress = Progress::default();
        let key = self.key().await;
        let mut key = key.map_err(|cause| progress.unavailable(cause, None))?;
        let started = self.0.timing.elapsed();
        loop {
            progress.attempts += 1;
            let left = self.left(started);
            let failure = match self.attempt(request, &key, left, &mut progress).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if failure.is_unauthorized() && !progress.key_replaced {
                progress.key_replaced = true;
                match self.other_key(&key).await {
                    Some(other) if !self.left(started).is_zero() => {
                        key = other;
                        continue;
                    }
                    _ => {}
                }
            }
            let Some(delay) = self.delay(&failure, progress.attempts, started) else {
                return Err(progress.conclude(request, failure));
            };
            progress.note(failure);
            self.0.timing.sleep(delay).await;
        }
    }

    /// Returns the time that is left of a call.
    fn left(&self, started: Duration) -> Duration {
        let spent = self.0.timing.elapsed().saturating_sub(started);
        self.0.config.timeouts.total.saturating_sub(spent)
    }

    /// Returns the key to send. One that may not be sent is read again, because it is no more than a mistake
    /// of configuration, which may be mended by now.
    async fn key(&self) -> Result<SecretKey, UnavailableCause> {
        let key = self.0.key.get().await.map_err(UnavailableCause::Secret)?;
        match self.usable(key.clone()) {
            Err(cause) => self.other_key(&key).await.ok_or(cause),
            usable => usable,
        }
    }

    /// Returns the key if it may be sent.
    fn usable(&self, key: SecretKey) -> Result<SecretKey, UnavailableCause> {
        let config = &self.0.config;
        if config.mode.is_some_and(|mode| mode != key.mode()) {
            return Err(UnavailableCause::WrongMode);
        }
        if key.mode() == Mode::Live && !config.base_url.is_https() {
            return Err(UnavailableCause::Unencrypted);
        }
        Ok(key)
    }

    /// Sends a request once, and reads the response.
    async fn attempt<T: DeserializeOwned>(
        &self,
        request: &ApiRequest,
        key: &SecretKey,
        left: Duration,
        progress: &mut Progress,
    ) -> Result<T, AttemptFailure> {
        let base_url = self.0.config.base_url.as_str();
        let http = key.authorization();
        let http = http.and_then(|authorization| request.to_http(base_url, authorization));
        let http = http.ok_or_else(AttemptFailure::not_a_request)?;
        let limit = self.0.config.timeouts.attempt.min(left);
        let sent_at = self.0.timing.elapsed();
        let sent = pin!(self.0.transport.send(http));
        let result = match select(sent, self.0.timing.sleep(limit)).await {
            Either::Left((result, _)) => result.map_err(AttemptFailure::from),
            Either::Right(_) => Err(AttemptFailure::timed_out()),
        };
        let latency = self.0.timing.elapsed().saturating_sub(sent_at);
        log(request, &result, progress.attempts, latency);
        let response = result?;
        progress.request_id =
            response::request_id(response.headers()).or(progress.request_id.take());
        response::read(&response)
    }

    /// Returns another key than the one that is not accepted, if there is one.
    async fn other_key(&self, rejected: &SecretKey) -> Option<SecretKey> {
        let key = self.0.key.replace(rejected, self.0.timing.elapsed()).await;
        let key = key.map_err(UnavailableCause::Secret);
        match key.and_then(|key| key.map(|key| self.usable(key)).transpose()) {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(cause = chain(&error), "no other stripe key");
                None
            }
        }
    }

    /// Returns the delay before the next attempt, or `None` if there is to be none.
    fn delay(
        &self,
        failure: &AttemptFailure,
        attempts: u32,
        started: Duration,
    ) -> Option<Duration> {
        let config = &self.0.config;
        if !failure.retry || attempts >= config.retries.attempts {
            return None;
        }
        let asked = failure.retry_after.unwrap_or_default();
        if asked > config.retries.max_retry_after {
            return None;
        }
        let delay = config.retries.delay(attempts, self.0.timing.random());
        let delay = delay.max(asked);
        // An attempt that has no time left would only add to the uncertainty.
        (delay < self.left(started)).then_some(delay)
    }
}

impl Progress {
    /// Remembers that an attempt may have taken effect.
    fn note(&mut self, failure: AttemptFailure) {
        if let Effect::Unknown(cause) = failure.effect {
            self.uncertain = Some(cause);
        }
    }

    /// Concludes from the last failure, and from those before, whether the call took effect.
    fn conclude(mut self, request: &ApiRequest, failure: AttemptFailure) -> StripeError {
        let retry_after = failure.retry_after;
        // Nothing that a reading call does can take effect.
        if request.reads() {
            self.uncertain = None;
        }
        match (failure.effect, self.uncertain.take()) {
            (Effect::Unknown(cause), _) if request.reads() => {
                self.unavailable(of_reading(cause), retry_after)
            }
            (Effect::Unknown(cause), _) => self.unknown(cause, None, retry_after),
            (Effect::None(cause), None) => self.unavailable(cause, retry_after),
            (Effect::None(_), Some(earlier)) => self.unknown(earlier, None, retry_after),
            // What Stripe stored of the first request shows that it took no effect.
            (
                Effect::Rejected {
                    mut rejection,
                    replayed,
                },
                earlier,
            ) => {
                rejection.attempts = self.attempts;
                match earlier {
                    Some(earlier) if !replayed => {
                        self.unknown(earlier, Some(*rejection), retry_after)
                    }
                    _ => StripeError::Rejected(*rejection),
                }
            }
        }
    }

    fn unavailable(
        &mut self,
        cause: UnavailableCause,
        retry_after: Option<Duration>,
    ) -> StripeError {
        StripeError::Unavailable(Unavailable {
            cause,
            retry_after,
            request_id: self.request_id.take(),
            attempts: self.attempts,
        })
    }

    fn unknown(
        self,
        cause: UnknownCause,
        rejection: Option<crate::Rejection>,
        retry_after: Option<Duration>,
    ) -> StripeError {
        StripeError::Unknown(UnknownOutcome {
            cause,
            rejection,
            retry_after,
            request_id: self.request_id,
            attempts: self.attempts,
        })
    }
}

/// Returns the cause of a failure to read.
fn of_reading(cause: UnknownCause) -> UnavailableCause {
    match cause {
        UnknownCause::Lost(_) | UnknownCause::TimedOut => UnavailableCause::NoResponse,
        UnknownCause::Status(status) | UnknownCause::Replayed(status) => {
            UnavailableCause::Status(status)
        }
        UnknownCause::Undecodable(error) => UnavailableCause::Undecodable(error),
        UnknownCause::KeyInUse | UnknownCause::KeyReused => UnavailableCause::Locked,
    }
}

/// Logs an attempt: never the key, a parameter or a body.
fn log(
    request: &ApiRequest,
    result: &Result<Response<Bytes>, AttemptFailure>,
    attempt: u32,
    latency: Duration,
) {
    let method = request.method.as_str();
    let route = request.route;
    let latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(response) => {
            let headers = response.headers();
            let request_id = response::request_id(headers);
            tracing::info!(
                method,
                route,
                attempt,
                latency_ms,
                status = response.status().as_u16(),
                request_id = request_id.as_ref().map(RequestId::as_str),
                replayed = response::is_replayed(headers),
                "stripe responded"
            );
        }
        Err(failure) => {
            let cause = match &failure.effect {
                Effect::None(cause) => chain(cause),
                Effect::Unknown(cause) => chain(cause),
                Effect::Rejected { rejection, .. } => chain(&**rejection),
            };
            tracing::warn!(
                method,
                route,
                attempt,
                latency_ms,
                cause,
                "stripe did not respond"
            );
        }
    }
}

/// Returns the texts of an error and of all its sources.
fn chain(error: &dyn Error) -> String {
    let errors = std::iter::successors(Some(error), |&error| error.source());
    errors
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
