//! `/admin/usage/quarantine`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use aws_lambda_events::sqs::SqsEvent;
use serde_json::{Value, json};
use tollgate_local_aws::Fault;
use tollgate_runtime::Metrics;
use tollgate_store::ShardCounts;
use usage_writer::Owners;

use crate::answer::{Answer, checks_bodies, data};
use crate::event::{Event, text};
use crate::stack::Stack;
use crate::stored::{p, plans, stored};
use crate::usage::{calls, entry, record};

/// Has the usage-writer count these messages.
async fn deliver(stack: &Stack, bodies: &[String]) {
    let messages = bodies.iter().enumerate();
    let messages: Vec<Value> = messages
        .map(|(id, body)| json!({ "messageId": id.to_string(), "body": body }))
        .collect();
    let batch: SqsEvent = serde_json::from_value(json!({ "Records": messages })).unwrap();
    let writer = usage_writer::App {
        store: stack.at.store.clone(),
        spread: ShardCounts::default(),
        owners: Owners::default(),
        plans: plans(),
        clock: stack.at.clock(),
        metrics: Metrics::none(),
    };
    let response = usage_writer::handle(&writer, batch).await;
    assert!(response.batch_item_failures.is_empty());
}

pub(crate) fn message(entry: &Value) -> String {
    let (detail_type, source) = ("tollgate.usage.v1", &entry["source"]);
    json!({ "detail-type": detail_type, "source": source, "detail": entry }).to_string()
}

fn of_plan(plan: &str) -> Value {
    let mut record = record();
    record["plan"] = plan.into();
    record
}

/// Delivers one message of which something waits from then on: its view.
pub(crate) async fn one_waiting(stack: &Stack, body: String) -> Value {
    deliver(stack, &[body]).await;
    let list = waiting(stack).await;
    assert_eq!(list.len(), 1);
    list[0].clone()
}

async fn waiting(stack: &Stack) -> Vec<Value> {
    let list = stack.call("list-quarantine", |event| event).await;
    data(&list.json(200)).clone()
}

