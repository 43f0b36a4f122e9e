//! `GET /admin/customers/{customer}/charges`.

use serde_json::{Value, json};
use tollgate_api::Cursor;
use tollgate_domain::billing::{Charge, ChargedOverage, PeriodLedger};
use tollgate_domain::money::{Cents, MicroUsd, SignedCents};
use tollgate_store::RecordChargeOutcome;
use tollgate_testing::event::text;
use tollgate_testing::p;
use tollgate_testing::response::data;
use tollgate_testing::usage::{add_usage, calls};

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
