//! `/admin/usage/quarantine`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use aws_lambda_events::sqs::SqsEvent;
use serde_json::{Value, json};
use tollgate_local_aws::Fault;
use tollgate_store::schema::USAGE_LOG;
use tollgate_testing::event::{Event, text};
use tollgate_testing::init::init;
use tollgate_testing::p;
use tollgate_testing::response::{ApiResponse, checks_bodies, data};
use tollgate_testing::stored::{items, raw, stored};

use crate::stack::Stack;
use crate::usage::{calls, record, usage_event};

/// Delivers these messages to the usage-writer.
async fn deliver(stack: &Stack, bodies: &[String]) {
    let messages = bodies.iter().enumerate();
    let messages: Vec<Value> = messages
        .map(|(id, body)| json!({ "messageId": id.to_string(), "body": body }))
        .collect();
    let batch: SqsEvent = serde_json::from_value(json!({ "Records": messages })).unwrap();
    let init = init(&stack.at, "UsageWriterFunction");
    let writer = usage_writer::App::build(&init).unwrap();
    let response = usage_writer::handle(&writer, batch).await;
    assert!(response.batch_item_failures.is_empty());
}

/// Returns a message with a usage event.
pub(crate) fn message(usage_event: &Value) -> String {
    let (detail_type, source) = ("tollgate.usage.v1", &usage_event["source"]);
    json!({ "detail-type": detail_type, "source": source, "detail": usage_event }).to_string()
}

fn of_plan(plan: &str) -> Value {
    let mut record = record();
    record["plan"] = plan.into();
    record
}

/// Delivers one message that is quarantined, at least in part. Returns the item as it is listed.
pub(crate) async fn quarantine_one(stack: &Stack, body: String) -> Value {
    deliver(stack, &[body]).await;
    let list = list_open(stack).await;
    assert_eq!(list.len(), 1);
    list[0].clone()
}

async fn list_open(stack: &Stack) -> Vec<Value> {
    let list = stack.call("list-quarantine", |event| event).await;
    data(&list.json(200)).clone()
}

async fn on(stack: &Stack, operation: &str, item: &Value, body: Option<Value>) -> ApiResponse {
    let id = text(item, "id");
    let change = |event: Event| {
        let event = event.param("item", id);
        match &body {
            Some(body) => event.body(body),
            None => event,
        }
    };
    stack.call(operation, change).await
}

async fn replay(stack: &Stack, item: &Value, body: Value) -> ApiResponse {
    on(stack, "replay-quarantined", item, Some(body)).await
}

#[tokio::test]
async fn rejected_records_are_shown_corrected_and_counted_once() {
    let stack = Stack::new();
    let mixed = usage_event(
        "e-1",
        &[record(), of_plan("platinum"), record(), of_plan("gold")],
    );
    let item = quarantine_one(&stack, message(&mixed)).await;
    let id = text(&item, "id").to_owned();
    let expected = json!({
        "id": id, "kind": "items", "status": "open", "customer_id": "acme",
        "rejected": [
            { "index": 1, "reason": "there is no plan platinum" },
            { "index": 3, "reason": "there is no plan gold" },
        ],
        "received_at": "2026-11-22T10:00:00Z",
    });
    assert_eq!(item, expected);
    let whole = on(&stack, "get-quarantined", &item, None).await.json(200);
    assert_eq!(whole["body"], mixed.to_string());
    let mut event = whole["event"].clone();
    let rejected = usage_event("e-1", &[of_plan("platinum"), of_plan("gold")]);
    assert_eq!(event, rejected);

    // Without a correction, it still cannot be counted.
    let before = stored(&stack.at);
    let response = replay(&stack, &item, json!({})).await;
    response.unprocessable(None);
    let first = json!({
        "pointer": "/event/data/records/0", "reason": "there is no plan platinum",
    });
    assert_eq!(response.body["defects"][0], first);
    assert_eq!(stored(&stack.at), before);

    event["data"]["records"][0]["plan"] = "pro".into();
    event["data"]["records"][1]["plan"] = "pro".into();
    for outcome in ["counted", "duplicate"] {
        let replayed = replay(&stack, &item, json!({ "event": event })).await;
        assert_eq!(replayed.json(200)["outcome"], outcome);
        assert_eq!(calls(&stack).await, 4);
        assert_eq!(list_open(&stack).await, [json!(null); 0]);
    }
    event["data"]["records"][1]["status"] = 404.into();
    let other = replay(&stack, &item, json!({ "event": event })).await;
    other.conflict();
    on(&stack, "discard-quarantined", &item, None)
        .await
        .conflict();
    let whole = on(&stack, "get-quarantined", &item, None).await.json(200);
    assert_eq!(whole["status"], "replayed");
    assert_eq!(calls(&stack).await, 4);
}

