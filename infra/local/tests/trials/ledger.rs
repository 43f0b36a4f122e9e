//! The ledger of the calls that were let in, held against those that were metered.

use http::StatusCode;
use serde_json::{Value, json};

use crate::{Dir, NOW, PING, Product, USAGE, found, make_calls, refused};

/// What a night says of a day whose calls are in both ledgers, of so many customers.
fn reconciled(day: &str, customers: u64, calls: u64) -> Value {
    json!({
        "day": day, "customers": customers, "admitted": calls, "metered": calls, "differences": 0,
    })
}

/// Nothing is stopped: whatever the authorizer is next asked for has it report.
#[tokio::test]
async fn an_hour_that_is_over_is_settled_at_any_invocation() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("pro", json!({})).await;
    make_calls(&client, 100).await;
    product.advance(3 * 3_600).await;
    found(&product.admin, "/admin/customers").await;
    let night = product.night("2026-11-23T03:30:00Z").await;
    assert_eq!(night["reconciliation"], reconciled("2026-11-22", 1, 100));
}

#[tokio::test]
async fn bursts_in_every_hour_of_a_day_are_admitted_as_they_are_metered() {
    let product = Product::at("2026-11-22T00:00:10Z").await;
    let (client, _) = product.holder("pro", json!({})).await;
    for _ in 0..24 {
        make_calls(&client, 100).await;
        product.advance(3_600).await;
    }
    make_calls(&client, 1).await;
    let night = product.night("2026-11-23T03:30:00Z").await;
    assert_eq!(night["reconciliation"], reconciled("2026-11-22", 1, 2_400));
}

#[tokio::test]
async fn bursts_in_several_hours_and_a_clean_stop_leave_no_difference() {
    let dir = Dir::new("trials-stop");
    let product = Product::in_dir(&dir);
    product.set_clock(NOW).await;
    let (client, _) = product.holder("enterprise", json!({})).await;
    for _ in 0..8 {
        make_calls(&client, 50).await;
        product.advance(3_600).await;
    }
    product.stop();

    let product = Product::in_dir(&dir);
    let night = product.night("2026-11-23T03:30:00Z").await;
    assert_eq!(night["reconciliation"], reconciled("2026-11-22", 1, 400));
}

#[tokio::test]
async fn calls_that_are_refused_are_in_no_ledger() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("free", json!({ "monthly_quota": 20 })).await;
    make_calls(&client, 20).await;
    for hour in 10..15 {
        let time = format!("2026-11-23T{hour}:00:10Z");
        product.set_clock(&time).await;
        let status = StatusCode::TOO_MANY_REQUESTS;
        refused(&client, PING, status, "quota-exceeded").await;
    }
    let night = product.night("2026-11-24T03:30:00Z").await;
    assert_eq!(night["reconciliation"], reconciled("2026-11-23", 0, 0));
    let path = "/admin/usage/reconciliation?day=2026-11-23";
    assert_eq!(found(&product.admin, path).await["data"], json!([]));
    let usage = found(&client, USAGE).await;
    let of_month = [&usage["admitted"]["calls"], &usage["metered"]["calls"]];
    assert_eq!(of_month, [20, 20]);
}

#[tokio::test]
async fn what_the_hour_refuses_is_not_taken_from_the_month() {
    let product = Product::at(NOW).await;
    let limits = json!({ "requests_per_hour": 5, "monthly_quota": 8 });
    let (client, _) = product.holder("free", limits).await;
    make_calls(&client, 5).await;
    product.advance(2).await;
    let status = StatusCode::TOO_MANY_REQUESTS;
    refused(&client, PING, status, "rate-limited").await;
    let admitted = found(&client, USAGE).await["admitted"].take();
    let members = ["calls", "limit", "remaining"].map(|name| admitted[name].clone());
    assert_eq!(members, [5, 8, 3], "{admitted}");
    product.set_clock("2026-11-22T11:00:10Z").await;
    make_calls(&client, 3).await;
}
