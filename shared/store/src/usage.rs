//! Aggregates of usage, and the write that counts usage events.

mod batch;
mod claims;
mod fields;
mod layout;
mod overage;
mod pending;
mod read;
mod scope;
mod since;
mod sort_keys;
mod sums;
mod write;

pub(crate) use claims::{ClosedBuckets, MAX_CLAIMS, TransactionId};
pub(crate) use layout::Layouts;
pub use overage::OverageMark;
pub(crate) use overage::WrittenMarks;
pub use scope::UsageScope;
pub(crate) use since::ClaimsSince;
pub use write::{WriteUsageOutcome, WriteUsageResult};
