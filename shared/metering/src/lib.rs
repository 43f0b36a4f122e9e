//! Meters a Rust Lambda function behind Tollgate.
//!
//! [`Metering::layer`] measures every call, copies the limits that the authorizer found into the
//! answer's header fields, and takes what the handler adds to [`RequestCost`]. [`Metering::run`]
//! runs the function and puts the records on the event bus after each answer has gone, so that the
//! caller never waits for it.
//!
//! The README shows a whole function.
//!
//! # What is lost when
//! By default records are flushed after every call, so a crash loses those of the call it happens in,
//! and what a bus that was down had left waiting. What does not fit into the bounded buffer meanwhile
//! is written to standard error as `unsent_usage`, whole. [`Flush::Buffered`] costs less, and says what it risks.

mod cost;
mod emitter;
mod layer;
mod run;
mod spill;

pub use cost::RequestCost;
pub use emitter::Emitter;
pub use layer::{MeteringLayer, MeteringService};
pub use run::{Flush, Metering};
pub use spill::Spill;

/// Compiles the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
