//! `GET /api/billing/charges` and `…/{charge}/proof`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tollgate_domain::billing::{Charge, ChargedOverage, PeriodLedger};
use tollgate_domain::money::{Cents, MicroUsd, SignedCents};
use tollgate_domain::submission::{ChargeRef, LedgerCharge, Recipient, SubmissionFailure};
use tollgate_store::{BeginOutcome, FailOutcome, RecordChargeOutcome, SettleOutcome, Store};
use tollgate_testing::event::{Event, text};
use tollgate_testing::p;
use tollgate_testing::response::data;

use crate::stack::{NOW, Stack};

/// Records charge `number` of a month of `acme`, of ten cents for a hundred calls.
async fn record(store: &Store, month: &str, number: u64) -> ChargeRef {
    let ledger = |number: u64| {
        let overage = ChargedOverage {
            calls: 100 * number,
            micro_usd: MicroUsd(100_000 * number),
        };
        PeriodLedger {
            charge_count: number,
            cents: Cents(10 * number),
            overage_calls: 100 * number,
            overage_by_plan: match number {
                0 => BTreeMap::new(),
                _ => BTreeMap::from([(p("pro"), overage)]),
            },
        }
    };
    let name = ChargeRef {
        customer: p("acme"),
        month: p(month),
        number,
    };
    let charge = Charge {
        id: name.id(),
        customer: name.customer.clone(),
        month: name.month,
        number,
        cents: SignedCents(10),
        cumulative_overage: MicroUsd(100_000 * number),
        overage_by_plan: ledger(number).overage_by_plan,
        overage_calls: 100 * number,
        from_call: 100 * number - 99,
        to_call: 100 * number,
        adjusted_calls: 0,
        usage: String::new(),
        usage_digest: "d1".to_owned(),
        description: format!("charge {number}"),
        created_at: p("2026-11-22T02:00:00Z"),
    };
    let recorded = store.record_charge(&charge, &ledger(number - 1)).await;
    assert_eq!(recorded.unwrap(), RecordChargeOutcome::Written);
    name
}

/// Begins an attempt to submit a charge.
async fn begin(store: &Store, name: &ChargeRef) -> LedgerCharge {
    let recipient = Recipient {
        customer: "cus_1".to_owned(),
        subscription: None,
    };
    let charge = store.charge(name).await.unwrap().unwrap();
    match store.begin_submission(&charge, &recipient).await.unwrap() {
        BeginOutcome::Begun(begun) => begun,
        BeginOutcome::Raced => panic!("the attempt did not begin"),
    }
}

#[tokio::test]
async fn the_charges_of_a_month_are_listed_without_what_is_the_operators() {
    let stack = Stack::new().await;
    let store = stack.store();
    let mut names = Vec::new();
    for number in 1..=4 {
        names.push(record(store, "2026-11", number).await);
    }
    begin(store, &names[1]).await;
    let begun = begin(store, &names[2]).await;
    let failed = store
        .fail_charge(&begun, SubmissionFailure::Rejected, "secret reason", p(NOW))
        .await;
    assert_eq!(failed.unwrap(), FailOutcome::Failed);
    let begun = begin(store, &names[3]).await;
    let settled = store.settle_charge(&begun.charge, "ii_4").await;
    assert_eq!(settled.unwrap(), SettleOutcome::Settled);

    let shown = stack.get("charges", &[]).await;
    assert!(!shown.text.contains("secret reason"), "{}", shown.text);
    let shown = shown.json(200);
    let statuses: Vec<&str> = data(&shown).iter().map(|it| text(it, "status")).collect();
    assert_eq!(statuses, ["pending", "submitted", "failed", "settled"]);
    let expected = json!({
        "id": "ci_acme_2026-11_0004",
        "month": "2026-11",
        "number": 4,
        "status": "settled",
        "cents": 10,
        "amount": { "micro_usd": 100_000, "display": "$0.10" },
        "description": "charge 4",
        "from_call": 301,
        "to_call": 400,
        "created_at": "2026-11-22T02:00:00Z",
        "invoice_item": "ii_4",
        "settled_at": NOW,
    });
    assert_eq!(shown["data"][3], expected);
    assert_eq!(shown["data"][0]["invoice_item"], Value::Null);
    assert_eq!(stack.stripe.requests(), [""; 0]);
}

#[tokio::test]
async fn charges_are_listed_by_month_and_customer() {
    let stack = Stack::new().await;
    record(stack.store(), "2026-10", 1).await;
    let ids = async |customer: &str, query: &[(&str, &str)]| {
        let change = |event: Event| event.manager(customer, "free").query(query);
        let shown = stack.call("charges", change).await.json(200);
        let ids = data(&shown).iter().map(|it| text(it, "id").to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(
        ids("acme", &[("month", "2026-10")]).await,
        ["ci_acme_2026-10_0001"]
    );
    assert_eq!(ids("acme", &[]).await, [""; 0]);
    assert_eq!(ids("bolt", &[("month", "2026-10")]).await, [""; 0]);
}

#[tokio::test]
async fn an_invalid_query_is_rejected() {
    let stack = Stack::new().await;
    let check = async |name: &str, value: &str| {
        let response = stack.get("charges", &[(name, value)]).await;
        response.bad_request(Some(name));
    };
    check("month", "2026-13").await;
    check("cursor", "MTIzNDU2Nzg5").await;
    check("limit", "10").await;
}

#[tokio::test]
async fn a_customer_sees_the_calculation_of_its_own_charges() {
    let stack = Stack::new().await;
    let charge = record(stack.store(), "2026-11", 1).await.id();
    let proof = async |customer: &str, charge: &str| {
        let change = |event: Event| event.manager(customer, "free").param("charge", charge);
        stack.call("charge-proof", change).await
    };
    let shown = proof("acme", &charge).await.json(200);
    assert_eq!(shown["charge"]["id"], charge);
    assert_eq!(shown["charge"]["cents"], 10);
    assert_eq!(shown["cumulative_overage"]["micro_usd"], 100_000);
    assert_eq!(shown["charged_before"]["micro_usd"], 0);
    assert_eq!(shown["usage_digest"], "d1");
    proof("bolt", &charge).await.not_found();
    proof("acme", "ci_acme_2026-11_0002").await.not_found();
}