#[tokio::test]
async fn a_correction_sent_as_a_new_event_conflicts_and_names_the_quarantined_item() {
    let stack = Stack::new();
    let item = quarantine_one(&stack, message(&usage_event("e-1", &[of_plan("gold")]))).await;
    assert_eq!(calls(&stack).await, 0);
    let corrected = usage_event("e-1", &[of_plan("pro")]);
    let events = [usage_event("e-2", &[record()]), corrected.clone()];
    let check = async |status: &str, counted: u64| {
        let response = stack.count(&events).await;
        let detail = response.conflict();
        assert!(!detail.contains("counted before"), "{detail}");
        let can_be_replayed = detail.contains("/admin/usage/quarantine/{id}/replay");
        assert_eq!(can_be_replayed, status == "open", "{detail}");
        assert_eq!(response.body["conflicts"], json!(["/events/1"]));
        let named = json!([{ "pointer": "/events/1", "id": item["id"], "status": status }]);
        assert_eq!(response.body["quarantined"], named);
        assert_eq!(response.body["quarantined_more"], json!([]));
        assert_eq!(calls(&stack).await, counted);
    };
    check("open", 1).await;
    let body = json!({ "event": corrected });
    replay(&stack, &item, body).await.json(200);
    check("replayed", 2).await;
}

#[tokio::test]
async fn of_many_quarantined_items_of_an_event_the_first_ten_are_named() {
    let stack = Stack::new();
    stack
        .count(&[usage_event("e-1", &[record()])])
        .await
        .json(200);
    let rival = |status: u16| {
        let mut record = record();
        record["status"] = status.into();
        usage_event("e-1", &[record])
    };
    let quarantine_rivals = async |statuses: std::ops::Range<u16>| {
        for status in statuses {
            deliver(&stack, &[message(&rival(status))]).await;
        }
    };
    let named = async || {
        let response = stack.count(&[rival(499)]).await;
        response.conflict();
        let named = response.body["quarantined"].as_array().unwrap().len();
        (named, response.body["quarantined_more"].clone())
    };
    quarantine_rivals(400..410).await;
    assert_eq!(named().await, (10, json!([])));
    quarantine_rivals(410..412).await;
    assert_eq!(named().await, (10, json!(["/events/0"])));
}

#[tokio::test]
async fn a_replay_ignores_extension_attributes() {
    let stack = Stack::new();
    let item = quarantine_one(&stack, message(&usage_event("e-1", &[of_plan("gold")]))).await;
    for (by, outcome) in [("00-1", "counted"), ("00-2", "duplicate")] {
        let mut event = usage_event("e-1", &[record()]);
        event["traceparent"] = by.into();
        let response = replay(&stack, &item, json!({ "event": event })).await;
        assert_eq!(response.json(200)["outcome"], outcome);
        assert_eq!(calls(&stack).await, 1);
    }
}

#[tokio::test]
async fn a_record_dated_in_the_future_can_be_replayed_unchanged_later() {
    let stack = Stack::new();
    let mut early = record();
    early["time"] = json!("2026-11-22T10:30:00Z");
    let item = quarantine_one(&stack, message(&usage_event("e-1", &[record(), early]))).await;
    replay(&stack, &item, json!({})).await.unprocessable(None);
    stack.at.time.set("2026-11-22T10:30:00Z".parse().unwrap());
    replay(&stack, &item, json!({})).await.json(200);
    assert_eq!(calls(&stack).await, 2);
}

#[tokio::test]
async fn a_conflicting_event_can_be_replayed() {
    let stack = Stack::new();
    let bodies = [of_plan("pro"), of_plan("free")].map(|one| message(&usage_event("e-1", &[one])));
    deliver(&stack, &bodies).await;
    assert_eq!(calls(&stack).await, 1);
    let item = list_open(&stack).await.remove(0);
    assert_eq!(item["kind"], "conflict");
    replay(&stack, &item, json!({})).await.json(200);
    assert_eq!(calls(&stack).await, 2);
}

