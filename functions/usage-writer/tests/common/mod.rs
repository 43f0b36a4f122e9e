//! A stack with the usage-writer on it, the entries that it counts, and what they come to.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::str::FromStr;

use aws_lambda_events::sqs::SqsEvent;
use serde_json::{Value, json};
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::Aggregate;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Fault};
use tollgate_store::{Quarantined, ShardCounts};
use usage_writer::{App, Owners, handle};

/// The instant at which most stacks stand, just after the records of the events were made.
pub(crate) const NOW: &str = "2026-11-22T10:00:00Z";

/// Reads an id, an instant, a month: whatever a literal stands for.
pub(crate) fn p<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// A batch of `events/usage-writer`.
pub(crate) fn event(case: &str) -> Value {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../events/usage-writer");
    let text = std::fs::read_to_string(format!("{dir}/{case}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A call of the plan `pro` that is all good.
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

/// A record with one field replaced.
pub(crate) fn with(mut record: Value, field: &str, value: impl Into<Value>) -> Value {
    record[field] = value.into();
    record
}

/// The tally of that many records as [`record`] makes them.
pub(crate) fn tally(calls: u64) -> Aggregate {
    Aggregate {
        calls,
        billable: BTreeMap::from([(p("pro"), calls)]),
        latency_ms: 5 * calls,
        ..Aggregate::default()
    }
}

/// A correction by that many calls.
pub(crate) fn adjustment(time: &str, billable_calls: i64) -> Value {
    let reason = "our outage";
    json!({ "time": time, "plan": "pro", "billable_calls": billable_calls, "reason": reason })
}

/// An entry of adjustments.
pub(crate) fn adjusting(id: &str, customer: &str, adjustments: impl Into<Value>) -> Value {
    let mut entry = entry(id, customer, json!([]));
    entry["type"] = "tollgate.adjustment.v1".into();
    entry["data"] = json!({ "adjustments": adjustments.into() });
    entry
}

/// The source of all entries of [`entry`].
pub(crate) const SOURCE: &str = "tollgate:ping";

/// An entry, the detail of an EventBridge event.
pub(crate) fn entry(id: &str, customer: &str, records: impl Into<Value>) -> Value {
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

/// The EventBridge event of that id around a detail that is given as text, from [`SOURCE`].
pub(crate) fn around(event_id: &str, detail: &str) -> String {
    enveloped(event_id, "tollgate.usage.v1", SOURCE, detail)
}

/// The EventBridge event of that id, detail type and source.
pub(crate) fn enveloped(event_id: &str, detail_type: &str, source: &str, detail: &str) -> String {
    format!(
        r#"{{"version":"0","id":"{event_id}","detail-type":"{detail_type}",
            "source":"{source}","account":"123456789012","time":"2026-11-22T10:00:00Z",
            "region":"us-east-1","resources":[],"detail":{detail}}}"#
    )
}

/// The EventBridge event of an entry, of its own type and source.
pub(crate) fn body(entry: &Value) -> String {
    let text = |member: &str| entry[member].as_str().unwrap_or_default();
    enveloped("e-1", text("type"), text("source"), &entry.to_string())
}

/// The same JSON in another text: the members of each object in reverse order, and spaced out.
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

/// A batch of messages, each an id and a body.
pub(crate) fn batch<I: AsRef<str>, B: AsRef<str>>(messages: &[(I, B)]) -> SqsEvent {
    let messages: Vec<Value> = messages
        .iter()
        .map(|(id, body)| json!({ "messageId": id.as_ref(), "body": body.as_ref() }))
        .collect();
    serde_json::from_value(json!({ "Records": messages })).unwrap()
}

/// Has the batch counted. The ids of the messages to deliver again, in their order.
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
        let app = App {
            store: at.store.clone(),
            spread: ShardCounts::default(),
            owners: Owners::default(),
            plans: Catalog::shipped().unwrap(),
            clock: at.clock(),
            metrics: cloudwatch.metrics("test", at.clock()),
        };
        Self {
            at,
            app,
            cloudwatch,
        }
    }

    pub(crate) fn new() -> Self {
        Self::at(NOW)
    }

    /// Delivers one message, which must not come back.
    pub(crate) async fn count(&self, body: &str) {
        let failed = deliver(&self.app, batch(&[("m-1", body)])).await;
        assert_eq!(failed, [""; 0], "{body}");
    }

    /// Every tally there is of these customers in these months, under the customer and the month,
    /// day, or day and endpoint.
    pub(crate) async fn tallies(
        &self,
        customers: &[&str],
        months: &[&str],
    ) -> BTreeMap<String, Aggregate> {
        let store = &self.at.store;
        let mut all = BTreeMap::new();
        for name in customers {
            let customer = p(name);
            for month in months {
                let tally = store.month_usage(&customer, p(month)).await.unwrap();
                if tally != Aggregate::default() {
                    all.insert(format!("{name} {month}"), tally);
                }
                for (day, tally) in store.day_usage(&customer, p(month)).await.unwrap() {
                    all.insert(format!("{name} {day}"), tally);
                    for (at, tally) in store.endpoint_usage(&customer, day).await.unwrap() {
                        let key = format!("{name} {day} {} {}", at.method, at.route);
                        all.insert(key, tally);
                    }
                }
            }
        }
        all
    }

    /// All items of a table, as DynamoDB JSON.
    pub(crate) fn items(&self, table: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut request = json!({ "TableName": format!("test-{table}") });
        loop {
            let answer = self
                .at
                .aws
                .answer("DynamoDB_20120810.Scan", &request.to_string());
            assert_eq!(answer.0, 200, "{}", answer.1);
            let mut page: Value = serde_json::from_str(&answer.1).unwrap();
            items.append(page["Items"].as_array_mut().unwrap());
            match page.get("LastEvaluatedKey") {
                Some(last) => request["ExclusiveStartKey"] = last.clone(),
                None => return items,
            }
        }
    }

    /// What was set aside of the entry of that id.
    pub(crate) async fn quarantined(&self, id: &str) -> Vec<Quarantined> {
        let found = self.at.store.quarantined_of_event(SOURCE, id).await;
        found.unwrap()
    }

    /// Lets this happen to all calls that have this in their body, from now on.
    pub(crate) fn fail(&self, containing: &'static str, fault: Fault) {
        self.at.aws.inject(move |call| {
            if call.body.contains(containing) {
                fault
            } else {
                Fault::None
            }
        });
    }
}
