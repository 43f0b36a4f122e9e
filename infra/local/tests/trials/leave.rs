//! Keys and customers that are suspended, rotated or leave.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::calls::{self, assert_problem};
use crate::{A_WHILE, NOW, PING, Product, USAGE, found, make_calls, refused};

#[tokio::test]
async fn a_suspended_key_is_refused_until_it_is_enabled() {
    let product = Product::at(NOW).await;
    let (client, key) = product.holder("pro", json!({})).await;
    make_calls(&client, 1).await;
    let path = format!("/admin/api-keys/{}", key["id"].as_str().unwrap());
    let suspended = product.patch(&path, json!({ "enabled": false })).await;
    assert_eq!(
        (&suspended["enabled"], &suspended["status"]),
        (&json!(false), &json!("suspended"))
    );
    for path in [PING, USAGE] {
        refused(&client, path, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    let enabled = product.patch(&path, json!({ "enabled": true })).await;
    assert_eq!(enabled["status"], "active");
    make_calls(&client, 1).await;
}

/// What it has used it can still read.
#[tokio::test]
async fn a_suspended_customer_is_refused_until_it_is_enabled() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("pro", json!({})).await;
    make_calls(&client, 1).await;
    let path = "/admin/customers/acme";
    let suspended = product.patch(path, json!({ "enabled": false })).await;
    assert_eq!(suspended["enabled"], false);
    assert!(suspended["suspended_at"].is_string());
    let status = StatusCode::TOO_MANY_REQUESTS;
    let answer = refused(&client, PING, status, "customer-suspended").await;
    assert_eq!(answer.header("retry-after"), "");
    product.drain().await;
    assert_eq!(found(&client, USAGE).await["metered"]["calls"], 1);
    product.patch(path, json!({ "enabled": true })).await;
    make_calls(&client, 1).await;
}

#[tokio::test]
async fn a_customer_who_leaves_is_erased_in_two_steps() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("pro", json!({})).await;
    let who = json!({ "name": "Ann Acme", "email": "ann@acme.example" });
    product.patch("/admin/customers/acme", who).await;
    make_calls(&client, 1).await;
    let erase = async |query: &str| {
        let path = format!("/admin/customers/acme{query}");
        calls::send(&product.admin, Method::DELETE, &path).await
    };
    let unsaid = erase("").await;
    assert_problem(&unsaid, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
    let dry = erase("?dry_run=true").await;
    assert_eq!(dry.status, StatusCode::OK, "{}", dry.text);
    assert_eq!(dry.json()["keys_revoked"], 1);
    assert_eq!(dry.json()["customer"]["name"], "Ann Acme");
    make_calls(&client, 1).await;

    let erased = erase("?dry_run=false").await;
    assert_eq!(erased.status, StatusCode::OK, "{}", erased.text);
    product.advance(A_WHILE).await;
    for path in [PING, USAGE] {
        refused(&client, path, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    let shown = found(&product.admin, "/admin/customers/acme").await;
    assert_eq!(
        (&shown["name"], &shown["email"]),
        (&json!(""), &Value::Null)
    );
    assert!(shown["erased_at"].is_string(), "{shown}");
    // Its id stays: in the log, and as taken.
    product.drain().await;
    let log = found(&product.admin, "/admin/usage/events?customer_id=acme").await;
    assert_eq!(log["data"].as_array().unwrap().len(), 2);
    let same = json!({ "id": "acme", "plan": "free" });
    let taken = product.admin.post("/admin/customers", same).await.unwrap();
    assert_problem(&taken, StatusCode::CONFLICT, "conflict");
}

#[tokio::test]
async fn a_rotated_key_goes_on_with_its_hour() {
    let product = Product::at(NOW).await;
    let (old, key) = product
        .holder("pro", json!({ "requests_per_hour": 2 }))
        .await;
    make_calls(&old, 1).await;
    let path = format!("/admin/api-keys/{}/rotate", key["id"].as_str().unwrap());
    let rotated = product.admin.post(&path, json!({})).await.unwrap();
    assert_eq!(rotated.status, StatusCode::CREATED, "{}", rotated.text);
    let new = product
        .anyone
        .with_key(rotated.json()["key"].as_str().unwrap());
    make_calls(&new, 1).await;
    for client in [&old, &new] {
        let status = StatusCode::TOO_MANY_REQUESTS;
        refused(client, PING, status, "rate-limited").await;
    }
    product.set_clock("2026-11-22T11:00:10Z").await;
    make_calls(&new, 2).await;
}

/// It would outlive whoever made it.
#[tokio::test]
async fn no_admin_key_is_made_with_an_admin_key() {
    let product = Product::at(NOW).await;
    let body = json!({ "role": "admin" });
    let answer = product.admin.post("/admin/api-keys", body).await.unwrap();
    assert_problem(&answer, StatusCode::FORBIDDEN, "forbidden");
    let keys = found(&product.admin, "/admin/api-keys").await;
    let admins = keys["data"].as_array().unwrap();
    assert_eq!(admins.len(), 1, "{keys}");
    let id = admins[0]["id"].as_str().unwrap();
    let path = format!("/admin/api-keys/{id}/rotate");
    let answer = product.admin.post(&path, json!({})).await.unwrap();
    assert_problem(&answer, StatusCode::FORBIDDEN, "forbidden");
}
