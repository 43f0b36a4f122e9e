//! Aggregates of usage, and the write that counts usage events.

mod aggregate;
mod batch;
mod claims;
mod overage;
mod pending;
mod read;
mod since;
mod sort_keys;
mod write;

pub(crate) use claims::{ClosedBuckets, MAX_CLAIMS, TransactionId};
pub use overage::OverageMark;
pub(crate) use overage::WrittenMarks;
pub(crate) use since::ClaimsSince;
pub use write::{WriteUsageOutcome, WriteUsageResult};
