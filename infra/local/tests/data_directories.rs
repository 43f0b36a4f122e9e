//! Data directories of earlier commits: each opens under this one, shows what was stored, and counts on.
//!
//! `KEEP_DATA_DIRECTORY=NAME cargo test --workspace --test data_directories` writes `data_directories/NAME` with this
//! commit. It is run once before the stored formats change, and the result is never written again.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod support;

use std::path::{Path, PathBuf};

use http::StatusCode;
use serde_json::{Value, json};
use support::calls::{put_events_entry, usage_event};
use support::program::Dir;
use support::target::Target;
use tollgate_local::client::Client;
use tollgate_local::local_stack::Options;

/// Text in place of the admin key.
const ADMIN: &str = "admin-of-a-kept-directory";

/// The plans of all kept directories: small enough to be used up.
const PLANS: &str = r#"[
  { "id": "free", "name": "Free", "requests_per_hour": 100, "fail_mode": "closed",
    "month": { "kind": "blocked", "included": 5 } },
  { "id": "pro", "name": "Pro", "requests_per_hour": 100, "fail_mode": "open",
    "month": { "kind": "overage", "included": 10,
               "prices": [{ "from": "2026-01-01", "micro_usd_per_call": 500000 }] } },
  { "id": "enterprise", "name": "Enterprise", "requests_per_hour": 100, "fail_mode": "open",
    "month": { "kind": "unlimited" } }
]"#;

/// Requests of an admin whose responses are kept beside the directory.
const SHOWN: [&str; 8] = [
    "/admin/customers",
    "/admin/api-keys",
    "/admin/customers/acme/charges?month=2026-10",
    "/admin/customers/acme/charges?month=2026-11",
    "/admin/customers/acme/adjustments?month=2026-11",
    "/admin/usage/events?customer_id=acme&from=2026-11-04&to=2026-11-04",
    "/admin/usage/quarantine",
    "/admin/usage/reconciliation?day=2026-10-20",
];

const PING: &str = "/api/secure/ping";

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data_directories")
}

async fn open(data: &Path, now: &str) -> Target {
    let options = Options {
        data: Some(data.to_owned()),
        admin_key: Some(ADMIN.to_owned()),
        parameters: vec![("Plans", PLANS.to_owned())],
        ..Options::default()
    };
    Target::with_options(options, now).await
}

async fn status(client: &Client) -> StatusCode {
    client.get(PING).await.unwrap().status
}

async fn post(target: &Target, path: &str, body: Value) -> Value {
    let response = target.admin.post(path, body).await.unwrap();
    assert!(response.status.is_success(), "{path}: {}", response.text);
    response.json()
}

/// Returns the responses to the requests in [`SHOWN`] and to those of the customers.
async fn shown(target: &Target, keys: &Value) -> Value {
    let mut shown = serde_json::Map::new();
    for path in SHOWN {
        let response = target.admin.get(path).await.unwrap();
        assert_eq!(response.status, StatusCode::OK, "{path}: {}", response.text);
        shown.insert(path.to_owned(), response.json());
    }
    for (customer, key) in keys.as_object().unwrap() {
        let client = target.anyone.with_key(key.as_str().unwrap());
        let response = client.get("/api/usage/current").await.unwrap();
        shown.insert(format!("{customer}: current"), response.json());
    }
    Value::Object(shown)
}

/// Returns what an earlier release has shown, in the terms of this one.
fn in_todays_terms(shown: &Value) -> Value {
    // Charges were `ledger_only` before there was a payment provider.
    let shown = shown.to_string().replace("\"ledger_only\"", "\"pending\"");
    // All keys of customers had the role `customer`, and may call.
    let shown = shown.replace("\"role\":\"customer\"", "\"role\":\"call\"");
    serde_json::from_str(&shown).unwrap()
}

/// Asserts that all of `expected` is in `found`; later commits may show more.
fn assert_contains(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (name, expected) in expected {
                let at = format!("{at}.{name}");
                let found = found.get(name).unwrap_or(&Value::Null);
                assert_contains(found, expected, &at);
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{at}");
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_contains(found, expected, &format!("{at}[{index}]"));
            }
        }
        _ => assert_eq!(found, expected, "{at}"),
    }
}

