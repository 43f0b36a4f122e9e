//! Tests of suspension, rotation and erasure.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::calls::{self, assert_problem};
use crate::{KEY_CACHE_S, LocalStack, NOW, PING, USAGE, expect_problem, get_json, make_calls};

#[tokio::test]
async fn a_suspended_key_is_rejected_until_it_is_enabled() {
    let stack = LocalStack::at(NOW).await;
    let (client, key) = stack.customer_with_key("pro", json!({})).await;
    make_calls(&client, 1).await;
    let path = format!("/admin/api-keys/{}", key["id"].as_str().unwrap());
    let suspended = stack.patch(&path, json!({ "enabled": false })).await;
    assert_eq!(
        (&suspended["enabled"], &suspended["status"]),
        (&json!(false), &json!("suspended"))
    );
    for path in [PING, USAGE] {
        expect_problem(&client, path, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    let enabled = stack.patch(&path, json!({ "enabled": true })).await;
    assert_eq!(enabled["status"], "active");
    make_calls(&client, 1).await;
}

/// The customer can still read its usage.
#[tokio::test]
async fn a_suspended_customer_is_denied_until_it_is_enabled() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    make_calls(&client, 1).await;
    let path = "/admin/customers/acme";
    let suspended = stack.patch(path, json!({ "enabled": false })).await;
    assert_eq!(suspended["enabled"], false);
    assert!(suspended["suspended_at"].is_string());
    let status = StatusCode::TOO_MANY_REQUESTS;
    let response = expect_problem(&client, PING, status, "customer-suspended").await;
    assert_eq!(response.header("retry-after"), "");
    stack.drain().await;
    assert_eq!(get_json(&client, USAGE).await["metered"]["calls"], 1);
    stack.patch(path, json!({ "enabled": true })).await;
    make_calls(&client, 1).await;
}

#[tokio::test]
async fn a_customer_is_erased_in_two_steps() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    let personal = json!({ "name": "Ann Acme", "email": "ann@acme.example" });
    stack.patch("/admin/customers/acme", personal).await;
    make_calls(&client, 1).await;
    let erase = async |query: &str| {
        let path = format!("/admin/customers/acme{query}");
        calls::send(&stack.admin, Method::DELETE, &path).await
    };
    let incomplete = erase("").await;
    assert_problem(
        &incomplete,
        StatusCode::UNPROCESSABLE_ENTITY,
        "unprocessable",
    );
    let dry = erase("?dry_run=true").await;
    assert_eq!(dry.status, StatusCode::OK, "{}", dry.text);
    assert_eq!(dry.json()["keys_revoked"], 1);
    assert_eq!(dry.json()["customer"]["name"], "Ann Acme");
    make_calls(&client, 1).await;

    let erased = erase("?dry_run=false").await;
    assert_eq!(erased.status, StatusCode::OK, "{}", erased.text);
    stack.advance(KEY_CACHE_S).await;
    for path in [PING, USAGE] {
        expect_problem(&client, path, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    let shown = get_json(&stack.admin, "/admin/customers/acme").await;
    assert_eq!(
        (&shown["name"], &shown["email"]),
        (&json!(""), &Value::Null)
    );
    assert!(shown["erased_at"].is_string(), "{shown}");
    // The id is kept in the log, and cannot be used again.
    stack.drain().await;
    let log = get_json(&stack.admin, "/admin/usage/events?customer_id=acme").await;
    assert_eq!(log["data"].as_array().unwrap().len(), 2);
    let same = json!({ "id": "acme", "plan": "free" });
    let taken = stack.admin.post("/admin/customers", same).await.unwrap();
    assert_problem(&taken, StatusCode::CONFLICT, "conflict");
}

#[tokio::test]
async fn a_rotated_key_keeps_its_hourly_counter() {
    let stack = LocalStack::at(NOW).await;
    let (old, key) = stack
        .customer_with_key("pro", json!({ "requests_per_hour": 2 }))
        .await;
    make_calls(&old, 1).await;
    let path = format!("/admin/api-keys/{}/rotate", key["id"].as_str().unwrap());
    let rotated = stack.admin.post(&path, json!({})).await.unwrap();
    assert_eq!(rotated.status, StatusCode::CREATED, "{}", rotated.text);
    let new = stack
        .anyone
        .with_key(rotated.json()["key"].as_str().unwrap());
    make_calls(&new, 1).await;
    for client in [&old, &new] {
        let status = StatusCode::TOO_MANY_REQUESTS;
        expect_problem(client, PING, status, "rate-limited").await;
    }
    stack.set_clock("2026-11-22T11:00:10Z").await;
    make_calls(&new, 2).await;
}

/// The role `manage` is of the customer, and neither lifts a limit nor opens `/admin`.
#[tokio::test]
async fn a_managing_key_calls_like_any_other_and_stays_one_when_it_is_rotated() {
    let stack = LocalStack::at(NOW).await;
    stack.customer_with_key("pro", json!({})).await;
    let body = json!({
        "customer_id": "acme", "role": "manage", "overrides": { "requests_per_hour": 2 },
    });
    let created = stack.admin.post("/admin/api-keys", body).await.unwrap();
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    let key = created.json();
    let path = format!("/admin/api-keys/{}", key["id"].as_str().unwrap());
    let rotated = stack.admin.post(&format!("{path}/rotate"), json!({})).await;
    let rotated = rotated.unwrap().json();
    for key in [&key, &rotated] {
        assert_eq!(key["role"], "manage");
        let client = stack.anyone.with_key(key["key"].as_str().unwrap());
        make_calls(&client, 1).await;
        get_json(&client, USAGE).await;
        let status = StatusCode::FORBIDDEN;
        expect_problem(&client, "/admin/api-keys", status, "forbidden").await;
    }
    let client = stack.anyone.with_key(rotated["key"].as_str().unwrap());
    let status = StatusCode::TOO_MANY_REQUESTS;
    expect_problem(&client, PING, status, "rate-limited").await;
    let patch = json!({ "role": "call" });
    let patched = stack.admin.json(Method::PATCH, &path, patch).await;
    assert_problem(&patched.unwrap(), StatusCode::BAD_REQUEST, "bad-request");
}

/// A stolen admin key could otherwise create another that stays valid after its revocation.
#[tokio::test]
async fn an_admin_key_cannot_create_admin_keys() {
    let stack = LocalStack::at(NOW).await;
    let body = json!({ "role": "admin" });
    let response = stack.admin.post("/admin/api-keys", body).await.unwrap();
    assert_problem(&response, StatusCode::FORBIDDEN, "forbidden");
    let keys = get_json(&stack.admin, "/admin/api-keys").await;
    let admins = keys["data"].as_array().unwrap();
    assert_eq!(admins.len(), 1, "{keys}");
    let id = admins[0]["id"].as_str().unwrap();
    let path = format!("/admin/api-keys/{id}/rotate");
    let response = stack.admin.post(&path, json!({})).await.unwrap();
    assert_problem(&response, StatusCode::FORBIDDEN, "forbidden");
}
