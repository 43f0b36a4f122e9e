//! `POST /admin/api-keys`.

use serde_json::{Value, json};
use tollgate_domain::key::ApiKey;
use tollgate_testing::customers::add_customer;
use tollgate_testing::event::{Event, text};
use tollgate_testing::response::{ApiResponse, data};
use tollgate_testing::stored::stored;

use crate::stack::{Stack, view};

fn with_everything() -> Value {
    json!({
        "customer_id": "acme",
        "name": "Production",
        "expires_at": "2027-01-01T01:00:00+01:00",
        "overrides": { "requests_per_hour": 500, "monthly_quota": 0 },
    })
}

#[tokio::test]
async fn a_new_key_is_returned_once_and_stored_as_its_digest() {
    let stack = Stack::new().await;
    let response = stack.create(with_everything()).await;
    let location = response.header("location").unwrap().to_owned();
    let body = response.json(201);

    let secret = text(&body, "key");
    let key = ApiKey::parse(secret).unwrap();
    assert!(secret.starts_with("tg_live_"));
    assert_eq!(secret.len(), "tg_live_".len() + 32 + 6);
    assert_eq!(key.prefix().as_str(), text(&body, "prefix"));
    let id = text(&body, "id");
    assert_eq!(location, format!("/admin/api-keys/{id}"));
    let expected = json!({
        "id": id,
        "prefix": &secret[..16],
        "name": "Production",
        "role": "call",
        "customer_id": "acme",
        "status": "active",
        "created_at": "2026-11-22T10:00:00Z",
        "expires_at": "2027-01-01T00:00:00Z",
        "revoked_at": null,
        "enabled": true,
        "suspended_at": null,
        "overrides": { "requests_per_hour": 500, "monthly_quota": 0 },
        "rotated_to": null,
    });
    assert_eq!(view(&body), expected);

    let found = stack.at.store.key_by_digest(key.digest()).await.unwrap();
    assert_eq!(found.unwrap().id.as_str(), id);
    assert_eq!(stack.get(id).await, expected);
    let everything = stored(&stack.at).to_string();
    assert!(everything.contains(&key.digest().expose_hex()));
    assert!(!everything.contains(&secret[16..]), "the secret is stored");
}

#[tokio::test]
async fn members_that_are_left_out_are_empty() {
    let stack = Stack::new().await;
    let body = stack
        .create(json!({ "customer_id": "bolt" }))
        .await
        .json(201);
    assert_eq!(body["name"], "");
    assert_eq!(body["role"], "call");
    assert_eq!(body["expires_at"], Value::Null);
    assert_eq!(body["overrides"], json!({}));
}

