//! What can go wrong between a process and its tables. Refused conditions are not among it: they
//! are values that each operation returns.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

/// A store operation that came to no answer.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed")]
pub struct StoreError {
    operation: &'static str,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("the store refused or did not answer: {code}")]
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
    #[error("the list does not go on from there")]
    Place,
    #[error("no answer came in time")]
    Late,
    #[error("others changed the item at every try")]
    Contended,
    #[error("the request could not be built")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Service errors that pass by themselves: the same request may succeed a moment later.
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

/// Those of them, and what stands for none, that say nothing of the request and all of the service.
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
    /// Wraps what the SDK reports of `operation`.
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
        // The request is dropped with the rest of the SDK's context: it holds digests.
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

    /// An item that this release did not write, or that was changed by hand.
    pub(crate) fn corrupt(item: &'static str, attribute: &'static str) -> Self {
        Self {
            operation: "reading",
            cause: Cause::Corrupt { item, attribute },
        }
    }

    /// A place in a list that no page of it has named.
    pub(crate) fn invalid_cursor(operation: &'static str) -> Self {
        Self {
            operation,
            cause: Cause::Place,
        }
    }

    /// Whether the caller has named a place in a list that is none.
    #[must_use]
    pub fn is_invalid_cursor(&self) -> bool {
        matches!(self.cause, Cause::Place)
    }

    /// A conditional write that others got in the way of, time after time.
    pub(crate) fn contended(operation: &'static str) -> Self {
        Self {
            operation,
            cause: Cause::Contended,
        }
    }

    /// An operation that its caller did not wait for any longer.
    #[must_use]
    pub fn late(operation: &'static str) -> Self {
        Self {
            operation,
            cause: Cause::Late,
        }
    }

    /// A request that never left.
    pub(crate) fn request(
        operation: &'static str,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            operation,
            cause: Cause::Request(Box::new(error)),
        }
    }

    /// The same failure, known to pass by itself.
    pub(crate) fn transient(mut self) -> Self {
        if let Cause::Service { transient, .. } = &mut self.cause {
            *transient = true;
        }
        self
    }

    /// Whether the same request may succeed a moment later. Whether it took effect is unknown.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.cause,
            Cause::Contended
                | Cause::Late
                | Cause::Service {
                    transient: true,
                    ..
                }
        )
    }

    /// Whether the service gave no answer, or one that says it is broken: others that ask it will
    /// most likely fare no better.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match &self.cause {
            Cause::Service { code, .. } => OUTAGE.contains(&code.as_str()),
            Cause::Late => true,
            Cause::Corrupt { .. } | Cause::Place | Cause::Contended | Cause::Request(_) => false,
        }
    }
}
