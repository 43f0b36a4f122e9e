//! Tests of reconciliation: the admission ledger compared with the usage ledger.

use http::StatusCode;
use serde_json::{Value, json};

use crate::{Dir, LocalStack, NOW, PING, USAGE, expect_problem, get_json, make_calls};

/// Returns the expected summary of a day whose calls are in both ledgers.
fn reconciled(day: &str, customers: u64, calls: u64) -> Value {
    json!({
        "day": day, "customers": customers, "admitted": calls, "metered": calls, "discrepancies": 0,
    })
}

/// The stack is not stopped: the authorizer reports at its next invocation, whatever that is for.
#[tokio::test]
async fn leases_of_a_past_hour_are_reported_at_the_next_invocation() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    make_calls(&client, 100).await;
    stack.advance(3 * 3_600).await;
    get_json(&stack.admin, "/admin/customers").await;
    let report = stack.nightly("2026-11-23T03:30:00Z").await;
    assert_eq!(report["reconciliation"], reconciled("2026-11-22", 1, 100));
}

#[tokio::test]
async fn bursts_in_every_hour_of_a_day_are_in_both_ledgers() {
    let stack = LocalStack::at("2026-11-22T00:00:10Z").await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    for _ in 0..24 {
        make_calls(&client, 100).await;
        stack.advance(3_600).await;
    }
    make_calls(&client, 1).await;
    let report = stack.nightly("2026-11-23T03:30:00Z").await;
    assert_eq!(report["reconciliation"], reconciled("2026-11-22", 1, 2_400));
}

#[tokio::test]
async fn bursts_in_several_hours_and_a_clean_stop_leave_no_discrepancy() {
    let dir = Dir::new("trials-stop");
    let stack = LocalStack::in_dir(&dir);
    stack.set_clock(NOW).await;
    let (client, _) = stack.customer_with_key("enterprise", json!({})).await;
    for _ in 0..8 {
        make_calls(&client, 50).await;
        stack.advance(3_600).await;
    }
    stack.stop();

    let stack = LocalStack::in_dir(&dir);
    let report = stack.nightly("2026-11-23T03:30:00Z").await;
    assert_eq!(report["reconciliation"], reconciled("2026-11-22", 1, 400));
}

#[tokio::test]
async fn denied_calls_are_in_no_ledger() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack
        .customer_with_key("free", json!({ "monthly_quota": 20 }))
        .await;
    make_calls(&client, 20).await;
    for hour in 10..15 {
        let time = format!("2026-11-23T{hour}:00:10Z");
        stack.set_clock(&time).await;
        let status = StatusCode::TOO_MANY_REQUESTS;
        expect_problem(&client, PING, status, "quota-exceeded").await;
    }
    let report = stack.nightly("2026-11-24T03:30:00Z").await;
    assert_eq!(report["reconciliation"], reconciled("2026-11-23", 0, 0));
    let path = "/admin/usage/reconciliation?day=2026-11-23";
    assert_eq!(get_json(&stack.admin, path).await["data"], json!([]));
    let usage = get_json(&client, USAGE).await;
    let of_month = [&usage["admitted"]["calls"], &usage["metered"]["calls"]];
    assert_eq!(of_month, [20, 20]);
}

#[tokio::test]
async fn calls_denied_by_the_hour_do_not_count_in_the_month() {
    let stack = LocalStack::at(NOW).await;
    let limits = json!({ "requests_per_hour": 5, "monthly_quota": 8 });
    let (client, _) = stack.customer_with_key("free", limits).await;
    make_calls(&client, 5).await;
    stack.advance(2).await;
    let status = StatusCode::TOO_MANY_REQUESTS;
    expect_problem(&client, PING, status, "rate-limited").await;
    let admitted = get_json(&client, USAGE).await["admitted"].take();
    let members = ["calls", "limit", "remaining"].map(|name| admitted[name].clone());
    assert_eq!(members, [5, 8, 3], "{admitted}");
    stack.set_clock("2026-11-22T11:00:10Z").await;
    make_calls(&client, 3).await;
}
