//! `GET /admin/customers/{customer}/charges` and `…/{charge}/proof`, and `GET /admin/billing/charges`.

use serde_json::{Value, json};
use tollgate_api::Cursor;
use tollgate_domain::billing::{Charge, ChargedOverage, PeriodLedger};
use tollgate_domain::money::{Cents, MicroUsd, SignedCents};
use tollgate_domain::submission::{ChargeRef, SubmissionFailure};
use tollgate_domain::usage::Adjustment;
use tollgate_store::{FailOutcome, RecordChargeOutcome};
use tollgate_testing::event::{Event, text};
use tollgate_testing::p;
use tollgate_testing::response::{ApiResponse, data};
use tollgate_testing::usage::{add_usage, adjust, calls};

use crate::stack::Stack;

#[tokio::test]
async fn the_charges_are_listed_with_their_amounts() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-11-20", calls("pro", 100_234)).await;
    let report = stack.run(false).await;
    let expected = json!({
        "data": [{
            "id": report["charges"][0]["id"],
            "month": "2026-11",
            "number": 1,
            "status": "pending",
            "description": "234 calls beyond the 100,000 included, 1–22 November 2026",
            "attempts": 0,
            "last_attempt_at": null,
            "failure_reason": null,
            "next_try": "2026-11-22T10:00:00Z",
            "invoice_item": null,
            "settled_at": null,
            "overage_calls": 234,
            "amount": { "micro_usd": 230_000, "display": "$0.23" },
            "cumulative_overage": { "micro_usd": 234_000, "display": "$0.234" },
            "overage_by_plan": { "pro": {
                "calls": 234, "cost": { "micro_usd": 234_000, "display": "$0.234" },
            } },
            "from_call": 1,
            "to_call": 234,
            "adjusted_calls": 0,
            "usage_digest": Value::Null,
            "created_at": "2026-11-22T10:00:00Z",
        }],
        "next_cursor": null,
    });
    for query in [&[][..], &[("month", "2026-11")]] {
        let mut ledger = stack.charges("acme", query).await.json(200);
        let digest = ledger["data"][0]["usage_digest"].take();
        assert_eq!(digest.as_str().unwrap().len(), 64);
        assert_eq!(ledger, expected);
    }
}

#[tokio::test]
async fn charges_are_listed_by_customer_and_month() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-10-31", calls("pro", 100_020)).await;
    add_usage(&stack.at, "acme.eu", "2026-11-01", calls("pro", 100_030)).await;
    stack.run(false).await;
    let check = async |customer: &str, month: &str, amounts: &[&str]| {
        let ledger = stack.charges(customer, &[("month", month)]).await.json(200);
        let shown = data(&ledger)
            .iter()
            .map(|one| text(&one["amount"], "display"));
        assert_eq!(shown.collect::<Vec<_>>(), amounts, "{customer} in {month}");
    };
    check("acme", "2026-10", &["$0.02"]).await;
    check("acme", "2026-11", &[]).await;
    check("acme.eu", "2026-10", &[]).await;
    check("acme.eu", "2026-11", &["$0.03"]).await;
    check("nobody", "2026-11", &[]).await;
}

