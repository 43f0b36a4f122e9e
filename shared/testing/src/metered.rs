//! Metering over a local bus, and the usage events delivered from it.

use serde_json::Value;
use tollgate_domain::llm::LlmPrices;
use tollgate_domain::usage::{
    CountableItem, EVENT_TYPE, UsageData, UsageEvent, UsageRecord, parse_event,
};
use tollgate_local_aws::CloudWatch;
use tollgate_local_aws::fixture::Fixture;
use tollgate_metering::{Emitter, Metering, UnsentLog};
use tollgate_runtime::Metrics;

use crate::plans;

/// Initial time of all tests.
pub const NOW: &str = "2026-11-22T10:00:00Z";

/// A delivered usage event, with its records parsed.
#[derive(Debug, Clone)]
pub struct DeliveredEvent {
    /// The usage event.
    pub envelope: UsageEvent<UsageData<Value>>,
    /// Its records.
    pub records: Vec<UsageRecord>,
}

/// Creates an emitter of a function, whose unsent records are counted and logged nowhere.
pub fn emitter(at: &Fixture, function: &str) -> Emitter {
    emitter_with_log(at, function, UnsentLog::new(Metrics::none(), |_| {}))
}

/// Creates an emitter of a function with this log of unsent records.
pub fn emitter_with_log(at: &Fixture, function: &str, unsent_log: UnsentLog) -> Emitter {
    let (sdk, clock, entropy) = (at.aws.sdk_config(), at.clock(), at.entropy.clone());
    Emitter::new(&sdk, "usage", function, clock, entropy, unsent_log)
}

/// Creates metering of a function, with the shipped prices.
pub fn metering(at: &Fixture, function: &str) -> Metering {
    Metering::new(emitter(at, function), LlmPrices::shipped().unwrap())
}

/// Creates metering of a function in the stack `test`, and the collector of its metrics.
pub fn metering_with_metrics(at: &Fixture, function: &str) -> (Metering, CloudWatch) {
    let cloudwatch = CloudWatch::default();
    let unsent_log = UnsentLog::new(cloudwatch.metrics("test", at.clock()), |_| {});
    let emitter = emitter_with_log(at, function, unsent_log);
    let metering = Metering::new(emitter, LlmPrices::shipped().unwrap());
    (metering, cloudwatch)
}

/// Takes the EventBridge events from the queue.
pub fn delivered(at: &Fixture) -> Vec<Value> {
    let messages = at.aws.queue().receive(usize::MAX).unwrap();
    let event = |message: tollgate_local_aws::Message| serde_json::from_str(&message.body);
    messages
        .into_iter()
        .map(|one| event(one).unwrap())
        .collect()
}

/// Takes the usage events from the queue, and checks that the usage writer would count all their records.
pub fn usage_events(at: &Fixture) -> Vec<DeliveredEvent> {
    let plans = plans();
    let usage_event = |event: Value| {
        assert_eq!(event["source"], event["detail"]["source"]);
        assert_eq!(event["detail-type"], EVENT_TYPE);
        let detail = event["detail"].to_string();
        let envelope: UsageEvent<_> = serde_json::from_str(&detail).unwrap();
        assert_eq!(envelope.time, at.clock().now());
        let received = parse_event(&detail).unwrap();
        let records = received.items.iter();
        let records = records.map(|item| match item.check(&plans, at.clock().now()) {
            Ok(CountableItem::Record(record)) => record.clone(),
            other => panic!("{other:?}"),
        });
        let records = records.collect();
        DeliveredEvent { envelope, records }
    };
    delivered(at).into_iter().map(usage_event).collect()
}

/// Takes the only usage event from the queue, and returns its only record.
#[track_caller]
pub fn the_record(at: &Fixture) -> UsageRecord {
    let mut events = usage_events(at);
    assert_eq!(events.len(), 1);
    let mut records = events.remove(0).records;
    assert_eq!(records.len(), 1);
    records.remove(0)
}
