//! Errors of store operations. A failed condition is not one: each operation returns it as a value.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use tollgate_domain::failure::{Failure, FailureKind};

/// A failed store operation.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed")]
pub struct StoreError {
    operation: &'static str,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("DynamoDB failed or could not be reached: {code}")]
    Service {
        code: String,
        transient: bool,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("item {item} lacks a readable {attribute}")]
    Corrupt {
        item: &'static str,
        attribute: &'static str,
    },
    #[error("the cursor is invalid")]
    InvalidCursor,
    #[error("the operation timed out")]
    TimedOut,
    #[error("other writers changed the item at every try")]
    Contended,
    #[error("the request could not be built")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Codes of transient service errors: a retry of the same request may succeed.
const TRANSIENT: &[&str] = &[
    "InternalServerError",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
    "TransactionConflictException",
    "TransactionInProgressException",
];

/// Codes of errors that are caused by the service and not by the request, or by the lack of any
/// response.
const OUTAGE: &[&str] = &[
    TIMEOUT,
    NOT_SENT,
    NO_RESPONSE,
    "InternalServerError",
    "ServiceUnavailable",
];
const TIMEOUT: &str = "Timeout";
const NOT_SENT: &str = "DispatchFailure";
const NO_RESPONSE: &str = "ResponseError";

impl StoreError {
    /// Wraps the SDK's error of `operation`.
    pub(crate) fn service<E, R>(operation: &'static str, error: SdkError<E, R>) -> Self
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let code = match &error {
            SdkError::TimeoutError(_) => TIMEOUT,
            SdkError::DispatchFailure(_) => NOT_SENT,
            SdkError::ResponseError(_) => NO_RESPONSE,
            other => other.code().unwrap_or("Unknown"),
        };
        let transient = matches!(
            error,
            SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_)
        ) || TRANSIENT.contains(&code);
        let code = code.to_owned();
        // The request is dropped with the rest of the SDK's context: it contains digests of keys.
        let source = error.into_source().unwrap_or_else(|error| Box::new(error));
        Self {
            operation,
            cause: Cause::Service {
                code,
                transient,
                source,
            },
        }
    }

    /// Returns the error for an item that this release did not write, or that was changed by hand.
    pub(crate) fn corrupt(item: &'static str, attribute: &'static str) -> Self {
        Self {
            operation: "reading",
            cause: Cause::Corrupt { item, attribute },
        }
    }

    /// Returns the error for a cursor that no page has returned.
    pub(crate) fn invalid_cursor(operation: &'static str) -> Self {
        Self {
            operation,
            cause: Cause::InvalidCursor,
        }
    }

    /// Whether the caller has passed an invalid cursor.
    #[must_use]
    pub fn is_invalid_cursor(&self) -> bool {
        matches!(self.cause, Cause::InvalidCursor)
    }

    /// Returns the error for a conditional write that lost against concurrent writers at every try.
    pub(crate) fn contended(operation: &'static str) -> Self {
        Self {
            operation,
            cause: Cause::Contended,
        }
    }

    /// Returns the error for an operation that exceeded its caller's timeout.
    #[must_use]
    pub fn timed_out(operation: &'static str) -> Self {
        Self {
            operation,
            cause: Cause::TimedOut,
        }
    }

    /// Returns the error for a request that could not be built or sent.
    pub(crate) fn request(
        operation: &'static str,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            operation,
            cause: Cause::Request(Box::new(error)),
        }
    }

    /// Marks the error as transient.
    pub(crate) fn transient(mut self) -> Self {
        if let Cause::Service { transient, .. } = &mut self.cause {
            *transient = true;
        }
        self
    }

    /// Whether a retry of the same request may succeed. It is unknown whether the failed one took effect.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.cause,
            Cause::Contended
                | Cause::TimedOut
                | Cause::Service {
                    transient: true,
                    ..
                }
        )
    }

    /// Whether there was no response, or one that reports a failure of the service: other requests
    /// will most likely fail too.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match &self.cause {
            Cause::Service { code, .. } => OUTAGE.contains(&code.as_str()),
            Cause::TimedOut => true,
            Cause::Corrupt { .. } | Cause::InvalidCursor | Cause::Contended | Cause::Request(_) => {
                false
            }
        }
    }
}

impl Failure for StoreError {
    fn kind(&self) -> FailureKind {
        if self.is_invalid_cursor() {
            FailureKind::InvalidCursor
        } else if self.is_transient() {
            FailureKind::Transient
        } else {
            FailureKind::Permanent
        }
    }
}
