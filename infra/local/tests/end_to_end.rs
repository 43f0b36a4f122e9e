//! The product as its users see it: over HTTP, from a key's first call to its bill.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test they are called from"
)]

mod support;

use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::json;
use support::{Target, assert_problem, send};

const NOW: &str = "2026-11-22T10:00:00Z";

#[tokio::test]
async fn a_key_lives_from_creation_to_revocation() {
    let target = Target::at(NOW).await;
    target.customer("acme", "free").await;
    let (client, key) = target
        .key(json!({ "customer_id": "acme", "name": "ci" }))
        .await;
    let secret = key["key"].as_str().unwrap();
    let prefix = key["prefix"].as_str().unwrap();
    assert!(secret.starts_with(prefix) && prefix.starts_with("tg_live_"));
    let pong = client.get("/api/secure/ping").await.unwrap();
    assert_eq!(pong.status, StatusCode::OK);
    assert_eq!(pong.json()["customer_id"], "acme");

    let path = format!("/admin/api-keys/{prefix}");
    let shown = target.admin.get(&path).await.unwrap();
    assert_eq!(shown.json()["name"], "ci");
    assert!(!shown.text.contains(secret));
    let listed = target
        .admin
        .get("/admin/api-keys?customer_id=acme&status=active&plan=free");
    let listed = listed.await.unwrap();
    assert_eq!(listed.json()["data"][0]["prefix"], prefix);
    assert!(!listed.text.contains(secret));

    for _ in 0..2 {
        let gone = send(&target.admin, Method::DELETE, &path).await;
        assert_eq!(
            (gone.status, gone.text.as_str()),
            (StatusCode::NO_CONTENT, "")
        );
    }
    let refused = client.get("/api/secure/ping").await.unwrap();
    assert_problem(&refused, StatusCode::UNAUTHORIZED, "unauthorized");
    let unknown = send(
        &target.admin,
        Method::DELETE,
        "/admin/api-keys/tg_live_00000000",
    )
    .await;
    assert_problem(&unknown, StatusCode::NOT_FOUND, "not-found");
    let stats = target
        .admin
        .get("/admin/api-keys/stats")
        .await
        .unwrap()
        .json();
    assert_eq!(
        (&stats["revoked"], &stats["by_plan"]["free"]["revoked"]),
        (&json!(1), &json!(1))
    );
}

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
    for left in ["1", "0"] {
        let pong = client.get("/api/secure/ping").await.unwrap();
        assert_eq!(pong.status, StatusCode::OK);
        assert_eq!(pong.header("x-ratelimit-limit"), "2");
        assert_eq!(pong.header("x-ratelimit-remaining"), left);
    }
    let refused = client.get("/api/secure/ping").await.unwrap();
    assert_problem(&refused, StatusCode::TOO_MANY_REQUESTS, "rate-limited");
    assert_eq!(refused.header("x-ratelimit-limit"), "2");
    assert_eq!(refused.header("x-ratelimit-remaining"), "0");
    assert_eq!(refused.header("ratelimit-policy"), r#""hour";q=2;w=3600"#);
    let problem = refused.json();
    assert_eq!(
        (&problem["limit"], &problem["remaining"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(problem["resets_at"], "2026-11-22T11:00:00Z");
    let wait: i64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=1_800).contains(&wait));
    assert_eq!(problem["retry_after_s"], wait);
    target.set_clock(json!({ "advance_s": wait })).await;
    assert_eq!(
        client.get("/api/secure/ping").await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn an_exhausted_customer_still_sees_their_usage() {
    let target = Target::at(NOW).await;
    target.customer("acme", "free").await;
    let quota = json!({ "customer_id": "acme", "overrides": { "monthly_quota": 1 } });
    let (client, _) = target.key(quota).await;
    assert_eq!(
        client.get("/api/secure/ping").await.unwrap().status,
        StatusCode::OK
    );
    let refused = client.get("/api/secure/ping").await.unwrap();
    assert_problem(&refused, StatusCode::TOO_MANY_REQUESTS, "quota-exceeded");
    assert_eq!(refused.json()["resets_at"], "2026-12-01T00:00:00Z");
    target.drain().await;
    let usage = client.get("/api/usage/current").await.unwrap();
    assert_eq!(usage.status, StatusCode::OK, "{}", usage.text);
    let usage = usage.json();
    assert_eq!(
        (&usage["admitted"]["calls"], &usage["metered"]["calls"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test]
async fn a_change_of_plan_holds_from_the_next_call() {
    let target = Target::at(NOW).await;
    target.customer("acme", "free").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    let limit = async || {
        let pong = client.get("/api/secure/ping").await.unwrap();
        pong.header("x-ratelimit-limit").to_owned()
    };
    assert_eq!(limit().await, "100");
    let patch = json!({ "plan": "enterprise" });
    let patched = target
        .admin
        .json(Method::PATCH, "/admin/customers/acme", patch)
        .await
        .unwrap();
    assert_eq!(patched.json()["plan"], "enterprise");
    assert_eq!(limit().await, "100000");
}

#[tokio::test]
async fn every_served_call_is_metered_and_no_other() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    for _ in 0..3 {
        client.get("/api/secure/ping").await.unwrap();
    }
    let asked = client
        .post("/api/analyze", json!({ "text": "a".repeat(400) }))
        .await
        .unwrap();
    let cost = asked.json()["cost"]["micro_usd"].clone();
    // 100 tokens of text, and 500 and 750 of the models' own: 600 × $0.27 + 850 × $3 a million.
    assert_eq!(cost, 162 + 2_550);
    let wrong = client
        .post("/api/analyze", json!({ "text": 5 }))
        .await
        .unwrap();
    assert_problem(&wrong, StatusCode::BAD_REQUEST, "bad-request");
    assert_eq!(wrong.json()["field"], "text");
    target.anyone.get("/api/secure/ping").await.unwrap();
    client.get("/admin/customers").await.unwrap();
    let drained = target.drain().await;
    assert_eq!(
        (&drained["delivered"], &drained["dead_letters"]),
        (&json!(5), &json!(0))
    );
    let usage = client.get("/api/usage/current").await.unwrap().json();
    let metered = &usage["metered"];
    assert_eq!(
        (&metered["calls"], &metered["billable_calls"]),
        (&json!(5), &json!(5))
    );
    assert_eq!(
        (&metered["client_errors"], &metered["tokens"]),
        (&json!(1), &json!(1_450))
    );
    assert_eq!(metered["cost"]["micro_usd"], cost);
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
    let mut entry = entry("mixed", NOW, 3);
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
async fn bad_input_is_refused_by_name() {
    let target = Target::at(NOW).await;
    let post = async |body: &[u8]| {
        let headers = [("content-type", "application/json")];
        let body = Body::from(body.to_vec());
        let answer = target
            .admin
            .send(Method::POST, "/admin/customers", &headers, body);
        answer.await.unwrap()
    };
    for (body, field) in [
        (&b"{"[..], None),
        (b"", None),
        (b"[]", None),
        (b"{\"plan\":\"free\"} x", None),
        (b"\xff\xfe", None),
        (b"{\"plan\":5}", Some("plan")),
        (b"{\"plan\":\"free\",\"colour\":1}", Some("colour")),
        (b"{\"plan\":\"free\",\"id\":\"a b\"}", Some("id")),
    ] {
        let answer = post(body).await;
        assert_problem(&answer, StatusCode::BAD_REQUEST, "bad-request");
        assert_eq!(
            answer.json().get("field").and_then(|f| f.as_str()),
            field,
            "{}",
            answer.text
        );
    }
    let answer = post(b"{\"plan\":\"platinum\"}").await;
    assert_problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
    let large = vec![b' '; 1024 * 1024 + 1];
    assert_problem(
        &post(&large).await,
        StatusCode::PAYLOAD_TOO_LARGE,
        "body-too-large",
    );
    for query in [
        "cursor=x",
        "limit=0",
        "limit=101",
        "limit=many",
        "colour=red",
    ] {
        let path = format!("/admin/customers?{query}");
        let answer = target.admin.get(&path).await.unwrap();
        assert_problem(&answer, StatusCode::BAD_REQUEST, "bad-request");
    }
    for body in [json!({}), json!({ "now": NOW, "advance_s": 1 })] {
        let answer = target.anyone.post("/_local/clock", body).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
}

/// Walks every route of the template: without a key it is 401, and with a key of the other kind
/// 403.
#[tokio::test]
async fn no_route_is_open_to_the_wrong_caller() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (customer, _) = target.key(json!({ "customer_id": "acme" })).await;
    let template = tollgate_local::template::Template::built_in().unwrap();
    assert!(template.routes.len() >= 16);
    for route in template.routes {
        let path = route.path.replace("{key}", "tg_live_00000000");
        let path = path.replace("{customer}", "acme");
        let method: Method = route.method.parse().unwrap();
        let answer = send(&target.anyone, method.clone(), &path).await;
        assert_problem(&answer, StatusCode::UNAUTHORIZED, "unauthorized");
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
        let other = match path.starts_with("/admin/") {
            true => &customer,
            false => &target.admin,
        };
        let answer = send(other, method, &path).await;
        assert_problem(&answer, StatusCode::FORBIDDEN, "forbidden");
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

fn entry(id: &str, time: &str, records: usize) -> serde_json::Value {
    let record = json!({
        "time": time,
        "request_id": "r",
        "key_id": "key_elsewhere",
        "plan": "pro",
        "method": "GET",
        "endpoint": "/elsewhere",
        "status": 200,
        "latency_ms": 1,
    });
    json!({
        "specversion": "1.0",
        "id": id,
        "source": "test",
        "type": "tollgate.usage.v1",
        "time": time,
        "subject": "acme",
        "data": { "records": vec![record; records] },
    })
}

/// Puts one event on the bus over the AWS protocol.
async fn put_events(target: &Target, what: &str, detail: serde_json::Value) {
    let body = json!({ "Entries": [{
        "EventBusName": "usage",
        "Source": "test",
        "DetailType": "tollgate.usage.v1",
        "Detail": detail.to_string(),
    }] });
    let headers = [("x-amz-target", "AWSEvents.PutEvents")];
    let answer = target
        .anyone
        .send(Method::POST, "/", &headers, body.to_string().into());
    let answer = answer.await.unwrap().json();
    assert_eq!(answer["FailedEntryCount"], 0, "{what}");
}

async fn report(target: &Target, id: &str, time: &str, records: usize) {
    put_events(target, id, entry(id, time, records)).await;
}

/// Counts the 100,000 calls that the pro plan includes, as one entry whose tallies are given.
async fn seed_included(target: &Target, customer: &str) {
    use tollgate_domain::plan::Catalog;
    use tollgate_domain::usage::{Aggregates, Tally};
    use tollgate_store::{EntryPart, Written};

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
        refused: &[],
        body: b"{}",
        received_at: NOW.parse().unwrap(),
    };
    let plans = Catalog::shipped().unwrap();
    let written = target
        .running
        .store
        .write_usage(&part, &plans)
        .await
        .unwrap();
    assert_eq!(written, Written::Counted);
}
