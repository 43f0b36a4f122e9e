//! What only a local product shows: what happens as time passes, and what is behind the API. All
//! else is in `end_to_end`.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test they are called from"
)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use axum::body::Body;
use flate2::Compression;
use flate2::read::GzEncoder;
use http::{Method, StatusCode};
use serde_json::json;
use support::calls::{self, entry};
use support::{Target, assert_problem, raw, send};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tollgate_local::client::{Answer, Client};
use tollgate_local::product::Options;

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

/// The last calls of the day, after which nobody calls.
#[tokio::test]
async fn a_night_finds_what_was_let_in_and_what_was_metered_alike() {
    let target = Target::at("2026-11-10T10:00:10Z").await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    for _ in 0..100 {
        let answer = client.get("/api/secure/ping").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }
    target.drain().await;
    target
        .set_clock(json!({ "now": "2026-11-11T03:30:00Z" }))
        .await;
    let night = target.night().await;
    let totals = ["admitted", "metered", "differences"].map(|name| &night["reconciliation"][name]);
    assert_eq!(totals, [100, 100, 0], "{night}");
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
        .quarantined_of_event("test", "mixed")
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
    for client in [&free, &pro] {
        let known = client.get("/api/secure/ping").await.unwrap();
        assert_eq!(known.status, StatusCode::OK);
    }
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
    // A store that has not answered is left alone for half a second.
    target.set_clock(json!({ "advance_s": 1 })).await;
    assert_eq!(
        free.get("/api/secure/ping").await.unwrap().status,
        StatusCode::OK
    );
}

/// Of so short an outage it shows that nothing is lost by it: what plans promise of one takes the
/// program's soak of minutes.
#[tokio::test]
async fn after_an_outage_admitted_calls_are_metered_ones() {
    use std::time::Duration;
    use tollgate_local::soak::outage;

    let (down, around) = (Duration::from_secs(2), Duration::from_secs(4));
    let report = outage::run(down, around).await.unwrap();
    assert_eq!(report.violations, [""; 0]);
    assert_eq!(report.metered, report.admitted);
    assert!(report.admitted > report.uncounted);
}

/// More than one thread, because one waits while the caller hangs up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_hangs_up_loses_no_record() {
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
    let secret = key["key"].as_str().unwrap();
    let caller = raw::begin(
        &target.running.url,
        &format!("GET /api/secure/ping HTTP/1.1\r\nx-api-key: {secret}"),
    );
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

/// More than one thread, because one waits while the caller hangs up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_hangs_up_while_it_is_decided_is_served_and_metered() {
    use tollgate_local_aws::Fault;

    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (_, key) = target.key(json!({ "customer_id": "acme" })).await;
    let (began, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (hang_up, hung_up) = std::sync::mpsc::channel::<()>();
    target.running.aws.inject(move |call| {
        if call.operation() == "UpdateItem" && began.send(()).is_ok() {
            // Once; later ones find the other end gone.
            let _ = hung_up.recv();
        }
        Fault::None
    });
    let secret = key["key"].as_str().unwrap();
    let caller = raw::begin(
        &target.running.url,
        &format!("GET /api/secure/ping HTTP/1.1\r\nx-api-key: {secret}"),
    );
    begins.recv().await.unwrap();
    drop(caller);
    // Its connection has ended when another, which was made later, has been answered.
    target.anyone.get("/_local/clock").await.unwrap();
    drop(hang_up);

    let (aws, store) = (target.running.aws.clone(), target.running.store.clone());
    target.running.stop().await.unwrap();
    assert_eq!(aws.queue().counts().unwrap().queued, 1);
    let key_id = key["id"].as_str().unwrap().parse().unwrap();
    let day = "2026-11-22".parse().unwrap();
    assert_eq!(
        store.admitted_calls(&[key_id].into(), day).await.unwrap(),
        1
    );
}

