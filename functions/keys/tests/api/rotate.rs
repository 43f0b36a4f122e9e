//! `POST /admin/api-keys/{key}/rotate`.

use serde_json::{Value, json};
use tollgate_domain::key::ApiKey;
use tollgate_store::KeyRef;
use tollgate_testing::event::{Event, text};
use tollgate_testing::response::ApiResponse;
use tollgate_testing::stored::stored;

use crate::stack::{Stack, view};

async fn with_key(expires_at: Option<&str>) -> (Stack, Value) {
    let stack = Stack::new().await;
    let body = json!({
        "customer_id": "acme",
        "name": "Production",
        "role": "manage",
        "expires_at": expires_at,
        "overrides": { "requests_per_hour": 500, "monthly_quota": 1_000 },
    });
    let key = stack.create(body).await.json(201);
    stack.advance_s(10);
    (stack, key)
}

async fn rotate_once(stack: &Stack, once: &str, key: &str, grace_period_s: u64) -> ApiResponse {
    let body = json!({ "grace_period_s": grace_period_s });
    let change = |event: Event| {
        let event = event.param("key", key).body(&body);
        event.header("Idempotency-Key", once)
    };
    stack.call("rotate", change).await
}

#[tokio::test]
async fn the_successor_has_the_attributes_of_the_old_key() {
    for name in ["id", "prefix"] {
        let (stack, old) = with_key(Some("2027-01-01T00:00:00Z")).await;
        let response = stack.rotate(text(&old, name), 3_600).await;
        let location = response.header("location").unwrap().to_owned();
        let new = response.json(201);

        let secret = ApiKey::parse(text(&new, "key")).unwrap();
        assert_eq!(secret.prefix().as_str(), text(&new, "prefix"));
        assert_eq!(location, format!("/admin/api-keys/{}", text(&new, "id")));
        for member in ["key", "id", "prefix"] {
            assert_ne!(new[member], old[member]);
        }
        let mut expected = view(&old);
        for member in ["id", "prefix"] {
            expected[member] = new[member].clone();
        }
        expected["created_at"] = "2026-11-22T10:00:10Z".into();
        assert_eq!(view(&new), expected);
        assert_eq!(stack.get(text(&new, "id")).await, expected);
        let found = stack.at.store.key_by_digest(secret.digest()).await.unwrap();
        assert_eq!(found.unwrap().id.as_str(), text(&new, "id"));

        let mut expected = view(&old);
        expected["rotated_to"] = new["id"].clone();
        expected["expires_at"] = "2026-11-22T11:00:10Z".into();
        assert_eq!(stack.get(text(&old, "id")).await, expected);
    }
}

/// A rotation replaces a key; it is no way to a higher role or a later expiry.
#[tokio::test]
async fn a_successor_has_the_role_of_the_old_key_and_exceeds_it_in_nothing() {
    let stack = Stack::new().await;
    let key = async |created: &Value| {
        let id = KeyRef::Id(text(created, "id").parse().unwrap());
        stack.at.store.key(&id).await.unwrap().unwrap()
    };
    for role in ["call", "manage"] {
        for expires_at in [Value::Null, "2026-11-23T10:00:00Z".into()] {
            let body = json!({ "customer_id": "acme", "role": role, "expires_at": expires_at });
            let old = stack.create(body).await.json(201);
            let granted = key(&old).await.grant();
            let new = stack.rotate(text(&old, "id"), 60).await.json(201);
            assert_eq!(new["role"], role);
            assert_eq!(key(&new).await.grant(), granted);
            assert!(granted.covers(key(&old).await.grant()));
            // A member of the body would be another way.
            let body = json!({ "grace_period_s": 60, "role": "manage" });
            let id = text(&new, "id");
            let response = stack.call("rotate", |event| event.param("key", id).body(&body));
            response.await.bad_request(Some("role"));
        }
    }
}

