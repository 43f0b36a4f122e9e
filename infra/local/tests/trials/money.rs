//! Tests of billing runs and unbilled usage.

use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;

use crate::calls::{self, assert_problem};
use crate::{LocalStack, NOW, cent_a_call, get_json, usage};

/// Customers with overage.
const CUSTOMERS: u64 = 40;
/// Concurrent billing runs in a round.
const RUNS: usize = 6;
/// Rounds, each with new overage.
const ROUNDS: usize = 8;

#[tokio::test]
async fn usage_after_the_close_of_its_month_is_shown_with_its_cost() {
    let plans = json!([cent_a_call("small", 10)]);
    let stack = LocalStack::with_plans(Some(&plans), NOW).await;
    stack.customer_with_key("small", json!({})).await;
    stack.report("in-time", "small", NOW, 11).await;
    let report = stack.nightly("2026-12-04T02:00:00Z").await;
    assert_eq!(report["cents"], 1);
    let closed = report["closed"].as_array().unwrap();
    assert!(closed.contains(&json!("2026-11")), "{report}");
    stack
        .report("late", "small", "2026-11-30T12:00:00Z", 7)
        .await;
    assert_eq!(stack.bill(false).await["cents"], 0);

    let unbilled = get_json(&stack.admin, "/admin/billing/unbilled?month=2026-11").await;
    let cost = json!({ "micro_usd": 70_000, "display": "$0.07" });
    let expected = json!([{
        "customer_id": "acme", "calls": 7, "overage": cost, "due": cost, "reason": null,
    }]);
    assert_eq!(unbilled["data"], expected);
    let closed_at = unbilled["closed_at"].as_str().unwrap();
    assert!(closed_at.starts_with("2026-12-04T02:00:0"), "{closed_at}");
}

#[tokio::test]
async fn a_billing_run_without_the_member_dry_run_charges_nothing() {
    let plans = json!([cent_a_call("small", 10)]);
    let stack = LocalStack::with_plans(Some(&plans), NOW).await;
    stack.customer_with_key("small", json!({})).await;
    stack.report("e", "small", NOW, 11).await;
    let response = stack
        .admin
        .post("/admin/billing/run", json!({}))
        .await
        .unwrap();
    assert_problem(&response, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
    assert_eq!(response.json()["field"], "dry_run");
    assert!(stack.charges().await.is_empty());
    assert_eq!(stack.bill(false).await["cents"], 1);
}

/// The timestamps of charges are in milliseconds, so that it takes some rounds until runs coincide.
#[tokio::test]
async fn concurrent_runs_report_each_charge_once() {
    let plans = json!([cent_a_call("small", 10)]);
    let stack = LocalStack::with_plans(Some(&plans), NOW).await;
    let customers: BTreeSet<String> = (0..CUSTOMERS).map(|n| format!("c-{n}")).collect();
    for round in 0..ROUNDS {
        let events = customers.iter().map(|id| {
            let mut event = usage(&format!("{round}-{id}"), "small", NOW, 11);
            event["subject"] = id.as_str().into();
            event
        });
        let counted = stack.send_usage(&events.collect::<Vec<_>>()).await;
        assert_eq!(counted.status, StatusCode::OK, "{}", counted.text);
        let mut runs = JoinSet::new();
        for _ in 0..RUNS {
            let admin = stack.admin.clone();
            runs.spawn(async move {
                let body = json!({ "dry_run": false });
                let run = admin.post("/admin/billing/run", body).await.unwrap();
                run.json()
            });
        }
        let mut charged = Vec::new();
        let mut cents = 0;
        for report in runs.join_all().await {
            cents += report["cents"].as_u64().unwrap();
            let charges = report["charges"].as_array().unwrap();
            let customer_ids = charges.iter().map(|it| it["customer_id"].as_str().unwrap());
            charged.extend(customer_ids.map(str::to_owned));
        }
        // The first ten calls are included.
        let each = if round == 0 { 1 } else { 11 };
        assert_eq!((cents, charged.len()), (each * CUSTOMERS, customers.len()));
        assert_eq!(BTreeSet::from_iter(charged), customers);
    }
}

#[tokio::test]
async fn of_concurrent_equal_creations_one_succeeds() {
    let stack = LocalStack::at(NOW).await;
    for round in 0..20 {
        let mut creations = JoinSet::new();
        for _ in 0..8 {
            let admin = stack.admin.clone();
            let body = json!({ "id": format!("c-{round}"), "plan": "free" });
            creations.spawn(async move { admin.post("/admin/customers", body).await.unwrap() });
        }
        let responses = creations.join_all().await;
        let (created, rejected): (Vec<_>, Vec<_>) = responses
            .iter()
            .partition(|response| response.status == StatusCode::CREATED);
        assert_eq!(created.len(), 1, "of {round}");
        for response in rejected {
            assert_problem(response, StatusCode::CONFLICT, "conflict");
        }
    }
    calls::key(&stack.admin, json!({ "customer_id": "c-19" })).await;
}