/// Writes a directory: two months of three customers, with charges, an adjustment, late usage, a rotated and a
/// revoked key, and a quarantined item.
async fn write(name: &str) {
    let dir = kept().join(name);
    assert!(!dir.exists(), "{} is kept already", dir.display());
    let target = open(&dir.join("data"), "2026-10-20T10:00:00Z").await;
    let mut keys = serde_json::Map::new();
    for (customer, plan) in [("acme", "pro"), ("small", "free"), ("large", "enterprise")] {
        target.customer(customer, plan).await;
        let (client, key) = target.key(json!({ "customer_id": customer })).await;
        assert_eq!(status(&client).await, StatusCode::OK);
        keys.insert(customer.to_owned(), key["key"].clone());
    }
    let client = |customer: &str| target.anyone.with_key(keys[customer].as_str().unwrap());
    let mut old_keys = serde_json::Map::new();
    for name in ["rotated", "revoked"] {
        let (_, key) = target
            .key(json!({ "customer_id": "acme", "name": name }))
            .await;
        old_keys.insert(name.to_owned(), key["key"].clone());
        let path = format!("/admin/api-keys/{}", key["id"].as_str().unwrap());
        if name == "rotated" {
            post(&target, &format!("{path}/rotate"), json!({})).await;
        } else {
            let revoked = target.admin.json(http::Method::DELETE, &path, json!({}));
            assert!(revoked.await.unwrap().status.is_success());
        }
    }
    for _ in 0..12 {
        assert_eq!(status(&client("acme")).await, StatusCode::OK);
    }
    target.drain().await;
    target
        .set_clock(json!({ "now": "2026-10-21T02:00:00Z" }))
        .await;
    target.nightly().await;
    // October closes, and November begins.
    target
        .set_clock(json!({ "now": "2026-11-04T10:00:00Z" }))
        .await;
    target.nightly().await;
    for customer in ["acme", "small", "small"] {
        assert_eq!(status(&client(customer)).await, StatusCode::OK);
    }
    let mut event = usage_event("of-a-producer", "acme", "2026-11-04T09:00:00Z", 15);
    post(&target, "/admin/usage/events", json!({ "events": [event] })).await;
    event = usage_event("an-adjustment", "acme", "2026-11-04T09:30:00Z", 0);
    event["type"] = "tollgate.adjustment.v1".into();
    event["data"] = json!({ "adjustments": [{
        "time": "2026-11-04T09:30:00Z", "plan": "pro", "billable_calls": -1, "reason": "a failed import",
    }] });
    post(&target, "/admin/usage/events", json!({ "events": [event] })).await;
    let mut of_another = usage_event("quarantined", "acme", "2026-11-04T09:00:00Z", 1);
    of_another["source"] = "of-another".into();
    let events = json!({ "Entries": [put_events_entry("usage", &of_another)] }).to_string();
    let headers = [("x-amz-target", "AWSEvents.PutEvents")];
    let put = target
        .anyone
        .send(http::Method::POST, "/", &headers, events.into());
    let put = put.await.unwrap();
    assert_eq!(put.status, StatusCode::OK, "{}", put.text);
    target.drain().await;
    target.nightly().await;
    let keys = Value::Object(keys);
    let shown = shown(&target, &keys).await;
    target.running.stop().await.unwrap();
    let kept = json!({ "keys": keys, "old_keys": old_keys, "shown": shown });
    let text = serde_json::to_string_pretty(&kept).unwrap() + "\n";
    std::fs::write(dir.join("kept.json"), text).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

async fn check(name: &str) {
    let directory = kept().join(name);
    let data = Dir::new(&format!("kept-{name}"));
    copy(&directory.join("data"), &data.0);
    let kept = std::fs::read_to_string(directory.join("kept.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let keys = &kept["keys"];
    let target = open(&data.0, "2026-11-04T10:30:00Z").await;
    assert_contains(
        &shown(&target, keys).await,
        &in_todays_terms(&kept["shown"]),
        name,
    );

    for (_, key) in kept["old_keys"].as_object().unwrap() {
        let old = target.anyone.with_key(key.as_str().unwrap());
        assert_eq!(status(&old).await, StatusCode::UNAUTHORIZED);
    }
    let client = |customer: &str| target.anyone.with_key(keys[customer].as_str().unwrap());
    // Two of five calls were made before.
    for _ in 0..3 {
        assert_eq!(status(&client("small")).await, StatusCode::OK);
    }
    assert_eq!(
        status(&client("small")).await,
        StatusCode::TOO_MANY_REQUESTS
    );
    // 15 billable calls, of which 10 are included and 5 charged; the next is $0.50 more.
    assert_eq!(status(&client("acme")).await, StatusCode::OK);
    assert_eq!(status(&client("large")).await, StatusCode::OK);
    target.drain().await;
    let again = usage_event("of-a-producer", "acme", "2026-11-04T09:00:00Z", 15);
    let again = post(&target, "/admin/usage/events", json!({ "events": [again] })).await;
    assert_eq!(again["data"][0]["outcome"], "duplicate");
    let report = target.nightly().await;
    let charges = &report["charges"];
    let charged = charges.as_array().unwrap().iter();
    let charged: Vec<_> = charged
        .map(|charge| json!([charge["customer_id"], charge["cents"]]))
        .collect();
    assert_eq!(charged, [json!(["acme", 50])], "{report}");
    let october = "/admin/customers/acme/charges?month=2026-10";
    let found = target.admin.get(october).await.unwrap().json();
    assert_contains(&found, &in_todays_terms(&kept["shown"][october]), october);
    target.running.stop().await.unwrap();
}

#[tokio::test]
async fn kept_directories_open_and_count_on() {
    if let Some(name) = std::env::var_os("KEEP_DATA_DIRECTORY") {
        write(name.to_str().unwrap()).await;
    }
    let mut found = 0;
    for file in std::fs::read_dir(kept()).unwrap() {
        let file = file.unwrap();
        if file.path().is_dir() {
            check(&file.file_name().into_string().unwrap()).await;
            found += 1;
        }
    }
    assert!(found > 0, "no directory is kept");
}
