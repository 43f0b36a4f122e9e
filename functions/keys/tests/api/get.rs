//! `GET /admin/api-keys/{key}`.

use serde_json::json;
use tollgate_testing::event::text;

use crate::stack::{Stack, view};

#[tokio::test]
async fn a_key_is_found_by_id_and_by_prefix() {
    let stack = Stack::new().await;
    let key = stack.key("acme", "Production").await;
    stack.key("acme", "Another").await;
    for name in ["id", "prefix"] {
        let found = stack.call("get", |event| event.param("key", text(&key, name)));
        let found = found.await;
        let secret = &text(&key, "key")[text(&key, "prefix").len()..];
        assert!(!found.text.contains(secret));
        assert_eq!(found.json(200), view(&key));
    }
}

#[tokio::test]
async fn an_unknown_key_is_not_found() {
    let stack = Stack::new().await;
    let key = stack.key("acme", "Production").await;
    let long = "x".repeat(65);
    let names = [
        "key_unknown",
        "tg_live_AbCd1234",
        text(&key, "key"),
        "acme",
        "a b",
        "%",
        "%20",
        "ü",
        "..",
        &long,
    ];
    for name in names {
        let response = stack.call("get", |event| event.param("key", name)).await;
        response.not_found();
    }
}

#[tokio::test]
async fn a_key_expires_at_its_expiry_to_the_second() {
    let stack = Stack::new().await;
    let body = json!({ "customer_id": "acme", "expires_at": "2026-11-22T10:01:00Z" });
    let key = stack.create(body).await.json(201);
    let id = text(&key, "id");
    stack.advance_s(59);
    assert_eq!(stack.get(id).await["status"], "active");
    stack.advance_s(1);
    assert_eq!(stack.get(id).await["status"], "expired");
}
