//! Tests of responses to callers.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzEncoder;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate_local::client::Response;

use crate::calls::{self, assert_problem, send};
use crate::{
    ADMIN_KEY, LocalStack, NOW, PING, create, expect_problem, get_json, make_calls, program, raw,
    usage,
};

const CUSTOMERS: &str = "/admin/customers";
const KEYS: &str = "/admin/api-keys";

/// A caller that waits for the time in `Retry-After` is allowed again.
#[tokio::test]
async fn with_both_limits_exhausted_retry_after_covers_both() {
    let stack = LocalStack::at(NOW).await;
    let limits = json!({ "requests_per_hour": 2, "monthly_quota": 2 });
    let (client, _) = stack.customer_with_key("free", limits).await;
    make_calls(&client, 2).await;
    let status = StatusCode::TOO_MANY_REQUESTS;
    let response = expect_problem(&client, PING, status, "quota-exceeded").await;
    let problem = response.json();
    assert_eq!(problem["window"], "month");
    assert_eq!(problem["resets_at"], "2026-12-01T00:00:00Z");
    assert!(response.text.contains("in a UTC hour"), "{}", response.text);
    let policies = response.header("ratelimit-policy");
    assert!(
        policies.contains("\"hour\";q=2") && policies.contains("\"month\";q=2"),
        "{policies}"
    );
    let wait = response.header("retry-after").parse().unwrap();
    stack.advance(wait).await;
    make_calls(&client, 1).await;
}

