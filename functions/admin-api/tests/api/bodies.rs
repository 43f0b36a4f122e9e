//! Invalid request bodies.

use serde_json::json;
use tollgate_testing::customers::add_customer;
use tollgate_testing::event::Event;
use tollgate_testing::response::{checks_bodies, names_fields};

use crate::stack::Stack;

#[tokio::test]
async fn create_rejects_an_invalid_body() {
    let stack = Stack::new();
    let event = Event::load("admin-api/create-customer");
    checks_bodies(&stack.function, &event).await;
    let wrong = [
        ("id", json!("a b")),
        ("id", json!("")),
        ("id", json!(1)),
        ("name", json!(["Acme"])),
        ("name", json!(null)),
        ("email", json!(1)),
        ("plan", json!("Pro")),
        ("plan", json!(null)),
    ];
    names_fields(&stack.function, &event, &wrong).await;
}

#[tokio::test]
async fn create_names_a_missing_member() {
    let response = Stack::new().create(json!({ "id": "acme" })).await;
    let detail = response.bad_request(Some("plan"));
    assert!(detail.contains("missing field `plan`"), "{detail}");
}

#[tokio::test]
async fn update_rejects_an_invalid_body() {
    let stack = Stack::new();
    add_customer(&stack.at, "acme", "pro").await;
    let event = Event::load("admin-api/update-customer");
    checks_bodies(&stack.function, &event).await;
    let event = event.body(&json!({ "name": "", "email": null, "plan": "free" }));
    let wrong = [
        ("name", json!(1)),
        ("email", json!({})),
        ("plan", json!("Pro")),
        ("plan", json!(1)),
    ];
    names_fields(&stack.function, &event, &wrong).await;
}

#[tokio::test]
async fn a_billing_run_rejects_an_invalid_body() {
    let stack = Stack::new();
    let event = Event::load("admin-api/run-billing");
    checks_bodies(&stack.function, &event).await;
    let wrong = [("dry_run", json!("true")), ("dry_run", json!(1))];
    names_fields(&stack.function, &event, &wrong).await;
}
