//! The write capacity of a DynamoDB partition, which the embedded engine does not limit: 1,000 write units a
//! second. At best, each counter item has a partition of its own
//! (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html>).
//!
//! A write consumes one unit for each started kilobyte of the item before or after the write, whichever is
//! larger; a write whose condition failed, for the item as it is. Writes beyond the capacity are throttled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::time::Instant;
use tollgate_local_aws::{LocalAws, throttled};

use crate::network::Endpoint;

/// Write units that an item regains each second.
const UNITS_PER_SECOND: i64 = 1_000;
/// Unused write units that an item accumulates at most.
const BURST_UNITS: i64 = 250;
const MICRO: i64 = 1_000_000;

/// Write capacity of each item, and the requests so far. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capacity(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    items: HashMap<String, Bucket>,
    consumed: ConsumedCapacity,
}

/// Token bucket of one item.
#[derive(Debug)]
struct Bucket {
    /// Millionths of a write unit left at `at`.
    left: i64,
    at: Instant,
}

/// Requests to the tables, and the write capacity that they consumed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConsumedCapacity {
    /// Write units.
    pub write_units: i64,
    /// Writes that were not throttled.
    pub writes: u64,
    /// Writes that were throttled.
    pub throttled: u64,
    /// Other requests.
    pub reads: u64,
    /// Size of the largest item.
    pub largest_item_bytes: usize,
}

impl Capacity {
    /// Returns an endpoint of the tables that enforces this capacity.
    pub(crate) fn endpoint(&self, aws: &LocalAws) -> Endpoint {
        let (capacity, aws) = (self.clone(), aws.clone());
        Endpoint::new(move |target, body| {
            if target.ends_with(".UpdateItem") {
                capacity.write(&aws, target, body)
            } else {
                capacity.state().consumed.reads += 1;
                aws.call(target, body)
            }
        })
    }

    pub(crate) fn consumed(&self) -> ConsumedCapacity {
        self.state().consumed
    }

    fn write(&self, aws: &LocalAws, target: &str, body: &str) -> (u16, String) {
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let key = request["Key"].to_string();
        let mut state = self.state();
        let State { items, consumed } = &mut *state;
        let now = Instant::now();
        let bucket = items.entry(key).or_insert(Bucket {
            left: BURST_UNITS * MICRO,
            at: now,
        });
        let passed = now.duration_since(bucket.at).as_micros();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let gained = passed.saturating_mul(UNITS_PER_SECOND);
        bucket.left = bucket.left.saturating_add(gained).min(BURST_UNITS * MICRO);
        bucket.at = now;
        if bucket.left <= 0 {
            consumed.throttled += 1;
            return throttled();
        }
        let size = || size_of_item(aws, &request);
        let before = size();
        let response = aws.call(target, body);
        let size = before.max(size());
        let units = i64::try_from(size.div_ceil(1_024).max(1)).unwrap_or(i64::MAX);
        bucket.left -= units * MICRO;
        consumed.write_units += units;
        consumed.writes += 1;
        consumed.largest_item_bytes = consumed.largest_item_bytes.max(size);
        response
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the size in bytes of the item that a write addresses: attribute names, strings, and one byte for
/// two digits of a number.
fn size_of_item(aws: &LocalAws, write: &Value) -> usize {
    let read = json!({
        "TableName": write["TableName"], "Key": write["Key"], "ConsistentRead": true,
    });
    let (_, found) = aws.call("DynamoDB_20120810.GetItem", &read.to_string());
    let found: Value = serde_json::from_str(&found).unwrap_or_default();
    let attributes = found["Item"].as_object().into_iter().flatten();
    let sizes = attributes.map(|(name, value)| {
        let text = value["S"].as_str().map(str::len);
        let number = || {
            value["N"]
                .as_str()
                .map(|digits| digits.len().div_ceil(2) + 1)
        };
        name.len() + text.or_else(number).unwrap_or(0)
    });
    sizes.sum()
}
