//! Tests of the local stack's own features: `/_local` routes, data directory and connections.

use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::json;

use crate::calls::{self, assert_problem};
use crate::program::start_error;
use crate::{Dir, LocalStack, NOW, PING, USAGE, get_json, make_calls, program, raw, usage};

/// Maximum number of calls with a disconnect until some are metered.
const CALLERS: usize = 200;

/// If the disconnect arrives together with the request, the call may be dropped; it is then in neither
/// ledger.
#[tokio::test]
async fn a_call_with_an_immediate_disconnect_is_in_both_ledgers_or_in_none() {
    let dir = Dir::new("trials-hang-up");
    let stack = LocalStack::in_dir(&dir);
    stack.set_clock(NOW).await;
    let (client, key) = stack.customer_with_key("pro", json!({})).await;
    let head = format!(
        "GET {PING} HTTP/1.1\r\nx-api-key: {}",
        key["key"].as_str().unwrap()
    );
    let mut metered = 0;
    for _ in 0..CALLERS {
        drop(raw::begin(&stack.process.url, &head));
        stack.drain().await;
        let usage = get_json(&client, USAGE).await;
        metered = usage["metered"]["calls"].as_u64().unwrap();
        if metered >= 5 {
            break;
        }
    }
    assert!(metered >= 5, "{metered} of {CALLERS}");
    stack.stop();

    let stack = LocalStack::in_dir(&dir);
    let report = stack.nightly("2026-11-23T03:30:00Z").await;
    let reconciliation = &report["reconciliation"];
    assert!(reconciliation["metered"].as_u64() >= Some(metered));
    assert_eq!(reconciliation["admitted"], reconciliation["metered"]);
}

/// Changes the clock backwards, and forwards by so much that the usage would be too old.
#[tokio::test]
async fn a_change_of_the_clock_loses_no_queued_usage() {
    for change_s in [-3_600, 36 * 86_400] {
        let stack = LocalStack::at("2026-11-30T23:00:00Z").await;
        let (client, _) = stack.customer_with_key("pro", json!({})).await;
        make_calls(&client, 20).await;
        stack.advance(change_s).await;
        stack.drain().await;
        let quarantined = get_json(&stack.admin, "/admin/usage/quarantine").await;
        assert_eq!(quarantined["data"], json!([]), "{change_s}");
        stack.set_clock("2026-11-30T23:59:00Z").await;
        let usage = get_json(&client, USAGE).await;
        assert_eq!(usage["metered"]["calls"], 20, "{change_s}");
    }
}

/// The nightly run follows directly on the calls, which it does not on AWS.
#[tokio::test]
async fn the_nightly_run_counts_queued_usage_first() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    make_calls(&client, 20).await;
    stack.set_clock("2026-11-23T03:30:00Z").await;
    make_calls(&client, 5).await;
    calls::local(&stack.anyone, "nightly", json!({})).await;
    let usage = get_json(&client, USAGE).await;
    assert_eq!(usage["metered"]["calls"], 25);
}

#[tokio::test]
async fn pages_of_other_origins_cannot_set_the_clock_or_report_usage() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    let post = async |path: &str, field: (&str, &str), body: &serde_json::Value| {
        let fields = [
            field,
            ("content-type", "text/plain"),
            ("x-amz-target", "AWSEvents.PutEvents"),
        ];
        let body = Body::from(body.to_string());
        let response = stack.anyone.send(Method::POST, path, &fields, body);
        response.await.unwrap()
    };
    let a_year = json!({ "advance_s": 31_536_000 });
    let event =
        json!({ "Entries": [calls::put_events_entry("usage", &usage("e", "pro", NOW, 1))] });
    for field in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("host", "evil.example"),
    ] {
        for (path, body) in [
            ("/_local/clock", &a_year),
            ("/_local/nightly", &json!({})),
            ("/", &event),
        ] {
            let response = post(path, field, body).await;
            assert_problem(&response, StatusCode::FORBIDDEN, "forbidden");
        }
    }
    let now = get_json(&stack.anyone, "/_local/clock").await["now"].take();
    assert!(
        now.as_str().unwrap().starts_with("2026-11-22T10:0"),
        "{now}"
    );
    stack.drain().await;
    assert_eq!(get_json(&client, USAGE).await["metered"]["calls"], 0);

    // Pages of the same origin may.
    let own = stack.process.url.as_str();
    let put = post("/", ("origin", own), &event).await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.text);
    stack.drain().await;
    assert_eq!(get_json(&client, USAGE).await["metered"]["calls"], 1);
}

/// Only the head is sent, so that the response shows that the body is not awaited.
#[tokio::test]
async fn a_large_body_is_not_read_from_callers_without_a_valid_key() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    let head = "POST /api/analyze HTTP/1.1\r\nconnection: close";
    for length in ["content-length: 9000000", "transfer-encoding: chunked"] {
        for key in ["x-api-key:", "x-api-key: tg_live_nobody"] {
            let head = format!("{head}\r\n{length}\r\n{key}");
            let response = raw::response_to_head(&stack.process.url, &head).await;
            assert!(
                response.starts_with("HTTP/1.1 401 "),
                "{length} {key}: {response}"
            );
        }
    }
    let text = json!({ "text": "x".repeat(90_000) });
    let analysed = client.post("/api/analyze", text).await.unwrap();
    assert_eq!(analysed.status, StatusCode::OK, "{}", analysed.text);
}

#[tokio::test]
async fn an_empty_clock_file_is_named() {
    let dir = Dir::new("trials-clock");
    LocalStack::in_dir(&dir).stop();
    let clock = dir.0.join("clock");
    std::fs::write(&clock, "").unwrap();
    let errors = start_error(program().arg("--data").arg(&dir.0));
    assert!(errors.contains(clock.to_str().unwrap()), "{errors}");
    std::fs::write(&clock, "0").unwrap();
    LocalStack::in_dir(&dir).stop();
}

#[tokio::test]
async fn a_customer_key_given_as_the_admin_key_fails_the_start() {
    let dir = Dir::new("trials-admin-key");
    let stack = LocalStack::in_dir(&dir);
    let (client, key) = stack.customer_with_key("pro", json!({})).await;
    make_calls(&client, 1).await;
    stack.stop();
    let mut command = program();
    command.env("TOLLGATE_ADMIN_KEY", key["key"].as_str().unwrap());
    let errors = start_error(command.arg("--data").arg(&dir.0));
    for part in [
        "TOLLGATE_ADMIN_KEY",
        key["prefix"].as_str().unwrap(),
        "is a customer's key",
    ] {
        assert!(errors.contains(part), "{errors}");
    }
}
