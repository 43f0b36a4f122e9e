//! Control of the stand-in over HTTP.

use axum::body::Body;
use http::Request;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::client::{Api, Reply, id};

async fn call(api: &Api, method: &str, path: &str, body: Value) -> Reply {
    let request = Request::builder()
        .method(method)
        .uri(format!("/_fake{path}"));
    let request = request
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()));
    api.request(request.unwrap()).await.unwrap()
}

#[tokio::test]
async fn the_clock_is_advanced() {
    let api = Api::new();
    let customer = api.customer().await;
    let subscription = id(&api.subscribe(&customer, &api.price(100).await, "").await);
    let clock = call(&api, "GET", "/clock", Value::Null).await.json;
    assert_eq!(clock["now"], api.now());
    let due = clock["next_due"].as_i64().unwrap();
    let clock = call(&api, "POST", "/clock", json!({ "to": due + 3_600 }))
        .await
        .json;
    assert_eq!(clock["now"], due + 3_600);
    let query = format!("subscription={subscription}&status=paid");
    assert_eq!(
        api.get("/v1/invoices", &query).await["data"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let clock = call(&api, "POST", "/clock", json!({ "seconds": 10 }))
        .await
        .json;
    assert_eq!(clock["now"], due + 3_610);
    assert_eq!(
        call(&api, "POST", "/clock", json!({ "days": 1 }))
            .await
            .status,
        422
    );
}

#[tokio::test]
async fn everything_else_is_controlled_too() {
    let api = Api::new();
    let customer = api.customer().await;
    let ok = async |path: &str, body: Value| {
        let reply = call(&api, "POST", path, body).await;
        assert!(matches!(reply.status, 200 | 204), "{path} {}", reply.text);
        reply.json
    };
    let fault = json!({ "kind": "rate_limited", "retry_after": 2 });
    ok("/faults", json!({ "method": "GET", "path": "/v1/events", "times": 2, "fault": fault, "should_retry": true })).await;
    let reply = api.call("GET", "/v1/events", "").await;
    assert_eq!(
        (reply.status, &reply.headers["stripe-should-retry"]),
        (429, &"true".parse().unwrap())
    );
    let rules = call(&api, "GET", "/faults", Value::Null).await.json;
    assert_eq!(rules[0]["times"], 1);
    assert_eq!(
        call(&api, "DELETE", "/faults", Value::Null).await.status,
        204
    );
    assert_eq!(api.call("GET", "/v1/events", "").await.status, 200);
    let reply = call(
        &api,
        "POST",
        "/faults",
        json!({ "path": "*", "fault": { "kind": "none" } }),
    )
    .await;
    assert_eq!(reply.status, 422);

    let registered = ok(
        "/webhooks",
        json!({ "url": "http://127.0.0.1:9", "secrets": ["whsec_a"] }),
    )
    .await;
    ok("/webhooks/delivery", json!({ "copies": 2 })).await;
    let path = format!("/webhooks/{}/secrets", id(&registered));
    ok(&path, json!({ "secrets": ["whsec_a", "whsec_b"] })).await;
    api.post(&format!("/v1/customers/{customer}"), "name=x")
        .await;
    let taken = ok("/webhooks/take", Value::Null).await;
    assert_eq!(taken.as_array().unwrap().len(), 2);
    let event = taken[0]["event_id"].as_str().unwrap();
    ok(&format!("/events/{event}/redeliver"), Value::Null).await;
    assert_eq!(
        ok("/webhooks/take", Value::Null).await[0]["event_id"],
        event
    );

    ok(
        &format!("/customers/{customer}/payments"),
        json!({ "declined": true }),
    )
    .await;
    let price = api.price(100).await;
    let form = format!(
        "mode=subscription&line_items[0][price]={price}&line_items[0][quantity]=1&success_url=https://a.example"
    );
    let session = id(&api.post("/v1/checkout/sessions", &form).await);
    let path = format!("/checkout/{session}/complete");
    ok(
        &path,
        json!({ "payment": "unpaid", "email": "a@example.com" }),
    )
    .await;
    assert_eq!(
        call(&api, "POST", &path, json!({ "payment": "paid" }))
            .await
            .status,
        400
    );
    ok(
        &format!("/checkout/{session}/settle"),
        json!({ "paid": true }),
    )
    .await;
    let session = api
        .get(&format!("/v1/checkout/sessions/{session}"), "")
        .await;
    assert_eq!(session["payment_status"], "paid");
    for (path, body) in [
        ("/customers/cus_none/payments", json!({ "declined": true })),
        ("/webhooks/we_none/secrets", json!({ "secrets": [] })),
        ("/events/evt_none/redeliver", Value::Null),
    ] {
        let status = call(&api, "POST", path, body).await.status;
        assert!(matches!(status, 400 | 404), "{path}");
    }
}