#[tokio::test]
async fn a_large_body_is_read_from_callers_with_a_good_key_alone() {
    let target = Target::at(NOW).await;
    target.customer("acme", "free").await;
    let (client, key) = target.key(json!({ "customer_id": "acme" })).await;
    let length = |bytes: u32| {
        format!("POST /api/analyze HTTP/1.1\r\ncontent-length: {bytes}\r\nconnection: close")
    };
    let secret = key["key"].as_str().unwrap();
    let stranger = tollgate_domain::key::KeyFormat::new("tg", "live").unwrap();
    let stranger = tollgate_runtime::Entropy::seeded(9)
        .with(|rng| stranger.generate(tollgate_domain::key::Role::Customer, rng));
    // None of the body is sent.
    let check = async |head: String, status: &str| {
        let answer = raw::answer_to_head(&target.running.url, &head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    };
    check(length(9_000_000), "401").await;
    let chunked = "POST /api/analyze HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close";
    check(chunked.to_owned(), "401").await;
    let with_key = |head: String, key: &str| format!("{head}\r\nx-api-key: {key}");
    check(with_key(length(9_000_000), stranger.expose()), "401").await;
    check(with_key(length(11_000_000), secret), "413").await;
    check(with_key(length(9_000_000), secret), "400").await;

    // Whoever sends all of it reads the answer all the same.
    let unknown = target.anyone.with_key(stranger.expose());
    let whole = json!({ "text": "x".repeat(9_000_000) });
    let refused = unknown.post("/api/analyze", whole).await.unwrap();
    assert_problem(&refused, StatusCode::UNAUTHORIZED, "unauthorized");

    // The key is looked at twice, and the call is counted once.
    let text = json!({ "text": "x".repeat(90_000) });
    let analysed = client.post("/api/analyze", text).await.unwrap();
    assert_eq!(analysed.status, StatusCode::OK, "{}", analysed.text);
    assert_eq!(analysed.header("x-ratelimit-remaining"), "99");
}

#[tokio::test]
async fn other_sites_pages_move_no_clock_and_report_no_usage() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    let own = target.running.url.clone();
    let own_host = own.strip_prefix("http://").unwrap();
    let (text, json) = (
        ("content-type", "text/plain"),
        ("content-type", "application/json"),
    );
    let put = ("x-amz-target", "AWSEvents.PutEvents");
    let event = json!({ "Entries": [calls::event("usage", &entry("e", "acme", NOW, 1))] });
    let a_year = json!({ "advance_s": 31_536_000 });
    let post = async |path: &str, body: &serde_json::Value, headers: &[(&str, &str)]| {
        let body = body.to_string().into();
        let answer = target.anyone.send(Method::POST, path, headers, body);
        answer.await.unwrap()
    };
    let foreign = [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:1"),
        ("host", "evil.example"),
    ];
    for field in foreign {
        for content_type in [text, json] {
            for path in ["/_local/clock", "/_local/drain", "/_local/nightly"] {
                let refused = post(path, &a_year, &[field, content_type]).await;
                assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path} {field:?}");
                let problem = refused.json();
                assert_eq!(problem["type"], "urn:tollgate:problem:forbidden");
            }
            let refused = post("/", &event, &[field, content_type, put]).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{field:?}");
        }
        let field = [field];
        let letters = target
            .anyone
            .send(Method::GET, "/_local/dead-letters", &field, "".into());
        assert_eq!(letters.await.unwrap().status, StatusCode::FORBIDDEN);
    }
    let now = target.anyone.get("/_local/clock").await.unwrap().json();
    assert!(
        now["now"].as_str().unwrap().starts_with("2026-11-22"),
        "{now}"
    );
    assert_eq!(target.drain().await["delivered"], 0);

    // Programs of this machine, pages of the product, and whoever has a key under any name.
    let moved = json!({ "advance_s": 0 });
    for headers in [
        vec![text],
        vec![("origin", own.as_str()), json],
        vec![("host", own_host)],
    ] {
        let answer = post("/_local/clock", &moved, &headers).await;
        assert_eq!(answer.status, StatusCode::OK, "{headers:?}");
    }
    let host = [("host", "api.example")];
    let ping = client.send(Method::GET, "/api/secure/ping", &host, "".into());
    assert_eq!(ping.await.unwrap().status, StatusCode::OK);
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
    let answer = calls::put_event(&target.anyone, &calls::event("usage", &detail)).await;
    assert_eq!(answer["FailedEntryCount"], 0, "{what}");
}

async fn report(target: &Target, id: &str, time: &str, records: usize) {
    put_events(target, id, entry(id, "acme", time, records)).await;
}

