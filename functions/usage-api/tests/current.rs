//! `GET /api/usage/current` and `…/adjustments`, called as API Gateway calls them.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use axum::Router;
use serde_json::{Value, json};
use tollgate_domain::billing::{PeriodLedger, charge_due};
use tollgate_domain::key::Owner;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan_book::Pins;
use tollgate_domain::usage::{Adjustment, Aggregate};
use tollgate_local_aws::Fault;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::{AdmittedCalls, KeyChange, KeyRef, UpdateOutcome};
use tollgate_testing::admitted::{Instance, admit};
use tollgate_testing::customers::{add_customer, add_key};
use tollgate_testing::event::Event;
use tollgate_testing::init::init;
use tollgate_testing::response::{call, has_no_other_routes, ignores_the_stage, needs_a_customer};
use tollgate_testing::seed::remove_plan;
use tollgate_testing::stored::stored;
use tollgate_testing::usage::{add_usage, adjust, calls};
use tollgate_testing::{p, plans};
use usage_api::App;

const NOW: &str = "2026-11-22T10:00:00Z";

fn function(at: &Fixture) -> Router {
    let init = init(at, "UsageApiFunction");
    usage_api::routes(App::build(&init).unwrap())
}

fn event() -> Event {
    Event::load("usage-api/current")
}

/// Returns a request for each operation.
fn events() -> Vec<Event> {
    let all = Event::all("usage-api").into_iter();
    all.map(|(_, event)| event).collect()
}

async fn current(at: &Fixture, customer: &str, plan: &str) -> Value {
    let event = event().customer(customer, plan);
    call(&function(at), &event).await.json(200)
}

/// Adds a customer, on a plan without a monthly quota, with a key. Returns the id of the key.
async fn key(at: &Fixture, customer: &str) -> String {
    add_customer(at, customer, "pro").await;
    let id = format!("key_{customer}");
    add_key(at, Owner::Customer(p(customer)), &id).await;
    id
}

#[tokio::test]
async fn a_month_without_calls_is_all_zeros() {
    let zero = json!({ "micro_usd": 0, "display": "$0.00" });
    let expected = json!({
        "customer_id": "acme",
        "plan": "pro",
        "period": {
            "month": "2026-11",
            "starts_at": "2026-11-01T00:00:00Z",
            "ends_at": "2026-12-01T00:00:00Z",
        },
        "admitted": { "calls": 0, "uncounted": 0, "reserved": 0, "limit": null, "remaining": null },
        "metered": {
            "calls": 0, "billable_calls": 0, "client_errors": 0, "server_errors": 0,
            "average_latency_ms": 0, "tokens": 0, "cost": zero,
        },
        "adjustments": { "count": 0, "billable_calls": 0, "cost": zero },
        "overage": { "calls": 0, "cost": zero, "plans": [{
            "plan": "pro", "billable_calls": 0, "included": 100_000, "remaining": 100_000,
            "calls": 0, "cost": zero,
        }] },
    });
    let at = Fixture::at(NOW);
    assert_eq!(call(&function(&at), &event()).await.json(200), expected);
}

#[tokio::test]
async fn admitted_and_metered_calls_are_shown_separately() {
    let at = Fixture::at(NOW);
    let (acme, bolt) = (key(&at, "acme").await, key(&at, "bolt").await);
    admit(&at, &acme, 3).await;
    admit(&at, &acme, 2).await;
    admit(&at, &bolt, 7).await;
    let aggregate = Aggregate {
        calls: 4,
        billable: [(p("pro"), 3)].into(),
        client_errors: 2,
        server_errors: 1,
        latency_ms: 43,
        tokens: 1_500,
        unpriced_tokens: 500,
        cost: MicroUsd(1_234_567),
        ..Aggregate::default()
    };
    add_usage(&at, "acme", "2026-11-21", aggregate).await;
    add_usage(&at, "bolt", "2026-11-21", calls("free", 9)).await;

    let shown = current(&at, "acme", "pro").await;
    assert_eq!(shown["admitted"]["calls"], 5);
    assert_eq!(shown["overage"]["plans"][0]["remaining"], 99_997);
    let expected = json!({
        "calls": 4,
        "billable_calls": 3,
        "client_errors": 2,
        "server_errors": 1,
        "average_latency_ms": 10,
        "tokens": 1_500,
        "cost": { "micro_usd": 1_234_567, "display": "$1.234567" },
    });
    assert_eq!(shown["metered"], expected);
    let other = current(&at, "bolt", "free").await;
    assert_eq!(other["admitted"]["calls"], 7);
    assert_eq!(other["metered"]["calls"], 9);
}

