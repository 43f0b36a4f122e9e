//! Reconciliation reports lost usage, and reports no discrepancy where none is.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use authorizer::Request;
use jiff::ToSpan;
use reconciliation::ReconciliationReport;
use serde_json::json;
use simulation::ledgers::{Loss, reconcile_days};
use tollgate_domain::key::{ApiKey, Owner};
use tollgate_local_aws::fixture::Fixture;
use tollgate_testing::customers::{add_customer, add_key};
use tollgate_testing::init::init;
use tollgate_testing::p;
use tollgate_testing::usage::{add_usage, calls};

#[test]
fn reconciliation_of_thirty_days_finds_only_the_customer_that_loses_one_percent() {
    let loss = Loss {
        customer: 1,
        one_in: 100,
    };
    let days = reconcile_days(1, 30, Some(loss)).unwrap();
    assert_eq!(days.len(), 30);
    for day in &days {
        let total = day.total;
        assert!(total.admitted > 100, "{day:?}");
        assert_eq!(total.admitted, total.metered + day.lost, "{day:?}");
        let others = day.discrepancies.keys().filter(|customer| **customer != 1);
        assert_eq!(others.count(), 0, "{day:?}");
    }
    let found = days.iter().filter(|day| day.discrepancies.contains_key(&1));
    assert!(found.count() >= 3, "{days:#?}");
}

/// Makes calls with a key and returns the number that the instance allows.
async fn make_calls(instance: &authorizer::App, key: &ApiKey, calls: u64) -> u64 {
    let event = json!({
        "methodArn": "arn:aws:execute-api:us-east-1:000000000000:api/v1/GET/api/secure/ping",
        "resource": "/api/secure/ping",
        "headers": { "x-api-key": key.expose() },
    });
    let event = event.to_string();
    let request = Request::from_json(&event).unwrap();
    let mut allowed = 0;
    for _ in 0..calls {
        let response = authorizer::handle(instance, &request).await.unwrap();
        let response = serde_json::to_value(response).unwrap();
        let effect = &response["policyDocument"]["Statement"][0]["Effect"];
        allowed += u64::from(effect == "Allow");
    }
    allowed
}

/// An instance that was shut down has reported its allowed calls exactly: those of earlier hours, too, and no
/// denied calls.
#[tokio::test]
async fn bursts_in_many_hours_are_no_discrepancy() {
    let at = Fixture::at("2026-11-21T00:00:10Z");
    let customer = async |id: &str, plan: &str| {
        add_customer(&at, id, plan).await;
        add_key(&at, Owner::Customer(p(id)), &format!("key_{id}")).await
    };
    let bursts = customer("bursts", "pro").await;
    let mixed = customer("mixed", "pro").await;
    let limited = customer("limited", "free").await;
    let instance = authorizer::App::build(&init(&at, "AuthorizerFunction")).unwrap();
    let start = at.clock().now();
    for hour in 0..24_u8 {
        at.time.set(start + i64::from(hour).hours());
        assert_eq!(make_calls(&instance, &bursts, 100).await, 100);
        let made = u64::from(1 + hour % 3);
        assert_eq!(make_calls(&instance, &mixed, made).await, made);
        // The plan free allows 100 calls an hour and 1,000 a month.
        let allowed = make_calls(&instance, &limited, 105).await;
        assert_eq!(allowed, if hour < 10 { 100 } else { 0 });
    }
    // Time of the nightly reconciliation.
    at.time.set(p("2026-11-22T03:30:00Z"));
    instance.shut_down().await;
    for (id, metered) in [("bursts", 2_400), ("mixed", 48), ("limited", 1_000)] {
        add_usage(&at, id, "2026-11-21", calls("pro", metered)).await;
    }
    let app = reconciliation::App::build(&init(&at, "ReconciliationFunction")).unwrap();
    let report = reconciliation::handle(&app).await.unwrap();
    let listed = at.store.list_discrepancies(report.day, None).await;
    assert_eq!(listed.unwrap().items, []);
    let expected = ReconciliationReport {
        day: p("2026-11-21"),
        customers: 3,
        admitted: 3_448,
        metered: 3_448,
        discrepancies: 0,
    };
    assert_eq!(report, expected);
}
