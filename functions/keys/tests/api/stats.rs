//! `GET /admin/api-keys/stats`.

use serde_json::{Value, json};
use tollgate_testing::event::text;

use crate::stack::Stack;

async fn stats(stack: &Stack) -> Value {
    stack.call("stats", |event| event).await.json(200)
}

fn counts(total: u64, active: u64, expired: u64, revoked: u64) -> Value {
    let suspended = total - active - expired - revoked;
    json!({
        "total": total, "active": active, "suspended": suspended, "expired": expired,
        "revoked": revoked,
    })
}

#[tokio::test]
async fn without_keys_all_counts_are_zero() {
    let stack = Stack::new().await;
    let mut expected = counts(0, 0, 0, 0);
    expected["by_plan"] = json!({});
    expected["admin"] = counts(0, 0, 0, 0);
    assert_eq!(stats(&stack).await, expected);
}

#[tokio::test]
async fn keys_are_counted_by_status_and_plan() {
    let stack = Stack::new().await;
    stack.key("acme", "").await;
    stack.key("acme", "").await;
    let revoked = stack.key("acme", "").await;
    stack.revoke(text(&revoked, "id")).await;
    let expiring = json!({ "customer_id": "bolt", "expires_at": "2026-11-22T10:01:00Z" });
    let expired_and_revoked = stack.create(expiring.clone()).await.json(201);
    stack.create(expiring).await.json(201);
    stack.admin_key("").await;
    stack.advance_s(60);
    stack.revoke(text(&expired_and_revoked, "id")).await;

    let mut expected = counts(6, 3, 1, 2);
    expected["by_plan"] = json!({ "pro": counts(3, 2, 0, 1), "free": counts(2, 0, 1, 1) });
    expected["admin"] = counts(1, 1, 0, 0);
    assert_eq!(stats(&stack).await, expected);
}

#[tokio::test]
async fn a_rotated_key_is_active_until_it_expires() {
    let stack = Stack::new().await;
    let key = stack.key("acme", "").await;
    stack.rotate(text(&key, "id"), 60).await.json(201);
    assert_eq!(stats(&stack).await["by_plan"]["pro"], counts(2, 2, 0, 0));
    stack.advance_s(60);
    assert_eq!(stats(&stack).await["by_plan"]["pro"], counts(2, 1, 1, 0));
}

#[tokio::test]
async fn a_suspended_key_is_counted_as_suspended_until_it_expires() {
    let stack = Stack::new().await;
    let expiring = json!({ "customer_id": "acme", "expires_at": "2026-11-22T10:01:00Z" });
    let key = stack.create(expiring).await.json(201);
    let suspend = json!({ "enabled": false });
    stack.update(text(&key, "id"), suspend).await.json(200);
    assert_eq!(stats(&stack).await["by_plan"]["pro"], counts(1, 0, 0, 0));
    stack.advance_s(60);
    assert_eq!(stats(&stack).await["by_plan"]["pro"], counts(1, 0, 1, 0));
}
