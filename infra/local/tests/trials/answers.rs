//! What callers are told.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzEncoder;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate_local::client::Answer;

use crate::calls::{self, assert_problem, send};
use crate::{
    ADMIN_KEY, NOW, PING, Product, create, found, make_calls, program, raw, refused, usage,
};

const CUSTOMERS: &str = "/admin/customers";
const KEYS: &str = "/admin/api-keys";

/// Whoever waits as long as it says is let in.
#[tokio::test]
async fn a_call_that_hour_and_month_refuse_is_told_to_wait_for_both() {
    let product = Product::at(NOW).await;
    let limits = json!({ "requests_per_hour": 2, "monthly_quota": 2 });
    let (client, _) = product.holder("free", limits).await;
    make_calls(&client, 2).await;
    let status = StatusCode::TOO_MANY_REQUESTS;
    let answer = refused(&client, PING, status, "quota-exceeded").await;
    let problem = answer.json();
    assert_eq!(problem["window"], "month");
    assert_eq!(problem["resets_at"], "2026-12-01T00:00:00Z");
    assert!(answer.text.contains("in a UTC hour"), "{}", answer.text);
    let policies = answer.header("ratelimit-policy");
    assert!(
        policies.contains("\"hour\";q=2") && policies.contains("\"month\";q=2"),
        "{policies}"
    );
    let wait = answer.header("retry-after").parse().unwrap();
    product.advance(wait).await;
    make_calls(&client, 1).await;
}

