//! What the local product alone has: levers, a data directory, connections of its own.

use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::json;

use crate::calls::{self, assert_problem};
use crate::program::refusal;
use crate::{Dir, NOW, PING, Product, USAGE, found, make_calls, program, raw, usage};

/// How many callers hang up at most until some are metered.
const CALLERS: usize = 200;

/// One whose end comes together with its request may count as none who called, and is then in neither
/// ledger.
#[tokio::test]
async fn a_caller_who_hangs_up_at_once_is_served_and_metered_if_counted() {
    let dir = Dir::new("trials-hang-up");
    let product = Product::in_dir(&dir);
    product.set_clock(NOW).await;
    let (client, key) = product.holder("pro", json!({})).await;
    let head = format!(
        "GET {PING} HTTP/1.1\r\nx-api-key: {}",
        key["key"].as_str().unwrap()
    );
    let mut metered = 0;
    for _ in 0..CALLERS {
        drop(raw::begin(&product.process.url, &head));
        product.drain().await;
        let usage = found(&client, USAGE).await;
        metered = usage["metered"]["calls"].as_u64().unwrap();
        if metered >= 5 {
            break;
        }
    }
    assert!(metered >= 5, "{metered} of {CALLERS}");
    product.stop();

    let product = Product::in_dir(&dir);
    let night = product.night("2026-11-23T03:30:00Z").await;
    let reconciliation = &night["reconciliation"];
    assert!(reconciliation["metered"].as_u64() >= Some(metered));
    assert_eq!(reconciliation["admitted"], reconciliation["metered"]);
}

/// Back, and to where usage of that time would be too old.
#[tokio::test]
async fn a_leap_of_the_clock_loses_no_usage_that_waits() {
    for leap_s in [-3_600, 36 * 86_400] {
        let product = Product::at("2026-11-30T23:00:00Z").await;
        let (client, _) = product.holder("pro", json!({})).await;
        make_calls(&client, 20).await;
        product.advance(leap_s).await;
        product.drain().await;
        let quarantined = found(&product.admin, "/admin/usage/quarantine").await;
        assert_eq!(quarantined["data"], json!([]), "{leap_s}");
        product.set_clock("2026-11-30T23:59:00Z").await;
        let usage = found(&client, USAGE).await;
        assert_eq!(usage["metered"]["calls"], 20, "{leap_s}");
    }
}

/// The night comes at once, as no operator's does.
#[tokio::test]
async fn a_night_counts_the_usage_that_waits() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("pro", json!({})).await;
    make_calls(&client, 20).await;
    product.set_clock("2026-11-23T03:30:00Z").await;
    make_calls(&client, 5).await;
    calls::local(&product.anyone, "night", json!({})).await;
    let usage = found(&client, USAGE).await;
    assert_eq!(usage["metered"]["calls"], 25);
}

#[tokio::test]
async fn pages_of_other_sites_move_no_clock_and_report_no_usage() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("pro", json!({})).await;
    let post = async |path: &str, field: (&str, &str), body: &serde_json::Value| {
        let fields = [
            field,
            ("content-type", "text/plain"),
            ("x-amz-target", "AWSEvents.PutEvents"),
        ];
        let body = Body::from(body.to_string());
        let answer = product.anyone.send(Method::POST, path, &fields, body);
        answer.await.unwrap()
    };
    let a_year = json!({ "advance_s": 31_536_000 });
    let event = json!({ "Entries": [calls::event("usage", &usage("e", "pro", NOW, 1))] });
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
            let answer = post(path, field, body).await;
            assert_problem(&answer, StatusCode::FORBIDDEN, "forbidden");
        }
    }
    let now = found(&product.anyone, "/_local/clock").await["now"].take();
    assert!(
        now.as_str().unwrap().starts_with("2026-11-22T10:0"),
        "{now}"
    );
    product.drain().await;
    assert_eq!(found(&client, USAGE).await["metered"]["calls"], 0);

    // The product's own pages may.
    let own = product.process.url.as_str();
    let put = post("/", ("origin", own), &event).await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.text);
    product.drain().await;
    assert_eq!(found(&client, USAGE).await["metered"]["calls"], 1);
}

/// None of it is sent, so that whoever waited for it would not answer so.
#[tokio::test]
async fn a_large_body_is_not_read_from_callers_without_a_good_key() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("pro", json!({})).await;
    let head = "POST /api/analyze HTTP/1.1\r\nconnection: close";
    for length in ["content-length: 9000000", "transfer-encoding: chunked"] {
        for key in ["x-api-key:", "x-api-key: tg_live_nobody"] {
            let head = format!("{head}\r\n{length}\r\n{key}");
            let answer = raw::answer_to_head(&product.process.url, &head).await;
            assert!(
                answer.starts_with("HTTP/1.1 401 "),
                "{length} {key}: {answer}"
            );
        }
    }
    let text = json!({ "text": "x".repeat(90_000) });
    let analysed = client.post("/api/analyze", text).await.unwrap();
    assert_eq!(analysed.status, StatusCode::OK, "{}", analysed.text);
}

#[tokio::test]
async fn a_clock_file_that_is_empty_is_named() {
    let dir = Dir::new("trials-clock");
    Product::in_dir(&dir).stop();
    let clock = dir.0.join("clock");
    std::fs::write(&clock, "").unwrap();
    let said = refusal(program().arg("--data").arg(&dir.0));
    assert!(said.contains(clock.to_str().unwrap()), "{said}");
    std::fs::write(&clock, "0").unwrap();
    Product::in_dir(&dir).stop();
}

#[tokio::test]
async fn an_admin_key_that_is_a_customers_is_said_at_the_start() {
    let dir = Dir::new("trials-admin-key");
    let product = Product::in_dir(&dir);
    let (client, key) = product.holder("pro", json!({})).await;
    make_calls(&client, 1).await;
    product.stop();
    let mut command = program();
    command.env("TOLLGATE_ADMIN_KEY", key["key"].as_str().unwrap());
    let said = refusal(command.arg("--data").arg(&dir.0));
    for part in [
        "TOLLGATE_ADMIN_KEY",
        key["prefix"].as_str().unwrap(),
        "is a customer's key",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