#[tokio::test]
async fn a_message_is_replayed_as_a_corrected_usage_event() {
    let stack = Stack::new();
    let item = quarantine_one(&stack, "not even JSON".into()).await;
    assert_eq!(
        (&item["kind"], &item["customer_id"]),
        (&json!("message"), &Value::Null)
    );
    let whole = on(&stack, "get-quarantined", &item, None).await.json(200);
    assert_eq!(
        (&whole["body"], &whole["event"]),
        (&json!("not even JSON"), &Value::Null)
    );
    let none = replay(&stack, &item, json!({})).await;
    none.unprocessable(Some("event"));
    let body = json!({ "event": { "specversion": "1.0" } });
    let response = replay(&stack, &item, body).await;
    response.unprocessable(None);
    assert_eq!(response.body["defects"][0]["pointer"], "/event");
    let body = json!({ "event": usage_event("whatever", &[record()]) });
    replay(&stack, &item, body).await.json(200);
    assert_eq!(calls(&stack).await, 1);
    let checked = Event::load("admin-api/replay-quarantined");
    checks_bodies(&stack.function, &checked.param("item", text(&item, "id"))).await;
}

#[tokio::test]
async fn a_discarded_item_cannot_be_replayed() {
    let stack = Stack::new();
    let item = quarantine_one(&stack, message(&usage_event("e-1", &[of_plan("gold")]))).await;
    for _ in 0..2 {
        let response = on(&stack, "discard-quarantined", &item, None).await;
        assert_eq!((response.status, response.text.as_str()), (204, ""));
    }
    assert_eq!(list_open(&stack).await, [json!(null); 0]);
    let event = usage_event("e-1", &[record()]);
    replay(&stack, &item, json!({ "event": event }))
        .await
        .conflict();
    assert_eq!(calls(&stack).await, 0);
}

/// Quarantines an item, and replays it with a store that fails at the `nth` update of the item. Returns the
/// item and the request body.
async fn interrupted_replay(stack: &Stack, nth: usize) -> (Value, Value) {
    let item = quarantine_one(stack, message(&usage_event("e-1", &[of_plan("gold")]))).await;
    let mut changes = 0;
    stack.at.aws.inject(move |call| {
        changes += usize::from(call.operation() == "UpdateItem");
        match call.operation() {
            "UpdateItem" if changes >= nth => Fault::RequestLost,
            _ => Fault::None,
        }
    });
    let body = json!({ "event": usage_event("e-1", &[record()]) });
    let response = replay(stack, &item, body.clone()).await;
    response.problem(503, "temporarily-unavailable", None);
    stack.at.aws.heal();
    assert_eq!(list_open(stack).await.len(), 1);
    (item, body)
}

