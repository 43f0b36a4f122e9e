//! Claims: what the writer decides if other attempts claim the same events, and which ids share a bucket.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde_json::{Value, json};
use tollgate_domain::id::uuid_v7;
use tollgate_local_aws::{Call, Fault};
use tollgate_runtime::Entropy;
use tollgate_store::Store;
use tollgate_store::schema::{QUARANTINE, USAGE, USAGE_LOG};

mod common;

use common::{NOW, Stack, aggregate, batch, body, deliver, p, record, usage_event};

const NONE: [&str; 0] = [];

fn event(id: &str) -> String {
    body(&usage_event(id, "acme", [record(NOW, "/a")]))
}

async fn calls(stack: &Stack) -> u64 {
    let month = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
    month.unwrap().calls
}

/// Returns the item of the marker in a transaction.
fn marker(transaction: &Call) -> Value {
    let request: Value = serde_json::from_str(&transaction.body).unwrap();
    let put = &request["TransactItems"][0]["Put"];
    assert!(
        put["Item"]["pk"]["S"]
            .as_str()
            .unwrap()
            .starts_with("#ATTEMPT#")
    );
    put.clone()
}

/// Another attempt on the same event may have waited for this one for so long that it has aborted it.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_aborted_counts_nothing() {
    let stack = Stack::new();
    let aws = stack.at.aws.clone();
    stack.at.aws.inject(move |call| {
        if call.operation() == "TransactWriteItems" {
            let mut put = marker(call);
            put["Item"]["state"] = json!({ "S": "aborted" });
            for member in ["ConditionExpression", "ReturnValuesOnConditionCheckFailure"] {
                put.as_object_mut().unwrap().remove(member);
            }
            let (status, response) = aws.call("DynamoDB_20120810.PutItem", &put.to_string());
            assert_eq!(status, 200, "{response}");
        }
        Fault::None
    });
    let failed = deliver(&stack.app, batch(&[("m-1", event("e-1"))])).await;
    assert_eq!(failed, ["m-1"]);
    assert!(stack.items(USAGE).is_empty());
    assert!(stack.logged(&["acme"]).await.is_empty());
    stack.at.aws.heal();
    stack.count(&event("e-1")).await;
    assert_eq!(calls(&stack).await, 1);
    assert_eq!(stack.logged(&["acme"]).await.len(), 1);
}

/// The marker decides, whoever writes it first.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_commits_before_it_is_aborted_has_counted() {
    let stack = Stack::new();
    let lost = Arc::new(Mutex::new(None::<Call>));
    let losing = Arc::clone(&lost);
    let is_abort = |call: &Call| call.operation() == "PutItem" && call.body.contains("aborted");
    stack.at.aws.inject(move |call| {
        if call.operation() == "TransactWriteItems" {
            *losing.lock().unwrap() = Some(call.clone());
            return Fault::RequestLost;
        }
        match is_abort(call) {
            true => Fault::RequestLost,
            false => Fault::None,
        }
    });
    let messages = [("m-1", event("e-1"))];
    assert_eq!(deliver(&stack.app, batch(&messages)).await, ["m-1"]);
    // The attempt has no marker: until it is old, the event is left to it.
    stack.at.aws.heal();
    assert_eq!(deliver(&stack.app, batch(&messages)).await, ["m-1"]);
    assert_eq!(calls(&stack).await, 0);
    stack.abandon_attempts();
    let (aws, lost) = (stack.at.aws.clone(), lost.lock().unwrap().take().unwrap());
    let mut late = Some(lost);
    stack.at.aws.inject(move |call| {
        if is_abort(call)
            && let Some(late) = late.take()
        {
            let (status, response) = aws.call(&late.target, &late.body);
            assert_eq!(status, 200, "{response}");
        }
        Fault::None
    });
    assert_eq!(deliver(&stack.app, batch(&messages)).await, NONE);
    assert_eq!(calls(&stack).await, 1);
    assert_eq!(stack.logged(&["acme"]).await.len(), 1);
}

