//! Sort keys of aggregates, and the partitions of the index of billable months.

use tollgate_domain::id::CustomerId;
use tollgate_domain::window::{Day, Month};

use crate::schema::BILLABLE_SHARDS;

/// Beginning of the sort keys of days' aggregates.
pub(super) const DAY: &str = "DAY#";

/// Returns the sort key of a day's aggregate, with which those of its further shards begin.
pub(super) fn day_sk(day: Day) -> String {
    format!("{DAY}{day}")
}

/// Returns the beginning of the sort keys of a day's endpoint aggregates.
pub(super) fn endpoints_sk(day: Day) -> String {
    format!("ENDPOINT#{day}")
}

/// Returns the sort key of a shard. That of shard 0 is the one of an aggregate that is not sharded.
pub(super) fn in_shard(sk: String, shard: u32) -> String {
    match shard {
        0 => sk,
        shard => format!("{sk}/{shard}"),
    }
}

/// Returns the customer's shard in lists of customers.
pub(super) fn shard_of(customer: &CustomerId) -> u32 {
    crc32fast::hash(customer.as_str().as_bytes()) % BILLABLE_SHARDS
}

/// Returns the partition of the customer's month in the index of billable months.
pub(super) fn billable_month(month: Month, customer: &CustomerId) -> String {
    format!("{month}#{}", shard_of(customer))
}