#[tokio::test]
async fn a_creation_is_repeated_when_its_expiry_has_passed() {
    let stack = LocalStack::at(NOW).await;
    calls::customer(&stack.admin, "acme", "free").await;
    let body = json!({ "customer_id": "acme", "expires_at": "2026-11-22T10:10:00Z" });
    let once = [("idempotency-key", "once")];
    let first = create(&stack.admin, KEYS, &once, &body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    stack.advance(3_600).await;
    let again = create(&stack.admin, KEYS, &once, &body).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    assert_eq!(again.json()["id"], first.json()["id"]);
    assert_eq!(
        (&again.json()["key"], &again.json()["status"]),
        (&Value::Null, &json!("expired"))
    );
}

#[tokio::test]
async fn ids_that_no_path_can_contain_are_rejected() {
    let stack = LocalStack::at(NOW).await;
    for id in [".", ".."] {
        let body = json!({ "id": id, "plan": "free" });
        let response = stack.admin.post(CUSTOMERS, body).await.unwrap();
        assert_problem(&response, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
        assert_eq!(response.json()["field"], "id");
        let mut event = usage("e", "pro", NOW, 1);
        event["subject"] = id.into();
        let response = stack.send_usage(&[event]).await;
        assert_problem(&response, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
        assert_eq!(response.json()["defects"][0]["pointer"], "/events/0");
    }
    assert_eq!(get_json(&stack.admin, CUSTOMERS).await["data"], json!([]));
    calls::customer(&stack.admin, "...", "free").await;
    assert_eq!(
        get_json(&stack.admin, "/admin/customers/...").await["id"],
        "..."
    );
}

#[tokio::test]
async fn a_body_whose_chunks_cannot_be_read_is_a_bad_request() {
    let stack = LocalStack::at(NOW).await;
    let head = format!(
        "POST {CUSTOMERS} HTTP/1.1\r\nx-api-key: {ADMIN_KEY}\r\ntransfer-encoding: chunked"
    );
    let mut caller = raw::begin(&stack.process.url, &head);
    caller.write_all(b"not a size\r\n").unwrap();
    let response = raw::response(caller).await;
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    assert!(
        response.contains("urn:tollgate:problem:bad-request"),
        "{response}"
    );
}

#[tokio::test]
async fn the_error_for_a_time_out_of_range_states_the_latest_time() {
    let stack = LocalStack::at(NOW).await;
    calls::customer(&stack.admin, "acme", "free").await;
    let body = |time: &str| json!({ "customer_id": "acme", "expires_at": time });
    let latest = "9999-12-30T22:00:00Z";
    let beyond = stack
        .admin
        .post(KEYS, body("9999-12-31T23:59:59Z"))
        .await
        .unwrap();
    assert_problem(&beyond, StatusCode::BAD_REQUEST, "bad-request");
    let detail = beyond.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains(&format!("the latest time is {latest}")),
        "{detail}"
    );
    let (_, key) = calls::key(&stack.admin, body(latest)).await;
    assert_eq!(key["expires_at"], latest);
}

/// Covers every member that is a time.
#[tokio::test]
async fn times_that_are_not_in_rfc_3339_are_rejected() {
    let stack = LocalStack::at(NOW).await;
    calls::customer(&stack.admin, "acme", "free").await;
    for time in [
        "2026-11-22T11:00Z",
        "2026-11-22 11:00:00Z",
        "20261122T110000Z",
        "2026-11-22T11:00:00+01",
        "2026-11-22T11:00:00+01:00[Europe/Paris]",
        "+002026-11-22T11:00:00Z",
    ] {
        let key = json!({ "customer_id": "acme", "expires_at": time });
        let clock = json!({ "now": time });
        for (path, body, field) in [(KEYS, key, "expires_at"), ("/_local/clock", clock, "now")] {
            let response = stack.admin.post(path, body).await.unwrap();
            assert_problem(&response, StatusCode::BAD_REQUEST, "bad-request");
            assert_eq!(response.json()["field"], field, "{time}");
        }
        // Usage must be in the past.
        let time = time.replace("11:00", "09:00").replace("T11", "T09");
        let response = stack.send_usage(&[usage("e", "pro", &time, 1)]).await;
        assert_problem(&response, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
        assert_eq!(response.json()["defects"][0]["pointer"], "/events/0");
    }
    let offset = "2026-11-22t12:00:00.5+01:00";
    let body = json!({ "customer_id": "acme", "expires_at": offset });
    let (_, key) = calls::key(&stack.admin, body).await;
    assert_eq!(key["expires_at"], "2026-11-22T11:00:00.5Z");
    stack
        .report("e", "pro", &offset.replace("12:00", "10:00"), 1)
        .await;
}

#[tokio::test]
async fn a_creation_with_two_idempotency_keys_is_rejected() {
    let stack = LocalStack::at(NOW).await;
    let twice = [("idempotency-key", "one"), ("idempotency-key", "other")];
    let body = json!({ "id": "acme", "plan": "free" });
    let response = create(&stack.admin, CUSTOMERS, &twice, &body).await;
    assert_problem(&response, StatusCode::BAD_REQUEST, "bad-request");
    assert_eq!(get_json(&stack.admin, CUSTOMERS).await["data"], json!([]));
    let response = create(&stack.admin, CUSTOMERS, &twice[1..], &body).await;
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
}

#[tokio::test]
async fn an_empty_key_field_does_not_hide_a_valid_key() {
    let stack = LocalStack::at(NOW).await;
    let (_, key) = stack.customer_with_key("free", json!({})).await;
    let bearer = format!("Bearer {}", key["key"].as_str().unwrap());
    for empty in ["", " "] {
        let fields = [("x-api-key", empty), ("authorization", bearer.as_str())];
        let pong = stack
            .anyone
            .send(Method::GET, PING, &fields, "".into())
            .await;
        let pong = pong.unwrap();
        assert_eq!(pong.status, StatusCode::OK, "{}", pong.text);
        assert_eq!(pong.json()["customer_id"], "acme");
    }
}

fn cors(response: &Response) -> [&str; 2] {
    [
        "access-control-allow-origin",
        "access-control-allow-methods",
    ]
    .map(|name| response.header(name))
}

/// Applies to responses of functions and of the gateway; a preflight request is not counted.
#[tokio::test]
async fn pages_of_the_configured_origin_may_read_responses() {
    let origin = "https://app.example";
    let mut command = program();
    command.env("TOLLGATE_CORS_ORIGINS", origin);
    let stack = LocalStack::start(command.arg("--in-memory"));
    let (client, _) = stack
        .customer_with_key("free", json!({ "requests_per_hour": 1 }))
        .await;
    let preflight = send(&stack.anyone, Method::OPTIONS, PING).await;
    assert_eq!(preflight.status, StatusCode::OK, "{}", preflight.text);
    assert_eq!(cors(&preflight), [origin, "GET,OPTIONS"]);
    for (path, status) in [
        (PING, 200),
        (PING, 429),
        ("/nothing", 404),
        (CUSTOMERS, 403),
    ] {
        let response = client.get(path).await.unwrap();
        assert_eq!(response.status, status, "{path}: {}", response.text);
        assert_eq!(cors(&response), [origin, ""], "{path}");
        let exposed = response.header("access-control-expose-headers");
        assert!(exposed.contains("Retry-After"), "{path}: {exposed:?}");
    }
    let unauthorized = stack.anyone.get(PING).await.unwrap();
    assert_eq!(unauthorized.status, StatusCode::UNAUTHORIZED);
    assert_eq!(cors(&unauthorized), [origin, ""]);
}

/// A preflight request gets a response that allows no origin.
#[tokio::test]
async fn without_a_configured_origin_no_page_may_read_responses() {
    let stack = LocalStack::at(NOW).await;
    let preflight = send(&stack.anyone, Method::OPTIONS, CUSTOMERS).await;
    assert_eq!(preflight.status, StatusCode::OK, "{}", preflight.text);
    assert_eq!(cors(&preflight), ["", "POST,GET,OPTIONS"]);
    let customers = stack.admin.get(CUSTOMERS).await.unwrap();
    assert_eq!(customers.status, StatusCode::OK);
    assert_eq!(cors(&customers), ["", ""]);
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = Vec::new();
    let mut encoder = GzEncoder::new(text.as_bytes(), Compression::default());
    encoder.read_to_end(&mut gzip).unwrap();
    gzip
}

/// Sends a request that creates a customer, with these header fields and this body.
async fn post_customer(stack: &LocalStack, fields: &[(&str, &str)], body: Vec<u8>) -> Response {
    let response = stack
        .admin
        .send(Method::POST, CUSTOMERS, fields, body.into());
    response.await.unwrap()
}

#[tokio::test]
async fn the_size_limit_applies_to_the_inflated_body() {
    let stack = LocalStack::at(NOW).await;
    let customer = json!({ "id": "acme", "plan": "free" }).to_string();
    let gzipped = [("content-encoding", "gzip")];
    let padded = format!("{}{customer}", " ".repeat(1024 * 1024));
    let large = post_customer(&stack, &gzipped, gzip(&padded)).await;
    assert_problem(&large, StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
    let padded = format!("{}{customer}", " ".repeat(1_000_000));
    let created = post_customer(&stack, &gzipped, gzip(&padded)).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    assert_eq!(created.json()["id"], "acme");
}

#[tokio::test]
async fn the_response_to_an_unsupported_coding_names_the_supported_one() {
    let stack = LocalStack::at(NOW).await;
    let customer = json!({ "id": "acme", "plan": "free" }).to_string();
    // The second body is declared as gzip but is not compressed.
    for coding in ["br", "gzip"] {
        let fields = [("content-encoding", coding)];
        let response = post_customer(&stack, &fields, customer.clone().into()).await;
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        assert_problem(&response, status, "unsupported-media-type");
        assert_eq!(response.header("accept-encoding"), "gzip");
    }
    assert_eq!(get_json(&stack.admin, CUSTOMERS).await["data"], json!([]));
    let fields = [("content-encoding", "identity")];
    let response = post_customer(&stack, &fields, customer.into()).await;
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
}

/// Other media types are accepted, so that `curl -d` works.
#[tokio::test]
async fn a_body_in_another_charset_is_rejected() {
    let stack = LocalStack::at(NOW).await;
    let body = |id: &str| json!({ "id": id, "plan": "free" }).to_string().into();
    for charset in ["utf-16", "iso-8859-1"] {
        let content_type = format!("application/json; charset={charset}");
        let fields = [("content-type", content_type.as_str())];
        let response = post_customer(&stack, &fields, body("acme")).await;
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        assert_problem(&response, status, "unsupported-media-type");
    }
    for (id, content_type) in [
        ("a", "application/x-www-form-urlencoded"),
        ("b", "application/json; charset=\"UTF-8\""),
    ] {
        let fields = [("content-type", content_type)];
        let response = post_customer(&stack, &fields, body(id)).await;
        assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    }
}

#[tokio::test]
async fn no_error_response_may_be_cached() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack
        .customer_with_key("free", json!({ "requests_per_hour": 1 }))
        .await;
    make_calls(&client, 1).await;
    let stranger = stack.anyone.with_key("tg_live_nobody");
    for (caller, method, path, status) in [
        (&stack.anyone, Method::GET, PING, 401),
        (&stranger, Method::GET, PING, 401),
        (&client, Method::GET, CUSTOMERS, 403),
        (&client, Method::GET, "/nothing", 404),
        (&stack.admin, Method::GET, "/admin/customers/nobody", 404),
        (&stack.admin, Method::PUT, CUSTOMERS, 405),
        (&client, Method::GET, PING, 429),
    ] {
        let response = send(caller, method, path).await;
        assert_eq!(response.status, status, "{path}: {}", response.text);
        assert_eq!(
            response.header("cache-control"),
            "no-store",
            "{path} {status}"
        );
    }
}
