//! The function's binary, run as Lambda runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::Value;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, LambdaHost, Outcome};
use tollgate_runtime::metrics::BILLING_RUNS;

#[tokio::test]
async fn the_schedules_event_runs_billing() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let binary = env!("CARGO_BIN_EXE_billing");
    let process = host.run(binary, "BillingFunction").unwrap();
    let event: Value =
        serde_json::from_str(include_str!("../../../events/billing/schedule.json")).unwrap();
    let Some(Outcome::Response(report)) = host.invoke(event).await else {
        panic!("no report");
    };
    assert_eq!(report["failed"], 0);
    assert_eq!(report["destination"], "ledger_only");
    let log = process.shut_down().unwrap();
    let cloudwatch = CloudWatch::default();
    cloudwatch.read(&log);
    assert_eq!(cloudwatch.values(BILLING_RUNS, &[]), [1], "{log}");
}
