//! Aggregates of usage, and the write that counts usage events.

mod aggregate;
mod batch;
mod pending;
mod read;
mod sort_keys;
mod write;

pub use write::{WriteUsageOutcome, WriteUsageResult};