#[tokio::test]
async fn limits_and_overage_are_those_of_the_plan() {
    let at = Fixture::at(NOW);
    admit(&at, &key(&at, "acme").await, 2).await;
    let check = async |plan: &str, limit: Option<u64>, charging: Value| {
        let shown = current(&at, "acme", plan).await;
        assert_eq!(shown["plan"], plan);
        let remaining = limit.map(|limit| limit - 2);
        let expected = json!({
            "calls": 2, "uncounted": 0, "reserved": 0, "limit": limit, "remaining": remaining,
        });
        assert_eq!(shown["admitted"], expected);
        assert_eq!(plans_of(&shown), charging);
    };
    check("free", Some(1_000), json!([])).await;
    check("pro", None, json!([["pro", 0, 100_000, 100_000, 0]])).await;
    check("enterprise", None, json!([])).await;
    check("withdrawn", None, json!([])).await;
}

/// Returns, of each plan that charges, its id and its billable, included, remaining and overage calls.
fn plans_of(shown: &Value) -> Value {
    let plans = shown["overage"]["plans"].as_array();
    let numbers = ["plan", "billable_calls", "included", "remaining", "calls"];
    let of_plan = |plan: &Value| numbers.map(|name| plan[name].clone()).to_vec();
    plans.into_iter().flatten().map(of_plan).collect()
}

#[tokio::test]
async fn calls_metered_by_other_apis_use_up_the_included_calls() {
    let at = Fixture::at(NOW);
    admit(&at, &key(&at, "acme").await, 90).await;
    add_usage(&at, "acme", "2026-11-21", calls("pro", 100_005)).await;
    let shown = current(&at, "acme", "pro").await;
    assert_eq!(shown["admitted"]["calls"], 90);
    assert_eq!(shown["admitted"]["remaining"], Value::Null);
    assert_eq!(shown["overage"]["calls"], 5);
    assert_eq!(plans_of(&shown), json!([["pro", 100_005, 100_000, 0, 5]]));
}

/// Only calls on a plan use up the calls that this plan includes.
#[tokio::test]
async fn after_an_upgrade_all_included_calls_of_the_new_plan_are_left() {
    let at = Fixture::at(NOW);
    admit(&at, &key(&at, "acme").await, 90).await;
    add_usage(&at, "acme", "2026-11-20", calls("free", 1_000)).await;
    let free = current(&at, "acme", "free").await;
    assert_eq!(free["admitted"]["remaining"], 910);
    add_usage(&at, "acme", "2026-11-21", calls("pro", 99_998)).await;
    let check = async |billable: u64, left: u64, beyond: u64| {
        let shown = current(&at, "acme", "pro").await;
        assert_eq!(
            plans_of(&shown),
            json!([["pro", billable, 100_000, left, beyond]])
        );
        assert_eq!(shown["overage"]["calls"], beyond);
        let (customer, month, now) = (p("acme"), p("2026-11"), at.clock().now());
        let days = at.store.billable_days(&customer, month).await.unwrap();
        let due = charge_due(
            &customer,
            month,
            &plans().catalog(month, &Pins::default()),
            &days,
            &PeriodLedger::default(),
            now,
        );
        let due = due.unwrap();
        assert_eq!(
            due.map_or(0, |due| due.to_call),
            beyond,
            "the charge is for other calls"
        );
    };
    check(99_998, 2, 0).await;
    add_usage(&at, "acme", "2026-11-21", calls("pro", 2)).await;
    check(100_000, 0, 0).await;
    add_usage(&at, "acme", "2026-11-22", calls("pro", 10)).await;
    check(100_010, 0, 10).await;
}