#[tokio::test]
async fn an_admin_key_is_not_rotated() {
    let stack = Stack::new().await;
    let key = stack.admin_key("Ops").await;
    let before = stored(&stack.at);
    for name in ["id", "prefix"] {
        stack.rotate(text(&key, name), 0).await.forbidden();
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn the_old_key_expires_after_the_grace_period_and_no_later_than_its_expiry() {
    let check = async |expiry: Option<&str>, grace: Value, ends: &str| {
        let (stack, old) = with_key(expiry).await;
        let body = match &grace {
            Value::Null => json!({}),
            grace => json!({ "grace_period_s": grace }),
        };
        let id = text(&old, "id");
        let rotated = stack.call("rotate", |event| event.param("key", id).body(&body));
        let new = rotated.await.json(201);
        assert_eq!(stack.get(id).await["expires_at"], ends, "{grace}");
        assert_eq!(new["expires_at"], old["expires_at"], "{grace}");
        stack.at.time.set(ends.parse().unwrap());
        assert_eq!(stack.get(id).await["status"], "expired");
    };
    check(None, json!(60), "2026-11-22T10:01:10Z").await;
    check(None, json!(null), "2026-11-23T10:00:10Z").await;
    check(None, json!(2_592_000), "2026-12-22T10:00:10Z").await;
    check(None, json!(0), "2026-11-22T10:00:10Z").await;
    let soon = "2026-11-22T10:00:30Z";
    check(Some(soon), json!(19), "2026-11-22T10:00:29Z").await;
    check(Some(soon), json!(21), soon).await;
    check(Some(soon), json!(null), soon).await;
}

#[tokio::test]
async fn a_key_has_one_successor() {
    let (stack, old) = with_key(None).await;
    let first = stack.rotate(text(&old, "id"), 60).await.json(201);
    let before = stored(&stack.at);
    let check_again = async || {
        let again = stack.rotate(text(&old, "prefix"), 60).await;
        again.conflict();
        assert_eq!(again.body["rotated_to"], first["id"]);
        assert_eq!(stored(&stack.at), before);
    };
    check_again().await;
    stack.advance_s(60);
    check_again().await;
}

#[tokio::test]
async fn a_successor_can_be_rotated_in_turn() {
    let (stack, first) = with_key(None).await;
    let second = stack.rotate(text(&first, "id"), 60).await.json(201);
    let third = stack.rotate(text(&second, "id"), 60).await.json(201);
    let shown = stack.get(text(&second, "id")).await;
    assert_eq!(shown["rotated_to"], third["id"]);
}

#[tokio::test]
async fn of_two_concurrent_rotations_one_succeeds() {
    let (stack, old) = with_key(None).await;
    let id = text(&old, "id");
    let (one, other) = tokio::join!(stack.rotate(id, 60), stack.rotate(id, 60));
    let (won, lost) = match one.status {
        201 => (one, other),
        _ => (other, one),
    };
    lost.conflict();
    assert_eq!(lost.body["rotated_to"], won.json(201)["id"]);
}

#[tokio::test]
async fn an_expired_or_revoked_key_is_not_rotated() {
    let check = async |stack: &Stack, key: &Value, reason: &str| {
        let before = stored(&stack.at);
        let id = text(key, "id");
        for response in [
            stack.rotate(id, 60).await,
            rotate_once(stack, "once", id, 60).await,
        ] {
            let detail = response.conflict();
            assert!(detail.contains(reason), "{detail}");
        }
        assert_eq!(stored(&stack.at), before);
    };
    let (stack, key) = with_key(Some("2026-11-22T10:00:10Z")).await;
    check(&stack, &key, "expired").await;
    let (stack, key) = with_key(None).await;
    stack.revoke(text(&key, "id")).await;
    check(&stack, &key, "revoked").await;
    let (stack, key) = with_key(None).await;
    stack.rotate(text(&key, "id"), 60).await.json(201);
    stack.revoke(text(&key, "id")).await;
    check(&stack, &key, "revoked").await;
}

#[tokio::test]
async fn an_invalid_rotation_is_rejected() {
    let (stack, key) = with_key(None).await;
    let before = stored(&stack.at);
    let too_long = stack.rotate(text(&key, "id"), 2_592_001).await;
    too_long.unprocessable(Some("grace_period_s"));
    stack.rotate("key_unknown", 60).await.not_found();
    stack.rotate("tg_live_AbCd1234", 60).await.not_found();
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_repeated_rotation_returns_no_secret() {
    for grace in [60, 0] {
        let (stack, old) = with_key(None).await;
        let id = text(&old, "id");
        let first = rotate_once(&stack, "once", id, grace).await.json(201);
        let before = stored(&stack.at);
        stack.advance_s(5);
        for name in ["id", "prefix"] {
            let again = rotate_once(&stack, "once", text(&old, name), grace).await;
            let again = again.json(200);
            assert_eq!(again["key"], Value::Null);
            assert_eq!(view(&again), view(&first));
        }
        assert_eq!(stored(&stack.at), before);
    }
}

#[tokio::test]
async fn a_rotation_can_be_repeated_after_its_keys_have_ended() {
    let expiry = "2026-11-22T11:00:00Z";
    for ends in ["grace", "expiry", "revocation"] {
        let (stack, old) = with_key(Some(expiry)).await;
        let id = text(&old, "id");
        let first = rotate_once(&stack, "once", id, 60).await.json(201);
        match ends {
            "grace" => stack.advance_s(60),
            "expiry" => stack.at.time.set(expiry.parse().unwrap()),
            _ => {
                stack.revoke(id).await;
                stack.revoke(text(&first, "id")).await;
            }
        }
        let before = stored(&stack.at);
        let again = rotate_once(&stack, "once", id, 60).await.json(200);
        assert_eq!(again["id"], first["id"], "{ends}");
        assert_eq!(stored(&stack.at), before);
    }
}

#[tokio::test]
async fn an_idempotency_key_is_for_one_rotation() {
    let (stack, old) = with_key(None).await;
    let other = stack.key("acme", "Another").await;
    let id = text(&old, "id");
    let first = rotate_once(&stack, "once", id, 60).await.json(201);
    let before = stored(&stack.at);
    rotate_once(&stack, "once", id, 61)
        .await
        .unprocessable(None);
    let elsewhere = rotate_once(&stack, "once", text(&other, "id"), 60).await;
    elsewhere.unprocessable(None);
    let unmarked = rotate_once(&stack, "twice", id, 60).await;
    unmarked.conflict();
    assert_eq!(unmarked.body["rotated_to"], first["id"]);
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn creating_and_rotating_do_not_share_idempotency_keys() {
    let (stack, old) = with_key(None).await;
    let body = json!({ "customer_id": "acme" });
    let change = |event: Event| event.body(&body).header("Idempotency-Key", "once");
    stack.call("create", change).await.json(201);
    rotate_once(&stack, "once", text(&old, "id"), 60)
        .await
        .json(201);
}

/// Its successor would not be suspended.
#[tokio::test]
async fn a_suspended_key_is_not_rotated() {
    let (stack, key) = with_key(None).await;
    let id = text(&key, "id");
    stack
        .update(id, json!({ "enabled": false }))
        .await
        .json(200);
    let before = stored(&stack.at);
    let response = stack.rotate(id, 60).await;
    let detail = response.conflict();
    assert!(detail.contains("suspended"), "{detail}");
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn all_successors_share_the_hourly_counter_of_the_first_key() {
    let (stack, first) = with_key(None).await;
    let second = stack.rotate(text(&first, "id"), 60).await.json(201);
    let third = stack.rotate(text(&second, "id"), 60).await.json(201);
    for key in [&first, &second, &third] {
        let id = KeyRef::Id(text(key, "id").parse().unwrap());
        let stored = stack.at.store.key(&id).await.unwrap().unwrap();
        assert_eq!(stored.hour_counter_id().as_str(), text(&first, "id"));
    }
}
