//! Check of each function's role against the permissions that the function uses when all of its features
//! are exercised.

use std::net::Ipv4Addr;

use http::{Method, Request};
use serde_json::{Value, json};
use stripe_fake::Completion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tollgate_local::client::Client;
use tollgate_local::local_stack::{self, Options, Running};

const PLANS: &str = include_str!("../../../emulated/plans.json");

pub(crate) async fn defects(template: &str) -> Vec<String> {
    let options = Options {
        template: Some(template.to_owned()),
        parameters: vec![
            ("Plans", PLANS.to_owned()),
            ("StripeSecretName", "stripe".to_owned()),
            ("ReturnOrigins", "https://app.example".to_owned()),
            ("UnpaidGraceDays", "0".to_owned()),
        ],
        ..Options::default()
    };
    let running = local_stack::start(options).await.unwrap();
    let _ = exercise_all(&running).await;
    let (mut denied, mut unused) = (Vec::new(), Vec::new());
    for role in &running.roles {
        let function = role.function();
        let missing = role.denied().into_iter();
        denied.extend(missing.map(|missing| format!("{function} may not {missing}")));
        let granted = role.unused().into_iter();
        unused.extend(granted.map(|granted| format!("{function} never uses {granted}")));
    }
    // After a denial, further requests fail, so that unused permissions prove nothing.
    if denied.is_empty() { unused } else { denied }
}

/// Sends a request to the stand-in for Stripe, as someone else does. Returns the response.
async fn at_stripe(running: &Running, method: Method, path: &str, form: &str) -> Value {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer sk_test_stripe_fake")
        .body(form.to_owned().into());
    let response = running.stripe.send(request.unwrap()).await.unwrap();
    serde_json::from_slice(response.body()).unwrap()
}

/// Creates the price of a dollar a month at the stand-in for Stripe. Returns its id.
async fn create_price(running: &Running) -> String {
    let form = "currency=usd&unit_amount=100&recurring[interval]=month&product_data[name]=Plan";
    let created = at_stripe(running, Method::POST, "/v1/prices", form).await;
    created["id"].as_str().unwrap().to_owned()
}

/// Lets `acme` pay for its checkout, fail to pay for the next month, and end its subscription. An event about nobody
/// is also handled.
async fn subscribe_and_leave(running: &Running, anyone: &Client, admin: &Client) {
    let drain = async || {
        anyone.post("/_local/drain", json!({})).await.unwrap();
    };
    let sessions = at_stripe(running, Method::GET, "/v1/checkout/sessions", "").await;
    let session = sessions["data"][0]["id"].as_str().unwrap_or_default();
    let paid = running
        .stripe
        .complete_checkout(session, Completion::Paid, None);
    paid.unwrap();
    drain().await;
    let linked = admin.get("/admin/customers/acme").await.unwrap().json();
    let customer = linked["stripe"]["customer"].as_str().unwrap_or_default();
    let subscription = linked["stripe"]["subscription"]
        .as_str()
        .unwrap_or_default();
    // A charge of an ended subscription gets an invoice of its own.
    let form = format!(
        "customer={customer}&subscription={subscription}&amount=5&currency=usd\
         &metadata[tollgate_charge]=local/ci_acme_2026-11_0009"
    );
    at_stripe(running, Method::POST, "/v1/invoiceitems", &form).await;
    at_stripe(
        running,
        Method::POST,
        "/v1/customers",
        "email=a@example.com",
    )
    .await;
    running.stripe.decline_payments(customer, true).unwrap();
    let path = format!("/v1/subscriptions/{subscription}");
    let found = at_stripe(running, Method::GET, &path, "").await;
    let item = found["items"]["data"][0]["id"].clone();
    let form = format!(
        "items[0][id]={}&items[0][quantity]=2&proration_behavior=always_invoice",
        item.as_str().unwrap_or_default()
    );
    at_stripe(running, Method::POST, &path, &form).await;
    drain().await;
    at_stripe(running, Method::DELETE, &path, "").await;
    drain().await;

    // A checkout that is paid by a Stripe customer who is no longer linked.
    let page = "https://app.example/";
    let checkout = json!({ "plan": "paid", "success_url": page, "cancel_url": page });
    let started = admin.post("/admin/customers/acme/checkout", checkout);
    let started = started.await.unwrap().json();
    let session = started["id"].as_str().unwrap_or_default();
    running.stripe.decline_payments(customer, false).unwrap();
    for linked in ["cus_other", customer] {
        let patch = json!({ "stripe": { "customer": linked, "subscription": null } });
        let changed = admin.json(Method::PATCH, "/admin/customers/acme", patch);
        changed.await.unwrap();
        // The second time it is complete already.
        let _ = running
            .stripe
            .complete_checkout(session, Completion::Paid, None);
        drain().await;
    }
}

