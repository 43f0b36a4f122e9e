//! Tests that need a local stack: they change its clock, inject faults or inspect its state. Tests that
//! need only the API are in `end_to_end`.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use flate2::Compression;
use flate2::read::GzEncoder;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use support::calls::{self, send, usage_event};
use support::program::Dir;
use support::raw;
use support::target::{Target, assert_problem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tollgate_domain::submission::Recipient;
use tollgate_local::client::{Client, Response};
use tollgate_local::local_stack::{self, Options};
use tollgate_store::{CustomerChange, RecipientChange, UpdateCustomerOutcome};
use tollgate_testing::faults::fail_operation;
use tollgate_testing::{p, plans, usage};

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
    let rejected = old.get("/api/secure/ping").await.unwrap();
    assert_problem(&rejected, StatusCode::UNAUTHORIZED, "unauthorized");
    assert_eq!(
        new.get("/api/secure/ping").await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn the_hourly_limit_denies_calls_until_the_next_hour() {
    let target = Target::at("2026-11-22T10:30:00Z").await;
    target.customer("acme", "free").await;
    let limit = json!({ "customer_id": "acme", "overrides": { "requests_per_hour": 2 } });
    let (client, _) = target.key(limit).await;
    let ping = async || client.get("/api/secure/ping").await.unwrap();
    for _ in 0..2 {
        assert_eq!(ping().await.status, StatusCode::OK);
    }
    let rejected = ping().await;
    assert_problem(&rejected, StatusCode::TOO_MANY_REQUESTS, "rate-limited");
    assert_eq!(rejected.json()["resets_at"], "2026-11-22T11:00:00Z");
    let wait: i64 = rejected.header("retry-after").parse().unwrap();
    assert!((1..=1_800).contains(&wait), "{wait}");
    target.set_clock(json!({ "advance_s": wait })).await;
    assert_eq!(
        client.get("/api/secure/ping").await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn billing_charges_once_and_charges_late_usage_after_the_month() {
    let target = Target::at("2026-11-30T23:50:00Z").await;
    target.customer("acme", "pro").await;
    report(&target, "first", "2026-11-30T12:00:00Z", 10).await;
    // The plan includes 100,000 calls, which are written as one sum.
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
    assert_eq!(target.nightly().await["cents"], 1);
    assert_eq!(target.nightly().await["cents"], 0);

    target
        .set_clock(json!({ "now": "2026-12-02T02:00:00Z" }))
        .await;
    report(&target, "late", "2026-11-30T23:59:59Z", 20).await;
    target.drain().await;
    let run = target.nightly().await;
    assert_eq!(
        (&run["cents"], &run["charges"][0]["month"]),
        (&json!(2), &json!("2026-11"))
    );

    target
        .set_clock(json!({ "now": "2026-12-04T02:00:00Z" }))
        .await;
    let closed = target.nightly().await["closed"].clone();
    assert!(
        closed.as_array().unwrap().contains(&json!("2026-11")),
        "{closed}"
    );
    report(&target, "too-late", "2026-11-30T23:59:59Z", 100).await;
    target.drain().await;
    assert_eq!(target.nightly().await["cents"], 0);
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
    let no_customer = "The customer has no Stripe customer.";
    assert_eq!(
        (&cents[1]["status"], &cents[1]["failure_reason"]),
        (&json!("failed"), &json!(no_customer))
    );
}

/// Creates a customer at the stand-in for Stripe, and returns its id.
async fn create_stripe_customer(target: &Target) -> String {
    let request = http::Request::post("/v1/customers")
        .header("authorization", "Bearer sk_test_stripe_fake")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from_static(b"name=Acme"))
        .unwrap();
    let created = target.running.stripe.send(request).await.unwrap();
    let created: Value = serde_json::from_slice(created.body()).unwrap();
    created["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_stand_in_for_stripe_keeps_its_state_in_the_data_directory() {
    let dir = Dir::new("stand_in");
    let options = Options {
        data: Some(dir.0.clone()),
        ..Options::default()
    };
    let running = local_stack::start(options.clone()).await.unwrap();
    let stripe = Client::new(&running.stripe_url).unwrap();
    let headers = [
        ("authorization", "Bearer sk_test_stripe_fake"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let created = stripe.send(Method::POST, "/v1/customers", &headers, "name=Acme".into());
    let created = created.await.unwrap().json();
    running.stop().await.unwrap();
    let running = local_stack::start(options).await.unwrap();
    let found = running.stripe.object(created["id"].as_str().unwrap());
    assert_eq!(found.unwrap()["name"], "Acme");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn the_nightly_run_charges_overage_at_stripe_once() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let stripe_customer = create_stripe_customer(&target).await;
    let change = CustomerChange {
        recipient: Some(RecipientChange {
            before: None,
            after: Some(Recipient {
                customer: stripe_customer.clone(),
                subscription: None,
            }),
        }),
        ..CustomerChange::default()
    };
    let customer = p("acme");
    let linked = target.running.store.update_customer(&customer, &change);
    let linked = linked.await.unwrap();
    assert!(matches!(linked, UpdateCustomerOutcome::Done(_)));
    seed_included(&target, "acme").await;
    report(&target, "first", NOW, 20).await;
    target.drain().await;
    let run = target.nightly().await;
    assert_eq!(run["destination"], "stripe");
    target.nightly().await;

    let items = target.running.stripe.invoice_items();
    assert_eq!(items.len(), 1, "{items:?}");
    let charges = target.admin.get("/admin/customers/acme/charges").await;
    let charge = charges.unwrap().json()["data"][0].clone();
    assert_eq!(charge["status"], "settled", "{charge}");
    assert_eq!(charge["invoice_item"], items[0]["id"]);
    assert_eq!(charge["amount"]["micro_usd"], 20_000);
    assert_eq!(items[0]["amount"], 2);
    assert_eq!(items[0]["customer"], stripe_customer.as_str());
    let named = format!("local/{}", charge["id"].as_str().unwrap());
    assert_eq!(items[0]["metadata"]["tollgate_charge"], named);
}

/// Starts a receiver of webhooks, which accepts every message. Returns its address, and the messages: the head of each
/// request, and its body.
async fn receiver() -> (String, Arc<Mutex<Vec<(String, Value)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap());
    let messages = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&messages);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            // The body of a message is a JSON object, which ends with its request.
            while !request.ends_with(b"}}") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let request = String::from_utf8(request).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            let message = (head.to_owned(), serde_json::from_str(body).unwrap());
            received.lock().unwrap().push(message);
            let response = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.write_all(response).await.unwrap();
        }
    });
    (url, messages)
}

/// A customer uses up the calls of a free plan, a charge fails for lack of a Stripe customer, and billing ends.
#[tokio::test]
async fn events_are_listed_and_sent_to_a_webhook_once_each() {
    let target = Target::at(NOW).await;
    let (url, messages) = receiver().await;
    let webhook = target.admin.post("/admin/webhooks", json!({ "url": url }));
    let webhook = webhook.await.unwrap();
    assert_eq!(webhook.status, StatusCode::CREATED);
    let tiny = json!({ "id": "tiny", "definition": {
        "name": "", "requests_per_hour": 100, "fail_mode": "closed",
        "month": { "kind": "blocked", "included": 5 },
    } });
    let plan = target.admin.post("/admin/plans", tiny).await.unwrap();
    assert_eq!(plan.status, StatusCode::CREATED);
    target.customer("globex", "tiny").await;
    let (client, _) = target.key(json!({ "customer_id": "globex" })).await;
    for _ in 0..6 {
        client.get("/api/secure/ping").await.unwrap();
    }
    target.customer("acme", "pro").await;
    seed_included(&target, "acme").await;
    report(&target, "first", NOW, 20).await;
    target.drain().await;
    let publish = async || {
        let published = target.anyone.post("/_local/publish", json!({})).await;
        published.unwrap().json()
    };
    let published = publish().await;
    assert_eq!(published["events"], 2);
    assert_eq!(published["attempts"]["delivered"], 2);
    target.nightly().await;
    assert_eq!(publish().await["events"], 2);
    assert_eq!(publish().await["events"], 0);

    let listed = target.admin.get("/admin/events").await.unwrap().json();
    let events = listed["data"].as_array().unwrap();
    let shown: Vec<_> = events
        .iter()
        .map(|event| (event["type"].as_str().unwrap(), &event["customer_id"]))
        .collect();
    let (globex, acme) = (json!("globex"), json!("acme"));
    let expected = [
        ("quota.threshold", &globex),
        ("quota.threshold", &globex),
        ("charge.failed", &acme),
        ("billing.run.completed", &Value::Null),
    ];
    assert_eq!(shown.len(), expected.len(), "{listed:#}");
    for one in expected {
        assert!(shown.contains(&one), "{one:?}: {listed:#}");
    }
    let messages = messages.lock().unwrap();
    assert_eq!(messages.len(), events.len());
    for (head, body) in messages.iter() {
        assert!(events.contains(body), "{body}");
        let id = body["id"].as_str().unwrap();
        assert!(
            head.contains(&format!("\r\nwebhook-id: {id}\r\n")),
            "{head}"
        );
        assert!(head.contains("\r\nwebhook-signature: v1,"), "{head}");
    }
}

/// No call follows these on that day.
#[tokio::test]
async fn reconciliation_finds_as_many_admitted_as_metered_calls() {
    let target = Target::at("2026-11-10T10:00:10Z").await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    for _ in 0..100 {
        let response = client.get("/api/secure/ping").await.unwrap();
        assert_eq!(response.status, StatusCode::OK);
    }
    target.drain().await;
    target
        .set_clock(json!({ "now": "2026-11-11T03:30:00Z" }))
        .await;
    let report = target.nightly().await;
    let totals =
        ["admitted", "metered", "discrepancies"].map(|name| &report["reconciliation"][name]);
    assert_eq!(totals, [100, 100, 0], "{report}");
}

#[tokio::test]
async fn invalid_usage_is_quarantined_and_the_rest_is_counted() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    put_events(&target, "not-an-event", json!({ "hello": "world" })).await;
    let mut event = usage_event("mixed", "acme", NOW, 3);
    event["data"]["records"][1]["status"] = json!("two hundred");
    put_events(&target, "mixed", event).await;
    let drained = target.drain().await;
    assert_eq!(
        (&drained["delivered"], &drained["failed"]),
        (&json!(2), &json!(0))
    );
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    let usage = client.get("/api/usage/current").await.unwrap().json();
    assert_eq!(usage["metered"]["calls"], 2);
    let quarantined = target
        .running
        .store
        .quarantined_of_event("test", "mixed")
        .await
        .unwrap();
    assert_eq!(quarantined[0].rejected[0].index, 1);
    assert!(quarantined[0].rejected[0].reason.contains("invalid type"));
}

