//! The write capacity of a table, as DynamoDB has it and the embedded engine does not: 1,000 write units a
//! second for a partition, of which there is one for each counter at best
//! (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html>).
//!
//! A write costs a unit for each kilobyte, begun, of the item as it was or as it is, whichever is larger;
//! one whose condition failed costs the item as it was. What exceeds the capacity is throttled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::time::Instant;
use tollgate_local_aws::{LocalAws, throttled};

use crate::network::Far;

/// Write units that an item is good for each second.
const UNITS_A_SECOND: i64 = 1_000;
/// Write units that it can save up.
const SAVED: i64 = 250;
const MICRO: i64 = 1_000_000;

/// What was asked so far. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capacity(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    items: HashMap<String, Bucket>,
    spent: Spent,
}

/// Millionths of a unit that are left, and when that was so.
#[derive(Debug)]
struct Bucket {
    left: i64,
    at: Instant,
}

/// What was asked of the tables.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Write units.
    pub units: i64,
    /// Writes that were answered.
    pub writes: u64,
    /// Writes that were throttled.
    pub throttled: u64,
    /// Other requests.
    pub reads: u64,
    /// Bytes of the largest item.
    pub largest_item: usize,
}

impl Capacity {
    /// The tables, with this capacity.
    pub(crate) fn of_tables(&self, aws: &LocalAws) -> Far {
        let (capacity, aws) = (self.clone(), aws.clone());
        Far::new(move |target, body| {
            if target.ends_with(".UpdateItem") {
                capacity.write(&aws, target, body)
            } else {
                capacity.state().spent.reads += 1;
                aws.answer(target, body)
            }
        })
    }

    pub(crate) fn spent(&self) -> Spent {
        self.state().spent
    }

    fn write(&self, aws: &LocalAws, target: &str, body: &str) -> (u16, String) {
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let key = request["Key"].to_string();
        let mut state = self.state();
        let State { items, spent } = &mut *state;
        let now = Instant::now();
        let bucket = items.entry(key).or_insert(Bucket {
            left: SAVED * MICRO,
            at: now,
        });
        let passed = now.duration_since(bucket.at).as_micros();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let gained = passed.saturating_mul(UNITS_A_SECOND);
        bucket.left = bucket.left.saturating_add(gained).min(SAVED * MICRO);
        bucket.at = now;
        if bucket.left <= 0 {
            spent.throttled += 1;
            return throttled();
        }
        let size = || size_of_item(aws, &request);
        let before = size();
        let answered = aws.answer(target, body);
        let size = before.max(size());
        let units = i64::try_from(size.div_ceil(1_024).max(1)).unwrap_or(i64::MAX);
        bucket.left -= units * MICRO;
        spent.units += units;
        spent.writes += 1;
        spent.largest_item = spent.largest_item.max(size);
        answered
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of the item that a write is of: its names, its texts, and two digits of numbers to a byte.
fn size_of_item(aws: &LocalAws, write: &Value) -> usize {
    let read = json!({
        "TableName": write["TableName"], "Key": write["Key"], "ConsistentRead": true,
    });
    let (_, found) = aws.answer("DynamoDB_20120810.GetItem", &read.to_string());
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
