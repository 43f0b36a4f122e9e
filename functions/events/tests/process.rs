//! The functions' binaries, run as Lambda runs them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::{Value, json};
use tollgate_domain::event::EventKind;
use tollgate_local_aws::{CloudWatch, LambdaHost, Outcome};
use tollgate_runtime::metrics::PUBLISHED_EVENTS;

mod common;

use common::{Stack, p};

fn event(file: &str) -> Value {
    serde_json::from_str(file).unwrap()
}

#[tokio::test]
async fn the_schedules_event_publishes_events() {
    let stack = Stack::new();
    stack.record(EventKind::ChargeFailed, "1").await;
    stack.webhook("wh_1", "https://hooks.example", &[]).await;
    let host = LambdaHost::start(stack.at.aws.clone()).await.unwrap();
    let binary = env!("CARGO_BIN_EXE_event-publisher");
    let process = host.run(binary, "EventPublisherFunction").unwrap();
    let schedule = event(include_str!("../../../events/events/schedule.json"));
    let outcome = host.invoke(schedule).await;
    let expected = json!({ "events": 1, "deliveries": 1 });
    assert_eq!(outcome, Some(Outcome::Response(expected)));
    assert_eq!(stack.take().len(), 1);
    let log = process.shut_down().unwrap();
    let cloudwatch = CloudWatch::default();
    cloudwatch.read(&log);
    assert_eq!(cloudwatch.values(PUBLISHED_EVENTS, &[]), [1], "{log}");
}

/// On AWS, an address of the machine itself is not called.
#[tokio::test]
async fn a_message_is_handled_and_its_secret_is_not_logged() {
    let stack = Stack::new();
    let secret = stack
        .webhook("wh_8Zc2mQx04LwTnE7sVb1K", "https://127.0.0.1/", &[])
        .await;
    stack.record(EventKind::ChargeFailed, "1").await;
    stack.publisher.publish(None).await.unwrap();
    stack.take();
    let host = LambdaHost::start(stack.at.aws.clone()).await.unwrap();
    let binary = env!("CARGO_BIN_EXE_webhook-sender");
    let process = host.run(binary, "WebhookSenderFunction").unwrap();
    let messages = event(include_str!("../../../events/events/deliveries.json"));
    let outcome = host.invoke(messages).await;
    let expected = json!({ "batchItemFailures": [] });
    assert_eq!(outcome, Some(Outcome::Response(expected)));
    assert_eq!(stack.queued(), 1, "the delivery is made again later");
    let webhook = stack.at.store.webhook(&p("wh_8Zc2mQx04LwTnE7sVb1K")).await;
    assert_eq!(webhook.unwrap().unwrap().failure, None);
    let log = process.shut_down().unwrap();
    assert!(!log.contains(secret.expose().as_str()), "{log}");
}