async fn status(stack: &Stack, item: &Value) -> Value {
    let whole = on(stack, "get-quarantined", item, None).await.json(200);
    whole["status"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_failed_after_counting_is_finished_by_a_retry() {
    let stack = Stack::new();
    let (item, body) = interrupted_replay(&stack, 2).await;
    assert_eq!(calls(&stack).await, 1);
    on(&stack, "discard-quarantined", &item, None)
        .await
        .conflict();
    assert_eq!(status(&stack, &item).await, "open");
    let response = replay(&stack, &item, body).await.json(200);
    assert_eq!(response["outcome"], "duplicate");
    assert_eq!(list_open(&stack).await, [json!(null); 0]);
    assert_eq!(calls(&stack).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_failed_after_counting_is_finished_however_late() {
    let stack = Stack::new();
    let (item, body) = interrupted_replay(&stack, 2).await;
    stack.at.time.set(p("2027-02-01T10:00:00Z"));
    let response = replay(&stack, &item, body).await.json(200);
    assert_eq!(response["outcome"], "duplicate");
    assert_eq!(status(&stack, &item).await, "replayed");
    assert_eq!(calls(&stack).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_failed_after_counting_is_finished_by_a_different_replay() {
    let stack = Stack::new();
    let (item, mut body) = interrupted_replay(&stack, 2).await;
    body["event"]["data"]["records"][0]["status"] = 404.into();
    replay(&stack, &item, body).await.conflict();
    assert_eq!(status(&stack, &item).await, "replayed");
    assert_eq!(list_open(&stack).await, [json!(null); 0]);
    assert_eq!(calls(&stack).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_failed_after_counting_is_finished_by_a_different_replay_however_late() {
    let stack = Stack::new();
    let (item, mut body) = interrupted_replay(&stack, 2).await;
    stack.at.time.set(p("2027-02-01T10:00:00Z"));
    body["event"]["data"]["records"][0]["status"] = 404.into();
    replay(&stack, &item, body).await.conflict();
    assert_eq!(status(&stack, &item).await, "replayed");
    assert_eq!(calls(&stack).await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_item_whose_replay_counted_nothing_can_be_discarded_an_hour_later() {
    let stack = Stack::new();
    let item = quarantine_one(&stack, message(&usage_event("e-1", &[of_plan("gold")]))).await;
    stack.at.aws.inject(|call| match call.operation() {
        "TransactWriteItems" => Fault::RequestLost,
        _ => Fault::None,
    });
    let body = json!({ "event": usage_event("e-1", &[record()]) });
    let response = replay(&stack, &item, body).await;
    response.problem(503, "temporarily-unavailable", None);
    stack.at.aws.heal();
    let discard = async |now: &str| {
        stack.at.time.set(p(now));
        on(&stack, "discard-quarantined", &item, None).await
    };
    discard("2026-11-22T10:59:59Z").await.conflict();
    assert_eq!(discard("2026-11-22T11:00:00Z").await.status, 204);
    assert_eq!(status(&stack, &item).await, "discarded");
    replay(&stack, &item, json!({})).await.conflict();
    assert_eq!(calls(&stack).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_item_whose_replay_counted_an_event_is_never_discarded() {
    let stack = Stack::new();
    let (item, _) = interrupted_replay(&stack, 2).await;
    stack.at.time.set(p("2026-11-22T11:00:00Z"));
    let response = on(&stack, "discard-quarantined", &item, None).await;
    response.conflict();
    assert_eq!(status(&stack, &item).await, "open");
    assert_eq!(calls(&stack).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_failed_before_counting_counts_nothing() {
    let stack = Stack::new();
    let (item, _) = interrupted_replay(&stack, 1).await;
    assert_eq!(calls(&stack).await, 0);
    let response = on(&stack, "discard-quarantined", &item, None).await;
    assert_eq!(response.status, 204);
    assert_eq!(status(&stack, &item).await, "discarded");
}

#[tokio::test]
async fn a_replayed_item_is_never_counted_again() {
    let stack = Stack::new();
    let item = quarantine_one(&stack, message(&usage_event("e-1", &[of_plan("gold")]))).await;
    let body = json!({ "event": usage_event("e-1", &[record()]) });
    replay(&stack, &item, body.clone()).await.json(200);
    // The log keeps usage events for 400 days.
    stack.at.time.set("2027-12-31T10:00:00Z".parse().unwrap());
    for item in items(&stack.at, USAGE_LOG) {
        let delete = json!({ "Key": { "pk": item["pk"], "sk": item["sk"] } });
        raw(&stack.at, "DeleteItem", USAGE_LOG, delete);
    }
    let mut later = body.clone();
    later["event"]["data"]["records"][0]["time"] = json!("2027-12-31T09:59:00Z");
    for body in [body, later] {
        replay(&stack, &item, body).await.conflict();
    }
    assert_eq!(calls(&stack).await, 1);
    let month = stack.at.store.month_usage(&p("acme"), p("2027-12")).await;
    assert_eq!(month.unwrap().calls, 0);
}

#[tokio::test]
async fn a_repeated_message_is_quarantined_once() {
    let stack = Stack::new();
    let mut unknown = usage_event("e-1", &[record()]);
    unknown["Surprise"] = true.into();
    // Each time, the bus delivers it with another event id.
    for id in ["first", "second"] {
        let event = json!({
            "id": id, "detail-type": "tollgate.usage.v1", "source": "test", "detail": unknown,
        });
        deliver(&stack, &[event.to_string()]).await;
    }
    assert_eq!(list_open(&stack).await.len(), 1);

    deliver(&stack, &[message(&usage_event("e-2", &[record()]))]).await;
    let rival = usage_event("e-2", &[record(), record()]);
    let spaced = serde_json::to_string_pretty(&rival).unwrap();
    let mut traced = rival.clone();
    traced["traceparent"] = "00-1".into();
    for text in [rival.to_string(), spaced, traced.to_string()] {
        let source = &rival["source"];
        let outside = format!(r#""detail-type":"tollgate.usage.v1","source":{source}"#);
        deliver(&stack, &[format!(r#"{{{outside},"detail":{text}}}"#)]).await;
    }
    assert_eq!(list_open(&stack).await.len(), 2);
}

/// Creates a plan like `free`.
async fn create_plan(stack: &Stack, plan: &str) {
    let created = stack.call("create-plan", |event| {
        let mut body: Value = serde_json::from_str(text(&event.0, "body")).unwrap();
        body["id"] = plan.into();
        event.body(&body)
    });
    created.await.json(201);
}

#[tokio::test]
async fn a_duplicate_of_which_records_are_quarantined_has_their_items() {
    let stack = Stack::new();
    let event = [usage_event("e-1", &[record(), of_plan("gold"), record()])];
    let item = quarantine_one(&stack, message(&event[0])).await;
    assert_eq!(calls(&stack).await, 2);
    create_plan(&stack, "gold").await;
    for status in ["open", "replayed"] {
        let response = stack.count(&event).await.json(200);
        assert_eq!(data(&response)[0]["outcome"], "duplicate");
        let named = json!([{ "pointer": "/events/0", "id": item["id"], "status": status }]);
        assert_eq!(response["quarantined"], named);
        assert_eq!(response["quarantined_more"], json!([]));
        let _ = replay(&stack, &item, json!({})).await;
    }
    assert_eq!(calls(&stack).await, 3);
}

#[tokio::test]
async fn a_duplicate_that_was_counted_whole_has_no_quarantined_items() {
    let stack = Stack::new();
    let bodies = [of_plan("pro"), of_plan("free")].map(|one| usage_event("e-1", &[one]));
    deliver(&stack, &bodies.clone().map(|one| message(&one))).await;
    assert_eq!(list_open(&stack).await[0]["kind"], "conflict");
    let counted = bodies[..1].to_vec();
    let response = stack.count(&counted).await.json(200);
    assert_eq!(data(&response)[0]["outcome"], "duplicate");
    assert_eq!(response["quarantined"], json!([]));
    assert_eq!(response["quarantined_more"], json!([]));
}

#[tokio::test]
async fn of_an_old_event_the_records_that_were_quarantined_are_named() {
    let stack = Stack::new();
    let event = [usage_event("e-1", &[record(), of_plan("gold"), record()])];
    quarantine_one(&stack, message(&event[0])).await;
    create_plan(&stack, "gold").await;
    stack.at.time.set(p("2027-01-10T10:00:00Z"));
    let response = stack.count(&event).await;
    response.unprocessable(None);
    let reason = "older than 35 days";
    let expected = json!([{ "pointer": "/events/0/data/records/1", "reason": reason }]);
    assert_eq!(response.body["defects"], expected);
    assert_eq!(calls(&stack).await, 2);
}

#[tokio::test]
async fn an_event_with_the_identity_of_a_replay_is_quarantined_and_can_be_replayed() {
    let stack = Stack::new();
    let mut event = usage_event(&"0a".repeat(32), &[record()]);
    event["source"] = "tollgate:quarantine".into();
    let item = quarantine_one(&stack, message(&event)).await;
    assert_eq!(item["kind"], "message");
    assert!(text(&item["rejected"][0], "reason").contains("those of a replay"));
    assert_eq!(calls(&stack).await, 0);
    replay(&stack, &item, json!({})).await.json(200);
    assert_eq!(calls(&stack).await, 1);
}

#[tokio::test]
async fn an_unknown_item_is_not_found() {
    let stack = Stack::new();
    let item = json!({ "id": "nonsense" });
    let unknown =
        json!({ "id": Event::load("admin-api/get-quarantined").0["pathParameters"]["item"] });
    for item in [item, unknown] {
        on(&stack, "get-quarantined", &item, None).await.not_found();
        on(&stack, "discard-quarantined", &item, None)
            .await
            .not_found();
        replay(&stack, &item, json!({})).await.not_found();
    }
    let cursor = |list: &str| String::from(tollgate_api::Cursor::new(list, "nowhere".into()));
    for cursor in [cursor("quarantine"), cursor("customers")] {
        let query = [("cursor", cursor.as_str())];
        let list = stack
            .call("list-quarantine", |event| event.query(&query))
            .await;
        list.bad_request(Some("cursor"));
    }
}
