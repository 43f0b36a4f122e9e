//! Errors of calls, by whether the request took effect.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::decode::DecodeError;
use crate::secret::SecretUnavailable;

/// Id that Stripe gave to a request, by which its support and its dashboard find it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(pub(crate) String);

impl RequestId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Error: a call did not return a value. The variant states whether the requests of this call took effect. It
/// says nothing of an earlier call with the same idempotency key: if the outcome of that one is unknown, it
/// remains so until its effect has been looked for.
#[derive(Debug, thiserror::Error)]
pub enum StripeError {
    /// Stripe rejected the request, and nothing was changed. A repetition is rejected too, unless
    /// something else changes.
    #[error(transparent)]
    Rejected(Rejection),
    /// Nothing was changed, and the reason is passing: the call may be repeated later.
    #[error(transparent)]
    Unavailable(Unavailable),
    /// The request may have taken effect, completely or in part. Before it is repeated after the 24
    /// hours that an idempotency key lasts, or with another key, its effect must be looked for.
    #[error(transparent)]
    Unknown(UnknownOutcome),
}

impl StripeError {
    /// Whether the request may have taken effect.
    #[must_use]
    pub fn may_have_taken_effect(&self) -> bool {
        matches!(self, StripeError::Unknown(_))
    }

    /// Returns the rejection, if nothing was changed because of one.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            StripeError::Rejected(rejection) => Some(rejection),
            StripeError::Unavailable(_) | StripeError::Unknown(_) => None,
        }
    }

    /// Whether a repetition with the same idempotency key fails until Stripe forgets the key, about a day later: it
    /// has stored a failure of its own, or other parameters. An earlier request with the key may have taken effect.
    #[must_use]
    pub fn is_of_used_key(&self) -> bool {
        let cause = match self {
            StripeError::Unknown(unknown) => &unknown.cause,
            StripeError::Rejected(_) | StripeError::Unavailable(_) => return false,
        };
        matches!(cause, UnknownCause::Replayed(_) | UnknownCause::KeyReused)
    }

    /// Returns the id of the last request that Stripe responded to.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        match self {
            StripeError::Rejected(rejection) => rejection.request_id.as_ref(),
            StripeError::Unavailable(unavailable) => unavailable.request_id.as_ref(),
            StripeError::Unknown(unknown) => unknown.request_id.as_ref(),
        }
    }

    /// Returns the number of attempts that were made.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        match self {
            StripeError::Rejected(rejection) => rejection.attempts,
            StripeError::Unavailable(unavailable) => unavailable.attempts,
            StripeError::Unknown(unknown) => unknown.attempts,
        }
    }
}

/// Response in which Stripe rejects a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Stripe rejected the request with status {status}, code {}: {message}", code.as_deref().unwrap_or("none"))]
pub struct Rejection {
    /// HTTP status, 400 to 499.
    pub status: u16,
    /// Class of the error, such as `invalid_request_error`.
    pub kind: Option<String>,
    /// Code of the error, such as `resource_missing`.
    pub code: Option<String>,
    /// Parameter that the error is about, such as `customer`.
    pub param: Option<String>,
    /// Stripe's message, shortened and without what looks like a key or an email address, so that it may
    /// be logged and stored. Not for customers.
    pub message: String,
    /// Id of the request.
    pub request_id: Option<RequestId>,
    /// Number of attempts that were made.
    pub attempts: u32,
}

impl Rejection {
    /// Whether the object, or one that a parameter names, does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        // The status alone could be a proxy's, or a wrong base URL's.
        self.code.as_deref() == Some("resource_missing")
    }

    /// Whether the customer that a parameter names does not exist: it was deleted, or never did.
    #[must_use]
    pub fn is_of_missing_customer(&self) -> bool {
        self.is_missing() && self.param.as_deref() == Some("customer")
    }

    /// Whether the secret key is not accepted, or lacks a permission.
    #[must_use]
    pub fn is_of_key(&self) -> bool {
        matches!(self.status, 401 | 403)
    }
}

/// State of a call that changed nothing, and may be repeated later.
#[derive(Debug, thiserror::Error)]
#[error("Stripe is unavailable after {attempts} attempts")]
pub struct Unavailable {
    /// Cause of the last attempt's failure.
    #[source]
    pub cause: UnavailableCause,
    /// Time to wait before the next call, if Stripe stated it.
    pub retry_after: Option<Duration>,
    /// Id of the last request that Stripe responded to.
    pub request_id: Option<RequestId>,
    /// Number of attempts that were made.
    pub attempts: u32,
}

/// Cause of a failure that changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum UnavailableCause {
    /// There were too many requests (429).
    #[error("too many requests")]
    Throttled,
    /// Another request has locked the object (409, or 429 `lock_timeout`).
    #[error("the object is locked by another request")]
    Locked,
    /// No connection could be made.
    #[error("no connection")]
    NotSent(#[source] Box<dyn Error + Send + Sync>),
    /// A request that only reads had no complete response in time.
    #[error("no response")]
    NoResponse,
    /// A request that only reads failed with this status.
    #[error("status {0}")]
    Status(u16),
    /// The response to a request that only reads cannot be decoded.
    #[error("the response cannot be decoded")]
    Undecodable(#[source] DecodeError),
    /// A list has more pages than are read. What was read of it must not be taken for all of it.
    #[error("the list has more than {0} pages")]
    ListTooLong(u32),
    /// The call has a part that HTTP does not allow. No request was sent.
    #[error("the call cannot be an HTTP request")]
    NotARequest,
    /// The secret key cannot be read. No request was sent.
    #[error(transparent)]
    Secret(SecretUnavailable),
    /// The secret key has another mode than configured. No request was sent.
    #[error("the secret key has another mode than configured")]
    WrongMode,
    /// A live key would be sent over an unencrypted connection. No request was sent.
    #[error("the base URL is not https, and the secret key is of live mode")]
    Unencrypted,
}

/// State of a call that may have taken effect.
#[derive(Debug, thiserror::Error)]
#[error("after {attempts} attempts it is unknown whether Stripe executed the request")]
pub struct UnknownOutcome {
    /// Cause of the last failure that may hide an effect.
    #[source]
    pub cause: UnknownCause,
    /// Rejection of a later attempt, which does not show whether an earlier one took effect.
    pub rejection: Option<Rejection>,
    /// Time to wait before the next call, if Stripe stated it.
    pub retry_after: Option<Duration>,
    /// Id of the last request that Stripe responded to.
    pub request_id: Option<RequestId>,
    /// Number of attempts that were made.
    pub attempts: u32,
}

/// Cause of a failure that may hide an effect.
#[derive(Debug, thiserror::Error)]
pub enum UnknownCause {
    /// The connection was lost after the request may have been sent.
    #[error("the connection was lost")]
    Lost(#[source] Box<dyn Error + Send + Sync>),
    /// There was no complete response in time.
    #[error("no response in time")]
    TimedOut,
    /// Stripe failed with this status.
    #[error("status {0}")]
    Status(u16),
    /// Stripe replayed this status, a failure of an earlier request with the same idempotency key. It will
    /// do so until it forgets the key.
    #[error("status {0}, replayed")]
    Replayed(u16),
    /// Stripe accepted the request, but its response cannot be decoded.
    #[error("the response cannot be decoded")]
    Undecodable(#[source] DecodeError),
    /// An earlier request with the same idempotency key is still being executed.
    #[error("a request with the same idempotency key is being executed")]
    KeyInUse,
    /// The idempotency key was used with other parameters. This request was not executed, but that one
    /// may have been.
    #[error("the idempotency key was used with other parameters")]
    KeyReused,
}
