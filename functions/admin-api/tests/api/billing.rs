//! `POST /admin/billing/run`.

use serde_json::json;

use crate::answer::{call, data};
use crate::event::Event;
use crate::stack::Stack;
use crate::stored::{add_usage, calls, stored};

/// `acme` is 234 calls over what pro includes, `bolt` on free, `crow` within what pro includes.
async fn with_usage() -> Stack {
    let stack = Stack::new();
    for (customer, plan, made) in [
        ("acme", "pro", 100_234),
        ("bolt", "free", 1_000),
        ("crow", "pro", 100_000),
    ] {
        add_usage(&stack.at, customer, "2026-11-20", calls(plan, made)).await;
    }
    stack
}

#[tokio::test]
async fn a_dry_run_says_what_a_run_charges_and_writes_nothing() {
    let stack = with_usage().await;
    let before = stored(&stack.at);
    let mut report = stack.run(true).await;
    assert_eq!(stored(&stack.at), before);
    let expected = json!({
        "dry_run": true,
        "months": ["2026-09", "2026-10", "2026-11"],
        "closed": [],
        "accounts": 2,
        "charged": 1,
        "cents": 23,
        "failed": 0,
        "destination": "ledger_only",
        "charges": [{
            "id": report["charges"][0]["id"],
            "customer_id": "acme",
            "month": "2026-11",
            "cents": 23,
            "from_call": 1,
            "to_call": 234,
                "adjusted_calls": 0,
        }],
        "failures": [],
    });
    assert_eq!(report, expected);

    report["dry_run"] = false.into();
    report["closed"] = json!(["2026-09", "2026-10"]);
    assert_eq!(stack.run(false).await, report);
    assert_ne!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_second_run_charges_nothing() {
    let stack = with_usage().await;
    stack.run(false).await;
    let before = stored(&stack.at);
    let report = stack.run(false).await;
    assert_eq!(report["charged"], 0);
    assert_eq!(report["cents"], 0);
    assert_eq!(report["charges"], json!([]));
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_run_charges_what_has_come_since_the_last_to_the_cent_of_the_sum() {
    let stack = with_usage().await;
    stack.run(false).await;
    add_usage(&stack.at, "acme", "2026-11-21", calls("pro", 1)).await;
    let report = stack.run(false).await;
    let charge = &report["charges"][0];
    assert_eq!(
        charge["cents"], 1,
        "$0.235 are 24 cents, of which 23 are charged"
    );
    assert_eq!(
        (&charge["from_call"], &charge["to_call"]),
        (&json!(235), &json!(235))
    );
    let ledger = stack.charges("acme", &[]).await.json(200);
    assert_eq!(data(&ledger).len(), 2);
}

#[tokio::test]
async fn a_run_charges_if_it_is_said_not_to_be_dry() {
    let stack = with_usage().await;
    let before = stored(&stack.at);
    let event = Event::load("admin-api/run-billing");
    let dry = call(&stack.function, &event).await.json(200);
    assert_eq!(dry["dry_run"], true);
    for body in [json!({}), json!({ "dry_run": null })] {
        let answer = call(&stack.function, &event.clone().body(&body)).await;
        answer.unprocessable(Some("dry_run"));
    }
    assert_eq!(stored(&stack.at), before);
    let report = stack.run(false).await;
    assert_eq!(report["dry_run"], false);
    let ledger = stack.charges("acme", &[]).await.json(200);
    assert_eq!(data(&ledger).len(), 1);
}