async fn on(stack: &Stack, operation: &str, item: &Value, body: Option<Value>) -> Answer {
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

async fn replay(stack: &Stack, item: &Value, body: Value) -> Answer {
    on(stack, "replay-quarantined", item, Some(body)).await
}

#[tokio::test]
async fn what_was_refused_is_shown_corrected_and_counted_once() {
    let stack = Stack::new();
    let mixed = entry(
        "e-1",
        &[record(), of_plan("platinum"), record(), of_plan("gold")],
    );
    let item = one_waiting(&stack, message(&mixed)).await;
    let id = text(&item, "id").to_owned();
    let expected = json!({
        "id": id, "kind": "items", "status": "waiting", "customer_id": "acme",
        "refused": [
            { "index": 1, "reason": "there is no plan platinum" },
            { "index": 3, "reason": "there is no plan gold" },
        ],
        "received_at": "2026-11-22T10:00:00Z",
    });
    assert_eq!(item, expected);
    let whole = on(&stack, "get-quarantined", &item, None).await.json(200);
    assert_eq!(whole["body"], mixed.to_string());
    let mut event = whole["event"].clone();
    let refused = entry("e-1", &[of_plan("platinum"), of_plan("gold")]);
    assert_eq!(event, refused);

    // As it is, it can be counted no more than before.
    let before = stored(&stack.at);
    let answer = replay(&stack, &item, json!({})).await;
    answer.unprocessable(None);
    let first = json!({
        "pointer": "/event/data/records/0", "reason": "there is no plan platinum",
    });
    assert_eq!(answer.body["defects"][0], first);
    assert_eq!(stored(&stack.at), before);

    event["data"]["records"][0]["plan"] = "pro".into();
    event["data"]["records"][1]["plan"] = "pro".into();
    for outcome in ["counted", "duplicate"] {
        let replayed = replay(&stack, &item, json!({ "event": event })).await;
        assert_eq!(replayed.json(200)["outcome"], outcome);
        assert_eq!(calls(&stack).await, 4);
        assert_eq!(waiting(&stack).await, [json!(null); 0]);
    }
    event["data"]["records"][1]["status"] = 404.into();
    let other = replay(&stack, &item, json!({ "event": event })).await;
    other.conflict();
    on(&stack, "dismiss-quarantined", &item, None)
        .await
        .conflict();
    let whole = on(&stack, "get-quarantined", &item, None).await.json(200);
    assert_eq!(whole["status"], "replayed");
    assert_eq!(calls(&stack).await, 4);
}

#[tokio::test]
async fn a_correction_sent_under_the_identity_of_what_waits_is_told_where_that_is() {
    let stack = Stack::new();
    let item = one_waiting(&stack, message(&entry("e-1", &[of_plan("gold")]))).await;
    assert_eq!(calls(&stack).await, 0);
    let corrected = entry("e-1", &[of_plan("pro")]);
    let events = [entry("e-2", &[record()]), corrected.clone()];
    let check = async |status: &str, counted: u64| {
        let answer = stack.count(&events).await;
        let detail = answer.conflict();
        assert!(!detail.contains("counted before"), "{detail}");
        assert!(
            detail.contains("/admin/usage/quarantine/{id}/replay"),
            "{detail}"
        );
        assert_eq!(answer.body["conflicts"], json!(["/events/1"]));
        let waits = json!([{ "pointer": "/events/1", "id": item["id"], "status": status }]);
        assert_eq!(answer.body["quarantined"], waits);
        assert_eq!(answer.body["quarantined_more"], json!([]));
        assert_eq!(calls(&stack).await, counted);
    };
    check("waiting", 1).await;
    let body = json!({ "event": corrected });
    replay(&stack, &item, body).await.json(200);
    check("replayed", 2).await;
}

#[tokio::test]
async fn of_an_identity_under_which_much_was_set_aside_the_first_are_named() {
    let stack = Stack::new();
    stack.count(&[entry("e-1", &[record()])]).await.json(200);
    let rival = |status: u16| {
        let mut record = record();
        record["status"] = status.into();
        entry("e-1", &[record])
    };
    let set_aside = async |statuses: std::ops::Range<u16>| {
        for status in statuses {
            deliver(&stack, &[message(&rival(status))]).await;
        }
    };
    let named = async || {
        let answer = stack.count(&[rival(499)]).await;
        answer.conflict();
        let named = answer.body["quarantined"].as_array().unwrap().len();
        (named, answer.body["quarantined_more"].clone())
    };
    set_aside(400..410).await;
    assert_eq!(named().await, (10, json!([])));
    set_aside(410..412).await;
    assert_eq!(named().await, (10, json!(["/events/0"])));
}

#[tokio::test]
async fn a_replay_is_the_same_whatever_was_added_on_its_way() {
    let stack = Stack::new();
    let item = one_waiting(&stack, message(&entry("e-1", &[of_plan("gold")]))).await;
    for (by, outcome) in [("00-1", "counted"), ("00-2", "duplicate")] {
        let mut event = entry("e-1", &[record()]);
        event["traceparent"] = by.into();
        let answer = replay(&stack, &item, json!({ "event": event })).await;
        assert_eq!(answer.json(200)["outcome"], outcome);
        assert_eq!(calls(&stack).await, 1);
    }
}

#[tokio::test]
async fn what_the_passing_of_time_mends_is_replayed_as_it_is() {
    let stack = Stack::new();
    let mut early = record();
    early["time"] = json!("2026-11-22T10:30:00Z");
    let item = one_waiting(&stack, message(&entry("e-1", &[record(), early]))).await;
    replay(&stack, &item, json!({})).await.unprocessable(None);
    stack.at.time.set("2026-11-22T10:30:00Z".parse().unwrap());
    replay(&stack, &item, json!({})).await.json(200);
    assert_eq!(calls(&stack).await, 2);
}

#[tokio::test]
async fn a_conflicting_entry_can_be_counted_beside_the_first() {
    let stack = Stack::new();
    let bodies = [of_plan("pro"), of_plan("free")].map(|one| message(&entry("e-1", &[one])));
    deliver(&stack, &bodies).await;
    assert_eq!(calls(&stack).await, 1);
    let item = waiting(&stack).await.remove(0);
    assert_eq!(item["kind"], "conflict");
    replay(&stack, &item, json!({})).await.json(200);
    assert_eq!(calls(&stack).await, 2);
}

#[tokio::test]
async fn a_message_is_replayed_as_the_entry_that_it_should_have_been() {
    let stack = Stack::new();
    let item = one_waiting(&stack, "not even JSON".into()).await;
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
    let answer = replay(&stack, &item, body).await;
    answer.unprocessable(None);
    assert_eq!(answer.body["defects"][0]["pointer"], "/event");
    let body = json!({ "event": entry("whatever", &[record()]) });
    replay(&stack, &item, body).await.json(200);
    assert_eq!(calls(&stack).await, 1);
    let checked = Event::load("admin-api/replay-quarantined");
    checks_bodies(&stack.function, &checked.param("item", text(&item, "id"))).await;
}

#[tokio::test]
async fn what_is_dismissed_is_not_counted_any_more() {
    let stack = Stack::new();
    let item = one_waiting(&stack, message(&entry("e-1", &[of_plan("gold")]))).await;
    for _ in 0..2 {
        let answer = on(&stack, "dismiss-quarantined", &item, None).await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""));
    }
    assert_eq!(waiting(&stack).await, [json!(null); 0]);
    let event = entry("e-1", &[record()]);
    replay(&stack, &item, json!({ "event": event }))
        .await
        .conflict();
    assert_eq!(calls(&stack).await, 0);
}

