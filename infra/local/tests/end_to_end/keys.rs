//! Cases about the life cycle of keys.

use http::{Method, StatusCode};
use serde_json::json;

use crate::site::{Site, ping, send};

pub(crate) async fn a_key_is_valid_from_creation_to_revocation(site: Site) {
    let customer = site.customer("free").await;
    let body = json!({ "customer_id": customer, "name": "ci" });
    let (client, key) = site.key(body).await;
    let secret = key["key"].as_str().unwrap();
    let prefix = key["prefix"].as_str().unwrap();
    assert!(secret.starts_with(prefix), "{prefix}");
    let pong = client.get("/api/secure/ping").await.unwrap();
    assert_eq!(pong.status, StatusCode::OK, "{}", pong.text);
    assert_eq!(pong.json()["customer_id"], customer);

    let path = format!("/admin/api-keys/{prefix}");
    let shown = site.admin.get(&path).await.unwrap();
    assert_eq!(shown.json()["name"], "ci");
    assert!(!shown.text.contains(secret));
    let list = format!("/admin/api-keys?customer_id={customer}&status=active&plan=free");
    let listed = site.admin.get(&list).await.unwrap();
    assert_eq!(listed.json()["data"][0]["prefix"], prefix);
    assert!(!listed.text.contains(secret));
    let body = json!({ "name": "release" });
    let patched = site.admin.json(Method::PATCH, &path, body).await.unwrap();
    assert_eq!(patched.json()["name"], "release");
    let revoked_before = revoked(&site).await;

    for _ in 0..2 {
        let deleted = send(&site.admin, Method::DELETE, &path).await;
        assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{}", deleted.text);
        assert_eq!(deleted.text, "");
    }
    // The authorizer may use its cached copy of the key for some seconds.
    let rejected = site.wait_for("a revoked key is rejected", async || {
        let response = client.get("/api/secure/ping").await.unwrap();
        (response.status != StatusCode::OK).then_some(response)
    });
    site.assert_problem(&rejected.await, StatusCode::UNAUTHORIZED, "unauthorized");
    assert!(revoked(&site).await > revoked_before);
    let shown = site.admin.get(&path).await.unwrap();
    assert_eq!(shown.json()["status"], "revoked");
}

/// Returns the number of revoked keys of customers on the free plan, from the statistics.
async fn revoked(site: &Site) -> u64 {
    let stats = site.admin.get("/admin/api-keys/stats").await.unwrap();
    assert_eq!(stats.status, StatusCode::OK, "{}", stats.text);
    let count = &stats.json()["by_plan"]["free"]["revoked"];
    count.as_u64().unwrap_or(0)
}

pub(crate) async fn a_rotated_key_and_its_successor_both_work(site: Site) {
    let customer = site.customer("pro").await;
    let (old, key) = site.key(json!({ "customer_id": customer })).await;
    let path = format!("/admin/api-keys/{}/rotate", key["id"].as_str().unwrap());
    let body = json!({ "grace_period_s": 600 });
    let rotated = site.admin.post(&path, body.clone()).await.unwrap();
    assert_eq!(rotated.status, StatusCode::CREATED, "{}", rotated.text);
    let new = site
        .anyone
        .with_key(rotated.json()["key"].as_str().unwrap());
    for client in [&old, &new] {
        assert_eq!(ping(client).await, StatusCode::OK);
    }
    let again = site.admin.post(&path, body).await.unwrap();
    site.assert_problem(&again, StatusCode::CONFLICT, "conflict");
}

pub(crate) async fn a_repeated_creation_creates_nothing(site: Site) {
    let customer = site.customer("free").await;
    let create = async |name: &str| {
        let body = json!({ "customer_id": customer, "name": name }).to_string();
        let idempotency_key = site.name("once");
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", idempotency_key.as_str()),
        ];
        let path = "/admin/api-keys";
        let response = site.admin.send(Method::POST, path, &headers, body.into());
        response.await.unwrap()
    };
    let first = create("ci").await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    let second = create("ci").await;
    assert_eq!(second.status, StatusCode::OK, "{}", second.text);
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert!(first.json()["key"].is_string() && second.json()["key"].is_null());
    let other = create("release").await;
    assert_eq!(
        other.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "{}",
        other.text
    );
    let list = format!("/admin/api-keys?customer_id={customer}");
    let listed = site.admin.get(&list).await.unwrap().json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

pub(crate) async fn keys_are_listed_page_by_page(site: Site) {
    let customer = site.customer("free").await;
    let mut created = Vec::new();
    for _ in 0..3 {
        let (_, key) = site.key(json!({ "customer_id": customer })).await;
        created.push(key["id"].as_str().unwrap().to_owned());
    }
    let mut listed = Vec::new();
    let mut path = format!("/admin/api-keys?customer_id={customer}&limit=2");
    loop {
        let page = site.admin.get(&path).await.unwrap().json();
        let keys = page["data"].as_array().unwrap();
        assert!(keys.len() <= 2);
        listed.extend(
            keys.iter()
                .map(|key| key["id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/admin/api-keys?customer_id={customer}&limit=2&cursor={cursor}");
    }
    created.sort();
    listed.sort();
    assert_eq!(created, listed);
}
