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

impl StoreError {
    /// Wraps what the SDK reports of `operation`.
    pub(crate) fn service<E, R>(operation: &'static str, error: SdkError<E, R>) -> Self
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let code = match &error {
            SdkError::TimeoutError(_) => "Timeout",
            SdkError::DispatchFailure(_) => "DispatchFailure",
            SdkError::ResponseError(_) => "ResponseError",
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
            Cause::Service {
                transient: true,
                ..
            }
        )
    }
}