/// The second event conflicts with whichever of the two is counted.
#[tokio::test(start_paused = true)]
async fn a_conflicting_event_waits_until_the_first_is_decided() {
    let stack = Stack::new();
    stack
        .at
        .aws
        .inject(|call| match call.body.contains("#ATTEMPT#") {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    let first = event("e-1");
    let second = body(&usage_event("e-1", "acme", [record(NOW, "/b")]));
    assert_eq!(
        deliver(&stack.app, batch(&[("m-1", &first)])).await,
        ["m-1"]
    );
    stack.at.aws.heal();
    assert_eq!(
        deliver(&stack.app, batch(&[("m-2", &second)])).await,
        ["m-2"]
    );
    assert!(stack.items(QUARANTINE).is_empty());
    stack.abandon_attempts();
    let both = [("m-2", &second), ("m-1", &first)];
    assert_eq!(deliver(&stack.app, batch(&both)).await, NONE);
    assert_eq!(calls(&stack).await, 1);
    assert_eq!(stack.quarantined("e-1").await.len(), 1);
}

#[tokio::test]
async fn ids_that_differ_in_unicode_form_or_case_are_two() {
    let stack = Stack::new();
    let id = "019AB1F2-79B0-7CC3-98C4-DC0C0C07398F";
    let ids = ["caf\u{e9}", "cafe\u{301}", id, &id.to_lowercase()];
    for _ in 0..2 {
        for id in ids {
            stack.count(&event(id)).await;
        }
    }
    assert_eq!(calls(&stack).await, 4);
    assert_eq!(stack.logged(&["acme"]).await.len(), 4);
}

/// A clock that is wrong makes counting dearer, and nothing else.
#[tokio::test]
async fn ids_of_any_century_are_counted_once() {
    let stack = Stack::new();
    let entropy = Entropy::seeded(1);
    let times = [
        "1970-01-01T00:00:00Z",
        "2126-11-22T10:00:00Z",
        "9999-12-30T22:00:00Z",
        NOW,
    ];
    let ids = times.map(|time| {
        let time: Timestamp = p(time);
        entropy.with(|rng| uuid_v7(time, rng))
    });
    let messages: Vec<(&str, String)> = ids.iter().map(|id| (&**id, event(id))).collect();
    for _ in 0..2 {
        assert_eq!(deliver(&stack.app, batch(&messages)).await, NONE);
        assert_eq!(calls(&stack).await, 4);
    }
    for message in &messages {
        stack.count(&message.1).await;
    }
    assert_eq!(calls(&stack).await, 4);
}

#[tokio::test]
async fn ids_of_one_moment_are_counted_once_though_their_bucket_is_divided() {
    let stack = Stack::new();
    let [first, unaware] = [(), ()].map(|()| {
        let (sdk, entropy) = (stack.at.aws.sdk_config(), stack.at.entropy.clone());
        let mut app = stack.app.clone();
        app.ingest.store = Store::new(&sdk, "test", stack.at.clock(), entropy).with_buckets_of(10);
        app
    });
    let entropy = Entropy::seeded(1);
    let ids: Vec<String> = (0..60)
        .map(|_| entropy.with(|rng| uuid_v7(p(NOW), rng)))
        .collect();
    let messages: Vec<(&str, String)> = ids.iter().map(|id| (&**id, event(id))).collect();
    for messages in messages.chunks(7) {
        assert_eq!(deliver(&first, batch(messages)).await, NONE);
    }
    let closed = stack.items(USAGE_LOG);
    let closed = closed.iter().filter(|item| item["sk"]["S"] == "#CLOSED");
    assert!(closed.count() >= 1);
    let expected = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
    assert_eq!(expected.unwrap(), aggregate(60));
    for app in [&first, &unaware] {
        for messages in messages.chunks(20) {
            assert_eq!(deliver(app, batch(messages)).await, NONE);
        }
        assert_eq!(calls(&stack).await, 60);
    }
}