/// These are admitted calls of the month, and count towards no limit.
#[tokio::test]
async fn calls_admitted_while_the_store_was_down_are_shown_as_uncounted() {
    let at = Fixture::at(NOW);
    admit(&at, &key(&at, "acme").await, 3).await;
    let mut share = at.store.month_share(&p("acme"), p("2026-11"));
    let calls = AdmittedCalls {
        spent: 0,
        uncounted: 5,
    };
    at.store.settle(&mut share, calls).await.unwrap();
    let shown = current(&at, "acme", "free").await;
    let expected = json!({
        "calls": 8, "uncounted": 5, "reserved": 0, "limit": 1_000, "remaining": 997,
    });
    assert_eq!(shown["admitted"], expected);
}

#[tokio::test]
async fn units_reserved_by_an_instance_are_shown_apart_from_admitted_calls() {
    let at = Fixture::at(NOW);
    let mut instance = Instance::new(&at, &key(&at, "acme").await).await;
    instance.reserve(30).await;
    instance.spend(30);
    instance.reserve(30).await;
    instance.spend(20);
    let shown = async || {
        let admitted = current(&at, "acme", "pro").await["admitted"].take();
        ["calls", "reserved"].map(|member| admitted[member].as_u64())
    };
    let [Some(calls), Some(reserved)] = shown().await else {
        panic!("no numbers");
    };
    assert!(calls <= 50 && 50 <= calls + reserved, "{calls} {reserved}");
    assert!(reserved > 0, "an instance reserves more than one unit");
    instance.shut_down().await;
    assert_eq!(shown().await, [Some(50), Some(0)]);
}

/// The authorizer enforces a key's own quota instead of the plan's.
#[tokio::test]
async fn a_keys_own_quota_is_shown() {
    let check = async |plan: &str, quota: u64| {
        let at = Fixture::at(NOW);
        add_customer(&at, "acme", plan).await;
        add_key(&at, Owner::Customer(p("acme")), "key_c").await;
        let change = KeyChange {
            monthly_quota: Some(Some(quota)),
            ..KeyChange::default()
        };
        let changed = at.store.update_key(&KeyRef::Id(p("key_c")), &change).await;
        assert!(matches!(changed.unwrap(), UpdateOutcome::Done(_)));
        admit(&at, "key_c", 2).await;
        let expected = json!({
            "calls": 2, "uncounted": 0, "reserved": 0, "limit": quota, "remaining": quota - 2,
        });
        let shown = current(&at, "acme", plan).await;
        assert_eq!(shown["admitted"], expected, "{plan} {quota}");
    };
    check("free", 5).await;
    check("free", 5_000).await;
    check("pro", 2).await;
    check("pro", 200_000).await;
    check("enterprise", 7).await;
}

#[tokio::test]
async fn remaining_calls_are_never_negative() {
    let at = Fixture::at(NOW);
    let key = key(&at, "acme").await;
    admit(&at, &key, 1_000).await;
    assert_eq!(
        current(&at, "acme", "free").await["admitted"]["remaining"],
        0
    );
    at.time.set(p("2026-11-22T11:00:00Z"));
    admit(&at, &key, 1).await;
    let shown = current(&at, "acme", "free").await;
    assert_eq!(shown["admitted"]["calls"], 1_001);
    assert_eq!(shown["admitted"]["remaining"], 0);
}

#[tokio::test]
async fn overage_is_priced_by_the_plan_of_each_call_and_not_the_current_plan() {
    let at = Fixture::at(NOW);
    add_usage(&at, "acme", "2026-11-10", calls("pro", 99_000)).await;
    assert_eq!(current(&at, "acme", "pro").await["overage"]["calls"], 0);
    add_usage(&at, "acme", "2026-11-20", calls("pro", 1_234)).await;
    add_usage(&at, "acme", "2026-11-21", calls("enterprise", 500)).await;
    let cost = json!({ "micro_usd": 234_000, "display": "$0.234" });
    let expected = json!({
        "calls": 234,
        "cost": cost,
        "plans": [{
            "plan": "pro", "billable_calls": 100_234, "included": 100_000, "remaining": 0,
            "calls": 234, "cost": cost,
        }],
    });
    for plan in ["pro", "enterprise"] {
        assert_eq!(current(&at, "acme", plan).await["overage"], expected);
    }
}

