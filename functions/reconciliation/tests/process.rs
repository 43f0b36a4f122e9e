//! The function's binary, run as Lambda runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::{Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{LambdaHost, Outcome};

#[tokio::test]
async fn the_schedules_event_reconciles_the_day_before() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let binary = env!("CARGO_BIN_EXE_reconciliation");
    let process = host.run(binary, "ReconciliationFunction").unwrap();
    let event: Value =
        serde_json::from_str(include_str!("../../../events/reconciliation/schedule.json")).unwrap();
    let Some(Outcome::Response(mut report)) = host.invoke(event).await else {
        panic!("no report");
    };
    // The binary uses the system clock.
    assert!(report["day"].take().is_string());
    let nothing = json!({
        "day": null, "customers": 0, "admitted": 0, "metered": 0, "discrepancies": 0,
    });
    assert_eq!(report, nothing);
    process.shut_down().unwrap();
}
