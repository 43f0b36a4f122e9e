//! What only a local product shows: what happens as time passes, and what is behind the API. All
//! else is in `end_to_end`.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test they are called from"
)]

mod support;

use http::{Method, StatusCode};
use serde_json::json;
use support::calls::{self, entry};
use support::{Target, assert_problem, send};
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
            "Authorization, Content-Type, Idempotency-Key, X-Api-Key",
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