#[tokio::test]
async fn a_creation_is_repeated_when_its_expiry_has_passed() {
    let product = Product::at(NOW).await;
    calls::customer(&product.admin, "acme", "free").await;
    let body = json!({ "customer_id": "acme", "expires_at": "2026-11-22T10:10:00Z" });
    let once = [("idempotency-key", "once")];
    let first = create(&product.admin, KEYS, &once, &body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    product.advance(3_600).await;
    let again = create(&product.admin, KEYS, &once, &body).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    assert_eq!(again.json()["id"], first.json()["id"]);
    assert_eq!(
        (&again.json()["key"], &again.json()["status"]),
        (&Value::Null, &json!("expired"))
    );
}

#[tokio::test]
async fn ids_that_no_path_can_have_are_refused() {
    let product = Product::at(NOW).await;
    for id in [".", ".."] {
        let body = json!({ "id": id, "plan": "free" });
        let answer = product.admin.post(CUSTOMERS, body).await.unwrap();
        assert_problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
        assert_eq!(answer.json()["field"], "id");
        let mut event = usage("e", "pro", NOW, 1);
        event["subject"] = id.into();
        let answer = product.count(&[event]).await;
        assert_problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
        assert_eq!(answer.json()["defects"][0]["pointer"], "/events/0");
    }
    assert_eq!(found(&product.admin, CUSTOMERS).await["data"], json!([]));
    calls::customer(&product.admin, "...", "free").await;
    assert_eq!(
        found(&product.admin, "/admin/customers/...").await["id"],
        "..."
    );
}

#[tokio::test]
async fn a_body_whose_chunks_cannot_be_read_is_a_bad_request() {
    let product = Product::at(NOW).await;
    let head = format!(
        "POST {CUSTOMERS} HTTP/1.1\r\nx-api-key: {ADMIN_KEY}\r\ntransfer-encoding: chunked"
    );
    let mut caller = raw::begin(&product.process.url, &head);
    caller.write_all(b"not a size\r\n").unwrap();
    let answer = raw::answer(caller).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer.contains("urn:tollgate:problem:bad-request"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_time_beyond_the_calendar_is_told_the_latest() {
    let product = Product::at(NOW).await;
    calls::customer(&product.admin, "acme", "free").await;
    let body = |time: &str| json!({ "customer_id": "acme", "expires_at": time });
    let latest = "9999-12-30T22:00:00Z";
    let beyond = product
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
    let (_, key) = calls::key(&product.admin, body(latest)).await;
    assert_eq!(key["expires_at"], latest);
}

/// In each place that takes one.
#[tokio::test]
async fn times_that_are_not_as_in_rfc_3339_are_refused() {
    let product = Product::at(NOW).await;
    calls::customer(&product.admin, "acme", "free").await;
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
            let answer = product.admin.post(path, body).await.unwrap();
            assert_problem(&answer, StatusCode::BAD_REQUEST, "bad-request");
            assert_eq!(answer.json()["field"], field, "{time}");
        }
        // Usage is of the past.
        let time = time.replace("11:00", "09:00").replace("T11", "T09");
        let answer = product.count(&[usage("e", "pro", &time, 1)]).await;
        assert_problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
        assert_eq!(answer.json()["defects"][0]["pointer"], "/events/0");
    }
    let offset = "2026-11-22t12:00:00.5+01:00";
    let body = json!({ "customer_id": "acme", "expires_at": offset });
    let (_, key) = calls::key(&product.admin, body).await;
    assert_eq!(key["expires_at"], "2026-11-22T11:00:00.5Z");
    product
        .report("e", "pro", &offset.replace("12:00", "10:00"), 1)
        .await;
}

#[tokio::test]
async fn a_creation_under_two_idempotency_keys_is_refused() {
    let product = Product::at(NOW).await;
    let twice = [("idempotency-key", "one"), ("idempotency-key", "other")];
    let body = json!({ "id": "acme", "plan": "free" });
    let answer = create(&product.admin, CUSTOMERS, &twice, &body).await;
    assert_problem(&answer, StatusCode::BAD_REQUEST, "bad-request");
    assert_eq!(found(&product.admin, CUSTOMERS).await["data"], json!([]));
    let answer = create(&product.admin, CUSTOMERS, &twice[1..], &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
}

#[tokio::test]
async fn an_empty_key_field_does_not_hide_a_good_key() {
    let product = Product::at(NOW).await;
    let (_, key) = product.holder("free", json!({})).await;
    let bearer = format!("Bearer {}", key["key"].as_str().unwrap());
    for empty in ["", " "] {
        let fields = [("x-api-key", empty), ("authorization", bearer.as_str())];
        let pong = product
            .anyone
            .send(Method::GET, PING, &fields, "".into())
            .await;
        let pong = pong.unwrap();
        assert_eq!(pong.status, StatusCode::OK, "{}", pong.text);
        assert_eq!(pong.json()["customer_id"], "acme");
    }
}

fn cors(answer: &Answer) -> [&str; 2] {
    [
        "access-control-allow-origin",
        "access-control-allow-methods",
    ]
    .map(|name| answer.header(name))
}

/// Answers of functions and of the gateway alike; and a preflight counts nowhere.
#[tokio::test]
async fn pages_of_the_origin_that_is_named_may_call() {
    let origin = "https://app.example";
    let mut command = program();
    command.env("TOLLGATE_CORS_ORIGINS", origin);
    let product = Product::of(command.arg("--in-memory"));
    let (client, _) = product
        .holder("free", json!({ "requests_per_hour": 1 }))
        .await;
    let preflight = send(&product.anyone, Method::OPTIONS, PING).await;
    assert_eq!(preflight.status, StatusCode::OK, "{}", preflight.text);
    assert_eq!(cors(&preflight), [origin, "GET,OPTIONS"]);
    for (path, status) in [
        (PING, 200),
        (PING, 429),
        ("/nothing", 404),
        (CUSTOMERS, 403),
    ] {
        let answer = client.get(path).await.unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert_eq!(cors(&answer), [origin, ""], "{path}");
        let exposed = answer.header("access-control-expose-headers");
        assert!(exposed.contains("Retry-After"), "{path}: {exposed:?}");
    }
    let unauthorized = product.anyone.get(PING).await.unwrap();
    assert_eq!(unauthorized.status, StatusCode::UNAUTHORIZED);
    assert_eq!(cors(&unauthorized), [origin, ""]);
}

/// A preflight is answered all the same, and no origin is named.
#[tokio::test]
async fn pages_of_other_origins_may_not_call_unless_one_is_named() {
    let product = Product::at(NOW).await;
    let preflight = send(&product.anyone, Method::OPTIONS, CUSTOMERS).await;
    assert_eq!(preflight.status, StatusCode::OK, "{}", preflight.text);
    assert_eq!(cors(&preflight), ["", "POST,GET,OPTIONS"]);
    let customers = product.admin.get(CUSTOMERS).await.unwrap();
    assert_eq!(customers.status, StatusCode::OK);
    assert_eq!(cors(&customers), ["", ""]);
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = Vec::new();
    let mut encoder = GzEncoder::new(text.as_bytes(), Compression::default());
    encoder.read_to_end(&mut gzip).unwrap();
    gzip
}

/// Posts a customer with these header fields, and this in front of it.
async fn post_customer(product: &Product, fields: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let answer = product
        .admin
        .send(Method::POST, CUSTOMERS, fields, body.into());
    answer.await.unwrap()
}

#[tokio::test]
async fn a_body_in_gzip_is_held_to_the_limit_on_what_is_in_it() {
    let product = Product::at(NOW).await;
    let customer = json!({ "id": "acme", "plan": "free" }).to_string();
    let gzipped = [("content-encoding", "gzip")];
    let padded = format!("{}{customer}", " ".repeat(1024 * 1024));
    let large = post_customer(&product, &gzipped, gzip(&padded)).await;
    assert_problem(&large, StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
    let padded = format!("{}{customer}", " ".repeat(1_000_000));
    let created = post_customer(&product, &gzipped, gzip(&padded)).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    assert_eq!(created.json()["id"], "acme");
}

#[tokio::test]
async fn a_body_in_another_coding_is_told_which_is_read() {
    let product = Product::at(NOW).await;
    let customer = json!({ "id": "acme", "plan": "free" }).to_string();
    // The second says that it is gzip, and is not.
    for coding in ["br", "gzip"] {
        let fields = [("content-encoding", coding)];
        let answer = post_customer(&product, &fields, customer.clone().into()).await;
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        assert_problem(&answer, status, "unsupported-media-type");
        assert_eq!(answer.header("accept-encoding"), "gzip");
    }
    assert_eq!(found(&product.admin, CUSTOMERS).await["data"], json!([]));
    let fields = [("content-encoding", "identity")];
    let answer = post_customer(&product, &fields, customer.into()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
}

/// A media type of which nothing is expected is read, so that `curl -d` works.
#[tokio::test]
async fn a_body_in_another_charset_is_refused() {
    let product = Product::at(NOW).await;
    let body = |id: &str| json!({ "id": id, "plan": "free" }).to_string().into();
    for charset in ["utf-16", "iso-8859-1"] {
        let content_type = format!("application/json; charset={charset}");
        let fields = [("content-type", content_type.as_str())];
        let answer = post_customer(&product, &fields, body("acme")).await;
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        assert_problem(&answer, status, "unsupported-media-type");
    }
    for (id, content_type) in [
        ("a", "application/x-www-form-urlencoded"),
        ("b", "application/json; charset=\"UTF-8\""),
    ] {
        let fields = [("content-type", content_type)];
        let answer = post_customer(&product, &fields, body(id)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    }
}

#[tokio::test]
async fn no_refusal_is_kept_by_caches() {
    let product = Product::at(NOW).await;
    let (client, _) = product
        .holder("free", json!({ "requests_per_hour": 1 }))
        .await;
    make_calls(&client, 1).await;
    let stranger = product.anyone.with_key("tg_live_nobody");
    for (caller, method, path, status) in [
        (&product.anyone, Method::GET, PING, 401),
        (&stranger, Method::GET, PING, 401),
        (&client, Method::GET, CUSTOMERS, 403),
        (&client, Method::GET, "/nothing", 404),
        (&product.admin, Method::GET, "/admin/customers/nobody", 404),
        (&product.admin, Method::PUT, CUSTOMERS, 405),
        (&client, Method::GET, PING, 429),
    ] {
        let answer = send(caller, method, path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert_eq!(
            answer.header("cache-control"),
            "no-store",
            "{path} {status}"
        );
    }
}