#[tokio::test]
async fn a_month_begins_and_ends_at_midnight_utc() {
    let at = Fixture::at("2026-10-31T23:59:59.999Z");
    admit(&at, &key(&at, "acme").await, 2).await;
    add_usage(&at, "acme", "2026-10-31", calls("pro", 100_001)).await;
    let october = current(&at, "acme", "pro").await;
    assert_eq!(october["period"]["month"], "2026-10");
    assert_eq!(october["admitted"]["calls"], 2);
    assert_eq!(october["overage"]["calls"], 1);

    at.time.set(p("2026-11-01T00:00:00Z"));
    let november = current(&at, "acme", "pro").await;
    assert_eq!(november["period"]["month"], "2026-11");
    assert_eq!(november["admitted"]["calls"], 0);
    assert_eq!(november["metered"]["calls"], 0);
    assert_eq!(november["overage"]["calls"], 0);
}

#[tokio::test]
async fn every_operation_is_for_customers_only_and_changes_nothing() {
    let at = Fixture::at(NOW);
    let function = function(&at);
    let before = stored(&at);
    for event in events() {
        needs_a_customer(&function, &event).await;
    }
    assert_eq!(stored(&at), before);
}

#[tokio::test]
async fn the_function_has_only_these_routes_in_any_stage() {
    let at = Fixture::at(NOW);
    for event in events() {
        has_no_other_routes(&function(&at), &event).await;
        ignores_the_stage(&function(&at), &event).await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_every_operation_returns_503_with_retry_after() {
    let at = Fixture::at(NOW);
    let function = function(&at);
    at.aws.inject(|_| Fault::Throttled);
    for event in events() {
        let response = call(&function, &event).await;
        response.problem(503, "temporarily-unavailable", None);
        assert_eq!(response.header("retry-after"), Some("1"));
    }
}

/// The store was seeded without a plan of earlier calls. Their cost is then unknown, and is not shown as zero.
#[tokio::test]
async fn overage_on_a_plan_that_does_not_exist_is_null() {
    let at = Fixture::at(NOW);
    add_usage(&at, "acme", "2026-11-20", calls("pro", 100_010)).await;
    let function = function(&at);
    remove_plan(&at, "pro");
    let shown = call(&function, &event().customer("acme", "free")).await;
    let shown = shown.json(200);
    assert_eq!(shown["overage"], Value::Null);
    assert_eq!(shown["metered"]["calls"], 100_010);
}

#[tokio::test]
async fn adjustments_are_apart_from_metered_calls_and_part_of_the_overage() {
    let at = Fixture::at(NOW);
    add_usage(&at, "acme", "2026-11-20", calls("pro", 100_010)).await;
    let adjustment = Adjustment {
        time: p("2026-11-20T12:00:00Z"),
        plan: p("pro"),
        billable_calls: -4,
        micro_usd: -1_500,
        reason: "retries during our outage".into(),
    };
    adjust(&at, "acme", adjustment).await;
    let shown = current(&at, "acme", "pro").await;
    let expected = json!({
        "count": 1, "billable_calls": -4, "cost": { "micro_usd": -1_500, "display": "-$0.0015" },
    });
    assert_eq!(shown["adjustments"], expected);
    assert_eq!(shown["metered"]["billable_calls"], 100_010);
    assert_eq!(shown["overage"]["calls"], 6);
    assert_eq!(plans_of(&shown), json!([["pro", 100_006, 100_000, 0, 6]]));

    let list = async |customer: &str, month: &str| {
        let event = Event::load("usage-api/adjustments").customer(customer, "pro");
        let event = event.query(&[("month", month)]);
        call(&function(&at), &event).await.json(200)["data"].clone()
    };
    let mine = list("acme", "2026-11").await;
    assert_eq!(mine[0]["reason"], "retries during our outage");
    assert_eq!(mine[0]["billable_calls"], -4);
    assert_eq!(list("acme", "2026-10").await, json!([]));
    assert_eq!(list("bolt", "2026-11").await, json!([]));
}
