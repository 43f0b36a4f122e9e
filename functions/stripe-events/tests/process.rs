//! The functions' binaries, run as Lambda runs them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::json;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{LambdaHost, Outcome};
use tollgate_testing::binary::check_status;
use tollgate_testing::event_file;

#[tokio::test]
async fn the_endpoint_starts_with_the_templates_environment_and_responds() {
    let binary = env!("CARGO_BIN_EXE_stripe-webhook");
    let event = "stripe-events/webhook";
    check_status(binary, "StripeWebhookFunction", event, 503).await;
}

/// Without Stripe's key no event concerns a customer, and a customer that is named does not exist.
#[tokio::test]
async fn the_worker_starts_with_the_templates_environment_and_responds() {
    let at = Fixture::at("2026-11-22T12:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let binary = env!("CARGO_BIN_EXE_stripe-events");
    let process = host.run(binary, "StripeEventsFunction").unwrap();
    let mut batch = event_file::load("stripe-events/batch");
    batch["Records"].as_array_mut().unwrap().truncate(1);
    let Some(Outcome::Response(response)) = host.invoke(batch).await else {
        panic!("no response");
    };
    assert_eq!(response, json!({ "batchItemFailures": [] }));
    process.shut_down().unwrap();
}