/// Counts the 100,000 calls that the pro plan includes, as one entry whose tallies are given.
async fn seed_included(target: &Target, customer: &str) {
    use tollgate_domain::plan::Catalog;
    use tollgate_domain::usage::{Aggregates, Aggregate};
    use tollgate_store::{EventPart, ShardCounts, Written};

    let tally = Aggregate {
        calls: 100_000,
        billable: [("pro".parse().unwrap(), 100_000)].into(),
        ..Aggregate::default()
    };
    let aggregates = Aggregates {
        days: [("2026-11-01".parse().unwrap(), tally.clone())].into(),
        months: [("2026-11".parse().unwrap(), tally)].into(),
        ..Aggregates::default()
    };
    let part = EventPart {
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
    let outcomes = store.write_usage(&[part], &plans, &ShardCounts::default()).await;
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

/// A call that no function is asked to answer has no record, and must not be counted either.
#[tokio::test]
async fn a_call_whose_body_the_gateway_refuses_is_not_counted() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    let stranger = target.anyone.clone();
    let bomb = gzip(&vec![b' '; 11_000_000]);
    let noise: Vec<u8> = (0..90_000u32).map(|n| (n * 31 % 251) as u8).collect();
    let ours = b"{}".to_vec();
    let refused = [
        ("br", ours.clone(), 415),
        ("gzip, gzip", ours.clone(), 415),
        ("gzip", ours.clone(), 415),
        ("br", noise.clone(), 415),
        ("gzip", noise, 415),
        ("gzip", bomb, 413),
        ("identity", vec![b' '; 11_000_000], 413),
    ];
    let analyze = async |client: &Client, coding: &str, body: Vec<u8>| {
        let headers = [("content-encoding", coding)];
        let answer = client.send(Method::POST, "/api/analyze", &headers, body.into());
        answer.await.unwrap()
    };
    for (coding, body, status) in refused {
        let answer = analyze(&client, coding, body.clone()).await;
        assert_eq!(answer.status, status, "{coding}: {}", answer.text);
        // Who has no good key learns nothing else.
        let answer = analyze(&stranger, coding, body).await;
        assert_problem(&answer, StatusCode::UNAUTHORIZED, "unauthorized");
    }
    // What a function refuses is counted and metered.
    let wrong = analyze(&client, "gzip", gzip(b"{}")).await;
    assert_problem(&wrong, StatusCode::BAD_REQUEST, "bad-request");
    let headers = [("content-type", "application/json; charset=latin1")];
    let wrong = client.send(Method::POST, "/api/analyze", &headers, ours.into());
    let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    assert_problem(&wrong.await.unwrap(), unsupported, "unsupported-media-type");
    target.drain().await;
    let usage = client.get("/api/usage/current").await.unwrap().json();
    let calls = |part: &str| usage[part]["calls"].clone();
    let used = usage["admitted"].clone();
    assert_eq!(
        (calls("admitted"), calls("metered")),
        (json!(2), json!(2)),
        "{used}"
    );
}

/// Whoever keeps many bodies on the way keeps its own waiting, and nobody else's.
#[tokio::test]
async fn bodies_that_do_not_come_hold_up_nobody_else() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    target.customer("bolt", "pro").await;
    let (_, key) = target.key(json!({ "customer_id": "acme" })).await;
    let (other, _) = target.key(json!({ "customer_id": "bolt" })).await;
    let secret = key["key"].as_str().unwrap();
    let head =
        format!("POST /api/analyze HTTP/1.1\r\ncontent-length: 9000000\r\nx-api-key: {secret}");
    let mut stalled: Vec<TcpStream> = (0..40)
        .map(|_| raw::begin(&target.running.url, &head))
        .collect();
    for caller in &mut stalled {
        caller.write_all(&[b' '; 1_000]).unwrap();
    }
    let padding = " ".repeat(100_000);
    let customer = json!({ "id": "coil", "plan": "pro" });
    let admin = async {
        let body = format!("{padding}{customer}").into();
        let answer = target
            .admin
            .send(Method::POST, "/admin/customers", &[], body);
        answer.await.unwrap().status
    };
    let analysed = async {
        let body = json!({ "text": "x".repeat(90_000) });
        other.post("/api/analyze", body).await.unwrap().status
    };
    for _ in 0..5 {
        // Until those that are stalled have been read as far as they come.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let small = target.admin.get("/admin/customers").await.unwrap();
        assert_eq!(small.status, StatusCode::OK);
    }
    let answers = async { (admin.await, analysed.await) };
    let answers = timeout(Duration::from_secs(10), answers).await;
    assert_eq!(answers, Ok((StatusCode::CREATED, StatusCode::OK)));
}

