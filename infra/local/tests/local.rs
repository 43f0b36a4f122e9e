//! What only a local product shows: what happens as time passes, and what is behind the API. All
//! else is in `end_to_end`.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test they are called from"
)]

mod support;

use std::io::Read;

use flate2::Compression;
use flate2::read::GzEncoder;
use http::{Method, StatusCode};
use serde_json::json;
use support::calls::{self, entry};
use support::{Target, assert_problem, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NOW: &str = "2026-11-22T10:00:00Z";

#[tokio::test]
async fn a_rotated_key_works_until_its_grace_period_ends() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (old, key) = target.key(json!({ "customer_id": "acme" })).await;
    let path = format!("/admin/api-keys/{}/rotate", key["id"].as_str().unwrap());
    let rotated = target
        .admin
        .post(&path, json!({ "grace_period_s": 600 }))
        .await
        .unwrap();
    assert_eq!(rotated.status, StatusCode::CREATED);
    let new = target
        .anyone
        .with_key(rotated.json()["key"].as_str().unwrap());
    for client in [&old, &new] {
        assert_eq!(
            client.get("/api/secure/ping").await.unwrap().status,
            StatusCode::OK
        );
    }
    target.set_clock(json!({ "advance_s": 601 })).await;
    let refused = old.get("/api/secure/ping").await.unwrap();
    assert_problem(&refused, StatusCode::UNAUTHORIZED, "unauthorized");
    assert_eq!(
        new.get("/api/secure/ping").await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn the_hourly_limit_refuses_until_the_next_hour() {
    let target = Target::at("2026-11-22T10:30:00Z").await;
    target.customer("acme", "free").await;
    let limit = json!({ "customer_id": "acme", "overrides": { "requests_per_hour": 2 } });
    let (client, _) = target.key(limit).await;
    let ping = async || client.get("/api/secure/ping").await.unwrap();
    for _ in 0..2 {
        assert_eq!(ping().await.status, StatusCode::OK);
    }
    let refused = ping().await;
    assert_problem(&refused, StatusCode::TOO_MANY_REQUESTS, "rate-limited");
    assert_eq!(refused.json()["resets_at"], "2026-11-22T11:00:00Z");
    let wait: i64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=1_800).contains(&wait), "{wait}");
    target.set_clock(json!({ "advance_s": wait })).await;
    assert_eq!(
        client.get("/api/secure/ping").await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_night_charges_once_and_late_usage_after_the_month_is_over() {
    let target = Target::at("2026-11-30T23:50:00Z").await;
    target.customer("acme", "pro").await;
    report(&target, "first", "2026-11-30T12:00:00Z", 10).await;
    // The plan includes 100,000 calls; tallies of that size are put in place by their sum.
    seed_included(&target, "acme").await;
    target.drain().await;
    let dry = target
        .admin
        .post("/admin/billing/run", json!({ "dry_run": true }))
        .await
        .unwrap();
    assert_eq!(
        (&dry.json()["cents"], &dry.json()["dry_run"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(target.night().await["cents"], 1);
    assert_eq!(target.night().await["cents"], 0);

    target
        .set_clock(json!({ "now": "2026-12-02T02:00:00Z" }))
        .await;
    report(&target, "late", "2026-11-30T23:59:59Z", 20).await;
    target.drain().await;
    let night = target.night().await;
    assert_eq!(
        (&night["cents"], &night["charges"][0]["month"]),
        (&json!(2), &json!("2026-11"))
    );

    target
        .set_clock(json!({ "now": "2026-12-04T02:00:00Z" }))
        .await;
    let closed = target.night().await["closed"].clone();
    assert!(
        closed.as_array().unwrap().contains(&json!("2026-11")),
        "{closed}"
    );
    report(&target, "too-late", "2026-11-30T23:59:59Z", 100).await;
    target.drain().await;
    assert_eq!(target.night().await["cents"], 0);
    let charges = target
        .admin
        .get("/admin/customers/acme/charges?month=2026-11");
    let charges = charges.await.unwrap().json();
    let cents: Vec<_> = charges["data"].as_array().unwrap().iter().collect();
    assert_eq!(cents.len(), 2);
    assert_eq!(cents[0]["amount"]["display"], "$0.01");
    assert_eq!(cents[1]["amount"]["micro_usd"], 20_000);
    assert_eq!(
        (&cents[1]["from_call"], &cents[1]["to_call"]),
        (&json!(11), &json!(30))
    );
    assert_eq!(cents[1]["status"], "ledger_only");
}

#[tokio::test]
async fn what_is_no_usage_is_quarantined_and_the_rest_is_counted() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    put_events(&target, "not-an-entry", json!({ "hello": "world" })).await;
    let mut entry = entry("mixed", "acme", NOW, 3);
    entry["data"]["records"][1]["status"] = json!("two hundred");
    put_events(&target, "mixed", entry).await;
    let drained = target.drain().await;
    assert_eq!(
        (&drained["delivered"], &drained["failed"]),
        (&json!(2), &json!(0))
    );
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    let usage = client.get("/api/usage/current").await.unwrap().json();
    assert_eq!(usage["metered"]["calls"], 2);
    let set_aside = target
        .running
        .store
        .quarantined_of_entry("test", "mixed")
        .await
        .unwrap();
    assert_eq!(set_aside[0].refused[0].index, 1);
    assert!(set_aside[0].refused[0].reason.contains("invalid type"));
}

#[tokio::test]
async fn what_the_gateway_cannot_route_is_404_or_405() {
    let target = Target::at(NOW).await;
    for path in [
        "/",
        "/nothing",
        "/api/secure",
        "/api/secure/ping/",
        "/admin/api-keys/a/b/c",
    ] {
        let answer = target.admin.get(path).await.unwrap();
        assert_problem(&answer, StatusCode::NOT_FOUND, "not-found");
    }
    let answer = send(&target.admin, Method::POST, "/").await;
    assert_problem(&answer, StatusCode::NOT_FOUND, "not-found");
    let answer = send(&target.admin, Method::PUT, "/admin/customers").await;
    assert_problem(
        &answer,
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
    );
    assert_eq!(answer.header("allow"), "POST, GET");
}

#[tokio::test]
async fn the_clock_moves_in_one_way_at_a_time() {
    let target = Target::at(NOW).await;
    for body in [json!({}), json!({ "now": NOW, "advance_s": 1 })] {
        let answer = target.anyone.post("/_local/clock", body).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
}

#[tokio::test]
async fn a_store_that_is_down_closes_the_free_plan_and_leaves_paid_ones_open() {
    use tollgate_local_aws::Fault;

    let target = Target::at(NOW).await;
    target.customer("free", "free").await;
    target.customer("pro", "pro").await;
    let (free, _) = target.key(json!({ "customer_id": "free" })).await;
    let (pro, _) = target.key(json!({ "customer_id": "pro" })).await;
    target.running.aws.inject(|call| match call.operation() {
        "UpdateItem" => Fault::RequestLost,
        _ => Fault::None,
    });
    let refused = free.get("/api/secure/ping").await.unwrap();
    let status = StatusCode::SERVICE_UNAVAILABLE;
    assert_problem(&refused, status, "temporarily-unavailable");
    assert_eq!(refused.header("retry-after"), "1");
    let admitted = pro.get("/api/secure/ping").await.unwrap();
    assert_eq!(admitted.status, StatusCode::OK);
    assert_eq!(admitted.header("x-ratelimit-limit"), "");
    target.running.aws.heal();
    assert_eq!(
        free.get("/api/secure/ping").await.unwrap().status,
        StatusCode::OK
    );
}

/// More than one thread, because one waits while the caller hangs up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_hangs_up_loses_no_record() {
    use std::io::Write;
    use tollgate_local_aws::Fault;

    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, key) = target.key(json!({ "customer_id": "acme" })).await;
    let (began, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (hang_up, hung_up) = std::sync::mpsc::channel();
    let mut is_first = true;
    target.running.aws.inject(move |call| {
        if call.operation() != "PutEvents" || !std::mem::take(&mut is_first) {
            return Fault::None;
        }
        began.send(()).unwrap();
        hung_up.recv().unwrap();
        Fault::RequestLost
    });
    let address = target.running.url.strip_prefix("http://").unwrap();
    let mut caller = std::net::TcpStream::connect(address).unwrap();
    let secret = key["key"].as_str().unwrap();
    let head = format!("host: {address}\r\nx-api-key: {secret}");
    write!(caller, "GET /api/secure/ping HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
    begins.recv().await.unwrap();
    drop(caller);
    hang_up.send(()).unwrap();

    // It is answered when the flush that is under way has ended, and its own has.
    let pong = client.get("/api/secure/ping").await.unwrap();
    assert_eq!(pong.status, StatusCode::OK);
    target.drain().await;
    let usage = client.get("/api/usage/current").await.unwrap().json();
    assert_eq!(usage["metered"]["calls"], 2);
}

#[tokio::test]
async fn what_a_function_still_holds_is_put_on_the_bus_when_the_product_stops() {
    use tollgate_local_aws::Fault;

    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    let aws = target.running.aws.clone();
    aws.inject(|call| match call.operation() {
        "PutEvents" => Fault::RequestLost,
        _ => Fault::None,
    });
    let pong = client.get("/api/secure/ping").await.unwrap();
    assert_eq!(pong.status, StatusCode::OK);
    aws.heal();
    assert_eq!(aws.queue().counts().unwrap().queued, 0);
    target.running.stop().await.unwrap();
    assert_eq!(aws.queue().counts().unwrap().queued, 1);
}

/// Puts one event on the bus over the AWS protocol.
async fn put_events(target: &Target, what: &str, detail: serde_json::Value) {
    let answer = calls::put_event(&target.anyone, &detail).await;
    assert_eq!(answer["FailedEntryCount"], 0, "{what}");
}

async fn report(target: &Target, id: &str, time: &str, records: usize) {
    put_events(target, id, entry(id, "acme", time, records)).await;
}

/// Counts the 100,000 calls that the pro plan includes, as one entry whose tallies are given.
async fn seed_included(target: &Target, customer: &str) {
    use tollgate_domain::plan::Catalog;
    use tollgate_domain::usage::{Aggregates, Tally};
    use tollgate_store::{EntryPart, Spread, Written};

    let tally = Tally {
        calls: 100_000,
        billable: [("pro".parse().unwrap(), 100_000)].into(),
        ..Tally::default()
    };
    let aggregates = Aggregates {
        days: [("2026-11-01".parse().unwrap(), tally.clone())].into(),
        months: [("2026-11".parse().unwrap(), tally)].into(),
        ..Aggregates::default()
    };
    let part = EntryPart {
        source: "seed",
        id: "included",
        part: 0,
        customer: &customer.parse().unwrap(),
        aggregates: &aggregates,
        records: 0,
        adjustments: &[],
        refused: &[],
        body: b"{}",
        received_at: NOW.parse().unwrap(),
    };
    let plans = Catalog::shipped().unwrap();
    let store = &target.running.store;
    let outcomes = store.write_usage(&[part], &plans, &Spread::default()).await;
    assert_eq!(*outcomes[0].as_ref().unwrap(), Written::Counted);
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut gzip = Vec::new();
    let mut encoder = GzEncoder::new(text, Compression::default());
    encoder.read_to_end(&mut gzip).unwrap();
    gzip
}

#[tokio::test]
async fn a_compressed_body_is_held_to_the_limit_on_what_is_in_it() {
    let target = Target::at(NOW).await;
    let post = async |coding: &str, body: Vec<u8>| {
        let headers = [("content-encoding", coding)];
        let path = "/admin/customers";
        let answer = target.admin.send(Method::POST, path, &headers, body.into());
        answer.await.unwrap()
    };
    let customer = |id: &str| json!({ "id": id, "plan": "free" }).to_string();
    let answer = post("gzip", gzip(customer("acme").as_bytes())).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    for size in [1024 * 1024 + 1, 50_000_000] {
        let padded = format!("{}{}", " ".repeat(size), customer("bolt"));
        let answer = post("gzip", gzip(padded.as_bytes())).await;
        assert_problem(&answer, StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
    }
    let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    for (coding, body) in [
        ("br", customer("bolt").into_bytes()),
        ("gzip", customer("bolt").into_bytes()),
    ] {
        let answer = post(coding, body).await;
        assert_problem(&answer, unsupported, "unsupported-media-type");
        assert_eq!(answer.header("accept-encoding"), "gzip");
    }
    let headers = [("content-type", "application/json; charset=utf-16")];
    let path = "/admin/customers";
    let body = customer("bolt").into();
    let answer = target.admin.send(Method::POST, path, &headers, body).await;
    assert_problem(&answer.unwrap(), unsupported, "unsupported-media-type");
    let bolt = target.admin.get("/admin/customers/bolt").await.unwrap();
    assert_problem(&bolt, StatusCode::NOT_FOUND, "not-found");
}

#[tokio::test]
async fn a_field_that_is_sent_twice_reaches_the_function_twice() {
    let target = Target::at(NOW).await;
    let headers = [("idempotency-key", "one"), ("idempotency-key", "other")];
    let body = json!({ "id": "acme", "plan": "free" }).to_string().into();
    let path = "/admin/customers";
    let answer = target.admin.send(Method::POST, path, &headers, body).await;
    assert_problem(&answer.unwrap(), StatusCode::BAD_REQUEST, "bad-request");
    let acme = target.admin.get("/admin/customers/acme").await.unwrap();
    assert_problem(&acme, StatusCode::NOT_FOUND, "not-found");
}

#[tokio::test]
async fn a_body_whose_chunks_cannot_be_read_is_a_bad_request() {
    let target = Target::at(NOW).await;
    let address = target.running.url.strip_prefix("http://").unwrap();
    let key = target.running.admin.expose().unwrap();
    for path in ["/admin/customers", "/_local/clock"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\n\
             transfer-encoding: chunked\r\n\r\nnot a size\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(
            answer.contains("urn:tollgate:problem:bad-request"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn the_clock_takes_times_as_in_rfc_3339() {
    let target = Target::at(NOW).await;
    for now in ["2026-11-22T10:00Z", "9999-12-31T23:59:59Z"] {
        let answer = target.anyone.post("/_local/clock", json!({ "now": now }));
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert_eq!(answer.json()["field"], "now");
    }
}
