//! The function's binary, run as Lambda runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::Value;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, FunctionProcess, LambdaHost, Outcome, Step};
use tollgate_runtime::metrics::UNATTRIBUTED_CALLS;

const PUT_EVENTS: &str = "AWSEvents.PutEvents";

async fn start(at: &Fixture) -> (LambdaHost, FunctionProcess) {
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let process = host.run(env!("CARGO_BIN_EXE_ping"), "PingFunction");
    let process = process.unwrap();
    // The function registers its extension before it asks for the first invocation.
    host.idle().await;
    (host, process)
}

fn event() -> Value {
    serde_json::from_str(include_str!("../../../events/ping/ping.json")).unwrap()
}

#[tokio::test]
async fn usage_is_sent_after_the_response() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let (host, process) = start(&at).await;
    for calls in 1..=3 {
        let Some(Outcome::Response(response)) = host.invoke(event()).await else {
            panic!("no response");
        };
        assert_eq!(response["statusCode"], 200);
        assert_eq!(
            response["multiValueHeaders"]["x-ratelimit-limit"][0],
            "10000"
        );
        host.idle().await;
        assert_eq!(at.aws.queue().counts().unwrap().queued, calls);
    }
    let call = [Step::Responded, Step::Called(PUT_EVENTS.into())];
    assert_eq!(host.steps(), [call.clone(), call.clone(), call].concat());
    process.shut_down().unwrap();
}

#[tokio::test]
async fn an_invalid_event_is_an_error_and_the_instance_goes_on() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let (host, _process) = start(&at).await;
    let outcome = host.invoke(Value::from("not an API Gateway event")).await;
    assert!(matches!(outcome, Some(Outcome::Error(_))), "{outcome:?}");
    host.idle().await;
    let outcome = host.invoke(event()).await;
    assert!(matches!(outcome, Some(Outcome::Response(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_an_authorizer_context_are_counted_and_logged_once() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let (host, process) = start(&at).await;
    let mut event = event();
    event["requestContext"]["authorizer"] = Value::Null;
    for _ in 0..3 {
        let Some(Outcome::Response(response)) = host.invoke(event.clone()).await else {
            panic!("no response");
        };
        assert_eq!(response["statusCode"], 403);
        host.idle().await;
    }
    let log = process.shut_down().unwrap();
    assert_eq!(log.matches("is metered nowhere").count(), 1, "{log}");
    let cloudwatch = CloudWatch::default();
    cloudwatch.read(&log);
    assert_eq!(cloudwatch.sum(UNATTRIBUTED_CALLS, &[]), 3);
    assert_eq!(at.aws.queue().counts().unwrap().queued, 0);
}

#[tokio::test]
async fn a_missing_environment_variable_is_named_at_cold_start() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let others = [("RUST_LOG".to_owned(), "INFO".to_owned())];
    let process = host.run_with(env!("CARGO_BIN_EXE_ping"), others).unwrap();
    let error = process.wait_for_failure().unwrap();
    assert!(error.contains("TOLLGATE_EVENT_BUS"), "{error}");
}
