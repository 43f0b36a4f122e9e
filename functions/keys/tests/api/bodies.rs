//! Invalid request bodies.

use serde_json::json;
use tollgate_testing::event::{Event, text};
use tollgate_testing::response::{checks_bodies, names_fields};

use crate::stack::Stack;

#[tokio::test]
async fn create_rejects_an_invalid_body() {
    let stack = Stack::new().await;
    let event = Event::load("keys/create");
    checks_bodies(&stack.function("create"), &event).await;
    let event = event.body(&json!({ "role": "call", "customer_id": "acme", "name": "",
        "expires_at": null, "overrides": { "requests_per_hour": 1, "monthly_quota": 1 } }));
    let wrong = [
        ("role", json!("root")),
        ("role", json!("customer")),
        ("role", json!(["manage"])),
        ("role", json!(1)),
        ("customer_id", json!("a b")),
        ("customer_id", json!(["acme"])),
        ("name", json!(1)),
        ("name", json!(null)),
        ("expires_at", json!("tomorrow")),
        ("expires_at", json!("2027-01-01T00:00:00")),
        ("expires_at", json!("2027-01-01T00:00Z")),
        ("expires_at", json!("20270101T000000Z")),
        ("expires_at", json!("2027-01-01 00:00:00Z")),
        ("expires_at", json!("2027-01-01T00:00:00Z[UTC]")),
        ("expires_at", json!("9999-12-31T23:59:59Z")),
        ("expires_at", json!(1_798_761_600)),
        ("overrides", json!("none")),
        ("overrides", json!([5, 6])),
        ("overrides.requests_per_hour", json!(-1)),
        ("overrides.monthly_quota", json!(1.5)),
        ("overrides.monthly_quota", json!("1000")),
    ];
    names_fields(&stack.function("create"), &event, &wrong).await;
}

#[tokio::test]
async fn update_rejects_an_invalid_body() {
    let stack = Stack::new().await;
    let key = stack.key("acme", "Production").await;
    let event = Event::load("keys/update").param("key", text(&key, "id"));
    checks_bodies(&stack.function("update"), &event).await;
    let event = event.body(&json!({ "name": "", "expires_at": null,
        "overrides": { "requests_per_hour": null, "monthly_quota": null } }));
    let wrong = [
        ("name", json!({})),
        ("expires_at", json!("")),
        ("expires_at", json!("2027-01-01T00:00:00+01")),
        ("expires_at", json!("9999-12-31T23:59:59Z")),
        ("overrides", json!(5)),
        ("overrides", json!([5, 6])),
        ("overrides.requests_per_hour", json!("1")),
        ("overrides.monthly_quota", json!(-1)),
    ];
    names_fields(&stack.function("update"), &event, &wrong).await;
}

#[tokio::test]
async fn rotate_rejects_an_invalid_body() {
    let stack = Stack::new().await;
    let key = stack.key("acme", "Production").await;
    let event = Event::load("keys/rotate").param("key", text(&key, "id"));
    checks_bodies(&stack.function("rotate"), &event).await;
    let wrong = [
        ("grace_period_s", json!(-1)),
        ("grace_period_s", json!(0.5)),
        ("grace_period_s", json!("3600")),
        ("grace_period_s", json!(null)),
        ("grace_period_s", json!(1.0e300)),
    ];
    names_fields(&stack.function("rotate"), &event, &wrong).await;
}

#[tokio::test]
async fn the_problem_for_a_time_out_of_range_names_the_latest_time() {
    let stack = Stack::new().await;
    let create = async |expires_at: &str| {
        let body = json!({ "customer_id": "acme", "expires_at": expires_at });
        stack.create(body).await
    };
    let response = create("9999-12-31T23:59:59Z").await;
    let detail = response.bad_request(Some("expires_at"));
    assert!(
        detail.contains("the latest time is 9999-12-30T22:00:00Z"),
        "{detail}"
    );
    let created = create("9999-12-30T22:00:00Z").await.json(201);
    assert_eq!(created["expires_at"], "9999-12-30T22:00:00Z");
    assert_eq!(stack.get(text(&created, "id")).await["status"], "active");
}

#[tokio::test]
async fn an_unknown_member_of_overrides_is_named() {
    let stack = Stack::new().await;
    let body = json!({ "customer_id": "acme", "overrides": { "per_day": 1 } });
    let response = stack.create(body.clone()).await;
    response.bad_request(Some("overrides.per_day"));
    let key = stack.key("acme", "Production").await;
    let patch = json!({ "overrides": { "per_day": 1 } });
    let response = stack.update(text(&key, "id"), patch).await;
    response.bad_request(Some("overrides.per_day"));
}
