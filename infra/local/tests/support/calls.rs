//! Requests that tests send to any stack.

use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate_local::client::{Client, Response};

/// Sends a request without a body.
pub(crate) async fn send(client: &Client, method: Method, path: &str) -> Response {
    let response = client.send(method, path, &[], Body::empty()).await;
    response.unwrap()
}

/// Sends a request to a `/_local` route, given by its name.
pub(crate) async fn local(anyone: &Client, route: &str, body: Value) -> Value {
    let path = format!("/_local/{route}");
    let response = anyone.post(&path, body).await.unwrap();
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    response.json()
}

/// Checks that a response is a problem with this status and type.
pub(crate) fn assert_problem(response: &Response, status: StatusCode, slug: &str) {
    assert_eq!(response.status, status, "{}", response.text);
    assert_eq!(response.header("content-type"), "application/problem+json");
    let problem = response.json();
    assert_eq!(problem["type"], format!("urn:tollgate:problem:{slug}"));
    assert_eq!(problem["status"], status.as_u16());
    assert!(problem["title"].is_string() && problem["detail"].is_string());
}

/// Creates a customer.
pub(crate) async fn customer(admin: &Client, id: &str, plan: &str) {
    let body = json!({ "id": id, "plan": plan });
    let response = admin.post("/admin/customers", body).await.unwrap();
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
}

/// Creates a key; returns a client with it and the response.
pub(crate) async fn key(admin: &Client, body: Value) -> (Client, Value) {
    let response = admin.post("/admin/api-keys", body).await.unwrap();
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    let key = response.json();
    let client = admin.with_key(key["key"].as_str().unwrap());
    (client, key)
}

/// Builds a usage event with `records` calls at `time`, as a producer outside the stack sends it.
pub(crate) fn usage_event(id: &str, customer: &str, time: &str, records: usize) -> Value {
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
        "subject": customer,
        "data": { "records": vec![record; records] },
    })
}

/// Builds the PutEvents entry with that detail for a bus.
pub(crate) fn put_events_entry(bus: &str, detail: &Value) -> Value {
    json!({
        "EventBusName": bus,
        "Source": "test",
        "DetailType": "tollgate.usage.v1",
        "Detail": detail.to_string(),
    })
}

/// Sends a PutEvents entry to the local stack's event bus, over the AWS protocol.
pub(crate) async fn put_event(anyone: &Client, entry: &Value) -> Value {
    let body = json!({ "Entries": [entry] }).to_string();
    let headers = [("x-amz-target", "AWSEvents.PutEvents")];
    let response = anyone.send(Method::POST, "/", &headers, body.into());
    response.await.unwrap().json()
}