#[tokio::test]
async fn a_long_list_of_charges_is_paged() {
    let stack = Stack::new();
    let mut before = PeriodLedger::default();
    for number in 1..=5 {
        // DynamoDB ends a page at a megabyte, which takes many charges or large ones.
        let overage = ChargedOverage {
            calls: 10 * number,
            micro_usd: MicroUsd(10_000 * number),
        };
        let charge = Charge {
            id: format!("charge-{number}"),
            customer: p("acme"),
            month: p("2026-11"),
            number,
            cents: SignedCents(1),
            cumulative_overage: overage.micro_usd,
            overage_by_plan: [(p("pro"), overage)].into(),
            overage_calls: 10 * number,
            from_call: 10 * number - 9,
            to_call: 10 * number,
            adjusted_calls: 0,
            usage: String::new(),
            usage_digest: "x".repeat(300_000),
            description: String::new(),
            created_at: stack.at.clock().now(),
        };
        let recorded = stack.at.store.record_charge(&charge, &before).await;
        assert_eq!(recorded.unwrap(), RecordChargeOutcome::Written);
        before = PeriodLedger {
            charge_count: number,
            cents: Cents(number),
            overage_calls: charge.to_call,
            overage_by_plan: charge.overage_by_plan,
        };
    }
    let first = stack.charges("acme", &[]).await.json(200);
    let cursor = text(&first, "next_cursor");
    let rest = stack.charges("acme", &[("cursor", cursor)]).await.json(200);
    assert_eq!(rest["next_cursor"], Value::Null);
    let all = data(&first).iter().chain(data(&rest));
    let ids: Vec<&str> = all.map(|charge| text(charge, "id")).collect();
    let expected = ["charge-1", "charge-2", "charge-3", "charge-4", "charge-5"];
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn an_invalid_query_is_rejected() {
    let stack = Stack::new();
    let cursor = |list, position: &str| String::from(Cursor::new(list, position.into()));
    let elsewhere = cursor("charges acme", "2026-11\nacme");
    let of_another = cursor("charges globex", "2026-11\n2");
    let check = async |name: &str, value: &str, reason: &str| {
        let response = stack.charges("acme", &[(name, value)]).await;
        let detail = response.bad_request(Some(name));
        assert!(detail.starts_with("In the query: "), "{detail}");
        assert!(detail.contains(reason), "{detail}");
    };
    check("month", "2026-13", "month").await;
    check("month", "November", "month").await;
    check("cursor", "MTIzNDU2Nzg5", "cursor").await;
    check("cursor", &elsewhere, "cursor").await;
    check("cursor", &of_another, "cursor").await;
    check("limit", "10", "unknown field `limit`").await;
}

#[tokio::test]
async fn an_invalid_customer_id_is_not_found() {
    Stack::new().charges("a b", &[]).await.not_found();
}

impl Stack {
    async fn proof(&self, customer: &str, charge: &str) -> ApiResponse {
        let change = |event: Event| event.param("customer", customer).param("charge", charge);
        self.call("charge-proof", change).await
    }
}

#[tokio::test]
async fn a_proof_has_the_calls_and_prices_that_a_charge_was_computed_from() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-11-20", calls("pro", 100_234)).await;
    stack.run(false).await;
    add_usage(&stack.at, "acme", "2026-11-20", calls("pro", 1)).await;
    add_usage(&stack.at, "acme", "2026-11-21", calls("free", 7)).await;
    add_usage(&stack.at, "acme", "2026-11-22", calls("pro", 500)).await;
    let adjustment = Adjustment {
        time: p("2026-11-22T09:00:00Z"),
        plan: p("pro"),
        billable_calls: -200,
        micro_usd: 0,
        reason: "our outage".into(),
    };
    adjust(&stack.at, "acme", adjustment).await;
    stack.run(false).await;

    // Later usage changes nothing.
    let first = stack.proof("acme", "ci_acme_2026-11_0001").await.json(200);
    let day = |day: &str, plan: &str, calls: u64, adjusted: i64| json!({ "day": day, "plan": plan, "calls": calls, "adjusted_calls": adjusted });
    assert_eq!(
        first["usage"],
        json!([day("2026-11-20", "pro", 100_234, 0)])
    );
    assert_eq!(first["charged_before"]["micro_usd"], 0);

    let second = stack.proof("acme", "ci_acme_2026-11_0002").await.json(200);
    let used = json!([
        day("2026-11-20", "pro", 100_235, 0),
        day("2026-11-21", "free", 7, 0),
        day("2026-11-22", "pro", 500, -200),
    ]);
    assert_eq!(second["usage"], used);
    assert_eq!(second["charged_before"]["micro_usd"], 230_000);
    assert_eq!(second["charge"]["amount"]["micro_usd"], 310_000);
    let prices = json!([{ "from": "2026-01-01", "micro_usd_per_call": 1_000 }]);
    let plans = json!([
        { "plan": "free", "version": 1, "month": { "kind": "blocked", "included": 1_000 } },
        { "plan": "pro", "version": 1,
          "month": { "kind": "overage", "included": 100_000, "prices": prices } },
    ]);
    assert_eq!(second["plans"], plans);
    // printf '2026-11-20 pro 100235\n2026-11-21 free 7\n2026-11-22 pro 500 -200\n' | sha256sum
    let digest = "d9ff112baed042aa88869e586c9dd7ca9b46cc6dd58b252712e967949c028ab4";
    assert_eq!(second["usage_digest"], digest);
}

