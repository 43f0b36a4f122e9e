//! The function's binary, run as Lambda runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::Value;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, FunctionProcess, LambdaHost, Outcome, Step};
use tollgate_runtime::metrics::CALLS_UNATTRIBUTED;

const PUT_EVENTS: &str = "AWSEvents.PutEvents";

async fn start(at: &Fixture) -> (LambdaHost, FunctionProcess) {
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let process = host.run(env!("CARGO_BIN_EXE_ping"), "PingFunction");
    let process = process.unwrap();
    // It registers its extension before it asks for the first invocation.
    host.idle().await;
    (host, process)
}

fn event() -> Value {
    serde_json::from_str(include_str!("../../../events/ping/ping.json")).unwrap()
}

#[tokio::test]
async fn usage_leaves_after_the_answer_has_gone() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let (host, process) = start(&at).await;
    for calls in 1..=3 {
        let Some(Outcome::Answer(answer)) = host.invoke(event()).await else {
            panic!("no answer");
        };
        assert_eq!(answer["statusCode"], 200);
        assert_eq!(answer["multiValueHeaders"]["x-ratelimit-limit"][0], "10000");
        host.idle().await;
        assert_eq!(at.aws.queue().counts().unwrap().queued, calls);
    }
    let call = [Step::Answered, Step::Called(PUT_EVENTS.into())];
    assert_eq!(host.steps(), [call.clone(), call.clone(), call].concat());
    process.shut_down().unwrap();
}

#[tokio::test]
async fn an_event_that_cannot_be_read_does_not_hold_the_instance() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let (host, _process) = start(&at).await;
    let outcome = host.invoke(Value::from("no event of the gateway's")).await;
    assert!(matches!(outcome, Some(Outcome::Error(_))), "{outcome:?}");
    host.idle().await;
    let outcome = host.invoke(event()).await;
    assert!(matches!(outcome, Some(Outcome::Answer(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_the_authorizers_context_are_counted_and_logged_once() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let (host, process) = start(&at).await;
    let mut event = event();
    event["requestContext"]["authorizer"] = Value::Null;
    for _ in 0..3 {
        let Some(Outcome::Answer(answer)) = host.invoke(event.clone()).await else {
            panic!("no answer");
        };
        assert_eq!(answer["statusCode"], 403);
        host.idle().await;
    }
    let log = process.shut_down().unwrap();
    assert_eq!(log.matches("is metered nowhere").count(), 1, "{log}");
    let cloudwatch = CloudWatch::default();
    cloudwatch.read(&log);
    assert_eq!(cloudwatch.sum(CALLS_UNATTRIBUTED, &[]), 3);
    assert_eq!(at.aws.queue().counts().unwrap().queued, 0);
}

#[tokio::test]
async fn a_missing_variable_is_named_at_the_start() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let others = [("RUST_LOG".to_owned(), "INFO".to_owned())];
    let process = host.run_with(env!("CARGO_BIN_EXE_ping"), others).unwrap();
    let said = process.failure().unwrap();
    assert!(said.contains("TOLLGATE_EVENT_BUS"), "{said}");
}
