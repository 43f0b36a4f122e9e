//! `PATCH /admin/api-keys/{key}`.

use serde_json::{Value, json};
use tollgate_testing::event::text;
use tollgate_testing::stored::stored;

use crate::stack::{Stack, view};

async fn with_key() -> (Stack, Value) {
    let stack = Stack::new().await;
    let body = json!({
        "customer_id": "acme",
        "name": "Production",
        "expires_at": "2027-01-01T00:00:00Z",
        "overrides": { "requests_per_hour": 500, "monthly_quota": 1_000 },
    });
    let key = stack.create(body).await.json(201);
    (stack, key)
}

#[tokio::test]
async fn an_admin_key_is_not_changed() {
    let stack = Stack::new().await;
    let key = stack.admin_key("Ops").await;
    let before = stored(&stack.at);
    for name in ["id", "prefix"] {
        let patch = json!({ "expires_at": null });
        stack.update(text(&key, name), patch).await.forbidden();
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_patch_changes_only_its_members() {
    let check = async |patch: Value, changed: Value| {
        let (stack, key) = with_key().await;
        let other = stack.key("acme", "Another").await;
        let mut expected = view(&key);
        expected
            .as_object_mut()
            .unwrap()
            .extend(changed.as_object().unwrap().clone());
        let updated = stack.update(text(&key, "prefix"), patch.clone()).await;
        assert_eq!(updated.json(200), expected, "{patch}");
        assert_eq!(stack.get(text(&key, "id")).await, expected, "{patch}");
        assert_eq!(stack.get(text(&other, "id")).await, view(&other));
    };
    let both = |rate, quota| json!({ "requests_per_hour": rate, "monthly_quota": quota });
    check(json!({ "name": "Staging" }), json!({ "name": "Staging" })).await;
    check(json!({ "name": "" }), json!({ "name": "" })).await;
    check(json!({ "name": null }), json!({ "name": "" })).await;
    let later = json!({ "expires_at": "2028-01-01T00:00:00Z" });
    check(later.clone(), later).await;
    let sooner = json!({ "expires_at": "2026-11-22T10:00:00.001Z" });
    check(sooner.clone(), sooner).await;
    let never = json!({ "expires_at": null });
    check(never.clone(), never).await;
    check(
        json!({ "overrides": { "monthly_quota": 5 } }),
        json!({ "overrides": both(500, 5) }),
    )
    .await;
    check(
        json!({ "overrides": { "requests_per_hour": null } }),
        json!({ "overrides": { "monthly_quota": 1_000 } }),
    )
    .await;
    check(
        json!({ "overrides": { "requests_per_hour": 0, "monthly_quota": null } }),
        json!({ "overrides": { "requests_per_hour": 0 } }),
    )
    .await;
    check(json!({ "overrides": null }), json!({ "overrides": {} })).await;
    check(
        json!({ "name": "All", "expires_at": null, "overrides": both(1, 2) }),
        json!({ "name": "All", "expires_at": null, "overrides": both(1, 2) }),
    )
    .await;
}

#[tokio::test]
async fn an_invalid_patch_changes_nothing() {
    let (stack, key) = with_key().await;
    let before = stored(&stack.at);
    let check = async |patch: Value, field: Option<&str>| {
        let response = stack.update(text(&key, "id"), patch).await;
        response.unprocessable(field);
        assert_eq!(stored(&stack.at), before);
    };
    check(json!({}), None).await;
    check(json!({ "overrides": {} }), None).await;
    check(json!({ "enabled": null }), Some("enabled")).await;
    check(json!({ "name": "x".repeat(101) }), Some("name")).await;
    check(json!({ "name": "\u{7f}" }), Some("name")).await;
    let now = json!({ "name": "Staging", "expires_at": "2026-11-22T10:00:00Z" });
    check(now, Some("expires_at")).await;
    for limit in ["requests_per_hour", "monthly_quota"] {
        let patch = json!({ "overrides": { limit: 1_000_000_000_001_u64 } });
        check(patch, Some(&format!("overrides.{limit}"))).await;
    }
}

/// Whoever has seen a key would gain by a higher role.
#[tokio::test]
async fn the_role_of_a_key_cannot_be_changed() {
    let stack = Stack::new().await;
    for role in ["call", "manage"] {
        let body = json!({ "customer_id": "acme", "role": role });
        let key = stack.create(body).await.json(201);
        let before = stored(&stack.at);
        for patch in [
            json!({ "role": "manage" }),
            json!({ "role": "call", "name": "Staging" }),
            json!({ "role": null }),
        ] {
            let response = stack.update(text(&key, "id"), patch).await;
            let detail = response.bad_request(Some("role"));
            assert!(detail.contains("unknown field `role`"), "{detail}");
        }
        assert_eq!(stored(&stack.at), before);
        let named = stack.update(text(&key, "id"), json!({ "name": "Staging" }));
        assert_eq!(named.await.json(200)["role"], role);
    }
}

#[tokio::test]
async fn an_unknown_key_is_not_found() {
    let (stack, _) = with_key().await;
    let before = stored(&stack.at);
    for name in ["key_unknown", "tg_live_AbCd1234"] {
        let response = stack.update(name, json!({ "name": "Staging" })).await;
        response.not_found();
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_revoked_key_cannot_be_changed() {
    let (stack, key) = with_key().await;
    stack.revoke(text(&key, "id")).await;
    let before = stored(&stack.at);
    for patch in [json!({ "name": "Staging" }), json!({ "expires_at": null })] {
        let response = stack.update(text(&key, "id"), patch).await;
        let detail = response.conflict();
        assert!(detail.contains("revoked"), "{detail}");
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn after_a_rotation_only_the_expiry_cannot_be_changed() {
    let (stack, key) = with_key().await;
    let id = text(&key, "id");
    stack.rotate(id, 60).await.json(201);
    let before = stored(&stack.at);
    for expiry in [json!(null), json!("2027-01-01T00:00:00Z")] {
        let response = stack.update(id, json!({ "name": "", "expires_at": expiry }));
        let response = response.await;
        let detail = response.conflict();
        assert!(detail.contains("rotated"), "{detail}");
    }
    assert_eq!(stored(&stack.at), before);
    let renamed = stack.update(id, json!({ "name": "Old" })).await.json(200);
    assert_eq!(renamed["name"], "Old");
    assert_eq!(renamed["expires_at"], "2026-11-22T10:01:00Z");
}

#[tokio::test]
async fn an_expired_key_can_be_extended() {
    let (stack, key) = with_key().await;
    stack.at.time.set("2027-01-01T00:00:00Z".parse().unwrap());
    let patch = json!({ "expires_at": "2027-02-01T00:00:00Z" });
    let updated = stack.update(text(&key, "id"), patch).await.json(200);
    assert_eq!(updated["status"], "active");
}

#[tokio::test]
async fn a_suspension_keeps_its_first_time_and_can_be_undone() {
    let (stack, key) = with_key().await;
    let mut expected = view(&key);
    expected["status"] = "suspended".into();
    expected["enabled"] = false.into();
    expected["suspended_at"] = "2026-11-22T10:00:00Z".into();
    for _ in 0..2 {
        let updated = stack.update(text(&key, "id"), json!({ "enabled": false }));
        assert_eq!(updated.await.json(200), expected);
        stack.advance_s(60);
    }
    assert_eq!(stack.get(text(&key, "prefix")).await, expected);
    let updated = stack.update(text(&key, "id"), json!({ "enabled": true }));
    assert_eq!(updated.await.json(200), view(&key));
}

#[tokio::test]
async fn a_revoked_key_is_not_enabled_again() {
    let (stack, key) = with_key().await;
    let id = text(&key, "id");
    stack
        .update(id, json!({ "enabled": false }))
        .await
        .json(200);
    stack.revoke(id).await;
    let before = stored(&stack.at);
    let response = stack.update(id, json!({ "enabled": true })).await;
    response.conflict();
    assert_eq!(stored(&stack.at), before);
}
