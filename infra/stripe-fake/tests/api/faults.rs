//! Faults on request.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::json;
use stripe_fake::{ConnectionLost, Fault, FaultRule};
use tokio::time::Instant;

use crate::client::{Api, id, ids};

const ITEMS: &str = "/v1/invoiceitems";

async fn items(api: &Api) -> usize {
    ids(&api.get(ITEMS, "limit=100").await).len()
}

async fn with_fault(times: u32, fault: Fault) -> (Api, String) {
    let api = Api::new();
    let form = format!(
        "customer={}&amount=100&currency=usd&metadata[charge]=ch-1",
        api.customer().await
    );
    api.fake
        .add_fault(FaultRule::new("POST", ITEMS, times, fault));
    (api, form)
}

#[tokio::test]
async fn a_lost_request_has_no_effect_and_a_lost_response_has() {
    let check = async |fault: Fault, effects: usize, is_replay: bool| {
        let (api, form) = with_fault(1, fault).await;
        let lost = api.post_with_key(ITEMS, &form, "k").await;
        assert_eq!(lost.unwrap_err(), ConnectionLost);
        assert_eq!(items(&api).await, effects);
        let again = api.post_with_key(ITEMS, &form, "k").await.unwrap();
        assert_eq!(again.status, 200);
        assert_eq!(again.headers.contains_key("idempotent-replayed"), is_replay);
        assert_eq!(items(&api).await, 1);
    };
    check(Fault::RequestLost, 0, false).await;
    check(Fault::ResponseLost, 1, true).await;
}

#[tokio::test]
async fn a_lost_response_of_a_forgotten_key_is_doubled() {
    let (api, form) = with_fault(1, Fault::ResponseLost).await;
    assert!(api.post_with_key(ITEMS, &form, "k").await.is_err());
    api.pass(24 * 3_600);
    api.post_with_key(ITEMS, &form, "k").await.unwrap();
    assert_eq!(
        items(&api).await,
        2,
        "which is why a client lists items before it posts again"
    );
}

#[tokio::test]
async fn a_late_request_takes_effect_later() {
    let (api, form) = with_fault(1, Fault::Late { seconds: 90 }).await;
    assert!(api.post_with_key(ITEMS, &form, "k").await.is_err());
    assert_eq!(items(&api).await, 0);
    let busy = api.post_with_key(ITEMS, &form, "k").await.unwrap();
    api.check_error(&busy, 409, "idempotency_key_in_use", "");
    assert_eq!(busy.json["error"]["type"], "idempotency_error");
    api.pass(89);
    assert_eq!(items(&api).await, 0);
    api.pass(1);
    assert_eq!(items(&api).await, 1);
    let replay = api.post_with_key(ITEMS, &form, "k").await.unwrap();
    assert_eq!(
        (replay.status, &replay.headers["idempotent-replayed"]),
        (200, &"true".parse().unwrap())
    );
    assert_eq!(items(&api).await, 1);
    let created = api.get("/v1/events", "type=invoiceitem.created").await["data"][0].clone();
    assert_eq!(created["request"]["idempotency_key"], "k");
}

#[tokio::test]
async fn rate_limits_with_and_without_retry_after() {
    for retry_after in [Some(7), None] {
        let (api, form) = with_fault(2, Fault::RateLimited { retry_after }).await;
        for _ in 0..2 {
            let reply = api.post_with_key(ITEMS, &form, "k").await.unwrap();
            api.check_error(&reply, 429, "rate_limit", "");
            let header = reply
                .headers
                .get("retry-after")
                .map(|value| value.to_str().unwrap());
            assert_eq!(header, retry_after.map(|_| "7"));
        }
        assert_eq!(items(&api).await, 0);
        assert_eq!(
            api.post_with_key(ITEMS, &form, "k").await.unwrap().status,
            200,
            "it is not stored"
        );
    }
}