#[tokio::test]
async fn requests_without_a_route_are_404_or_405() {
    let target = Target::at(NOW).await;
    for path in [
        "/",
        "/nothing",
        "/api/secure",
        "/api/secure/ping/",
        "/admin/api-keys/a/b/c",
    ] {
        let response = target.admin.get(path).await.unwrap();
        assert_problem(&response, StatusCode::NOT_FOUND, "not-found");
    }
    let response = send(&target.admin, Method::POST, "/").await;
    assert_problem(&response, StatusCode::NOT_FOUND, "not-found");
    let response = send(&target.admin, Method::PUT, "/admin/customers").await;
    assert_problem(
        &response,
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
    );
    assert_eq!(response.header("allow"), "POST, GET");
}

#[tokio::test]
async fn the_clock_is_either_set_or_advanced_and_is_a_unix_time() {
    let target = Target::at(NOW).await;
    for body in [
        json!({}),
        json!({ "now": NOW, "advance_s": 1 }),
        json!({ "now": "1969-12-31T23:59:59Z" }),
    ] {
        let response = target.anyone.post("/_local/clock", body).await.unwrap();
        assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
}

#[tokio::test]
async fn while_the_store_is_down_the_free_plan_fails_closed_and_the_pro_plan_open() {
    use tollgate_local_aws::Fault;

    let target = Target::at(NOW).await;
    target.customer("free", "free").await;
    target.customer("pro", "pro").await;
    let (free, _) = target.key(json!({ "customer_id": "free" })).await;
    let (pro, _) = target.key(json!({ "customer_id": "pro" })).await;
    for client in [&free, &pro] {
        let pong = client.get("/api/secure/ping").await.unwrap();
        assert_eq!(pong.status, StatusCode::OK);
    }
    fail_operation(&target.running.aws, "UpdateItem", Fault::RequestLost);
    let rejected = free.get("/api/secure/ping").await.unwrap();
    let status = StatusCode::SERVICE_UNAVAILABLE;
    assert_problem(&rejected, status, "temporarily-unavailable");
    assert_eq!(rejected.header("retry-after"), "1");
    let admitted = pro.get("/api/secure/ping").await.unwrap();
    assert_eq!(admitted.status, StatusCode::OK);
    assert_eq!(admitted.header("x-ratelimit-limit"), "");
    target.running.aws.heal();
    // The circuit breaker stays open for half a second.
    target.set_clock(json!({ "advance_s": 1 })).await;
    assert_eq!(
        free.get("/api/secure/ping").await.unwrap().status,
        StatusCode::OK
    );
}

/// So short an outage shows only that no call is lost. The `soak` command tests the plans' fail modes in
/// an outage of minutes.
#[tokio::test]
async fn admitted_calls_equal_metered_calls_after_an_outage() {
    use std::time::Duration;
    use tollgate_local::soak::outage;

    let (down, around) = (Duration::from_secs(2), Duration::from_secs(4));
    let report = outage::run(down, around).await.unwrap();
    assert_eq!(report.violations, [""; 0]);
    assert_eq!(report.metered, report.admitted);
    assert!(report.admitted > report.uncounted);
}

/// Needs two threads, because one blocks until the caller has disconnected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_call_of_a_disconnected_caller_is_metered() {
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

    // The response comes after the flush in progress and the call's own flush.
    let pong = client.get("/api/secure/ping").await.unwrap();
    assert_eq!(pong.status, StatusCode::OK);
    target.drain().await;
    let usage = client.get("/api/usage/current").await.unwrap().json();
    assert_eq!(usage["metered"]["calls"], 2);
}

