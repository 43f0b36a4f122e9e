//! `/admin/webhooks`.

#![allow(clippy::unwrap_used, reason = "a test that cannot begin has failed")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tollgate_domain::webhook::DeliveryFailure;
use tollgate_store::schema::EVENTS;
use tollgate_stripe::outbound::SigningSecret;
use tollgate_testing::p;
use tollgate_testing::response::{ApiResponse, data};
use tollgate_testing::stored::{items, stored};

use crate::stack::{NOW, Stack};

const URL: &str = "https://hooks.example/tollgate";

async fn create(stack: &Stack, body: Value) -> ApiResponse {
    stack
        .call("create-webhook", |event| event.body(&body))
        .await
}

async fn list(stack: &Stack) -> Value {
    let response = stack.call("list-webhooks", |event| event).await;
    response.json(200)
}

async fn delete(stack: &Stack, id: &str) -> ApiResponse {
    stack
        .call("delete-webhook", |event| event.param("webhook", id))
        .await
}

#[tokio::test]
async fn a_secret_is_shown_once_and_listed_never() {
    let stack = Stack::new();
    let body = json!({ "url": URL, "types": ["charge.failed", "quota.threshold"] });
    let mut created = create(&stack, body).await.json(201);
    let secret = created.as_object_mut().unwrap().remove("secret").unwrap();
    let secret = secret.as_str().unwrap();
    SigningSecret::parse(secret).unwrap();
    let expected = json!({
        "id": created["id"], "url": URL, "types": ["quota.threshold", "charge.failed"],
        "created_at": NOW, "disabled_at": null, "last_failure": null,
    });
    assert_eq!(created, expected);
    let listed = list(&stack).await;
    assert_eq!(listed, json!({ "data": [created] }));
    // It is in an item of its own.
    let with_secret = |item: &Value| item.to_string().contains(secret);
    let found: Vec<Value> = items(&stack.at, EVENTS)
        .into_iter()
        .filter(with_secret)
        .collect();
    let [item] = &found[..] else {
        panic!("{found:?}");
    };
    let pk = format!("SECRET#{}", created["id"].as_str().unwrap());
    assert_eq!(item["pk"]["S"], pk);
    // Each webhook has another.
    let other = create(&stack, json!({ "url": URL })).await.json(201);
    assert_ne!(other["secret"], secret);
    assert_eq!(other["types"], Value::Null);
}

#[tokio::test]
async fn a_failure_and_the_end_of_a_webhook_are_listed() {
    let stack = Stack::new();
    let created = create(&stack, json!({ "url": URL })).await.json(201);
    let id = p(created["id"].as_str().unwrap());
    let failure = DeliveryFailure {
        event: 7,
        at: p(NOW),
        reason: "the target responded with status 500".to_owned(),
    };
    let store = &stack.at.store;
    store.record_delivery_failure(&id, &failure).await.unwrap();
    store.disable_webhook(&id, p(NOW)).await.unwrap();
    let listed = list(&stack).await;
    let webhook = &data(&listed)[0];
    assert_eq!(webhook["disabled_at"], NOW);
    let expected =
        json!({ "event": 7, "at": NOW, "reason": "the target responded with status 500" });
    assert_eq!(webhook["last_failure"], expected);
}

#[tokio::test]
async fn a_deleted_webhook_leaves_nothing() {
    let stack = Stack::new();
    create(&stack, json!({ "url": URL })).await.json(201);
    let before = stored(&stack.at);
    let created = create(&stack, json!({ "url": URL })).await.json(201);
    let id = created["id"].as_str().unwrap();
    assert_eq!(delete(&stack, id).await.status, 204);
    assert_eq!(stored(&stack.at), before);
    delete(&stack, id).await.not_found();
    delete(&stack, "wh_unknown").await.not_found();
}

#[tokio::test]
async fn the_eleventh_webhook_is_a_conflict() {
    let stack = Stack::new();
    let mut ids = BTreeSet::new();
    for _ in 0..10 {
        let created = create(&stack, json!({ "url": URL })).await.json(201);
        ids.insert(created["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 10);
    create(&stack, json!({ "url": URL })).await.conflict();
    let first = ids.first().unwrap();
    assert_eq!(delete(&stack, first).await.status, 204);
    create(&stack, json!({ "url": URL })).await.json(201);
}

#[tokio::test]
async fn an_address_that_is_not_public_is_rejected() {
    let stack = Stack::new();
    for url in [
        "",
        "http://hooks.example/",
        "https://127.0.0.1/",
        "http://127.0.0.1:8080/",
        "https://localhost/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[fd00:ec2::254]/",
        "https://user:password@hooks.example/",
        "https://hooks.example/#part",
        "ftp://hooks.example/",
    ] {
        let response = create(&stack, json!({ "url": url })).await;
        response.unprocessable(Some("url"));
    }
    for types in [json!([]), json!(["charge"]), json!(["charge.failed", "x"])] {
        let response = create(&stack, json!({ "url": URL, "types": types })).await;
        response.unprocessable(Some("types"));
    }
    for body in [
        json!({}),
        json!({ "url": URL, "kinds": [] }),
        json!({ "url": 1 }),
    ] {
        let response = create(&stack, body).await;
        assert!([400, 422].contains(&response.status), "{}", response.status);
    }
    assert_eq!(list(&stack).await, json!({ "data": [] }));
}