/// Something whose replay ended half way, at the `nth` change to it, and the replay's body.
async fn half_way(stack: &Stack, nth: usize) -> (Value, Value) {
    let item = one_waiting(stack, message(&entry("e-1", &[of_plan("gold")]))).await;
    let mut changes = 0;
    stack.at.aws.inject(move |call| {
        changes += usize::from(call.operation() == "UpdateItem");
        match call.operation() {
            "UpdateItem" if changes >= nth => Fault::RequestLost,
            _ => Fault::None,
        }
    });
    let body = json!({ "event": entry("e-1", &[record()]) });
    let answer = replay(stack, &item, body.clone()).await;
    answer.problem(503, "temporarily-unavailable", None);
    stack.at.aws.heal();
    assert_eq!(waiting(stack).await.len(), 1);
    (item, body)
}

async fn status(stack: &Stack, item: &Value) -> Value {
    let whole = on(stack, "get-quarantined", item, None).await.json(200);
    whole["status"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_counted_and_could_not_say_so_is_ended_by_the_next() {
    let stack = Stack::new();
    let (item, body) = half_way(&stack, 2).await;
    assert_eq!(calls(&stack).await, 1);
    on(&stack, "dismiss-quarantined", &item, None)
        .await
        .conflict();
    assert_eq!(status(&stack, &item).await, "waiting");
    let answer = replay(&stack, &item, body).await.json(200);
    assert_eq!(answer["outcome"], "duplicate");
    assert_eq!(waiting(&stack).await, [json!(null); 0]);
    assert_eq!(calls(&stack).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_counted_is_ended_by_another_too() {
    let stack = Stack::new();
    let (item, mut body) = half_way(&stack, 2).await;
    body["event"]["data"]["records"][0]["status"] = 404.into();
    replay(&stack, &item, body).await.conflict();
    assert_eq!(status(&stack, &item).await, "replayed");
    assert_eq!(waiting(&stack).await, [json!(null); 0]);
    assert_eq!(calls(&stack).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_could_not_begin_has_counted_nothing() {
    let stack = Stack::new();
    let (item, _) = half_way(&stack, 1).await;
    assert_eq!(calls(&stack).await, 0);
    let answer = on(&stack, "dismiss-quarantined", &item, None).await;
    assert_eq!(answer.status, 204);
    assert_eq!(status(&stack, &item).await, "dismissed");
}

#[tokio::test]
async fn what_was_replayed_is_never_counted_again_however_long_ago_that_was() {
    let stack = Stack::new();
    let item = one_waiting(&stack, message(&entry("e-1", &[of_plan("gold")]))).await;
    let body = json!({ "event": entry("e-1", &[record()]) });
    let first = replay(&stack, &item, body.clone()).await.json(200);
    // The log keeps entries for 400 days.
    stack.at.time.set("2027-12-31T10:00:00Z".parse().unwrap());
    let pk = format!("{}#{}", text(&first, "source"), text(&first, "id"));
    let expired = json!({
        "TableName": "test-usage-log", "ReturnValues": "ALL_OLD",
        "Key": { "pk": { "S": pk }, "sk": { "S": "00" } },
    });
    let delete = "DynamoDB_20120810.DeleteItem";
    let (status, old) = stack.at.aws.answer(delete, &expired.to_string());
    assert!(status == 200 && old.contains(&pk), "{old}");
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
async fn what_is_sent_again_waits_once() {
    let stack = Stack::new();
    let mut unknown = entry("e-1", &[record()]);
    unknown["Surprise"] = true.into();
    // The bus makes another event of it each time.
    for id in ["first", "second"] {
        let event = json!({
            "id": id, "detail-type": "tollgate.usage.v1", "source": "test", "detail": unknown,
        });
        deliver(&stack, &[event.to_string()]).await;
    }
    assert_eq!(waiting(&stack).await.len(), 1);

    deliver(&stack, &[message(&entry("e-2", &[record()]))]).await;
    let rival = entry("e-2", &[record(), record()]);
    let spaced = serde_json::to_string_pretty(&rival).unwrap();
    let mut traced = rival.clone();
    traced["traceparent"] = "00-1".into();
    for text in [rival.to_string(), spaced, traced.to_string()] {
        let source = &rival["source"];
        let outside = format!(r#""detail-type":"tollgate.usage.v1","source":{source}"#);
        deliver(&stack, &[format!(r#"{{{outside},"detail":{text}}}"#)]).await;
    }
    assert_eq!(waiting(&stack).await.len(), 2);
}

#[tokio::test]
async fn what_names_nothing_is_not_found() {
    let stack = Stack::new();
    let item = json!({ "id": "nonsense" });
    let unknown =
        json!({ "id": Event::load("admin-api/get-quarantined").0["pathParameters"]["item"] });
    for item in [item, unknown] {
        on(&stack, "get-quarantined", &item, None).await.not_found();
        on(&stack, "dismiss-quarantined", &item, None)
            .await
            .not_found();
        replay(&stack, &item, json!({})).await.not_found();
    }
    let cursor = |list: &str| String::from(tollgate_web::Cursor::new(list, "nowhere".into()));
    for cursor in [cursor("quarantine"), cursor("customers")] {
        let query = [("cursor", cursor.as_str())];
        let list = stack
            .call("list-quarantine", |event| event.query(&query))
            .await;
        list.bad_request(Some("cursor"));
    }
}