/// Needs two threads, because one blocks until the caller has disconnected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_served_and_metered_although_its_caller_disconnects_during_authorization() {
    use tollgate_local_aws::Fault;

    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (_, key) = target.key(json!({ "customer_id": "acme" })).await;
    let (began, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (hang_up, hung_up) = std::sync::mpsc::channel::<()>();
    target.running.aws.inject(move |call| {
        if call.operation() == "UpdateItem" && began.send(()).is_ok() {
            // Blocks once: later calls find the channel closed.
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
    // The response on a later connection shows that this connection's end was processed.
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
async fn large_bodies_are_read_only_from_callers_with_a_valid_key() {
    let target = Target::at(NOW).await;
    target.customer("acme", "free").await;
    let (client, key) = target.key(json!({ "customer_id": "acme" })).await;
    let length = |bytes: u32| {
        format!("POST /api/analyze HTTP/1.1\r\ncontent-length: {bytes}\r\nconnection: close")
    };
    let secret = key["key"].as_str().unwrap();
    let stranger = tollgate_domain::key::KeyFormat::new("tg", "live").unwrap();
    let stranger = tollgate_runtime::Entropy::seeded(9)
        .with(|rng| stranger.generate(tollgate_domain::key::KeyKind::Customer, rng));
    // Only the head is sent.
    let check = async |head: String, status: &str| {
        let response = raw::response_to_head(&target.running.url, &head).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{response}"
        );
    };
    check(length(9_000_000), "401").await;
    let chunked = "POST /api/analyze HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close";
    check(chunked.to_owned(), "401").await;
    let with_key = |head: String, key: &str| format!("{head}\r\nx-api-key: {key}");
    check(with_key(length(9_000_000), stranger.expose()), "401").await;
    check(with_key(length(11_000_000), secret), "413").await;
    check(with_key(length(9_000_000), secret), "400").await;

    // A caller that sends the whole body receives the response too.
    let unknown = target.anyone.with_key(stranger.expose());
    let whole = json!({ "text": "x".repeat(9_000_000) });
    let rejected = unknown.post("/api/analyze", whole).await.unwrap();
    assert_problem(&rejected, StatusCode::UNAUTHORIZED, "unauthorized");

    // The key is authenticated twice, and the call is counted once.
    let text = json!({ "text": "x".repeat(90_000) });
    let analysed = client.post("/api/analyze", text).await.unwrap();
    assert_eq!(analysed.status, StatusCode::OK, "{}", analysed.text);
    assert_eq!(analysed.header("x-ratelimit-remaining"), "99");
}

#[tokio::test]
async fn pages_of_other_origins_cannot_set_the_clock_or_report_usage() {
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
    let event =
        json!({ "Entries": [calls::put_events_entry("usage", &usage_event("e", "acme", NOW, 1))] });
    let a_year = json!({ "advance_s": 31_536_000 });
    let post = async |path: &str, body: &serde_json::Value, headers: &[(&str, &str)]| {
        let body = body.to_string().into();
        let response = target.anyone.send(Method::POST, path, headers, body);
        response.await.unwrap()
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
                let rejected = post(path, &a_year, &[field, content_type]).await;
                assert_eq!(rejected.status, StatusCode::FORBIDDEN, "{path} {field:?}");
                let problem = rejected.json();
                assert_eq!(problem["type"], "urn:tollgate:problem:forbidden");
            }
            let rejected = post("/", &event, &[field, content_type, put]).await;
            assert_eq!(rejected.status, StatusCode::FORBIDDEN, "{field:?}");
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

    // Allowed: local programs, pages of the same origin, and, under any host name, callers with a key.
    let unchanged = json!({ "advance_s": 0 });
    for headers in [
        vec![text],
        vec![("origin", own.as_str()), json],
        vec![("host", own_host)],
    ] {
        let response = post("/_local/clock", &unchanged, &headers).await;
        assert_eq!(response.status, StatusCode::OK, "{headers:?}");
    }
    let host = [("host", "api.example")];
    let ping = client.send(Method::GET, "/api/secure/ping", &host, "".into());
    assert_eq!(ping.await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn buffered_usage_is_sent_to_the_bus_when_the_stack_stops() {
    use tollgate_local_aws::Fault;

    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    let aws = target.running.aws.clone();
    fail_operation(&aws, "PutEvents", Fault::RequestLost);
    let pong = client.get("/api/secure/ping").await.unwrap();
    assert_eq!(pong.status, StatusCode::OK);
    aws.heal();
    assert_eq!(aws.queue().counts().unwrap().queued, 0);
    target.running.stop().await.unwrap();
    assert_eq!(aws.queue().counts().unwrap().queued, 1);
}

/// Sends one event to the bus over the AWS protocol.
async fn put_events(target: &Target, what: &str, detail: serde_json::Value) {
    let response =
        calls::put_event(&target.anyone, &calls::put_events_entry("usage", &detail)).await;
    assert_eq!(response["FailedEntryCount"], 0, "{what}");
}

async fn report(target: &Target, id: &str, time: &str, records: usize) {
    put_events(target, id, usage_event(id, "acme", time, records)).await;
}

/// Writes the 100,000 included calls of the pro plan as one usage event with given aggregates.
async fn seed_included(target: &Target, customer: &str) {
    use tollgate_store::{ShardCounts, WriteUsageOutcome};

    let (customer, received_at) = (p(customer), p(NOW));
    let aggregates = usage::on_day("2026-11-01", usage::calls("pro", 100_000));
    let part = usage::event_part("included", &customer, &aggregates, received_at);
    let store = &target.running.store;
    let outcomes = store
        .write_usage(
            &[part],
            &plans(),
            &ShardCounts::default(),
            usage::COUNTING_TIME,
        )
        .await;
    assert_eq!(*outcomes[0].as_ref().unwrap(), WriteUsageOutcome::Counted);
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut gzip = Vec::new();
    let mut encoder = GzEncoder::new(text, Compression::default());
    encoder.read_to_end(&mut gzip).unwrap();
    gzip
}

#[tokio::test]
async fn the_size_limit_applies_to_the_inflated_body() {
    let target = Target::at(NOW).await;
    let post = async |coding: &str, body: Vec<u8>| {
        let headers = [("content-encoding", coding)];
        let path = "/admin/customers";
        let response = target.admin.send(Method::POST, path, &headers, body.into());
        response.await.unwrap()
    };
    let customer = |id: &str| json!({ "id": id, "plan": "free" }).to_string();
    let response = post("gzip", gzip(customer("acme").as_bytes())).await;
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    for size in [1024 * 1024 + 1, 50_000_000] {
        let padded = format!("{}{}", " ".repeat(size), customer("bolt"));
        let response = post("gzip", gzip(padded.as_bytes())).await;
        assert_problem(&response, StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
    }
    let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    for (coding, body) in [
        ("br", customer("bolt").into_bytes()),
        ("gzip", customer("bolt").into_bytes()),
    ] {
        let response = post(coding, body).await;
        assert_problem(&response, unsupported, "unsupported-media-type");
        assert_eq!(response.header("accept-encoding"), "gzip");
    }
    let headers = [("content-type", "application/json; charset=utf-16")];
    let path = "/admin/customers";
    let body = customer("bolt").into();
    let response = target.admin.send(Method::POST, path, &headers, body).await;
    assert_problem(&response.unwrap(), unsupported, "unsupported-media-type");
    let bolt = target.admin.get("/admin/customers/bolt").await.unwrap();
    assert_problem(&bolt, StatusCode::NOT_FOUND, "not-found");
}

/// No function is invoked for such a call, so that it has no usage record.
#[tokio::test]
async fn a_call_whose_body_the_gateway_rejects_is_not_counted() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    let stranger = target.anyone.clone();
    let bomb = gzip(&vec![b' '; 11_000_000]);
    let noise: Vec<u8> = (0..90_000u32).map(|n| (n * 31 % 251) as u8).collect();
    let ours = b"{}".to_vec();
    let rejected = [
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
        let response = client.send(Method::POST, "/api/analyze", &headers, body.into());
        response.await.unwrap()
    };
    for (coding, body, status) in rejected {
        let response = analyze(&client, coding, body.clone()).await;
        assert_eq!(response.status, status, "{coding}: {}", response.text);
        // Without a valid key, the response is 401 in any case.
        let response = analyze(&stranger, coding, body).await;
        assert_problem(&response, StatusCode::UNAUTHORIZED, "unauthorized");
    }
    // A call that a function rejects is counted and metered.
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

/// Unfinished bodies delay only further ones of the same customer.
#[tokio::test]
async fn stalled_bodies_of_one_customer_do_not_delay_others() {
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
        let response = target
            .admin
            .send(Method::POST, "/admin/customers", &[], body);
        response.await.unwrap().status
    };
    let analysed = async {
        let body = json!({ "text": "x".repeat(90_000) });
        other.post("/api/analyze", body).await.unwrap().status
    };
    for _ in 0..5 {
        // Gives the stalled bodies time to be read as far as they were sent.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let small = target.admin.get("/admin/customers").await.unwrap();
        assert_eq!(small.status, StatusCode::OK);
    }
    let responses = async { (admin.await, analysed.await) };
    let responses = timeout(Duration::from_secs(10), responses).await;
    assert_eq!(responses, Ok((StatusCode::CREATED, StatusCode::OK)));
}

/// A few bytes can inflate to millions: a gzip body waits for memory as a large body does.
#[tokio::test]
async fn a_small_gzip_body_waits_for_memory_and_a_small_plain_body_does_not() {
    let target = Target::at(NOW).await;
    let post = |coding: &'static str, body: Body| {
        let admin = target.admin.clone();
        async move {
            let headers = [("content-encoding", coding)];
            let path = "/admin/customers";
            let response = admin.send(Method::POST, path, &headers, body).await;
            response.unwrap().status
        }
    };
    let customer = |id: &str| json!({ "id": id, "plan": "free" }).to_string();
    // Stalled bodies of unknown length take all memory.
    let silent = || futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let mut large = JoinSet::new();
    for _ in 0..8 {
        large.spawn(post("identity", Body::from_stream(silent())));
    }
    let mut waits = None;
    for n in 0..100 {
        let small = gzip(customer(&format!("c-{n}")).as_bytes());
        let mut response = Box::pin(post("gzip", small.into()));
        if timeout(Duration::from_millis(100), &mut response)
            .await
            .is_err()
        {
            waits = Some(response);
            break;
        }
    }
    let waits = waits.expect("no body waited");
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
    let response = target.admin.send(Method::POST, path, &headers, body).await;
    assert_problem(&response.unwrap(), StatusCode::BAD_REQUEST, "bad-request");
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
        let response = raw::response(caller).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{path}: {response}");
        assert!(
            response.contains("urn:tollgate:problem:bad-request"),
            "{response}"
        );
    }
}

/// Seconds after which a changed key is in effect: longer than the key cache's TTL.
const KEY_CACHE_S: i64 = 6;

async fn patch(target: &Target, path: &str, enabled: bool) {
    let body = json!({ "enabled": enabled });
    let response = target.admin.json(Method::PATCH, path, body).await.unwrap();
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    target.set_clock(json!({ "advance_s": KEY_CACHE_S })).await;
}

#[tokio::test]
async fn a_suspended_customer_is_denied_and_can_still_read_its_usage() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, key) = target.key(json!({ "customer_id": "acme" })).await;
    let get = async |path: &str| client.get(path).await.unwrap();
    let (ping, usage) = ("/api/secure/ping", "/api/usage/current");
    assert_eq!(get(ping).await.status, StatusCode::OK);

    patch(&target, "/admin/customers/acme", false).await;
    let rejected = get(ping).await;
    let status = StatusCode::TOO_MANY_REQUESTS;
    assert_problem(&rejected, status, "customer-suspended");
    // The response invites no retry.
    let retry_fields = ["retry-after", "x-ratelimit-reset", "ratelimit"];
    assert!(
        retry_fields
            .iter()
            .all(|name| rejected.headers.get(*name).is_none())
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
async fn an_erased_customer_is_rejected_and_its_usage_is_still_counted() {
    let target = Target::at(NOW).await;
    target.customer("acme", "pro").await;
    let (client, _) = target.key(json!({ "customer_id": "acme" })).await;
    client.get("/api/secure/ping").await.unwrap();
    let erase = "/admin/customers/acme?dry_run=false";
    let erased = send(&target.admin, Method::DELETE, erase).await;
    assert_eq!(erased.status, StatusCode::OK, "{}", erased.text);
    target.set_clock(json!({ "advance_s": KEY_CACHE_S })).await;
    for path in ["/api/secure/ping", "/api/usage/current"] {
        let rejected = client.get(path).await.unwrap();
        assert_problem(&rejected, StatusCode::UNAUTHORIZED, "unauthorized");
    }
    target.drain().await;
    let logged = target.admin.get("/admin/usage/events?customer_id=acme");
    let logged = logged.await.unwrap().json();
    assert_eq!(logged["data"].as_array().unwrap().len(), 1, "{logged}");
}

#[tokio::test]
async fn a_rotated_key_keeps_its_hourly_counter() {
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

/// Returns the CORS fields of a response.
fn cors_fields(response: &Response) -> Vec<(String, String)> {
    let fields = response.headers.iter();
    let fields = fields.filter(|(name, _)| name.as_str().starts_with("access-control-"));
    let mut fields: Vec<_> = fields
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    fields.sort();
    fields
}

/// Sends requests with a customer's key and without a key, and returns the responses.
async fn responses_to_a_page(target: &Target) -> Vec<Response> {
    target.customer("acme", "free").await;
    let limited = json!({ "customer_id": "acme", "overrides": { "requests_per_hour": 1 } });
    let (client, _) = target.key(limited).await;
    let mut responses = Vec::new();
    for (client, method, path, status) in [
        (&client, Method::GET, "/api/secure/ping", 200),
        (&client, Method::GET, "/api/secure/ping", 429),
        (&client, Method::GET, "/api/usage/current", 200),
        (&client, Method::GET, "/admin/customers", 403),
        (&client, Method::GET, "/nothing", 404),
        (&client, Method::PUT, "/admin/customers", 405),
        (&target.anyone, Method::GET, "/api/secure/ping", 401),
    ] {
        let response = send(client, method, path).await;
        assert_eq!(response.status, status, "{path}: {}", response.text);
        responses.push(response);
    }
    responses
}

#[tokio::test]
async fn pages_of_the_configured_origin_may_read_responses() {
    let options = Options {
        parameters: vec![("CorsOrigins", "https://app.example".to_owned())],
        ..Options::default()
    };
    let target = Target::with_options(options, NOW).await;
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
    for response in responses_to_a_page(&target).await {
        assert_eq!(
            cors_fields(&response),
            fields.map(named),
            "{}",
            response.text
        );
    }
}

#[tokio::test]
async fn the_clock_requires_times_in_rfc_3339() {
    let target = Target::at(NOW).await;
    for now in ["2026-11-22T10:00Z", "9999-12-31T23:59:59Z"] {
        let response = target.anyone.post("/_local/clock", json!({ "now": now }));
        let response = response.await.unwrap();
        assert_eq!(
            response.status,
            StatusCode::BAD_REQUEST,
            "{}",
            response.text
        );
        assert_eq!(response.json()["field"], "now");
    }
}

#[tokio::test]
async fn without_a_configured_origin_no_page_may_read_responses() {
    let target = Target::at(NOW).await;
    let preflight = send(&target.anyone, Method::OPTIONS, "/admin/customers").await;
    assert!(
        preflight
            .headers
            .get("access-control-allow-origin")
            .is_none()
    );
    for response in responses_to_a_page(&target).await {
        assert_eq!(cors_fields(&response), [], "{}", response.text);
    }
}

/// An earlier release, whose plans could be removed, has left such customers.
#[tokio::test]
async fn customers_on_a_plan_that_does_not_exist_are_found_at_the_start() {
    let target = Target::at("2026-11-22T10:00:00Z").await;
    for (id, plan) in [("acme", "pro"), ("bolt", "free")] {
        target.customer(id, plan).await;
    }
    let running = &target.running;
    let found = running.customers_without_plan(None).await.unwrap();
    assert_eq!(found.items, []);
    let key = json!({ "pk": { "S": "PLANS" }, "sk": { "S": "pro" } });
    let delete = json!({ "TableName": "local-billing", "Key": key });
    let (status, _) = running
        .aws
        .call("DynamoDB_20120810.DeleteItem", &delete.to_string());
    assert_eq!(status, 200);
    let found = running.customers_without_plan(None).await.unwrap();
    let found: Vec<_> = found
        .items
        .iter()
        .map(|customer| customer.id.as_str())
        .collect();
    assert_eq!(found, ["acme"]);
}
