//! `POST /admin/billing/run`, and what is in no bill.

#![allow(clippy::unwrap_used, reason = "a test that cannot look has failed")]

use serde_json::{Value, json};
use tollgate_web::Cursor;

use crate::answer::{call, data};
use crate::event::Event;
use crate::stack::{NOW, Stack};
use crate::stored::{add_usage, calls, p, stored};
use crate::usage::entry;

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
        "billing_periods": 2,
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
    assert_eq!(stack.run(false).await["cents"], 23);
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

async fn unbilled(stack: &Stack, query: &[(&str, &str)]) -> Value {
    let answer = stack.call("unbilled", |event| event.query(query)).await;
    answer.json(200)
}

#[tokio::test]
async fn what_was_counted_after_its_month_closed_is_shown_with_what_it_would_cost() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-10-20", calls("pro", 100_100)).await;
    add_usage(&stack.at, "globex", "2026-10-20", calls("pro", 100_100)).await;
    let month = "2026-10";
    let open = json!({ "month": month, "closed_at": null, "data": [], "next_cursor": null });
    assert_eq!(unbilled(&stack, &[("month", month)]).await, open);
    stack.run(false).await;
    add_usage(&stack.at, "acme", "2026-10-31", calls("pro", 234)).await;
    stack.run(false).await;
    let at_stake = json!({
        "customer_id": "acme",
        "calls": 234,
        "overage": { "micro_usd": 234_000, "display": "$0.234" },
        "due": { "micro_usd": 230_000, "display": "$0.23" },
        "reason": null,
    });
    let shown = json!({
        "month": month, "closed_at": NOW, "data": [at_stake], "next_cursor": null,
    });
    // Last month is what is shown if none is named.
    for query in [&[][..], &[("month", month)]] {
        assert_eq!(unbilled(&stack, query).await, shown);
    }
    let cursor = String::from(Cursor::new("unbilled", "2026-10\n3".into()));
    let of_another = [("cursor", &*cursor), ("month", "2026-09")];
    for query in [&of_another[..], &[("month", "October")], &[("limit", "1")]] {
        let answer = stack.call("unbilled", |event| event.query(query)).await;
        answer.bad_request(Some(query[0].0));
    }
}

/// What `docs/deploy.md` says to do about late usage: calls that were charged for elsewhere leave the list
/// by an adjustment of their own month, and those that are added to an open one are not charged for.
#[tokio::test]
async fn an_adjustment_of_the_closed_month_takes_calls_off_the_list_and_changes_no_charge() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-10-20", calls("pro", 100_100)).await;
    stack.run(false).await;
    add_usage(&stack.at, "acme", "2026-10-21", calls("pro", 234)).await;
    let at_stake = async || {
        let shown = unbilled(&stack, &[]).await;
        let data = data(&shown).iter();
        data.map(|one| one["calls"].clone()).collect::<Vec<_>>()
    };
    let october = [("month", "2026-10")];
    let charges = async || stack.charges("acme", &october).await.json(200);
    let charged = charges().await;

    let adjust = async |id: &str, time: &str, calls: i64| {
        let mut entry = entry(id, &[]);
        entry["type"] = "tollgate.adjustment.v1".into();
        entry["data"] = json!({ "adjustments": [{
            "time": time, "plan": "pro", "billable_calls": calls, "reason": "invoice 4711",
        }] });
        stack.count(&[entry]).await
    };
    adjust("more", NOW, 234).await.json(200);
    assert_eq!(stack.run(false).await["charged"], 0);
    assert_eq!(at_stake().await, [json!(234)]);

    let last_day = "2026-10-31T12:00:00Z";
    for _ in 0..2 {
        adjust("fewer", last_day, -234).await.json(200);
        assert_eq!(at_stake().await, [json!(null); 0]);
        assert_eq!(stack.run(false).await["charged"], 0);
        assert_eq!(charges().await, charged);
    }
    // What comes later is on it again.
    add_usage(&stack.at, "acme", "2026-10-22", calls("pro", 50)).await;
    assert_eq!(at_stake().await, [json!(50)]);

    stack.at.time.set(p("2026-12-05T12:00:00Z"));
    adjust("at last", last_day, -50).await.json(200);
    assert_eq!(unbilled(&stack, &october).await["data"], json!([]));
    stack.at.time.set(p("2026-12-05T12:00:01Z"));
    let late = adjust("too late", last_day, -50).await;
    late.unprocessable(None);
    assert_eq!(charges().await, charged);
}

#[tokio::test]
async fn what_is_at_stake_on_a_plan_that_has_gone_is_not_known() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-10-20", calls("pro", 100_100)).await;
    stack.at.store.close(p("2026-10")).await.unwrap();
    let shown = unbilled(&stack.with_plans(&["free"]), &[]).await;
    let expected = json!([{
        "customer_id": "acme", "calls": null, "overage": null, "due": null,
        "reason": "plan pro is not in the catalogue",
    }]);
    assert_eq!(shown["data"], expected);
}

/// The bill of a customer with usage on a plan that has gone fails, in a dry run as well.
#[tokio::test]
async fn a_run_names_the_customer_and_the_plan_that_is_not_in_the_catalogue() {
    let stack = with_usage().await;
    let before = stored(&stack.at);
    let without_pro = stack.with_plans(&["free"]);
    let mut report = without_pro.run(true).await;
    assert_eq!(stored(&stack.at), before);
    let failures: Vec<Value> = ["acme", "crow"]
        .map(|customer| {
            json!({
                "customer_id": customer,
                "month": "2026-11",
                "reason": "plan pro is not in the catalogue",
            })
        })
        .into();
    let by_customer = |failure: &Value| failure["customer_id"].to_string();
    report["failures"]
        .as_array_mut()
        .unwrap()
        .sort_by_key(by_customer);
    assert_eq!(report["failures"], json!(failures));
    assert_eq!(
        (&report["failed"], &report["cents"]),
        (&json!(2), &json!(0))
    );
}
