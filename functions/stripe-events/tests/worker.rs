//! The worker: each event of a batch succeeds or fails for itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::sync::{Arc, Mutex};

use aws_lambda_events::sqs::SqsEvent;
use serde_json::{Value, json};
use tollgate_local_aws::CloudWatch;
use tollgate_local_aws::fixture::Fixture;
use tollgate_payments::Follower;
use tollgate_runtime::metrics::{FOREIGN_STRIPE_EVENTS, STRIPE_EVENTS};
use tollgate_runtime::{Metrics, env};
use tollgate_testing::customers::add_customer;
use tollgate_testing::event_file;
use tollgate_testing::init::init_with;
use tollgate_testing::stripe::Stripe;

#[tokio::test]
async fn an_event_that_fails_does_not_fail_the_others() {
    let at = Fixture::at("2026-11-22T12:00:00Z");
    let changed = [(env::STRIPE_SECRET, "stripe")];
    let mut follower = Follower::build(&init_with(&at, "StripeEventsFunction", changed)).unwrap();
    follower.payments.stripe = Some(Stripe::new(&at).client);
    let lines = Arc::new(Mutex::new(String::new()));
    let written = Arc::clone(&lines);
    follower.payments.metrics = Metrics::new("test", at.clock(), move |line| {
        written.lock().unwrap().push_str(line);
    });
    add_customer(&at, "acme", "free").await;
    let mut batch = event_file::load("stripe-events/batch");
    let mut broken = batch["Records"][0].clone();
    broken["messageId"] = json!("broken");
    broken["body"] = json!("{}");
    batch["Records"].as_array_mut().unwrap().insert(0, broken);
    let batch: SqsEvent = serde_json::from_value(batch).unwrap();
    let response = stripe_events::handle(&follower, batch).await;
    let response: Value = serde_json::to_value(response).unwrap();
    let failed = json!([{ "itemIdentifier": "broken" }]);
    assert_eq!(response["batchItemFailures"], failed);
    let cloudwatch = CloudWatch::default();
    cloudwatch.read(&lines.lock().unwrap());
    // The event is about a Stripe customer that is linked to nobody.
    assert_eq!(cloudwatch.values(FOREIGN_STRIPE_EVENTS, &[]), [1]);
    assert_eq!(cloudwatch.values(STRIPE_EVENTS, &[]), [0; 0]);
}
