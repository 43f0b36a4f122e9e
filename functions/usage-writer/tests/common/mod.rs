//! A stack with the usage-writer, usage events for it to count, and their aggregates.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeMap;

use aws_lambda_events::sqs::SqsEvent;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tollgate_domain::usage::{Aggregate, DimensionValue};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Fault};
use tollgate_runtime::Init;
use tollgate_store::schema::Table;
use tollgate_store::{QuarantinedContent, UsageScope};
use tollgate_testing::faults::fail_containing;
use tollgate_testing::init::init;
pub(crate) use tollgate_testing::p;
use tollgate_testing::stored::items;
use tollgate_testing::usage::endpoint_usage;
use tollgate_testing::{event_file, usage};
use usage_writer::{App, handle};

/// Time of most stacks, just after the records of the event files were made.
pub(crate) const NOW: &str = "2026-11-22T10:00:00Z";

/// Loads a batch of `events/usage-writer`.
pub(crate) fn event(case: &str) -> Value {
    event_file::load(&format!("usage-writer/{case}"))
}

/// Returns a valid record of a call on the plan `pro`.
pub(crate) fn record(time: &str, endpoint: &str) -> Value {
    json!({
        "time": time,
        "request_id": "r-1",
        "key_id": "key_1",
        "plan": "pro",
        "method": "GET",
        "endpoint": endpoint,
        "status": 200,
        "latency_ms": 5,
    })
}

/// Replaces one field of a record.
pub(crate) fn with(mut record: Value, field: &str, value: impl Into<Value>) -> Value {
    record[field] = value.into();
    record
}

/// Returns the aggregate of that many records as [`record`] makes them.
pub(crate) fn aggregate(calls: u64) -> Aggregate {
    Aggregate {
        latency_ms: 5 * calls,
        latencies: (0..calls).map(|_| 5).collect(),
        ..usage::calls("pro", calls)
    }
}

/// Returns an adjustment by that many calls.
pub(crate) fn adjustment(time: &str, billable_calls: i64) -> Value {
    let reason = "our outage";
    json!({ "time": time, "plan": "pro", "billable_calls": billable_calls, "reason": reason })
}

/// Returns a usage event with adjustments.
pub(crate) fn adjusting(id: &str, customer: &str, adjustments: impl Into<Value>) -> Value {
    let mut usage_event = usage_event(id, customer, json!([]));
    usage_event["type"] = "tollgate.adjustment.v1".into();
    usage_event["data"] = json!({ "adjustments": adjustments.into() });
    usage_event
}

/// Source of all usage events of [`usage_event`].
pub(crate) const SOURCE: &str = "tollgate:ping";

/// Returns a usage event: the detail of an EventBridge event.
pub(crate) fn usage_event(id: &str, customer: &str, records: impl Into<Value>) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": SOURCE,
        "type": "tollgate.usage.v1",
        "time": NOW,
        "subject": customer,
        "data": { "records": records.into() },
    })
}

/// Returns an EventBridge event from [`SOURCE`] with this id and detail.
pub(crate) fn around(event_id: &str, detail: &str) -> String {
    enveloped(event_id, "tollgate.usage.v1", SOURCE, detail)
}

/// Returns an EventBridge event with this id, detail type, source and detail.
pub(crate) fn enveloped(event_id: &str, detail_type: &str, source: &str, detail: &str) -> String {
    format!(
        r#"{{"version":"0","id":"{event_id}","detail-type":"{detail_type}",
            "source":"{source}","account":"123456789012","time":"2026-11-22T10:00:00Z",
            "region":"us-east-1","resources":[],"detail":{detail}}}"#
    )
}

/// Returns the EventBridge event of a usage event, with the same type and source.
pub(crate) fn body(usage_event: &Value) -> String {
    let text = |member: &str| usage_event[member].as_str().unwrap_or_default();
    enveloped(
        "e-1",
        text("type"),
        text("source"),
        &usage_event.to_string(),
    )
}