#[tokio::test]
async fn a_500_before_the_execution_is_not_stored_and_others_are() {
    let (api, form) = with_fault(1, Fault::ServerError).await;
    let reply = api.post_with_key(ITEMS, &form, "k").await.unwrap();
    assert_eq!(
        (reply.status, &reply.json["error"]["type"]),
        (500, &json!("api_error"))
    );
    assert_eq!(items(&api).await, 0);
    assert_eq!(
        api.post_with_key(ITEMS, &form, "k").await.unwrap().status,
        200
    );

    for executes in [false, true] {
        let (api, form) = with_fault(1, Fault::StoredServerError { executes }).await;
        let first = api.post_with_key(ITEMS, &form, "k").await.unwrap();
        assert_eq!(first.status, 500);
        api.pass(3_600);
        let replay = api.post_with_key(ITEMS, &form, "k").await.unwrap();
        assert_eq!((replay.status, &replay.text), (500, &first.text));
        assert_eq!(replay.headers["idempotent-replayed"], "true");
        assert_eq!(items(&api).await, usize::from(executes));
        api.pass(24 * 3_600);
        assert_eq!(
            api.post_with_key(ITEMS, &form, "k").await.unwrap().status,
            200
        );
    }
}

#[tokio::test]
async fn the_header_says_whether_to_retry() {
    for (fault, is_stored) in [
        (Fault::ServerError, false),
        (Fault::StoredServerError { executes: false }, true),
        (Fault::RateLimited { retry_after: None }, false),
    ] {
        for should_retry in [true, false] {
            let (api, form) = with_fault(0, fault.clone()).await;
            api.fake.add_fault(FaultRule {
                should_retry: Some(should_retry),
                ..FaultRule::new("POST", ITEMS, 1, fault.clone())
            });
            for is_first in [true, false] {
                let reply = api.post_with_key(ITEMS, &form, "k").await.unwrap();
                let header = reply
                    .headers
                    .get("stripe-should-retry")
                    .map(|value| value.to_str().unwrap());
                let expected =
                    (is_first || is_stored).then_some(if should_retry { "true" } else { "false" });
                assert_eq!(header, expected, "{fault:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_response_keeps_its_key_in_use() {
    let (api, form) = with_fault(
        1,
        Fault::Slow {
            milliseconds: 30_000,
        },
    )
    .await;
    let began = Instant::now();
    let slow = api.post_with_key(ITEMS, &form, "k");
    let impatient = tokio::time::timeout(Duration::from_secs(10), slow).await;
    assert!(impatient.is_err());
    assert_eq!(items(&api).await, 1, "it takes effect all the same");
    let busy = api.post_with_key(ITEMS, &form, "k").await.unwrap();
    api.check_error(&busy, 409, "idempotency_key_in_use", "");
    api.fake.advance(SignedDuration::from_secs(30));
    let replay = api.post_with_key(ITEMS, &form, "k").await.unwrap();
    assert_eq!(replay.status, 200);
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    assert_eq!(items(&api).await, 1);

    api.fake.add_fault(FaultRule::new(
        "GET",
        ITEMS,
        1,
        Fault::Slow {
            milliseconds: 2_000,
        },
    ));
    api.get(ITEMS, "").await;
    assert_eq!(began.elapsed(), Duration::from_secs(12));
}

#[tokio::test]
async fn a_key_in_use_and_a_cut_response() {
    let (api, form) = with_fault(1, Fault::KeyInUse).await;
    let reply = api.post_with_key(ITEMS, &form, "k").await.unwrap();
    api.check_error(&reply, 409, "idempotency_key_in_use", "");
    assert_eq!(items(&api).await, 0);
    assert_eq!(
        api.post_with_key(ITEMS, &form, "k").await.unwrap().status,
        200,
        "it is not stored"
    );

    let (api, form) = with_fault(1, Fault::Malformed).await;
    let reply = api.post_with_key(ITEMS, &form, "k").await.unwrap();
    assert_eq!(reply.status, 200);
    assert!(
        !reply.text.is_empty() && reply.json.is_null(),
        "{}",
        reply.text
    );
    assert_eq!(items(&api).await, 1);
    assert!(
        !api.post_with_key(ITEMS, &form, "k")
            .await
            .unwrap()
            .json
            .is_null()
    );
}

#[tokio::test]
async fn faults_are_of_the_next_requests_that_match() {
    let api = Api::new();
    let customer = api.customer().await;
    let rule = |method: Option<&str>, path: &str, times: u32| FaultRule {
        method: method.map(str::to_owned),
        ..FaultRule::new("", path, times, Fault::ServerError)
    };
    api.fake.add_fault(rule(Some("GET"), "/v1/customers/*", 2));
    api.fake.add_fault(rule(None, "/v1/events", 1));
    assert_eq!(api.fake.faults().len(), 2);
    let check = async |method: &str, path: &str, status: u16| {
        assert_eq!(
            api.call(method, path, "").await.status,
            status,
            "{method} {path}"
        );
    };
    let path = format!("/v1/customers/{customer}");
    check("POST", &path, 200).await;
    check("GET", "/v1/customers", 200).await;
    check("GET", &path, 500).await;
    check("GET", &path, 500).await;
    check("GET", &path, 200).await;
    check("GET", "/v1/events", 500).await;
    check("GET", "/v1/events", 200).await;
    api.fake.add_fault(rule(None, "*", 100));
    check("GET", &path, 500).await;
    api.fake.clear_faults();
    check("GET", &path, 200).await;
    let mut count = 0;
    api.fake.set_injector(move |method, path| {
        count += 1;
        (method == "GET" && path == "/v1/events" && count % 2 == 0).then_some(Fault::ServerError)
    });
    check("GET", "/v1/events", 200).await;
    check("GET", "/v1/events", 500).await;
    check("GET", "/v1/events", 200).await;
}

#[tokio::test]
async fn requests_in_a_second_can_be_limited_and_are_logged() {
    let api = Api::with(|options| {
        options.requests_per_second = Some(3);
        options.keeps_log = true;
    });
    for _ in 0..2 {
        for n in 0..5 {
            let status = api.call("GET", "/v1/customers", "").await.status;
            assert_eq!(status, if n < 3 { 200 } else { 429 });
        }
        api.pass(1);
    }
    api.post_with_key("/v1/customers", "", "k").await.unwrap();
    api.post_with_key("/v1/customers", "", "k").await.unwrap();
    let log = api.fake.take_log();
    assert_eq!(
        log.iter()
            .filter(|request| request.status == Some(429))
            .count(),
        4
    );
    let last = log.last().unwrap();
    assert_eq!(
        (last.path.as_str(), last.is_replay, last.time),
        ("/v1/customers", true, api.now())
    );
    assert_eq!(api.fake.take_log(), []);
    assert!(id(&api.post("/v1/customers", "").await).starts_with("cus_"));
}

#[tokio::test]
async fn a_connection_is_closed_over_http() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    let (api, form) = with_fault(1, Fault::ResponseLost).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{ITEMS}", listener.local_addr().unwrap());
    let server = tokio::spawn(stripe_fake::serve(listener, api.fake.clone()));
    let client = Client::builder(TokioExecutor::new()).build_http();
    let post = async || {
        let request = http::Request::post(&url)
            .header("authorization", "Bearer sk_test_stripe_fake")
            .header("idempotency-key", "k")
            .body(Full::new(axum::body::Bytes::from(form.clone())));
        client.request(request.unwrap()).await
    };
    assert!(
        post().await.is_err(),
        "the connection is closed without a response"
    );
    let response = post().await.unwrap();
    assert_eq!(response.headers()["idempotent-replayed"], "true");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.starts_with(b"{"));
    server.abort();
}
