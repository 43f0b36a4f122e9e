//! Classes of failures, by which upper layers choose a response without knowing the layer that failed.

use std::error::Error;
use std::sync::Arc;

/// Class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The cursor of the list is invalid: the caller's fault.
    InvalidCursor,
    /// A retry may succeed.
    Transient,
    /// A retry does not help.
    Permanent,
}

/// An error that knows its class.
pub trait Failure: Error + Send + Sync + 'static {
    /// Returns the class of the failure.
    fn kind(&self) -> FailureKind;
}

impl<E: Failure> Failure for Arc<E> {
    fn kind(&self) -> FailureKind {
        E::kind(self)
    }
}
