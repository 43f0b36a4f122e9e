//! The function's binary, run as Lambda runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use jiff::Timestamp;
use serde_json::{Value, json};
use tollgate_domain::plan::Catalog;
use tollgate_domain::window::Month;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, LambdaHost, Outcome};
use tollgate_runtime::metrics::{DUPLICATE_EVENTS, METERED_CALLS};
use tollgate_testing::seed::seed_plans;

#[tokio::test]
async fn a_batch_is_counted_and_the_failed_messages_are_returned() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let binary = env!("CARGO_BIN_EXE_usage-writer");
    let process = host.run(binary, "UsageWriterFunction").unwrap();
    // The binary uses the system clock, so the records have to be of today.
    let now = Timestamp::now();
    seed_plans(&at, &Catalog::shipped().unwrap());
    let file = include_str!("../../../events/usage-writer/one-event.json");
    let mut event: Value = serde_json::from_str(file).unwrap();
    let body = event["Records"][0]["body"].as_str().unwrap();
    let mut body: Value = serde_json::from_str(body).unwrap();
    let records = body["detail"]["data"]["records"].as_array_mut().unwrap();
    let count = records.len();
    for record in records {
        record["time"] = json!(now);
    }
    let customer = body["detail"]["subject"].as_str().unwrap().to_owned();
    event["Records"][0]["body"] = body.to_string().into();
    for _ in 0..2 {
        let outcome = host.invoke(event.clone()).await;
        assert_eq!(
            outcome,
            Some(Outcome::Response(json!({ "batchItemFailures": [] })))
        );
    }
    let customer = customer.parse().unwrap();
    let aggregate = at
        .store
        .month_usage(&customer, Month::containing(now))
        .await;
    assert_eq!(aggregate.unwrap().calls, count as u64);
    let log = process.shut_down().unwrap();
    let cloudwatch = CloudWatch::default();
    cloudwatch.read(&log);
    assert_eq!(cloudwatch.sum(METERED_CALLS, &[]), count as u64, "{log}");
    assert_eq!(cloudwatch.sum(DUPLICATE_EVENTS, &[]), 1, "{log}");
}
