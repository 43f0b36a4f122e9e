//! Aggregates of usage, and the write that counts usage events.

mod aggregate;
mod batch;
mod overage;
mod pending;
mod read;
mod sort_keys;
mod write;

pub use overage::OverageMark;
pub(crate) use overage::WrittenMarks;
pub use write::{WriteUsageOutcome, WriteUsageResult};
