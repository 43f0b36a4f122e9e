//! Billing runs, and what is in no bill.

use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;

use crate::calls::{self, assert_problem};
use crate::{NOW, Product, cent_a_call, found, usage};

/// Customers who owe, runs that charge them at once, and how often.
const CUSTOMERS: u64 = 40;
const RUNS: usize = 6;
const ROUNDS: usize = 8;

#[tokio::test]
async fn usage_that_comes_after_its_month_closed_is_shown_with_its_cost() {
    let plans = json!([cent_a_call("small", 10)]);
    let product = Product::with_plans(Some(&plans), NOW).await;
    product.holder("small", json!({})).await;
    product.report("in-time", "small", NOW, 11).await;
    let night = product.night("2026-12-04T02:00:00Z").await;
    assert_eq!(night["cents"], 1);
    let closed = night["closed"].as_array().unwrap();
    assert!(closed.contains(&json!("2026-11")), "{night}");
    product
        .report("late", "small", "2026-11-30T12:00:00Z", 7)
        .await;
    assert_eq!(product.bill(false).await["cents"], 0);

    let unbilled = found(&product.admin, "/admin/billing/unbilled?month=2026-11").await;
    let cost = json!({ "micro_usd": 70_000, "display": "$0.07" });
    let at_stake = json!([{
        "customer_id": "acme", "calls": 7, "overage": cost, "due": cost, "reason": null,
    }]);
    assert_eq!(unbilled["data"], at_stake);
    let closed_at = unbilled["closed_at"].as_str().unwrap();
    assert!(closed_at.starts_with("2026-12-04T02:00:0"), "{closed_at}");
}

#[tokio::test]
async fn a_billing_run_that_is_not_asked_for_in_so_many_words_charges_nothing() {
    let plans = json!([cent_a_call("small", 10)]);
    let product = Product::with_plans(Some(&plans), NOW).await;
    product.holder("small", json!({})).await;
    product.report("e", "small", NOW, 11).await;
    let answer = product
        .admin
        .post("/admin/billing/run", json!({}))
        .await
        .unwrap();
    assert_problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
    assert_eq!(answer.json()["field"], "dry_run");
    assert!(product.charges().await.is_empty());
    assert_eq!(product.bill(false).await["cents"], 1);
}

/// Charges are told apart by the millisecond at best, so that it takes some rounds until runs meet.
#[tokio::test]
async fn runs_at_once_report_each_charge_once() {
    let plans = json!([cent_a_call("small", 10)]);
    let product = Product::with_plans(Some(&plans), NOW).await;
    let customers: BTreeSet<String> = (0..CUSTOMERS).map(|n| format!("c-{n}")).collect();
    for round in 0..ROUNDS {
        let events = customers.iter().map(|id| {
            let mut event = usage(&format!("{round}-{id}"), "small", NOW, 11);
            event["subject"] = id.as_str().into();
            event
        });
        let counted = product.count(&events.collect::<Vec<_>>()).await;
        assert_eq!(counted.status, StatusCode::OK, "{}", counted.text);
        let mut runs = JoinSet::new();
        for _ in 0..RUNS {
            let admin = product.admin.clone();
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
            let whose = charges.iter().map(|it| it["customer_id"].as_str().unwrap());
            charged.extend(whose.map(str::to_owned));
        }
        // The first ten calls are included.
        let each = if round == 0 { 1 } else { 11 };
        assert_eq!((cents, charged.len()), (each * CUSTOMERS, customers.len()));
        assert_eq!(BTreeSet::from_iter(charged), customers);
    }
}

#[tokio::test]
async fn of_equal_creations_at_once_one_has_created() {
    let product = Product::at(NOW).await;
    for round in 0..20 {
        let mut creations = JoinSet::new();
        for _ in 0..8 {
            let admin = product.admin.clone();
            let body = json!({ "id": format!("c-{round}"), "plan": "free" });
            creations.spawn(async move { admin.post("/admin/customers", body).await.unwrap() });
        }
        let answers = creations.join_all().await;
        let (created, refused): (Vec<_>, Vec<_>) = answers
            .iter()
            .partition(|answer| answer.status == StatusCode::CREATED);
        assert_eq!(created.len(), 1, "of {round}");
        for answer in refused {
            assert_problem(answer, StatusCode::CONFLICT, "conflict");
        }
    }
    calls::key(&product.admin, json!({ "customer_id": "c-19" })).await;
}