/// Starts a target of webhooks that responds with 410 to every request. Returns its address.
async fn target_that_is_gone() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let response = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(response).await;
        }
    });
    format!("http://{address}/")
}

/// Exercises all features of each function. Denials are collected by the roles, so that responses are
/// checked only where later requests depend on them.
async fn exercise_all(running: &Running) -> Option<()> {
    let anyone = Client::new(&running.url).unwrap();
    let admin = anyone.with_key(running.admin.expose()?);
    let post = async |path: &str, body: Value| admin.post(path, body).await.unwrap().json();
    let get = async |path: &str| admin.get(path).await.unwrap().json();
    let once = async |path: &str, body: Value| {
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", "once"),
        ];
        for _ in 0..2 {
            let body = body.to_string().into();
            let response = admin.send(Method::POST, path, &headers, body);
            response.await.unwrap();
        }
    };
    anyone
        .post("/_local/clock", json!({ "now": "2026-11-22T10:00:00Z" }))
        .await
        .unwrap();
    // As in a stack with usage of a release that did not put claims.
    let since = json!({ "TableName": "local-usage-log", "Item": {
        "pk": { "S": "#CLAIMS_SINCE" }, "sk": { "S": "#" },
        "since": { "S": "2026-11-23T10:00:00.000Z" },
    } });
    let (status, response) = running
        .aws
        .call("DynamoDB_20120810.PutItem", &since.to_string());
    assert_eq!(status, 200, "{response}");

    post(
        "/admin/customers",
        json!({ "id": "acme", "plan": "starter" }),
    )
    .await;
    once(
        "/admin/customers",
        json!({ "id": "globex", "plan": "free" }),
    )
    .await;
    let definition = json!({
        "name": "", "requests_per_hour": 10, "month": { "kind": "unlimited" }, "fail_mode": "open",
    });
    let plan = json!({ "id": "team", "definition": definition });
    post("/admin/plans", plan).await;
    for dry_run in [true, false] {
        let version = json!({
            "expected_version": 1, "takes_effect": "2027-01", "dry_run": dry_run,
            "definition": definition,
        });
        post("/admin/plans/team/versions", version).await;
    }
    for retired in [true, false] {
        let patch = json!({ "retired": retired });
        let retired = admin.json(Method::PATCH, "/admin/plans/team", patch);
        retired.await.unwrap();
    }
    get("/admin/plans").await;
    get("/admin/plans/team").await;
    get("/admin/customers").await;
    get("/admin/customers/acme").await;
    let pin = json!({ "plan": "team", "version": 1, "from": "2027-01" });
    let patch = json!({ "name": "Acme", "pin": pin });
    let path = "/admin/customers/acme";
    admin.json(Method::PATCH, path, patch).await.unwrap();
    for link in [
        json!({ "customer": "cus_1", "subscription": null }),
        Value::Null,
    ] {
        let patch = json!({ "stripe": link });
        admin.json(Method::PATCH, path, patch).await.unwrap();
    }

    let key = post("/admin/api-keys", json!({ "customer_id": "acme" })).await;
    once("/admin/api-keys", json!({ "customer_id": "globex" })).await;
    get("/admin/api-keys?customer_id=acme").await;
    get("/admin/api-keys/stats").await;
    let client = anyone.with_key(key["key"].as_str().unwrap_or_default());
    let path = format!(
        "/admin/api-keys/{}",
        key["prefix"].as_str().unwrap_or_default()
    );
    get(&path).await;
    let patch = json!({
        "name": "ci", "expires_at": "2027-01-01T00:00:00Z",
        "overrides": { "requests_per_hour": 500, "monthly_quota": 1_000 },
    });
    let by_id = format!("/admin/api-keys/{}", key["id"].as_str().unwrap_or_default());
    for path in [&path, &by_id] {
        let patched = admin.json(Method::PATCH, path, patch.clone()).await;
        patched.unwrap();
    }
    for enabled in [false, true] {
        let patch = json!({ "enabled": enabled });
        admin.json(Method::PATCH, &by_id, patch).await.unwrap();
    }
    get(&by_id).await;
    let admins = format!("/admin/api-keys/{}", &running.admin.expose()?[..17]);
    get(&admins).await;

    // An exhausted hourly counter is read again later, and the monthly counter with it.
    let one_an_hour = json!({ "customer_id": "globex", "overrides": { "requests_per_hour": 1 } });
    let limited = post("/admin/api-keys", one_an_hour).await;
    let limited = anyone.with_key(limited["key"].as_str().unwrap_or_default());
    for _ in 0..3 {
        limited.get("/api/secure/ping").await.unwrap();
        let later = json!({ "advance_s": 2 });
        anyone.post("/_local/clock", later).await.unwrap();
    }

    // The plan includes three calls; the nightly run and a manual run each find overage to charge.
    let calls = async || {
        for _ in 0..4 {
            client.get("/api/secure/ping").await.unwrap();
        }
        let body = json!({ "text": "tollgate" });
        client.post("/api/analyze", body).await.unwrap();
        anyone.post("/_local/drain", json!({})).await.unwrap();
    };
    calls().await;
    anyone.post("/_local/nightly", json!({})).await.unwrap();
    calls().await;
    post("/admin/billing/run", json!({ "dry_run": false })).await;
    get("/admin/customers/acme/charges").await;
    get("/admin/customers/acme/charges/ci_acme_2026-11_0001/proof").await;
    get("/admin/billing/charges?status=failed").await;
    get("/admin/billing/unbilled?month=2026-10").await;
    client.get("/api/usage/current").await.unwrap();

    // A customer subscribes to a plan, whose price another one has too, and opens the billing portal.
    let price = create_price(running).await;
    for plan in ["paid", "same"] {
        let plan = json!({ "id": plan, "definition": {
            "name": "", "requests_per_hour": 10, "month": { "kind": "unlimited" }, "fail_mode": "open",
            "monthly_fee_cents": 100, "stripe_price": price,
        } });
        post("/admin/plans", plan).await;
    }
    let page = "https://app.example/";
    let checkout = json!({ "plan": "paid", "success_url": page, "cancel_url": page });
    once("/admin/customers/acme/checkout", checkout).await;
    subscribe_and_leave(running, &anyone, &admin).await;
    let portal = json!({ "return_url": page });
    post("/admin/customers/acme/portal", portal).await;
    let manage = json!({ "customer_id": "acme", "role": "manage" });
    let managing = post("/admin/api-keys", manage).await;
    let managing = anyone.with_key(managing["key"].as_str().unwrap_or_default());
    for name in ["subscription", "invoices", "charges"] {
        managing.get(&format!("/api/billing/{name}")).await.unwrap();
    }
    let proof = "/api/billing/charges/ci_acme_2026-11_0001/proof";
    managing.get(proof).await.unwrap();

    // An event is delivered to a target that is gone, which disables its webhook.
    let gone = target_that_is_gone().await;
    let webhook = post("/admin/webhooks", json!({ "url": gone })).await;
    anyone.post("/_local/publish", json!({})).await.unwrap();
    let webhooks = get("/admin/webhooks").await;
    assert!(webhooks["data"][0]["disabled_at"].is_string(), "{webhooks}");
    get("/admin/events").await;
    let path = format!("/admin/webhooks/{}", webhook["id"].as_str()?);
    let nothing = axum::body::Body::empty();
    let deleted = admin.send(Method::DELETE, &path, &[], nothing).await;
    deleted.unwrap();

    // Quarantined: a message that is not a usage event, and one of two events with the same identity.
    // The last one corrects a month that may be closed.
    let adjusting_on = |time: &str, calls: i64| {
        json!({
            "specversion": "1.0", "id": "a-1", "source": "test", "type": "tollgate.adjustment.v1",
            "time": "2026-11-22T10:00:00Z", "subject": "acme",
            "data": { "adjustments": [{
                "time": time, "plan": "starter", "billable_calls": calls,
                "reason": "test",
            }] },
        })
    };
    let adjusting = |calls: i64| adjusting_on("2026-11-22T09:00:00Z", calls);
    let mut late = adjusting_on("2026-10-25T09:00:00Z", 1);
    late["id"] = "a-2".into();
    let emit = async |details: &[Value]| {
        let sent = details.iter().map(|detail| {
            json!({
                "EventBusName": "local-usage",
                "Source": "test",
                "DetailType": "tollgate.adjustment.v1",
                "Detail": detail.to_string(),
            })
        });
        let body = json!({ "Entries": sent.collect::<Vec<_>>() });
        let headers = [("x-amz-target", "AWSEvents.PutEvents")];
        let put = anyone.send(Method::POST, "/", &headers, body.to_string().into());
        put.await.unwrap();
        anyone.post("/_local/drain", json!({})).await.unwrap();
    };
    // The second time, all of them are duplicates or known conflicts.
    for _ in 0..2 {
        emit(&[json!({}), adjusting(1), adjusting(2), late.clone()]).await;
    }

    // Sent to the admin API: records, adjustments, and another event with the same identity.
    let record = json!({
        "time": "2026-11-22T09:00:00Z", "request_id": "r-1", "key_id": key["id"], "plan": "starter",
        "method": "GET", "endpoint": "/", "status": 200, "latency_ms": 1,
    });
    let mut reported = adjusting(1);
    reported["type"] = "tollgate.usage.v1".into();
    reported["data"] = json!({ "records": [record] });
    for (id, event) in [
        ("r-1", &reported),
        ("r-2", &adjusting(1)),
        ("r-3", &late),
        ("r-1", &adjusting(1)),
    ] {
        let mut event = event.clone();
        event["id"] = id.into();
        post("/admin/usage/events", json!({ "events": [event] })).await;
    }
    get("/admin/usage/events?customer_id=acme").await;
    get("/admin/usage/reconciliation").await;
    get("/admin/customers/acme/adjustments").await;
    client.get("/api/usage/adjustments").await.unwrap();
    client.get("/api/usage/records").await.unwrap();
    let quarantined = get("/admin/usage/quarantine").await;
    let item = quarantined["data"][0]["id"].as_str().unwrap_or_default();
    let item = format!("/admin/usage/quarantine/{item}");
    get(&item).await;
    post(&format!("{item}/replay"), json!({ "event": reported })).await;
    let nothing = axum::body::Body::empty();
    let discarded = admin.send(Method::DELETE, &item, &[], nothing).await;
    discarded.unwrap();

    // The first reconciliation finds discrepancies in calls with a key of the day before; the second one
    // replaces them.
    for _ in 0..2 {
        let tomorrow = json!({ "now": "2026-11-23T10:00:00Z" });
        anyone.post("/_local/clock", tomorrow).await.unwrap();
        anyone.post("/_local/nightly", json!({})).await.unwrap();
    }

    // After the time of claims, only claims say what was counted.
    let later = json!({ "advance_s": 60 });
    anyone.post("/_local/clock", later).await.unwrap();
    let mut event = adjusting(1);
    event["id"] = "a-3".into();
    for _ in 0..2 {
        emit(std::slice::from_ref(&event)).await;
    }

    for key in [&admins, &path, &by_id] {
        once(&format!("{key}/rotate"), json!({})).await;
    }
    for dry_run in [true, false] {
        let path = format!("/admin/customers/globex?dry_run={dry_run}");
        let nothing = axum::body::Body::empty();
        let erased = admin.send(Method::DELETE, &path, &[], nothing).await;
        erased.unwrap();
    }
    // The admin key is the last to be revoked: no request works after that.
    for key in [&by_id, &path, &admins] {
        let nothing = axum::body::Body::empty();
        let revoked = admin.send(Method::DELETE, key, &[], nothing).await;
        revoked.unwrap();
    }
    Some(())
}
