//! Batches as the queue delivers them: counted usage, quarantined usage, and messages reported as failed.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::time::Instant;
use tollgate_domain::key::Owner;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanVersions;
use tollgate_domain::usage::{AdjustmentTotals, Aggregate};
use tollgate_local_aws::{Call, Fault};
use tollgate_runtime::aws;
use tollgate_store::schema::{QUARANTINE, USAGE, USAGE_LOG};
use tollgate_store::{PlanOutcome, QuarantinedContent, RejectedRecord, Store};
use tollgate_testing::customers::{add_customer, add_key};

mod common;

use common::{
    NOW, SOURCE, Stack, adjusting, adjustment, aggregate, around, batch, body, deliver, enveloped,
    event, p, record, reordered, usage_event, with,
};

const NONE: [&str; 0] = [];

/// Handles an SQS event. Returns the response as Lambda gets it.
async fn respond(stack: &Stack, event: &Value) -> Value {
    let event = serde_json::from_value(event.clone()).unwrap();
    let response = usage_writer::handle(&stack.app, event).await;
    serde_json::to_value(response).unwrap()
}

/// Returns the body of one message of an SQS event.
fn body_of(event: &Value, message: usize) -> &str {
    event["Records"][message]["body"].as_str().unwrap()
}

/// Returns the detail in a message of an SQS event, byte for byte.
fn detail_of(event: &Value, message: usize) -> &str {
    let body = body_of(event, message);
    let from = body.find(r#""detail":"#).unwrap() + r#""detail":"#.len();
    &body[from..body.len() - 1]
}

fn rejected(index: usize, reason: &str) -> RejectedRecord {
    RejectedRecord {
        index,
        reason: reason.to_owned(),
    }
}

#[tokio::test]
async fn a_usage_event_is_added_to_its_day_its_endpoints_and_its_month() {
    check_one_event("one-event").await;
}

/// Functions that were not rebuilt may still use the earlier metering layer, and its events may be in the
/// queue while the stack is upgraded.
#[tokio::test]
async fn a_usage_event_of_the_earlier_layer_is_counted_the_same() {
    check_one_event("one-event-of-earlier-layer").await;
}

async fn check_one_event(case: &str) {
    let stack = Stack::new();
    let response = respond(&stack, &event(case)).await;
    assert_eq!(response, json!({ "batchItemFailures": [] }));
    let ping = Aggregate {
        calls: 1,
        billable: BTreeMap::from([(p("pro"), 1)]),
        latency_ms: 3,
        latencies: [3].into_iter().collect(),
        ..Aggregate::default()
    };
    let analyze = Aggregate {
        calls: 1,
        billable: BTreeMap::from([(p("pro"), 1)]),
        latency_ms: 842,
        latencies: [842].into_iter().collect(),
        tokens: 1_200,
        cost: MicroUsd(3_600),
        ..Aggregate::default()
    };
    let both = Aggregate {
        calls: 2,
        billable: BTreeMap::from([(p("pro"), 2)]),
        latency_ms: 845,
        latencies: [3, 842].into_iter().collect(),
        ..analyze.clone()
    };
    let expected = [
        ("acme 2026-11", both.clone()),
        ("acme 2026-11-22", both),
        ("acme 2026-11-22 GET /api/secure/ping", ping),
        ("acme 2026-11-22 POST /api/analyze", analyze),
    ];
    let expected = expected.map(|(key, aggregate)| (key.to_owned(), aggregate));
    let aggregates = stack.aggregates(&["acme"], &["2026-11"]).await;
    assert_eq!(aggregates, BTreeMap::from(expected));
    assert!(stack.items(QUARANTINE).is_empty());
}

#[tokio::test]
async fn invalid_records_are_quarantined_and_the_valid_ones_of_the_same_event_counted() {
    let stack = Stack::new();
    let event = event("bad-and-good");
    let response = respond(&stack, &event).await;
    assert_eq!(response, json!({ "batchItemFailures": [] }));
    let acme = Aggregate {
        calls: 2,
        billable: BTreeMap::from([(p("pro"), 1)]),
        server_errors: 1,
        latency_ms: 64,
        latencies: [3, 61].into_iter().collect(),
        ..Aggregate::default()
    };
    let globex = Aggregate {
        calls: 1,
        billable: BTreeMap::from([(p("free"), 1)]),
        latency_ms: 4,
        latencies: [4].into_iter().collect(),
        ..Aggregate::default()
    };
    let aggregates = stack.aggregates(&["acme", "globex"], &["2026-11"]).await;
    assert_eq!(aggregates.len(), 6);
    assert_eq!(aggregates["acme 2026-11-22 GET /api/secure/ping"], acme);
    assert_eq!(aggregates["acme 2026-11"], acme);
    assert_eq!(aggregates["globex 2026-11"], globex);
    let quarantined = QuarantinedContent {
        rejected: vec![
            rejected(2, "dated more than 5 minutes in the future"),
            rejected(
                3,
                "not of the documented shape: invalid type: string \"3 ms\", expected u64",
            ),
            rejected(4, "there is no plan platinum"),
        ],
        body: detail_of(&event, 0).into(),
        received_at: p(NOW),
    };
    let found = stack.quarantined("d3FgH5jK7lZ9xC1vB2nM4qWe").await;
    assert_eq!(found, [quarantined]);
    assert_eq!(stack.items(QUARANTINE).len(), 1);
}

#[tokio::test]
async fn a_message_without_a_usage_event_is_quarantined_whole_and_succeeds() {
    let stack = Stack::new();
    let event = event("not-a-usage-event");
    let response = respond(&stack, &event).await;
    assert_eq!(response, json!({ "batchItemFailures": [] }));
    let body = body_of(&event, 0).as_bytes();
    let found = stack.at.store.quarantined_message(body).await.unwrap();
    let reason = "not of the documented shape: missing field `specversion`";
    let quarantined = QuarantinedContent {
        rejected: vec![rejected(0, reason)],
        body: body.into(),
        received_at: p(NOW),
    };
    assert_eq!(found, [quarantined]);
    assert!(stack.items(USAGE).is_empty());
}

/// Checks that a message is quarantined for this reason, once however often it is delivered, and that
/// it succeeds.
async fn check_quarantined(message: &str, reason: &str) {
    let stack = Stack::new();
    for _ in 0..2 {
        stack.count(message).await;
    }
    let found = stack.at.store.quarantined_message(message.as_bytes()).await;
    let found = found.unwrap();
    assert_eq!(found.len(), 1, "{message}");
    assert_eq!(found[0].body, message.as_bytes());
    let [only] = &found[0].rejected[..] else {
        panic!("{message}: {found:?}");
    };
    assert_eq!(only.index, 0, "{message}");
    assert!(only.reason.contains(reason), "{message}: {}", only.reason);
    assert_eq!(stack.items(QUARANTINE).len(), 1, "{message}");
    for table in [USAGE, USAGE_LOG] {
        assert!(stack.items(table).is_empty(), "{message}");
    }
}

#[tokio::test]
async fn a_message_that_can_never_be_counted_is_quarantined_and_not_delivered_again() {
    let good = usage_event("e-1", "acme", [record(NOW, "/a")]);
    let check_event = async |field: &str, value: Value, reason: &str| {
        check_quarantined(&body(&with(good.clone(), field, value)), reason).await;
    };
    check_quarantined("", "EOF while parsing").await;
    check_quarantined("usage", "expected value").await;
    check_quarantined("[]", "invalid length 0").await;
    // A reason that quoted the whole text would be too large for a DynamoDB item.
    let long = json!("\u{1}".repeat(200_000)).to_string();
    check_quarantined(&long, "invalid type: string").await;
    check_quarantined("{}", "missing field `detail`").await;
    check_quarantined(&good.to_string(), "missing field `detail`").await;
    check_quarantined(&around("e-1", "\"text\""), "invalid type").await;
    check_quarantined(&around("e-1", "null"), "invalid type").await;
    check_quarantined(&around("e-1", "{}"), "missing field").await;
    check_quarantined(&around("e-1", r#"{"id":"\ud800"}"#), "hex escape").await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    check_quarantined(&around("e-1", &deep), "a list, expected an object").await;
    check_event("type", json!("tollgate.usage.v2"), "tollgate.usage.v2").await;
    check_event("specversion", json!("0.3"), "specversion").await;
    check_event("subject", json!("acme#2"), "customer id").await;
    check_event("subject", json!(".."), "subject \"..\" cannot be").await;
    check_event("time", json!("2026-11-22T10:00Z"), "RFC 3339").await;
    check_event("traceparent", json!({}), "extension attribute").await;
    check_event("data_base64", json!("e30="), "unknown field").await;
    check_event("id", json!("e\n1"), "id must be").await;
    check_event("data", json!({ "records": [] }), "0 records").await;
    let many = vec![record(NOW, "/a"); 101];
    check_event("data", json!({ "records": many }), "101 records").await;
}

/// IAM policies restrict the detail type and source of events on the bus. A usage event that contradicts
/// its envelope may be one that its producer had no permission to put.
#[tokio::test]
async fn a_usage_event_that_contradicts_its_envelope_is_quarantined() {
    let usage = usage_event("e-1", "acme", [record(NOW, "/a")]);
    let adjustment_event = adjusting("a-1", "acme", [adjustment(NOW, -1_000_000)]);
    let check = async |usage_event: &Value, detail_type: &str, source: &str, reason: &str| {
        let message = enveloped("e-1", detail_type, source, &usage_event.to_string());
        check_quarantined(&message, reason).await;
    };
    let (usage_type, adjustment_type) = ("tollgate.usage.v1", "tollgate.adjustment.v1");
    let reason = r#"the detail type of the EventBridge event, "tollgate.usage.v1", is not the type of the usage event"#;
    check(&adjustment_event, usage_type, SOURCE, reason).await;
    let reason = r#"the detail type of the EventBridge event, "tollgate.usage.v2", is not"#;
    check(&usage, "tollgate.usage.v2", SOURCE, reason).await;
    check(
        &usage,
        adjustment_type,
        SOURCE,
        "the detail type of the EventBridge event",
    )
    .await;
    let reason = r#"the source of the EventBridge event, "tollgate:analyze", is not the source of the usage event"#;
    check(&usage, usage_type, "tollgate:analyze", reason).await;
    check(
        &adjustment_event,
        adjustment_type,
        "tollgate:pin",
        "the source",
    )
    .await;
    // The earlier layer sent only usage of functions.
    let earlier = "tollgate.metering";
    check(&adjustment_event, adjustment_type, earlier, "the source").await;
    let of_elsewhere = with(usage.clone(), "source", "support");
    check(&of_elsewhere, usage_type, earlier, "the source").await;
    let long = "x".repeat(300);
    check(
        &usage,
        usage_type,
        &long,
        &format!("\"{}\"", "x".repeat(64)),
    )
    .await;
    let bare = json!({ "detail": usage });
    check_quarantined(&bare.to_string(), "missing field `detail-type`").await;
    let bare = json!({ "detail-type": usage_type, "detail": usage });
    check_quarantined(&bare.to_string(), "missing field `source`").await;

    // A quarantined message does not use up the source and id of its event.
    let stack = Stack::new();
    for detail_type in [usage_type, adjustment_type] {
        stack
            .count(&enveloped(
                "e-1",
                detail_type,
                SOURCE,
                &adjustment_event.to_string(),
            ))
            .await;
    }
    let month = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
    assert_eq!(
        month.unwrap().adjusted.billable,
        [(p("pro"), -1_000_000)].into()
    );
}

/// Checks that this record is quarantined for this reason, and that the valid record after it is counted.
async fn check_invalid_record(bad: Value, reason: &str) {
    let stack = Stack::new();
    stack
        .count(&body(&usage_event(
            "e-1",
            "acme",
            [bad.clone(), record(NOW, "/a")],
        )))
        .await;
    let found = stack.quarantined("e-1").await;
    assert_eq!(found.len(), 1, "{bad}");
    let [only] = &found[0].rejected[..] else {
        panic!("{bad}: {found:?}");
    };
    assert_eq!(only.index, 0, "{bad}");
    assert!(only.reason.contains(reason), "{bad}: {}", only.reason);
    let month = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
    assert_eq!(month.unwrap(), aggregate(1), "{bad}");
}

#[tokio::test]
async fn an_invalid_record_is_quarantined_with_its_reason() {
    let good = || record(NOW, "/a");
    check_invalid_record(json!(null), "invalid type: null").await;
    check_invalid_record(json!("call"), "invalid type").await;
    check_invalid_record(json!({}), "missing field").await;
    check_invalid_record(with(good(), "surprise", 1), "unknown field `surprise`").await;
    check_invalid_record(with(good(), "plan", "platinum"), "no plan platinum").await;
    check_invalid_record(with(good(), "status", 600), "status is out of bounds").await;
    check_invalid_record(with(good(), "latency_ms", -1), "invalid value").await;
    check_invalid_record(with(good(), "latency_ms", 1.5), "invalid type").await;
    check_invalid_record(with(good(), "endpoint", ""), "endpoint must be").await;
    check_invalid_record(with(good(), "key_id", "a b"), "key id").await;
    let at = |time: &str| with(good(), "time", time);
    check_invalid_record(at("yesterday"), "not of the documented shape").await;
    check_invalid_record(at("2026-11-22 09:00:00Z"), "RFC 3339").await;
    check_invalid_record(at("2026-11-22T10:05:00.001Z"), "in the future").await;
    check_invalid_record(at("9999-12-30T22:00:00Z"), "in the future").await;
    check_invalid_record(at("2026-10-18T09:59:59.999Z"), "older than 35 days").await;
    check_invalid_record(at("0000-01-01T00:00:00Z"), "older than 35 days").await;
}

#[tokio::test]
async fn two_pairs_of_method_and_endpoint_never_share_an_aggregate() {
    // Joined with a space, both would be stored as `GET /a /b`.
    let ambiguous = with(record(NOW, "/b"), "method", "GET /a");
    check_invalid_record(ambiguous.clone(), "method must not contain a space").await;

    let stack = Stack::new();
    let records = [record(NOW, "/a /b"), ambiguous];
    stack
        .count(&body(&usage_event("e-1", "acme", records)))
        .await;
    let aggregates = stack.aggregates(&["acme"], &["2026-11"]).await;
    assert_eq!(aggregates["acme 2026-11-22 GET /a /b"], aggregate(1));
}

#[tokio::test]
async fn records_at_the_limits_of_the_accepted_times_count() {
    let stack = Stack::new();
    let records = ["2026-11-22T10:05:00Z", "2026-10-18T10:00:00Z"].map(|t| record(t, "/a"));
    stack
        .count(&body(&usage_event("e-1", "acme", records)))
        .await;
    let aggregates = stack.aggregates(&["acme"], &["2026-10", "2026-11"]).await;
    assert_eq!(aggregates["acme 2026-10-18"], aggregate(1));
    assert_eq!(aggregates["acme 2026-11-22"], aggregate(1));
}

#[tokio::test]
async fn a_usage_event_without_a_valid_record_counts_nothing() {
    let stack = Stack::new();
    let bad = with(record(NOW, "/a"), "plan", "platinum");
    stack
        .count(&body(&usage_event("e-1", "acme", [json!(1), bad])))
        .await;
    assert!(stack.items(USAGE).is_empty());
    let found = stack.quarantined("e-1").await;
    let indexes: Vec<usize> = found[0].rejected.iter().map(|r| r.index).collect();
    assert_eq!((found.len(), indexes), (1, vec![0, 1]));
}

#[tokio::test]
async fn records_count_in_the_utc_day_and_month_of_their_own_time() {
    let stack = Stack::at("2027-01-01T00:30:00Z");
    let records = [
        "2026-11-30T23:59:59.999Z",
        "2026-12-01T00:00:00Z",
        "2026-12-31T23:59:59.999999999Z",
        "2027-01-01T01:00:00+01:00",
        "2027-01-01T01:29:59+01:30",
    ]
    .map(|time| record(time, "/a"));
    stack
        .count(&body(&usage_event("e-1", "acme", records)))
        .await;
    let expected = [
        ("acme 2026-11", 1),
        ("acme 2026-11-30", 1),
        ("acme 2026-11-30 GET /a", 1),
        ("acme 2026-12", 3),
        ("acme 2026-12-01", 1),
        ("acme 2026-12-01 GET /a", 1),
        ("acme 2026-12-31", 2),
        ("acme 2026-12-31 GET /a", 2),
        ("acme 2027-01", 1),
        ("acme 2027-01-01", 1),
        ("acme 2027-01-01 GET /a", 1),
    ];
    let expected = expected.map(|(key, calls)| (key.to_owned(), aggregate(calls)));
    let months = ["2026-11", "2026-12", "2027-01"];
    let aggregates = stack.aggregates(&["acme"], &months).await;
    assert_eq!(aggregates, BTreeMap::from(expected));
}

#[tokio::test]
async fn customers_with_chargeable_calls_are_listed_for_billing_in_the_month_of_the_calls() {
    let stack = Stack::new();
    let failed = || with(record(NOW, "/a"), "status", 500);
    let october = "2026-10-31T23:59:59Z";
    let usage_events = [
        usage_event("e-1", "acme", [record(NOW, "/a")]),
        usage_event("e-2", "late", [record(october, "/a")]),
        usage_event("e-3", "free", [with(record(NOW, "/a"), "plan", "free")]),
        usage_event("e-4", "failed", [failed()]),
        usage_event("e-5", "paying", [with(failed(), "billable", true)]),
    ];
    for usage_event in &usage_events {
        stack.count(&body(usage_event)).await;
    }
    let check = async |month: &str, expected: &[&str]| {
        let mut listed = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let store = &stack.at.store;
            let page = store.billable_customers(p(month), after.as_deref(), None);
            let page = page.await.unwrap();
            listed.extend(page.items.into_iter().map(String::from));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        listed.sort();
        assert_eq!(listed, expected, "{month}");
    };
    check("2026-11", &["acme", "paying"]).await;
    check("2026-10", &["late"]).await;
}

#[tokio::test]
async fn an_empty_batch_has_no_failures() {
    let response = respond(&Stack::new(), &json!({ "Records": [] })).await;
    assert_eq!(response, json!({ "batchItemFailures": [] }));
}

/// Returns messages with the usage events `e-0`, `e-1`, … of customers of the same names.
fn messages(count: usize) -> Vec<(String, String)> {
    let message = |n: usize| {
        let id = format!("e-{n}");
        let usage_event = usage_event(&id, &id, [record(NOW, "/a")]);
        (format!("message of {id}"), body(&usage_event))
    };
    (0..count).map(message).collect()
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_every_message_fails() {
    let stack = Stack::new();
    let mut sent = messages(20);
    sent.push(("message without event".into(), "no usage event".into()));
    let mut ids: Vec<String> = sent.iter().map(|(id, _)| id.clone()).collect();
    ids.sort();
    for fault in [Fault::RequestLost, Fault::Throttled] {
        stack.fail("", fault);
        assert_eq!(deliver(&stack.app, batch(&sent)).await, ids, "{fault:?}");
    }
    stack.at.aws.heal();
    for table in [USAGE, USAGE_LOG, QUARANTINE] {
        assert!(stack.items(table).is_empty(), "{}", table.name);
    }
    assert_eq!(deliver(&stack.app, batch(&sent)).await, NONE);
    let customers: Vec<String> = (0..20).map(|n| format!("e-{n}")).collect();
    let customers: Vec<&str> = customers.iter().map(String::as_str).collect();
    assert_eq!(stack.logged(&customers).await.len(), 20);
    assert_eq!(stack.items(QUARANTINE).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_the_message_that_could_not_be_counted_fails() {
    let stack = Stack::new();
    let sent = messages(20);
    stack.fail("e-7", Fault::RequestLost);
    let failed = deliver(&stack.app, batch(&sent)).await;
    assert_eq!(failed, ["message of e-7"]);
    stack.at.aws.heal();
    let counted = async |customer: usize| {
        let customer = format!("e-{customer}");
        let month = stack
            .at
            .store
            .month_usage(&p(&customer), p("2026-11"))
            .await;
        (month.unwrap(), stack.logged(&[&customer]).await.len())
    };
    for customer in (0..20).filter(|n| *n != 7) {
        assert_eq!(counted(customer).await, (aggregate(1), 1), "{customer}");
    }
    assert_eq!(counted(7).await, (Aggregate::default(), 0));
    assert_eq!(deliver(&stack.app, batch(&sent[7..8])).await, NONE);
    assert_eq!(counted(7).await, (aggregate(1), 1));
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried() {
    for fault in [
        Fault::RequestLost,
        Fault::ResponseLost,
        Fault::Throttled,
        Fault::Conflict,
    ] {
        let stack = Stack::new();
        // Plans that cannot be read leave the message in the queue.
        stack.app.ingest.plans.current().await.unwrap();
        let mut left = 5;
        stack.at.aws.inject(move |_| {
            if left == 0 {
                return Fault::None;
            }
            left -= 1;
            fault
        });
        stack
            .count(&body(&usage_event("e-1", "acme", [record(NOW, "/a")])))
            .await;
        let month = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
        assert_eq!(month.unwrap(), aggregate(1), "{fault:?}");
    }
}

/// The plan was created after this instance had read the others.
#[tokio::test]
async fn usage_on_a_new_plan_is_counted_and_indexed_for_billing() {
    let stack = Stack::new();
    stack
        .count(&body(&usage_event("e-1", "acme", [record(NOW, "/a")])))
        .await;
    let json = r#"[{"id":"team","name":"","requests_per_hour":1,"fail_mode":"open","month":
        {"kind":"overage","included":0,"prices":[{"from":"2026-01-01","micro_usd_per_call":1}]}}]"#;
    let team = Catalog::from_json(json).unwrap();
    let team = PlanVersions::new(team.iter().next().unwrap().clone(), p(NOW));
    let created = stack.at.store.create_plan(&team).await.unwrap();
    assert_eq!(created, PlanOutcome::Written);
    let on_team = with(record(NOW, "/a"), "plan", "team");
    stack
        .count(&body(&usage_event("e-2", "bolt", [on_team])))
        .await;
    assert_eq!(stack.quarantined("e-2").await, []);
    let billable = stack.at.store.billable_customers(p("2026-11"), None, None);
    let mut customers = billable.await.unwrap().items;
    for shard in 0..tollgate_store::schema::BILLABLE_SHARDS {
        let from = format!("{shard}");
        let page = stack
            .at
            .store
            .billable_customers(p("2026-11"), Some(&from), None);
        customers.extend(page.await.unwrap().items);
    }
    assert!(customers.contains(&p("bolt")), "{customers:?}");
}

/// A batch with plans that do not exist reads the plans once more, and no usage of other plans waits for it.
#[tokio::test]
async fn the_plans_are_read_again_only_for_an_unknown_plan() {
    let stack = Stack::new();
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    stack.at.aws.inject(move |call: &Call| {
        let is_read = call.operation() == "Query" && call.body.contains("PLANS");
        counted.fetch_add(usize::from(is_read), Ordering::Relaxed);
        Fault::None
    });
    let count = async |id: &str, plan: &str, expected: usize| {
        let record = with(record(NOW, "/a"), "plan", plan);
        stack.count(&body(&usage_event(id, "acme", [record]))).await;
        assert_eq!(reads.load(Ordering::Relaxed), expected, "{id}");
    };
    count("e-1", "pro", 1).await;
    count("e-2", "free", 1).await;
    count("e-3", "platinum", 2).await;
    assert_eq!(stack.quarantined("e-3").await.len(), 1);
    count("e-4", "pro", 2).await;
}

#[tokio::test]
async fn another_event_of_the_same_source_and_id_is_quarantined_and_the_first_stays_counted() {
    let stack = Stack::new();
    let first = usage_event("e-1", "acme", [record(NOW, "/a")]);
    stack.count(&body(&first)).await;
    let counted = stack.items(USAGE);
    assert_eq!(counted.len(), 2);
    let rivals = [
        usage_event("e-1", "acme", [record(NOW, "/b")]),
        usage_event("e-1", "globex", [record(NOW, "/a")]),
    ];
    for rival in &rivals {
        for _ in 0..2 {
            stack.count(&body(rival)).await;
        }
    }
    assert_eq!(stack.items(USAGE), counted);
    let found = stack.quarantined("e-1").await;
    assert_eq!(found.len(), rivals.len());
    for rival in &rivals {
        let reason =
            "a usage event with the same source and id but other content was received before";
        let quarantined = QuarantinedContent {
            rejected: vec![rejected(0, reason)],
            body: rival.to_string().into_bytes(),
            received_at: p(NOW),
        };
        assert!(found.contains(&quarantined), "{found:?}");
    }
}

#[tokio::test]
async fn of_two_conflicting_events_in_a_batch_one_is_counted_and_the_other_quarantined() {
    let stack = Stack::new();
    let rivals = ["/a", "/b"].map(|endpoint| {
        let usage_event = usage_event("e-1", "acme", [record(NOW, endpoint)]);
        (endpoint, body(&usage_event))
    });
    assert_eq!(deliver(&stack.app, batch(&rivals)).await, NONE);
    let month = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
    assert_eq!(month.unwrap(), aggregate(1));
    assert_eq!(stack.quarantined("e-1").await.len(), 1);
}

#[tokio::test]
async fn the_same_id_from_another_source_is_another_usage_event() {
    let stack = Stack::new();
    for source in [SOURCE, "tollgate:analyze"] {
        let usage_event = usage_event("e-1", "acme", [record(NOW, "/a")]);
        stack
            .count(&body(&with(usage_event, "source", source)))
            .await;
    }
    let month = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
    assert_eq!(month.unwrap(), aggregate(2));
}

#[tokio::test]
async fn a_usage_event_is_a_duplicate_in_another_envelope_and_member_order() {
    let stack = Stack::new();
    let costly = json!([{ "provider": "anthropic", "tokens": 10, "micro_usd": 30 }]);
    let records = [
        with(record(NOW, "/a"), "costs", costly),
        json!({ "b": 1, "a": 2 }),
    ];
    let usage_event = usage_event("e-1", "acme", records);
    stack.count(&body(&usage_event)).await;
    let usage = stack.items(USAGE);
    let quarantine = stack.items(QUARANTINE);
    assert_eq!((usage.len(), quarantine.len()), (2, 1));
    assert!(reordered(&usage_event).starts_with("{ \"type\""));
    stack.count(&around("e-2", &reordered(&usage_event))).await;
    let mut other: Value = serde_json::from_str(&body(&usage_event)).unwrap();
    other["replay-name"] = "again".into();
    other["id"] = "e-3".into();
    stack.count(&other.to_string()).await;
    // Each hop of a trace sets its own value.
    for hop in ["00-1", "00-2"] {
        let traced = with(usage_event.clone(), "traceparent", hop);
        stack.count(&body(&traced)).await;
    }
    stack.at.time.set(p("2027-11-22T10:00:00Z"));
    stack.count(&body(&usage_event)).await;
    assert_eq!(stack.items(USAGE), usage);
    assert_eq!(stack.items(QUARANTINE), quarantine);
    assert_eq!(stack.logged(&["acme"]).await.len(), 1);
}

#[tokio::test]
async fn a_record_of_another_customers_key_is_quarantined() {
    let stack = Stack::new();
    add_customer(&stack.at, "acme", "pro").await;
    add_key(&stack.at, Owner::Customer(p("acme")), "key_acme").await;
    add_customer(&stack.at, "globex", "pro").await;
    add_key(&stack.at, Owner::Customer(p("globex")), "key_globex").await;
    add_key(&stack.at, Owner::Admin, "key_admin").await;
    let with_key = |key: &str| with(record(NOW, "/a"), "key_id", key);
    // The last is a key of an API that Tollgate does not guard.
    let keys = ["key_acme", "key_globex", "key_admin", "key_elsewhere"];
    stack
        .count(&body(&usage_event("e-1", "acme", keys.map(with_key))))
        .await;
    let expected = [
        rejected(1, "key key_globex belongs to another customer"),
        rejected(2, "key key_admin belongs to another customer"),
    ];
    assert_eq!(stack.quarantined("e-1").await[0].rejected, expected);
    let month = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
    assert_eq!(month.unwrap(), aggregate(2));
    let of_globex = usage_event("e-2", "globex", keys.map(with_key));
    stack.count(&body(&of_globex)).await;
    let expected = [
        rejected(0, "key key_acme belongs to another customer"),
        rejected(2, "key key_admin belongs to another customer"),
    ];
    assert_eq!(stack.quarantined("e-2").await[0].rejected, expected);
}

#[tokio::test]
async fn the_owner_of_a_key_is_read_once() {
    let stack = Stack::new();
    add_customer(&stack.at, "acme", "pro").await;
    add_key(&stack.at, Owner::Customer(p("acme")), "key_acme").await;
    let reads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reads);
    stack.at.aws.inject(move |call| {
        let is_read = call.operation() == "BatchGetItem" && call.body.contains("-registry");
        count.fetch_add(usize::from(is_read), Ordering::Relaxed);
        Fault::None
    });
    for n in 0..3 {
        let keys = ["key_acme", "key_unknown"].map(|key| with(record(NOW, "/a"), "key_id", key));
        stack
            .count(&body(&usage_event(&format!("e-{n}"), "acme", keys)))
            .await;
    }
    // One read resolves the ids, the other gets the owner of the one key that exists.
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_counted_before_the_owners_of_its_keys_are_read() {
    let stack = Stack::new();
    stack.fail("KEYID#key_1", Fault::RequestLost);
    let bad = with(record(NOW, "/a"), "key_id", "key_1");
    let good = with(record(NOW, "/a"), "key_id", "key_2");
    let messages = [
        ("m-1", body(&usage_event("e-1", "acme", [bad]))),
        ("m-2", body(&usage_event("e-2", "globex", [good]))),
    ];
    // The owners of all keys are read at once.
    assert_eq!(deliver(&stack.app, batch(&messages)).await, ["m-1", "m-2"]);
    assert!(stack.items(USAGE_LOG).is_empty());
    assert!(stack.items(USAGE).is_empty());
    stack.at.aws.heal();
    assert_eq!(deliver(&stack.app, batch(&messages)).await, NONE);
    assert_eq!(stack.logged(&["acme", "globex"]).await.len(), 2);
}

#[tokio::test]
async fn adjustments_are_counted_separately_in_their_days_and_months() {
    let stack = Stack::new();
    let adjustments = [
        adjustment("2026-10-31T23:59:59Z", -7),
        adjustment("2026-11-01T00:00:00Z", 3),
        with(adjustment(NOW, 1), "reason", ""),
        adjustment("2026-11-01T12:00:00Z", 2),
    ];
    let message = body(&adjusting("a-1", "acme", adjustments));
    for _ in 0..2 {
        stack.count(&message).await;
    }
    stack
        .count(&body(&usage_event("e-1", "acme", [record(NOW, "/a")])))
        .await;
    let aggregates = stack.aggregates(&["acme"], &["2026-10", "2026-11"]).await;
    let adjusted = |count, calls| AdjustmentTotals {
        count,
        billable: [(p("pro"), calls)].into(),
        micro_usd: 0,
    };
    let of = |calls: u64, adjusted: AdjustmentTotals| Aggregate {
        adjusted,
        ..aggregate(calls)
    };
    let expected = [
        (
            "acme 2026-10",
            Aggregate {
                adjusted: adjusted(1, -7),
                ..Aggregate::default()
            },
        ),
        (
            "acme 2026-10-31",
            Aggregate {
                adjusted: adjusted(1, -7),
                ..Aggregate::default()
            },
        ),
        ("acme 2026-11", of(1, adjusted(2, 5))),
        (
            "acme 2026-11-01",
            Aggregate {
                adjusted: adjusted(2, 5),
                ..Aggregate::default()
            },
        ),
        ("acme 2026-11-22", aggregate(1)),
        ("acme 2026-11-22 GET /a", aggregate(1)),
    ];
    let expected = expected.map(|(of, aggregate)| (of.to_owned(), aggregate));
    assert_eq!(aggregates, expected.into());
    let acme = p("acme");
    let listed = stack.at.store.adjustments(&acme, p("2026-11"), None);
    let calls = listed.await.unwrap().items.into_iter();
    let calls: Vec<i64> = calls.map(|one| one.adjustment.billable_calls).collect();
    assert_eq!(calls, [3, 2]);
    let quarantined = stack.quarantined("a-1").await;
    let reason = "reason must be printable text of 1 to 512 bytes";
    assert_eq!(quarantined[0].rejected, [rejected(2, reason)]);
}

#[tokio::test]
async fn an_adjustment_event_has_only_adjustments_and_at_most_20() {
    let records = with(
        usage_event("e-1", "acme", [record(NOW, "/a")]),
        "type",
        "tollgate.adjustment.v1",
    );
    check_quarantined(&body(&records), "unknown field `records`").await;
    let many = vec![adjustment(NOW, 1); 21];
    let many = adjusting("a-1", "acme", many);
    check_quarantined(&body(&many), "21 adjustments; an event has 1 to 20").await;
}

#[tokio::test(start_paused = true)]
async fn a_customer_whose_write_hangs_does_not_delay_the_others() {
    let mut stack = Stack::new();
    let sdk = stack.at.aws.sdk_config().to_builder();
    let sdk = sdk
        .timeout_config(aws::timeouts(aws::BACKGROUND_TIMEOUT))
        .build();
    let entropy = stack.at.entropy.clone();
    stack.app.ingest.store = Store::new(&sdk, "test", stack.at.clock(), entropy);
    let hangs =
        |call: &Call| call.operation() == "TransactWriteItems" && call.body.contains("acme");
    stack.at.aws.inject(move |call| match hangs(call) {
        true => Fault::NoResponse,
        false => Fault::None,
    });
    let of = |id, customer| body(&usage_event(id, customer, [record(NOW, "/a")]));
    let messages = [
        ("m-1", of("e-1", "acme")),
        ("m-2", of("e-2", "globex")),
        ("m-3", "no usage event".to_owned()),
    ];
    let stored = async || {
        let store = &stack.at.store;
        let calls = async |customer| {
            let month = store.month_usage(&p(customer), p("2026-11")).await;
            month.unwrap().calls
        };
        let quarantined = store.quarantined_message(b"no usage event").await.unwrap();
        (
            calls("acme").await,
            calls("globex").await,
            quarantined.len(),
        )
    };
    let began = Instant::now();
    // The usage was counted. The responses were lost, but the markers say so.
    assert_eq!(deliver(&stack.app, batch(&messages)).await, NONE);
    assert!(began.elapsed() < usage_writer::BATCH_TIMEOUT);
    assert_eq!(stored().await, (1, 1, 1));
    stack.at.aws.heal();
    assert_eq!(deliver(&stack.app, batch(&messages)).await, NONE);
    assert_eq!(stored().await, (1, 1, 1));
}

#[tokio::test]
async fn a_usage_event_with_a_repeated_member_conflicts_with_the_one_without() {
    let stack = Stack::new();
    let good = usage_event("e-1", "acme", [record(NOW, "/a")]).to_string();
    let twice = good.replacen(r#""status":200"#, r#""status":500,"status":200"#, 1);
    assert_ne!(good, twice);
    // It is not clear which of the two values is meant, so the record is quarantined.
    stack.count(&around("e-1", &twice)).await;
    stack.count(&around("e-1", &good)).await;
    let month = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
    assert_eq!(month.unwrap().calls, 0);
    let quarantined = stack.at.store.quarantined_of_event(SOURCE, "e-1").await;
    let bodies: Vec<Vec<u8>> = quarantined.unwrap().into_iter().map(|q| q.body).collect();
    assert_eq!(bodies, [twice.into_bytes(), good.into_bytes()]);
}
