//! `POST /admin/billing/run`, and `GET /admin/billing/unbilled`.

#![allow(clippy::unwrap_used, reason = "a test that cannot look has failed")]

use serde_json::{Value, json};
use tollgate_api::Cursor;
use tollgate_local_aws::Fault;
use tollgate_testing::event::Event;
use tollgate_testing::p;
use tollgate_testing::response::{call, data};
use tollgate_testing::seed::remove_plan;
use tollgate_testing::stored::stored;
use tollgate_testing::usage::{add_usage, calls};

use crate::stack::{NOW, Stack};
use crate::usage::usage_event;

/// Returns a stack with usage: `acme` has 234 overage calls on pro, `bolt` is on free, and `crow` has used
/// exactly the included calls of pro.
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
async fn a_dry_run_reports_the_charges_and_writes_nothing() {
    let stack = with_usage().await;
    let before = stored(&stack.at);
    let mut report = stack.run(true).await;
    assert_eq!(stored(&stack.at), before);
    let expected = json!({
        "dry_run": true,
        "months": ["2026-09", "2026-10", "2026-11"],
        "closed": [],
        "billing_periods": 1,
        "charge_count": 1,
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
    assert_eq!(report["charge_count"], 0);
    assert_eq!(report["cents"], 0);
    assert_eq!(report["charges"], json!([]));
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_run_charges_the_rounded_sum_less_earlier_charges() {
    let stack = with_usage().await;
    stack.run(false).await;
    add_usage(&stack.at, "acme", "2026-11-21", calls("pro", 1)).await;
    let report = stack.run(false).await;
    let charge = &report["charges"][0];
    assert_eq!(
        charge["cents"], 1,
        "$0.235 are 24 cents, of which 23 were charged before"
    );
    assert_eq!(
        (&charge["from_call"], &charge["to_call"]),
        (&json!(235), &json!(235))
    );
    let ledger = stack.charges("acme", &[]).await.json(200);
    assert_eq!(data(&ledger).len(), 2);
}

#[tokio::test]
async fn a_run_requires_dry_run_and_charges_if_it_is_false() {
    let stack = with_usage().await;
    let before = stored(&stack.at);
    let event = Event::load("admin-api/run-billing");
    let dry = call(&stack.function, &event).await.json(200);
    assert_eq!(dry["dry_run"], true);
    for body in [json!({}), json!({ "dry_run": null })] {
        let response = call(&stack.function, &event.clone().body(&body)).await;
        response.unprocessable(Some("dry_run"));
    }
    assert_eq!(stored(&stack.at), before);
    let report = stack.run(false).await;
    assert_eq!(report["dry_run"], false);
    let ledger = stack.charges("acme", &[]).await.json(200);
    assert_eq!(data(&ledger).len(), 1);
}

async fn unbilled(stack: &Stack, query: &[(&str, &str)]) -> Value {
    let response = stack.call("unbilled", |event| event.query(query)).await;
    response.json(200)
}

#[tokio::test]
async fn usage_counted_after_its_month_closed_is_listed_as_unbilled_with_its_cost() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-10-20", calls("pro", 100_100)).await;
    add_usage(&stack.at, "globex", "2026-10-20", calls("pro", 100_100)).await;
    let month = "2026-10";
    let open = json!({ "month": month, "closed_at": null, "data": [], "next_cursor": null });
    assert_eq!(unbilled(&stack, &[("month", month)]).await, open);
    stack.run(false).await;
    add_usage(&stack.at, "acme", "2026-10-31", calls("pro", 234)).await;
    stack.run(false).await;
    let acme = json!({
        "customer_id": "acme",
        "calls": 234,
        "overage": { "micro_usd": 234_000, "display": "$0.234" },
        "due": { "micro_usd": 230_000, "display": "$0.23" },
        "reason": null,
    });
    let shown = json!({
        "month": month, "closed_at": NOW, "data": [acme], "next_cursor": null,
    });
    // The default is the last month.
    for query in [&[][..], &[("month", month)]] {
        assert_eq!(unbilled(&stack, query).await, shown);
    }
    let cursor = String::from(Cursor::new("unbilled", "2026-10\n3".into()));
    let of_another = [("cursor", &*cursor), ("month", "2026-09")];
    for query in [&of_another[..], &[("month", "October")], &[("limit", "1")]] {
        let response = stack.call("unbilled", |event| event.query(query)).await;
        response.bad_request(Some(query[0].0));
    }
}

/// `docs/deploy.md` recommends this for late usage: an adjustment of the closed month removes calls that were
/// charged for elsewhere from the list. Calls added to an open month by an adjustment are billed with it.
#[tokio::test]
async fn an_adjustment_of_a_closed_month_removes_unbilled_calls_and_changes_no_charge() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-10-20", calls("pro", 100_100)).await;
    stack.run(false).await;
    add_usage(&stack.at, "acme", "2026-10-21", calls("pro", 234)).await;
    let unbilled_calls = async || {
        let shown = unbilled(&stack, &[]).await;
        let data = data(&shown).iter();
        data.map(|one| one["calls"].clone()).collect::<Vec<_>>()
    };
    let october = [("month", "2026-10")];
    let charges = async || stack.charges("acme", &october).await.json(200);
    let charged = charges().await;

    let adjust = async |id: &str, time: &str, calls: i64| {
        let mut usage_event = usage_event(id, &[]);
        usage_event["type"] = "tollgate.adjustment.v1".into();
        usage_event["data"] = json!({ "adjustments": [{
            "time": time, "plan": "pro", "billable_calls": calls, "reason": "invoice 4711",
        }] });
        stack.count(&[usage_event]).await
    };
    adjust("more", NOW, 234).await.json(200);
    assert_eq!(stack.run(false).await["charge_count"], 0);
    assert_eq!(unbilled_calls().await, [json!(234)]);

    let last_day = "2026-10-31T12:00:00Z";
    for _ in 0..2 {
        adjust("fewer", last_day, -234).await.json(200);
        assert_eq!(unbilled_calls().await, [json!(null); 0]);
        assert_eq!(stack.run(false).await["charge_count"], 0);
        assert_eq!(charges().await, charged);
    }
    // Usage that is counted later is listed again.
    add_usage(&stack.at, "acme", "2026-10-22", calls("pro", 50)).await;
    assert_eq!(unbilled_calls().await, [json!(50)]);

    stack.at.time.set(p("2026-12-05T12:00:00Z"));
    adjust("at last", last_day, -50).await.json(200);
    assert_eq!(unbilled(&stack, &october).await["data"], json!([]));
    stack.at.time.set(p("2026-12-05T12:00:01Z"));
    let late = adjust("too late", last_day, -50).await;
    late.unprocessable(None);
    assert_eq!(charges().await, charged);
}

/// The run that credits it goes by a mark, which is written after the adjustment was counted.
#[tokio::test(start_paused = true)]
async fn an_adjustment_whose_mark_failed_is_credited_though_it_is_repeated_late() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-10-20", calls("pro", 100_100)).await;
    assert_eq!(stack.run(false).await["charge_count"], 1);
    let mut usage_event = usage_event("fewer", &[]);
    usage_event["type"] = "tollgate.adjustment.v1".into();
    usage_event["data"] = json!({ "adjustments": [{
        "time": "2026-10-31T12:00:00Z", "plan": "pro", "billable_calls": -50, "reason": "outage",
    }] });
    let event = [usage_event];
    stack
        .at
        .aws
        .inject(|call| match call.body.contains("LATE#") {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    let response = stack.count(&event).await;
    response.problem(503, "temporarily-unavailable", None);
    stack.at.aws.heal();
    stack.at.time.set(p("2026-12-05T12:00:01Z"));
    let response = stack.count(&event).await.json(200);
    assert_eq!(data(&response)[0]["outcome"], "duplicate");
    assert_eq!(stack.run(false).await["charge_count"], 1);
}

#[tokio::test]
async fn unbilled_usage_on_a_plan_that_does_not_exist_has_no_numbers() {
    let stack = Stack::new();
    add_usage(&stack.at, "acme", "2026-10-20", calls("pro", 100_100)).await;
    stack.at.store.close(p("2026-10")).await.unwrap();
    remove_plan(&stack.at, "pro");
    let shown = unbilled(&stack, &[]).await;
    let expected = json!([{
        "customer_id": "acme", "calls": null, "overage": null, "due": null,
        "reason": "plan pro does not exist",
    }]);
    assert_eq!(shown["data"], expected);
}

/// A customer with usage on a plan that does not exist cannot be billed, in a dry run either.
#[tokio::test]
async fn a_run_reports_the_customer_and_the_plan_that_does_not_exist() {
    let stack = with_usage().await;
    remove_plan(&stack.at, "pro");
    let before = stored(&stack.at);
    let report = stack.run(true).await;
    assert_eq!(stored(&stack.at), before);
    let failure = json!({
        "customer_id": "acme", "month": "2026-11", "reason": "plan pro does not exist",
    });
    assert_eq!(report["failures"], json!([failure]));
    assert_eq!(
        (&report["failed"], &report["cents"]),
        (&json!(1), &json!(0))
    );
}