#[tokio::test]
async fn admin_keys_cannot_be_created() {
    let stack = Stack::new().await;
    let before = stored(&stack.at);
    for body in [
        json!({ "role": "admin", "name": "Ops" }),
        json!({ "role": "admin", "customer_id": "acme" }),
    ] {
        stack.create(body).await.forbidden();
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_key_has_the_requested_role_in_all_responses() {
    let stack = Stack::new().await;
    for role in ["call", "manage"] {
        let body = json!({ "customer_id": "acme", "role": role, "name": role });
        let created = create_once(&stack, role, &body).await.json(201);
        assert_eq!(created["role"], role);
        assert!(text(&created, "key").starts_with("tg_live_"));
        assert_eq!(stack.get(text(&created, "id")).await, view(&created));
        let again = create_once(&stack, role, &body).await.json(200);
        assert_eq!(view(&again), view(&created));
        let secret = ApiKey::parse(text(&created, "key")).unwrap();
        let found = stack.at.store.key_by_digest(secret.digest()).await.unwrap();
        assert_eq!(found.unwrap().role().as_str(), role);
    }
    let listed = stack.list(&[]).await.json(200);
    for key in data(&listed) {
        assert_eq!(key["role"], key["name"]);
    }
    assert_eq!(data(&listed).len(), 2);
}

/// A repetition must not seem to have created a key with another role.
#[tokio::test]
async fn an_idempotency_key_is_for_one_role() {
    let stack = Stack::new().await;
    let body = |role: &str| json!({ "customer_id": "acme", "role": role });
    create_once(&stack, "once", &body("call")).await.json(201);
    let before = stored(&stack.at);
    let manage = create_once(&stack, "once", &body("manage")).await;
    manage.unprocessable(None);
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn an_invalid_key_is_rejected_and_not_stored() {
    let stack = Stack::new().await;
    let before = stored(&stack.at);
    let check = async |field: &str, members: Value| {
        let mut body = json!({ "customer_id": "acme" });
        body.as_object_mut()
            .unwrap()
            .extend(members.as_object().unwrap().clone());
        let response = stack.create(body).await;
        response.unprocessable(Some(field));
        assert_eq!(stored(&stack.at), before, "{members}");
    };
    check("customer_id", json!({ "customer_id": "nobody" })).await;
    check("customer_id", json!({ "customer_id": null })).await;
    check(
        "expires_at",
        json!({ "expires_at": "2026-11-22T09:59:59.999Z" }),
    )
    .await;
    check(
        "expires_at",
        json!({ "expires_at": "2026-11-22T10:00:00Z" }),
    )
    .await;
    check("name", json!({ "name": "é".repeat(101) })).await;
    check("name", json!({ "name": "two\nlines" })).await;
    let too_many = 1_000_000_000_001_u64;
    for limit in ["requests_per_hour", "monthly_quota"] {
        let field = format!("overrides.{limit}");
        check(&field, json!({ "overrides": { limit: too_many } })).await;
    }
}

#[tokio::test]
async fn the_limits_of_valid_members_are_accepted() {
    let stack = Stack::new().await;
    let most = 1_000_000_000_000_u64;
    let body = json!({
        "customer_id": "acme",
        "name": "é".repeat(100),
        "expires_at": "2026-11-22T10:00:00.001Z",
        "overrides": { "requests_per_hour": 0, "monthly_quota": most },
    });
    let created = stack.create(body.clone()).await.json(201);
    for member in ["name", "expires_at", "overrides"] {
        assert_eq!(created[member], body[member]);
    }
}

#[tokio::test]
async fn a_shown_expiry_is_the_one_that_is_stored() {
    let stack = Stack::new().await;
    let body = json!({ "customer_id": "acme", "expires_at": "2027-01-01T00:00:00.123999Z" });
    let created = stack.create(body).await.json(201);
    assert_eq!(stack.get(text(&created, "id")).await, view(&created));
}

async fn create_once(stack: &Stack, once: &str, body: &Value) -> ApiResponse {
    let change = |event: Event| event.body(body).header("Idempotency-Key", once);
    stack.call("create", change).await
}

#[tokio::test]
async fn a_repeated_request_returns_no_secret() {
    let stack = Stack::new().await;
    let first = create_once(&stack, "once", &with_everything()).await;
    let (location, first) = (first.headers["location"].clone(), first.json(201));
    let before = stored(&stack.at);

    let mut same = with_everything();
    same["expires_at"] = json!("2027-01-01T00:00:00Z");
    let again = create_once(&stack, "once", &same).await;
    assert_eq!(again.headers["location"], location);
    let again = again.json(200);
    assert_eq!(again["key"], Value::Null);
    assert_eq!(view(&again), view(&first));
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_request_can_be_repeated_after_its_key_has_expired() {
    let stack = Stack::new().await;
    let mut body = with_everything();
    body["expires_at"] = json!("2026-11-22T10:00:30Z");
    let first = create_once(&stack, "once", &body).await.json(201);
    let before = stored(&stack.at);
    stack.advance_s(3_600);
    let again = create_once(&stack, "once", &body).await.json(200);
    assert_eq!((&again["id"], &again["key"]), (&first["id"], &Value::Null));
    assert_eq!(again["status"], "expired");
    // Neither another idempotency key nor another request with the same one creates a key.
    let other = create_once(&stack, "twice", &body).await;
    other.unprocessable(Some("expires_at"));
    body["name"] = json!("Staging");
    let reused = create_once(&stack, "once", &body).await;
    let detail = reused.unprocessable(None);
    assert!(detail.contains("Idempotency-Key"), "{detail}");
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_repeated_request_returns_the_current_state_of_the_key() {
    let stack = Stack::new().await;
    let first = create_once(&stack, "once", &with_everything())
        .await
        .json(201);
    stack.revoke(text(&first, "id")).await;
    let again = create_once(&stack, "once", &with_everything())
        .await
        .json(200);
    assert_eq!(again["status"], "revoked");
}

#[tokio::test]
async fn an_idempotency_key_is_for_one_request() {
    let stack = Stack::new().await;
    create_once(&stack, "once", &with_everything())
        .await
        .json(201);
    let before = stored(&stack.at);
    let mut other = with_everything();
    other["name"] = json!("Staging");
    let response = create_once(&stack, "once", &other).await;
    let detail = response.unprocessable(None);
    assert!(detail.contains("Idempotency-Key"), "{detail}");
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn idempotency_keys_of_two_callers_are_independent() {
    let stack = Stack::new().await;
    let by = async |admin: &str| {
        let body = with_everything();
        let change = |event: Event| event.body(&body).header("Idempotency-Key", "once");
        stack
            .call("create", |event| change(event).admin(admin))
            .await
    };
    let first = by("key_1").await.json(201);
    let second = by("key_2").await.json(201);
    assert_ne!(first["id"], second["id"]);
    assert_eq!(by("key_1").await.json(200)["id"], first["id"]);
}

#[tokio::test]
async fn an_idempotency_key_lasts_a_day() {
    let stack = Stack::new().await;
    let first = create_once(&stack, "once", &with_everything())
        .await
        .json(201);
    stack.advance_s(86_399);
    create_once(&stack, "once", &with_everything())
        .await
        .json(200);
    stack.advance_s(1);
    let second = create_once(&stack, "once", &with_everything())
        .await
        .json(201);
    assert_ne!(first["id"], second["id"]);
}

#[tokio::test]
async fn a_rejected_request_leaves_its_idempotency_key_unused() {
    let stack = Stack::new().await;
    let body = json!({ "customer_id": "crow" });
    let rejected = create_once(&stack, "once", &body).await;
    rejected.unprocessable(Some("customer_id"));
    add_customer(&stack.at, "crow", "free").await;
    create_once(&stack, "once", &body).await.json(201);
}

#[tokio::test]
async fn a_malformed_idempotency_key_is_rejected() {
    let stack = Stack::new().await;
    let before = stored(&stack.at);
    for malformed in ["", "a b", "é", &"x".repeat(256)] {
        let response = create_once(&stack, malformed, &with_everything()).await;
        let detail = response.bad_request(None);
        assert!(detail.contains("Idempotency-Key"), "{detail}");
    }
    let body = with_everything();
    let twice = |event: Event| {
        let event = event.body(&body);
        event.repeated_header("Idempotency-Key", &["once", "once"])
    };
    let response = stack.call("create", twice).await;
    let detail = response.bad_request(None);
    assert!(detail.contains("idempotency-key"), "{detail}");
    assert_eq!(stored(&stack.at), before);
    let longest = "~".repeat(255);
    create_once(&stack, &longest, &with_everything())
        .await
        .json(201);
}

#[tokio::test]
async fn without_an_idempotency_key_every_request_creates_a_key() {
    let stack = Stack::new().await;
    let first = stack.create(with_everything()).await.json(201);
    let second = stack.create(with_everything()).await.json(201);
    assert_ne!(first["id"], second["id"]);
    assert_ne!(first["key"], second["key"]);
}
