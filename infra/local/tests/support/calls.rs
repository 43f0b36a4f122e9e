//! What tests of the product ask of it, whatever it runs on.

use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate_local::client::{Answer, Client};

/// A request without a body.
pub(crate) async fn send(client: &Client, method: Method, path: &str) -> Answer {
    let answer = client.send(method, path, &[], Body::empty()).await;
    answer.unwrap()
}

/// Uses one of the levers that only the local product has.
pub(crate) async fn local(anyone: &Client, what: &str, body: Value) -> Value {
    let path = format!("/_local/{what}");
    let answer = anyone.post(&path, body).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    answer.json()
}

/// Checks that an answer is a problem with these members.
pub(crate) fn assert_problem(answer: &Answer, status: StatusCode, slug: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("urn:tollgate:problem:{slug}"));
    assert_eq!(problem["status"], status.as_u16());
    assert!(problem["title"].is_string() && problem["detail"].is_string());
}

/// Makes a customer.
pub(crate) async fn customer(admin: &Client, id: &str, plan: &str) {
    let body = json!({ "id": id, "plan": plan });
    let answer = admin.post("/admin/customers", body).await.unwrap();
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
}

/// Makes a key, and a client with it.
pub(crate) async fn key(admin: &Client, body: Value) -> (Client, Value) {
    let answer = admin.post("/admin/api-keys", body).await.unwrap();
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let key = answer.json();
    let client = admin.with_key(key["key"].as_str().unwrap());
    (client, key)
}

/// An entry of calls at `time`, as a producer outside the stack makes it.
pub(crate) fn entry(id: &str, customer: &str, time: &str, records: usize) -> Value {
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

/// The EventBridge event of that detail, for a bus.
pub(crate) fn event(bus: &str, detail: &Value) -> Value {
    json!({
        "EventBusName": bus,
        "Source": "test",
        "DetailType": "tollgate.usage.v1",
        "Detail": detail.to_string(),
    })
}

/// Puts an event on the local product's bus, over the AWS protocol.
pub(crate) async fn put_event(anyone: &Client, event: &Value) -> Value {
    let body = json!({ "Entries": [event] }).to_string();
    let headers = [("x-amz-target", "AWSEvents.PutEvents")];
    let answer = anyone.send(Method::POST, "/", &headers, body.into());
    answer.await.unwrap().json()
}
