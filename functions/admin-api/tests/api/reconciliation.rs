//! `/admin/usage/reconciliation`.

#![allow(clippy::unwrap_used, reason = "a test that cannot begin has failed")]

use serde_json::{Value, json};
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_store::ReconciliationSummary;
use tollgate_testing::p;
use tollgate_testing::response::data;
use tollgate_testing::usage::{add_usage, calls};

use crate::stack::Stack;

const DAY: &str = "2026-11-21";

async fn record_discrepancy(stack: &Stack, customer: &str, admitted: u64, metered: u64) {
    let compared = LedgerComparison { admitted, metered };
    let customer = p(customer);
    let recorded = stack
        .at
        .store
        .record_discrepancy(p(DAY), &customer, compared);
    recorded.await.unwrap();
}

async fn show(stack: &Stack, query: &[(&str, &str)]) -> Value {
    let response = stack
        .call("reconciliation", |event| event.query(query))
        .await;
    response.json(200)
}

#[tokio::test]
async fn discrepancies_are_listed_with_the_calls_metered_since() {
    let stack = Stack::new();
    record_discrepancy(&stack, "acme", 100, 0).await;
    record_discrepancy(&stack, "globex", 100, 50).await;
    let found = ReconciliationSummary {
        customers: 7,
        total: LedgerComparison {
            admitted: 1_000,
            metered: 850,
        },
        discrepancies: 2,
    };
    stack
        .at
        .store
        .record_reconciled(p(DAY), &found)
        .await
        .unwrap();
    add_usage(&stack.at, "acme", DAY, calls("pro", 99)).await;
    let expected = json!({
        "day": DAY,
        "summary": {
            "reconciled_at": "2026-11-22T10:00:00Z", "customers": 7, "admitted": 1_000,
            "metered": 850, "discrepancies": 2,
        },
        "data": [
            { "customer_id": "acme", "admitted": 100, "metered": 0, "metered_now": 99,
              "silent": true },
            { "customer_id": "globex", "admitted": 100, "metered": 50, "metered_now": 0,
              "silent": false },
        ],
        "next_cursor": null,
    });
    // The default is yesterday.
    for query in [&[][..], &[("day", DAY)]] {
        assert_eq!(show(&stack, query).await, expected);
    }
}

#[tokio::test]
async fn a_day_that_was_not_reconciled_has_no_summary() {
    let stack = Stack::new();
    let shown = show(&stack, &[("day", "2026-11-01")]).await;
    assert_eq!((&shown["summary"], data(&shown).len()), (&Value::Null, 0));
    let wrong = stack
        .call("reconciliation", |event| event.query(&[("day", "today")]))
        .await;
    wrong.bad_request(Some("day"));
}

#[tokio::test]
async fn a_long_list_of_discrepancies_is_paged() {
    let stack = Stack::new();
    for n in 0..60 {
        record_discrepancy(&stack, &format!("c-{n:02}"), 100, 0).await;
    }
    let first = show(&stack, &[]).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    // The default day changes, but the cursor keeps its own.
    stack.at.time.set("2026-11-23T00:00:10Z".parse().unwrap());
    let rest = show(&stack, &[("cursor", cursor)]).await;
    assert_eq!((data(&first).len(), data(&rest).len()), (50, 10));
    assert_eq!(data(&rest)[9]["customer_id"], "c-59");
    assert_eq!(rest["next_cursor"], Value::Null);
}
