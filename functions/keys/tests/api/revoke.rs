//! `DELETE /admin/api-keys/{key}`.

use serde_json::Value;
use tollgate_testing::event::text;
use tollgate_testing::response::ApiResponse;
use tollgate_testing::stored::stored;

use crate::stack::{Stack, view};

fn no_content(response: &ApiResponse) {
    assert_eq!((response.status, response.text.as_str()), (204, ""));
    assert_eq!(response.header("content-type"), None);
}

#[tokio::test]
async fn a_key_is_revoked_by_id_and_by_prefix() {
    let stack = Stack::new().await;
    for name in ["id", "prefix"] {
        let key = stack.key("acme", name).await;
        stack.advance_s(5);
        let now = stack.at.clock().now().to_string();
        no_content(&stack.revoke(text(&key, name)).await);
        let mut expected = view(&key);
        expected["status"] = "revoked".into();
        expected["revoked_at"] = now.into();
        assert_eq!(stack.get(text(&key, "id")).await, expected);
    }
}

#[tokio::test]
async fn an_admin_key_is_shown_and_revoked() {
    let stack = Stack::new().await;
    for name in ["id", "prefix"] {
        let key = stack.admin_key("Ops").await;
        let shown = stack.get(text(&key, name)).await;
        assert_eq!(
            (&shown["role"], &shown["status"]),
            (&"admin".into(), &"active".into())
        );
        no_content(&stack.revoke(text(&key, name)).await);
        assert_eq!(stack.get(text(&key, "id")).await["status"], "revoked");
    }
}

#[tokio::test]
async fn a_second_revocation_changes_nothing() {
    let stack = Stack::new().await;
    let key = stack.key("acme", "").await;
    stack.revoke(text(&key, "id")).await;
    let revoked_at = stack.get(text(&key, "id")).await["revoked_at"].clone();
    assert_eq!(revoked_at, "2026-11-22T10:00:00Z");
    let before = stored(&stack.at);
    stack.advance_s(5);
    no_content(&stack.revoke(text(&key, "prefix")).await);
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn only_the_named_key_is_revoked() {
    let stack = Stack::new().await;
    let (key, other) = (stack.key("acme", "").await, stack.key("acme", "").await);
    stack.revoke(text(&key, "id")).await;
    assert_eq!(stack.get(text(&key, "id")).await["status"], "revoked");
    assert_eq!(stack.get(text(&other, "id")).await, view(&other));
}

#[tokio::test]
async fn an_unknown_key_is_not_found() {
    let stack = Stack::new().await;
    let before = stored(&stack.at);
    for name in ["key_unknown", "tg_live_AbCd1234", "a b"] {
        stack.revoke(name).await.not_found();
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn an_expired_key_can_still_be_revoked() {
    let stack = Stack::new().await;
    let key = stack.key("acme", "").await;
    stack.rotate(text(&key, "id"), 0).await;
    no_content(&stack.revoke(text(&key, "id")).await);
    let shown = stack.get(text(&key, "id")).await;
    assert_eq!(shown["status"], "revoked");
    assert_ne!(shown["rotated_to"], Value::Null);
}
