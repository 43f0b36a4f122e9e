//! Metering over a bus of one test's own, and what has come out of the bus.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]
#![allow(dead_code, reason = "each test binary uses a part of this")]

use serde_json::Value;
use tollgate_domain::llm::LlmPrices;
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::{
    Countable, EVENT_TYPE, UsageData, UsageEvent, UsageRecord, parse_event,
};
use tollgate_local_aws::CloudWatch;
use tollgate_local_aws::fixture::Fixture;
use tollgate_metering::{Emitter, Metering, Spill};
use tollgate_runtime::Metrics;

/// The instant at which all tests begin.
pub(crate) const NOW: &str = "2026-11-22T10:00:00Z";

/// An entry that has arrived, with its records read.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) envelope: UsageEvent<UsageData<Value>>,
    pub(crate) records: Vec<UsageRecord>,
}

pub(crate) fn emitter(at: &Fixture, function: &str) -> Emitter {
    spilling(at, function, Spill::new(Metrics::none(), |_| {}))
}

pub(crate) fn spilling(at: &Fixture, function: &str, spill: Spill) -> Emitter {
    let (sdk, clock, entropy) = (at.aws.sdk_config(), at.clock(), at.entropy.clone());
    Emitter::new(&sdk, "usage", function, clock, entropy, spill)
}

/// Metering of that function, with the shipped prices.
pub(crate) fn metering(at: &Fixture, function: &str) -> Metering {
    Metering::new(emitter(at, function), LlmPrices::shipped().unwrap())
}

/// The same with its metrics, of a stack called `test`.
pub(crate) fn watched(at: &Fixture, function: &str) -> (Metering, CloudWatch) {
    let cloudwatch = CloudWatch::default();
    let spill = Spill::new(cloudwatch.metrics("test", at.clock()), |_| {});
    let emitter = spilling(at, function, spill);
    let metering = Metering::new(emitter, LlmPrices::shipped().unwrap());
    (metering, cloudwatch)
}

/// The EventBridge events that have come to the queue since the last look.
pub(crate) fn delivered(at: &Fixture) -> Vec<Value> {
    let messages = at.aws.queue().receive(usize::MAX).unwrap();
    let event = |message: tollgate_local_aws::Message| serde_json::from_str(&message.body);
    messages
        .into_iter()
        .map(|one| event(one).unwrap())
        .collect()
}

/// The entries in them, each good for the usage writer.
pub(crate) fn entries(at: &Fixture) -> Vec<Entry> {
    let plans = Catalog::shipped().unwrap();
    let entry = |event: Value| {
        assert_eq!(event["source"], event["detail"]["source"]);
        assert_eq!(event["detail-type"], EVENT_TYPE);
        let detail = event["detail"].to_string();
        let envelope: UsageEvent<_> = serde_json::from_str(&detail).unwrap();
        assert_eq!(envelope.time, at.clock().now());
        let received = parse_event(&detail).unwrap();
        let records = received.items.iter();
        let records = records.map(|item| match item.check(&plans, at.clock().now()) {
            Ok(Countable::Record(record)) => record.clone(),
            other => panic!("{other:?}"),
        });
        let records = records.collect();
        Entry { envelope, records }
    };
    delivered(at).into_iter().map(entry).collect()
}

/// The one record in the one entry that has arrived.
#[track_caller]
pub(crate) fn the_record(at: &Fixture) -> UsageRecord {
    let mut entries = entries(at);
    assert_eq!(entries.len(), 1);
    let mut records = entries.remove(0).records;
    assert_eq!(records.len(), 1);
    records.remove(0)
}