/// A few bytes can say millions: a body that is to be inflated waits for room as a large one does.
#[tokio::test]
async fn a_small_body_in_gzip_waits_for_room_and_one_that_is_not_does_not() {
    let target = Target::at(NOW).await;
    let post = |coding: &'static str, body: Body| {
        let admin = target.admin.clone();
        async move {
            let headers = [("content-encoding", coding)];
            let path = "/admin/customers";
            let answer = admin.send(Method::POST, path, &headers, body).await;
            answer.unwrap().status
        }
    };
    let customer = |id: &str| json!({ "id": id, "plan": "free" }).to_string();
    // Bodies of unknown length that do not come take all the room there is.
    let silent = || futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let mut large = JoinSet::new();
    for _ in 0..8 {
        large.spawn(post("identity", Body::from_stream(silent())));
    }
    let mut waits = None;
    for n in 0..100 {
        let small = gzip(customer(&format!("c-{n}")).as_bytes());
        let mut answer = Box::pin(post("gzip", small.into()));
        if timeout(Duration::from_millis(100), &mut answer)
            .await
            .is_err()
        {
            waits = Some(answer);
            break;
        }
    }
    let waits = waits.expect("there is always room");
    let plain = post("identity", customer("plain").into()).await;
    assert_eq!(plain, StatusCode::CREATED);
    drop(large);
    assert_eq!(waits.await, StatusCode::CREATED);
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
    let key = target.running.admin.expose().unwrap();
    for path in ["/admin/customers", "/_local/clock"] {
        let head =
            format!("POST {path} HTTP/1.1\r\nx-api-key: {key}\r\ntransfer-encoding: chunked");
        let mut caller = raw::begin(&target.running.url, &head);
        caller.write_all(b"not a size\r\n").unwrap();
        let answer = raw::answer(caller).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(
            answer.contains("urn:tollgate:problem:bad-request"),
            "{answer}"
        );
    }
}

/// Longer than the authorizer goes by what it has read of a key.
const A_WHILE: i64 = 6;

async fn patch(target: &Target, path: &str, enabled: bool) {
    let body = json!({ "enabled": enabled });
    let answer = target.admin.json(Method::PATCH, path, body).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    target.set_clock(json!({ "advance_s": A_WHILE })).await;
}

#[tokio::test]
async fn a_suspended_customer_is_refused_and_can_still_see_its_usage() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, key) = target.key(json!({ "customer_id": "acme" })).await;
    let get = async |path: &str| client.get(path).await.unwrap();
    let (ping, usage) = ("/api/secure/ping", "/api/usage/current");
    assert_eq!(get(ping).await.status, StatusCode::OK);

    patch(&target, "/admin/customers/acme", false).await;
    let refused = get(ping).await;
    let status = StatusCode::TOO_MANY_REQUESTS;
    assert_problem(&refused, status, "customer-suspended");
    // To wait does not help.
    let waits = ["retry-after", "x-ratelimit-reset", "ratelimit"];
    assert!(
        waits
            .iter()
            .all(|name| refused.headers.get(*name).is_none())
    );
    assert_eq!(get(usage).await.status, StatusCode::OK);
    patch(&target, "/admin/customers/acme", true).await;
    assert_eq!(get(ping).await.status, StatusCode::OK);

    let path = format!("/admin/api-keys/{}", key["id"].as_str().unwrap());
    patch(&target, &path, false).await;
    for path in [ping, usage] {
        let status = StatusCode::UNAUTHORIZED;
        assert_problem(&get(path).await, status, "unauthorized");
    }
    patch(&target, &path, true).await;
    assert_eq!(get(ping).await.status, StatusCode::OK);
    target.drain().await;
    assert_eq!(get(usage).await.json()["metered"]["calls"], 3);
}

