//! `GET /api/secure/ping`, called as API Gateway calls it, with metering.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{self, Next};
use serde_json::{Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_testing::event::Event;
use tollgate_testing::metered::{NOW, delivered, metering};
use tollgate_testing::response::{
    ApiResponse, call_service, has_no_other_routes, ignores_the_stage, needs_a_customer,
};
use tower::Layer;

fn event() -> Event {
    Event::load("ping/ping")
}

/// Calls the function, assembled as in its `main`, and sends its usage. The call takes 12 ms.
async fn metered_call(at: &Fixture, event: &Event) -> ApiResponse {
    let slow = async |request: Request, next: Next| {
        tokio::time::sleep(Duration::from_millis(12)).await;
        next.run(request).await
    };
    let routes = ping::routes().layer(middleware::from_fn(slow));
    let metering = metering(at, "ping");
    let function = metering.layer().layer(tollgate_web::serve(routes));
    let response = call_service(function, event).await;
    metering.emitter().flush().await;
    response
}

#[tokio::test(start_paused = true)]
async fn a_ping_returns_the_caller_and_its_rate_limit() {
    let response = metered_call(&Fixture::at(NOW), &event()).await;
    for (name, value) in [
        ("x-ratelimit-limit", "10000"),
        ("x-ratelimit-remaining", "9996"),
        ("x-ratelimit-reset", "1795345200"),
        ("ratelimit", r#""hour";r=9996;t=3600"#),
        ("ratelimit-policy", r#""hour";q=10000;w=3600"#),
    ] {
        assert_eq!(response.header(name), Some(value));
    }
    let expected = json!({ "message": "pong", "customer_id": "acme", "plan": "pro" });
    assert_eq!(response.json(200), expected);
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_metered_once_as_a_usage_event() {
    let (at, event) = (Fixture::at(NOW), event());
    metered_call(&at, &event).await;
    let mut events = delivered(&at);
    assert_eq!(events.len(), 1);
    let event_bridge = events.remove(0);
    assert_eq!(event_bridge["detail-type"], "tollgate.usage.v1");
    assert_eq!(event_bridge["source"], "tollgate:ping");
    let mut detail = event_bridge["detail"].clone();
    let id = detail["id"].take();
    let id = id.as_str().unwrap();
    // A UUID of version 7, with the time at which the event was made.
    assert_eq!(id.len(), 36, "{id}");
    assert!(id.starts_with("01a202b2-c500-7"), "{id}");
    let expected = json!({
        "specversion": "1.0",
        "id": Value::Null,
        "source": "tollgate:ping",
        "type": "tollgate.usage.v1",
        "time": NOW,
        "subject": "acme",
        "datacontenttype": "application/json",
        "data": { "records": [{
            "time": NOW,
            "request_id": event.request_id(),
            "key_id": "key_7pQ2vX9bTzR4cYdLw5Ha",
            "plan": "pro",
            "method": "GET",
            "endpoint": "/api/secure/ping",
            "status": 200,
            "latency_ms": 12,
            "request_bytes": 0,
            "response_bytes": 52,
            "billable": true,
        }] },
    });
    assert_eq!(detail, expected);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_customer_is_forbidden_and_not_metered() {
    let at = Fixture::at(NOW);
    for event in [event().admin("key_a"), event().authorizer(Value::Null)] {
        let response = metered_call(&at, &event).await;
        response.forbidden();
        assert_eq!(response.header("x-ratelimit-limit"), None);
    }
    assert_eq!(delivered(&at), [0; 0]);
}

#[tokio::test]
async fn the_function_has_one_route_for_customers_only() {
    let routes = ping::routes();
    needs_a_customer(&routes, &event()).await;
    has_no_other_routes(&routes, &event()).await;
    ignores_the_stage(&routes, &event()).await;
}