/// Writes JSON with the members of each object in reverse order, and with additional white space.
pub(crate) fn reordered(json: &Value) -> String {
    match json {
        Value::Object(members) => {
            let members = members.iter().rev();
            let members = members.map(|(name, value)| format!("\"{name}\" : {}", reordered(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(" ,\n"))
        }
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(reordered).collect();
            format!("[ {} ]", values.join(" , "))
        }
        scalar => scalar.to_string(),
    }
}

/// Returns a batch of messages, each an id and a body.
pub(crate) fn batch<I: AsRef<str>, B: AsRef<str>>(messages: &[(I, B)]) -> SqsEvent {
    let messages: Vec<Value> = messages
        .iter()
        .map(|(id, body)| json!({ "messageId": id.as_ref(), "body": body.as_ref() }))
        .collect();
    serde_json::from_value(json!({ "Records": messages })).unwrap()
}

/// Handles a batch. Returns the sorted ids of the messages that failed.
pub(crate) async fn deliver(app: &App, batch: SqsEvent) -> Vec<String> {
    let response = serde_json::to_value(handle(app, batch).await).unwrap();
    let response = response.as_object().unwrap();
    assert_eq!(response.len(), 1, "{response:?}");
    let failures = response["batchItemFailures"].as_array().unwrap();
    let id = |failure: &Value| failure["itemIdentifier"].as_str().unwrap().to_owned();
    let mut ids: Vec<String> = failures.iter().map(id).collect();
    ids.sort();
    ids
}

pub(crate) struct Stack {
    pub(crate) at: Fixture,
    pub(crate) app: App,
    /// Reads the metrics that the app writes.
    pub(crate) cloudwatch: CloudWatch,
}

impl Stack {
    pub(crate) fn at(now: &str) -> Self {
        let at = Fixture::at(now);
        let cloudwatch = CloudWatch::default();
        let init = Init {
            metrics: cloudwatch.metrics("test", at.clock()),
            ..init(&at, "UsageWriterFunction")
        };
        let app = App::build(&init).unwrap();
        Self {
            at,
            app,
            cloudwatch,
        }
    }

    pub(crate) fn new() -> Self {
        Self::at(NOW)
    }

    /// Delivers one message, which must not fail.
    pub(crate) async fn count(&self, body: &str) {
        let failed = deliver(&self.app, batch(&[("m-1", body)])).await;
        assert_eq!(failed, [""; 0], "{body}");
    }

    /// Reads all aggregates of these customers and months, by customer and month, day, or day and endpoint.
    pub(crate) async fn aggregates(
        &self,
        customers: &[&str],
        months: &[&str],
    ) -> BTreeMap<String, Aggregate> {
        let store = &self.at.store;
        let mut all = BTreeMap::new();
        for name in customers {
            let customer = p(name);
            for month in months {
                let aggregate = store.month_usage(&customer, p(month)).await.unwrap();
                if aggregate != Aggregate::default() {
                    all.insert(format!("{name} {month}"), aggregate);
                }
                for (day, aggregate) in store.day_usage(&customer, p(month)).await.unwrap() {
                    all.insert(format!("{name} {day}"), aggregate);
                    for (at, aggregate) in endpoint_usage(store, name, &day.to_string()).await {
                        let key = format!("{name} {day} {} {}", at.method, at.route);
                        all.insert(key, aggregate);
                    }
                }
            }
        }
        all
    }

    /// Reads the aggregates of these customers and months, and of all customers, by everything that they are summed up by.
    pub(crate) async fn all_aggregates(
        &self,
        customers: &[&str],
        months: &[&str],
    ) -> BTreeMap<String, Aggregate> {
        let store = &self.at.store;
        let mut all = BTreeMap::new();
        let scopes = customers
            .iter()
            .map(|name| (*name, UsageScope::Customer(p(name))));
        for (name, scope) in scopes.chain([("*", UsageScope::All)]) {
            for month in months {
                for (day, aggregate) in store.days_of_month(&scope, p(month)).await.unwrap() {
                    all.insert(format!("{name} {day}"), aggregate);
                    let values = store.dimension_usage(&scope, day).await.unwrap();
                    for (value, aggregate) in values {
                        let text = |text: Option<String>| text.unwrap_or_default();
                        let value = match value {
                            DimensionValue::Endpoint(it) => format!("{} {}", it.method, it.route),
                            DimensionValue::Key(id) => id.to_string(),
                            DimensionValue::Model(it) => {
                                format!("{}/{}", text(it.provider), text(it.name))
                            }
                            DimensionValue::Repeated(provider) => format!("{provider} again"),
                        };
                        all.insert(format!("{name} {day} {value}"), aggregate);
                    }
                }
            }
        }
        all
    }

    /// Reads all items of a table, as DynamoDB JSON, except the time of claims, which the seed of the plans stores.
    pub(crate) fn items(&self, table: Table) -> Vec<Value> {
        let mut items = items(&self.at, table);
        items.retain(|item| item["pk"]["S"] != "#CLAIMS_SINCE");
        items
    }

    /// Reads the counted parts in the log of these customers: the text of the event, and the number of the part.
    pub(crate) async fn logged(&self, customers: &[&str]) -> Vec<(String, usize)> {
        let mut all = Vec::new();
        for name in customers {
            let (customer, days) = (p(name), (p("2026-01-01"), p("2028-01-01")));
            let mut after = None;
            loop {
                let page = self.at.store.list_logged(&customer, days, after.as_deref());
                let page = page.await.unwrap();
                let parts = page.items.into_iter();
                all.extend(parts.map(|it| (String::from_utf8(it.body).unwrap(), it.part)));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        all
    }

    /// Reads the quarantined content of the usage event of that id.
    pub(crate) async fn quarantined(&self, id: &str) -> Vec<QuarantinedContent> {
        let found = self.at.store.quarantined_of_event(SOURCE, id).await;
        found.unwrap()
    }

    /// Advances the clock until others may abort the attempts that are under way.
    pub(crate) fn abandon_attempts(&self) {
        self.at.time.advance(SignedDuration::from_secs(21));
    }

    /// Injects a fault into all calls whose body contains this text, from now on.
    pub(crate) fn fail(&self, containing: &'static str, fault: Fault) {
        fail_containing(&self.at.aws, containing, fault);
    }
}