#[tokio::test]
async fn a_customer_who_has_left_reaches_nothing_and_is_still_billed_by_id() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    client.get("/api/secure/ping").await.unwrap();
    let erase = "/admin/customers/acme?dry_run=false";
    let erased = send(&target.admin, Method::DELETE, erase).await;
    assert_eq!(erased.status, StatusCode::OK, "{}", erased.text);
    target.set_clock(json!({ "advance_s": A_WHILE })).await;
    for path in ["/api/secure/ping", "/api/usage/current"] {
        let refused = client.get(path).await.unwrap();
        assert_problem(&refused, StatusCode::UNAUTHORIZED, "unauthorized");
    }
    target.drain().await;
    let logged = target.admin.get("/admin/usage/events?customer_id=acme");
    let logged = logged.await.unwrap().json();
    assert_eq!(logged["data"].as_array().unwrap().len(), 1, "{logged}");
}

#[tokio::test]
async fn a_rotation_does_not_begin_the_hour_anew() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let limited = json!({ "customer_id": "acme", "overrides": { "requests_per_hour": 2 } });
    let (old, key) = target.key(limited).await;
    let ping = async |client: &Client| client.get("/api/secure/ping").await.unwrap().status;
    assert_eq!(ping(&old).await, StatusCode::OK);
    let path = format!("/admin/api-keys/{}/rotate", key["id"].as_str().unwrap());
    let rotated = target.admin.post(&path, json!({})).await.unwrap().json();
    let new = target.anyone.with_key(rotated["key"].as_str().unwrap());
    assert_eq!(ping(&new).await, StatusCode::OK);
    for client in [&old, &new] {
        assert_eq!(ping(client).await, StatusCode::TOO_MANY_REQUESTS);
    }
}

/// The CORS fields of an answer.
fn cors_fields(answer: &Answer) -> Vec<(String, String)> {
    let fields = answer.headers.iter();
    let fields = fields.filter(|(name, _)| name.as_str().starts_with("access-control-"));
    let mut fields: Vec<_> = fields
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    fields.sort();
    fields
}

/// Without a key, with a good one, and as preflights: what a page of another origin calls.
async fn answers_to_a_page(target: &Target) -> Vec<Answer> {
    target.customer("acme", "free").await;
    let limited = json!({ "customer_id": "acme", "overrides": { "requests_per_hour": 1 } });
    let (client, _) = target.key(limited).await;
    let mut answers = Vec::new();
    for (client, method, path, status) in [
        (&client, Method::GET, "/api/secure/ping", 200),
        (&client, Method::GET, "/api/secure/ping", 429),
        (&client, Method::GET, "/api/usage/current", 200),
        (&client, Method::GET, "/admin/customers", 403),
        (&client, Method::GET, "/nothing", 404),
        (&client, Method::PUT, "/admin/customers", 405),
        (&target.anyone, Method::GET, "/api/secure/ping", 401),
    ] {
        let answer = send(client, method, path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        answers.push(answer);
    }
    answers
}

#[tokio::test]
async fn pages_of_the_origin_that_is_named_may_call() {
    let options = Options {
        parameters: vec![("CorsOrigins", "https://app.example".to_owned())],
        ..Options::default()
    };
    let target = Target::of(options, NOW).await;
    let preflight = send(&target.anyone, Method::OPTIONS, "/admin/customers").await;
    assert_eq!(preflight.status, StatusCode::OK);
    let fields = [
        (
            "allow-headers",
            "Authorization, Content-Encoding, Content-Type, Idempotency-Key, X-Api-Key",
        ),
        ("allow-methods", "POST,GET,OPTIONS"),
        ("allow-origin", "https://app.example"),
        ("max-age", "600"),
    ];
    let named = |(name, value): (&str, &str)| (format!("access-control-{name}"), value.to_owned());
    assert_eq!(cors_fields(&preflight), fields.map(named));
    let nowhere = send(&target.anyone, Method::OPTIONS, "/nothing").await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);

    let exposed = "Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, \
                   X-RateLimit-Remaining, X-RateLimit-Reset";
    let fields = [
        ("allow-origin", "https://app.example"),
        ("expose-headers", exposed),
    ];
    for answer in answers_to_a_page(&target).await {
        assert_eq!(cors_fields(&answer), fields.map(named), "{}", answer.text);
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

#[tokio::test]
async fn pages_of_other_origins_may_not_call_unless_one_is_named() {
    let target = Target::at(NOW).await;
    let preflight = send(&target.anyone, Method::OPTIONS, "/admin/customers").await;
    assert!(
        preflight
            .headers
            .get("access-control-allow-origin")
            .is_none()
    );
    for answer in answers_to_a_page(&target).await {
        assert_eq!(cors_fields(&answer), [], "{}", answer.text);
    }
}