#[tokio::test]
async fn a_charge_that_the_customer_does_not_have_has_no_proof() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-11-20", calls("pro", 100_234)).await;
    stack.run(false).await;
    let charge = "ci_acme_2026-11_0001";
    stack.proof("acme", charge).await.json(200);
    stack.proof("bolt", charge).await.not_found();
    let other = "ci_acme_2026-11_0002";
    stack.proof("acme", other).await.not_found();
    stack.proof("acme", "x").await.not_found();
}

#[tokio::test]
async fn a_charge_of_a_release_that_did_not_keep_its_calls_has_a_proof_without_them() {
    let stack = Stack::new();
    let overage = ChargedOverage {
        calls: 10,
        micro_usd: MicroUsd(10_000),
    };
    let charge = Charge {
        id: "ci_acme_2026-11_0001".to_owned(),
        customer: p("acme"),
        month: p("2026-11"),
        number: 1,
        cents: SignedCents(1),
        cumulative_overage: overage.micro_usd,
        overage_by_plan: [(p("pro"), overage)].into(),
        overage_calls: 10,
        from_call: 1,
        to_call: 10,
        adjusted_calls: 0,
        usage: String::new(),
        usage_digest: "d".to_owned(),
        description: String::new(),
        created_at: stack.at.clock().now(),
    };
    let none = PeriodLedger::default();
    let recorded = stack.at.store.record_charge(&charge, &none).await;
    assert_eq!(recorded.unwrap(), RecordChargeOutcome::Written);
    let proof = stack.proof("acme", &charge.id).await.json(200);
    assert_eq!((&proof["usage"], &proof["plans"]), (&json!([]), &json!([])));
}

impl Stack {
    async fn open(&self, query: &[(&str, &str)]) -> ApiResponse {
        self.call("open-charges", |event| event.query(query)).await
    }
}

#[tokio::test]
async fn open_charges_of_all_customers_are_listed_by_their_state() {
    let stack = Stack::new();
    for n in 0..40 {
        add_usage(
            &stack.at,
            &format!("c-{n}"),
            "2026-11-20",
            calls("pro", 100_010),
        )
        .await;
    }
    stack.run(false).await;
    let name: ChargeRef = p("ci_c-7_2026-11_0001");
    let charge = stack.at.store.charge(&name).await.unwrap().unwrap();
    let next_try = p("2026-11-23T06:00:00Z");
    let failed = stack.at.store.fail_charge(
        &charge,
        SubmissionFailure::NoRecipient,
        "No Stripe customer.",
        next_try,
    );
    assert_eq!(failed.await.unwrap(), FailOutcome::Failed);

    let all = async |status: &str| {
        let mut found = Vec::new();
        let mut cursor = None::<String>;
        loop {
            let mut query = vec![("status", status)];
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = stack.open(&query).await.json(200);
            found.extend(data(&page).clone());
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return found;
            }
        }
    };
    assert_eq!(all("pending").await.len(), 39);
    assert_eq!(all("submitted").await, [Value::Null; 0]);
    let failed = all("failed").await;
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["customer_id"], "c-7");
    let charge = &failed[0]["charge"];
    assert_eq!(charge["id"], "ci_c-7_2026-11_0001");
    assert_eq!(charge["failure_reason"], "No Stripe customer.");
    assert_eq!(charge["next_try"], "2026-11-23T06:00:00Z");
}

#[tokio::test]
async fn open_charges_need_a_state_that_is_open() {
    let stack = Stack::new();
    stack.open(&[]).await.bad_request(Some("status"));
    for status in ["settled", "paid", ""] {
        let response = stack.open(&[("status", status)]).await;
        response.bad_request(Some("status"));
    }
}
