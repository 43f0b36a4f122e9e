//! Nights: what is charged in each, what is left for the next, and when a month ends.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::collections::BTreeMap;

use billing::{Mode, BillingRunError, Report, run, unbilled};
use serde_json::{Value, json};
use tollgate_domain::billing::{Charge, ChargedOverage};
use tollgate_domain::money::{Cents, MicroUsd};
use tollgate_domain::plan::{Catalog, Plan};
use tollgate_domain::window::Month;
use tollgate_local_aws::Fault;
use tollgate_runtime::metrics::CHARGES_FAILED;
use tollgate_store::LedgerCharge;

mod common;

use common::{NIGHT, Short, Stack, p, reported};

const NO_CHARGE: [Short; 0] = [];

/// An event of `events/billing`.
fn event(case: &str) -> Value {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../events/billing");
    let text = std::fs::read_to_string(format!("{dir}/{case}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn covered(calls: u64, micro_usd: u64) -> ChargedOverage {
    let micro_usd = MicroUsd(micro_usd);
    ChargedOverage { calls, micro_usd }
}

fn months(list: &[&str]) -> Vec<Month> {
    list.iter().map(|month| p(month)).collect()
}

#[tokio::test]
async fn the_nightly_event_charges_what_is_over() {
    // What EventBridge Scheduler sends where a schedule has no input of its own.
    let event = event("schedule");
    assert_eq!(event["source"], "aws.scheduler");
    assert_eq!(event["detail"], "{}");
    let stack = Stack::at(event["time"].as_str().unwrap());
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    let report = billing::handle(&stack.app).await.unwrap();
    assert_eq!(
        serde_json::to_value(&report).unwrap(),
        json!({
            "dry_run": false,
            "months": ["2026-09", "2026-10", "2026-11"],
            "closed": ["2026-09", "2026-10"],
            "billing_periods": 1,
            "charged": 1,
            "cents": 23,
            "failed": 0,
            "destination": "ledger_only",
            "charges": [{
                "id": "ci_acme_2026-11_0001",
                "customer_id": "acme",
                "month": "2026-11",
                "cents": 23,
                "from_call": 1,
                "to_call": 234,
                "adjusted_calls": 0,
            }],
            "failures": [],
        })
    );
    let charge = LedgerCharge {
        intent: Charge {
            id: "ci_acme_2026-11_0001".into(),
            customer: p("acme"),
            month: p("2026-11"),
            number: 1,
            cents: Cents(23),
            cumulative: MicroUsd(234_000),
            covered: BTreeMap::from([(p("pro"), covered(234, 234_000))]),
            from_call: 1,
            to_call: 234,
            adjusted_calls: 0,
            // printf '2026-11-22 pro 100234\n' | sha256sum
            usage_digest: "f6a74b54a42c6f4ecba14f99ad05d0958e12d294641887b78a040e1f220dca32".into(),
            created_at: p(NIGHT),
        },
        status: "ledger_only".into(),
    };
    assert_eq!(stack.ledger("acme", "2026-11").await, [charge]);
}

#[tokio::test]
async fn a_second_run_charges_nothing() {
    let stack = Stack::new();
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    assert_eq!(stack.night(NIGHT).await.cents, Cents(23));
    let billed = stack.everything_billed();
    for now in [NIGHT, "2026-11-24T02:00:00Z"] {
        let report = stack.night(now).await;
        let expected = Report {
            months: months(&["2026-11"]),
            billing_periods: 1,
            destination: "ledger_only",
            ..Report::default()
        };
        assert_eq!(report, expected, "{now}");
        assert_eq!(stack.everything_billed(), billed, "{now}");
    }
}

#[tokio::test]
async fn a_dry_run_names_the_charges_and_writes_nothing() {
    // November may be closed by then, and October has no usage.
    let now = "2026-12-04T02:00:00Z";
    let stack = Stack::at(now);
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    stack.calls("globex", "2026-12-03", "pro", 100_100).await;
    let dry = run(&stack.app, Mode::DryRun).await.unwrap();
    assert_eq!(stack.everything_billed(), [Value::Null; 0]);
    assert!(dry.dry_run);
    assert_eq!(dry.closed, []);
    let expected = BTreeMap::from([("acme", (23, 1, 234)), ("globex", (10, 1, 100))]);
    assert_eq!(reported(&dry), expected);

    let charged = run(&stack.app, Mode::Charge).await.unwrap();
    let as_if_charged = Report {
        dry_run: false,
        closed: months(&["2026-10", "2026-11"]),
        ..dry
    };
    assert_eq!(charged, as_if_charged);
}

/// Calls on `pro`, night after night, and the charges that come of them.
async fn check_nights(nightly: &[u64], expected: &[Short]) {
    let stack = Stack::new();
    for (night, calls) in nightly.iter().enumerate() {
        let day = format!("2026-11-{:02}", night + 1);
        stack.calls("acme", &day, "pro", *calls).await;
        stack.night(&format!("{day}T23:00:00Z")).await;
    }
    let charges = stack.charges("acme", "2026-11").await;
    assert_eq!(charges, expected, "{nightly:?}");
}

#[tokio::test]
async fn each_night_charges_the_difference_of_the_rounded_sum() {
    check_nights(&[100_000], &NO_CHARGE).await;
    check_nights(&[60_000, 40_000], &NO_CHARGE).await;
    check_nights(&[60_000, 50_000], &[(1_000, 1, 10_000)]).await;
    check_nights(&[100_234, 1_000], &[(23, 1, 234), (100, 235, 1_234)]).await;
    // 23.4 cents are 23, and one call more makes 23.5.
    check_nights(&[100_234, 1], &[(23, 1, 234), (1, 235, 235)]).await;
    check_nights(&[100_004], &NO_CHARGE).await;
    // Each night alone would round to nothing.
    let four = [100_004, 4, 4, 4, 4, 4];
    check_nights(&four, &[(1, 1, 8), (1, 9, 16)]).await;
    // Each night alone would round to a cent.
    let six = [100_006, 6, 6, 6, 6];
    check_nights(&six, &[(1, 1, 6), (1, 7, 18), (1, 19, 30)]).await;
}

#[tokio::test]
async fn a_month_stays_open_three_days_and_is_not_billed_after_that() {
    let stack = Stack::at("2026-12-01T02:00:00Z");
    let late = async |calls| stack.calls("acme", "2026-11-30", "pro", calls).await;
    let night = async |now: &str, open: &[&str], closed: &[&str]| {
        let report = stack.night(now).await;
        assert_eq!(report.months, months(open), "{now}");
        assert_eq!(report.closed, months(closed), "{now}");
    };
    late(100_100).await;
    let first = ["2026-10", "2026-11", "2026-12"];
    night("2026-12-01T02:00:00Z", &first, &["2026-10"]).await;
    late(100).await;
    let both = ["2026-11", "2026-12"];
    night("2026-12-03T23:59:59.999Z", &both, &[]).await;
    late(100).await;
    night("2026-12-04T00:00:00Z", &both, &["2026-11"]).await;
    let charges = [(10, 1, 100), (10, 101, 200), (10, 201, 300)];
    assert_eq!(stack.charges("acme", "2026-11").await, charges);

    late(5_000).await;
    night("2026-12-04T02:00:00Z", &["2026-12"], &[]).await;
    night("2027-01-02T02:00:00Z", &["2026-12", "2027-01"], &[]).await;
    assert_eq!(stack.charges("acme", "2026-11").await, charges);
}

#[tokio::test]
async fn each_month_has_its_own_included_calls() {
    let stack = Stack::at("2027-01-01T02:00:00Z");
    stack.calls("acme", "2026-12-31", "pro", 99_990).await;
    stack.calls("acme", "2027-01-01", "pro", 100_020).await;
    let report = stack.night("2027-01-01T02:00:00Z").await;
    assert_eq!(report.billing_periods, 2);
    assert_eq!(stack.charges("acme", "2026-12").await, NO_CHARGE);
    assert_eq!(stack.charges("acme", "2027-01").await, [(2, 1, 20)]);
}

#[tokio::test]
async fn a_night_that_was_missed_is_made_up_for() {
    let stack = Stack::at("2026-12-31T02:00:00Z");
    stack.calls("acme", "2026-10-31", "pro", 100_100).await;
    stack.calls("acme", "2026-11-30", "pro", 100_200).await;
    let report = stack.night("2026-12-31T02:00:00Z").await;
    assert_eq!(report.closed, months(&["2026-10", "2026-11"]));
    assert_eq!(stack.charges("acme", "2026-10").await, [(10, 1, 100)]);
    assert_eq!(stack.charges("acme", "2026-11").await, [(20, 1, 200)]);
}

#[tokio::test]
async fn plans_without_overage_are_never_charged() {
    let stack = Stack::new();
    stack.calls("free", "2026-11-22", "free", 1_000_000).await;
    stack
        .calls("large", "2026-11-22", "enterprise", 9_000_000)
        .await;
    stack.calls("small", "2026-11-22", "pro", 100_000).await;
    let report = stack.night(NIGHT).await;
    assert_eq!((report.billing_periods, report.charged), (1, 0));
    for customer in ["free", "large", "small"] {
        assert_eq!(stack.charges(customer, "2026-11").await, NO_CHARGE);
    }
}

#[tokio::test]
async fn calls_count_on_the_plan_they_were_made_on() {
    let stack = Stack::new();
    let night = async |day: &str, plan: &str, calls: u64| {
        stack.calls("acme", day, plan, calls).await;
        stack.night(&format!("{day}T23:00:00Z")).await;
        stack.charges("acme", "2026-11").await
    };
    assert_eq!(night("2026-11-01", "free", 1_000).await, NO_CHARGE);
    assert_eq!(night("2026-11-02", "pro", 100_000).await, NO_CHARGE);
    let mut expected = vec![(10, 1, 100)];
    assert_eq!(night("2026-11-03", "pro", 100).await, expected);
    assert_eq!(night("2026-11-04", "enterprise", 500_000).await, expected);
    assert_eq!(night("2026-11-05", "free", 900).await, expected);
    expected.push((1, 101, 110));
    assert_eq!(night("2026-11-06", "pro", 10).await, expected);
}

/// Plans that charge a call beyond 10 with `pro`, and beyond 5 with `team`.
fn two_plans(pro: u64, team: u64) -> Catalog {
    let plan = |id: &str, included: u64, price: u64| {
        json!({
            "id": id,
            "name": id,
            "requests_per_hour": 1,
            "month": {
                "kind": "overage",
                "included": included,
                "prices": [{ "from": "2026-01-01", "micro_usd_per_call": price }],
            },
            "fail_mode": "open",
        })
    };
    let plans = json!([plan("pro", 10, pro), plan("team", 5, team)]);
    Catalog::from_json(&plans.to_string()).unwrap()
}

#[tokio::test]
async fn a_change_between_two_charging_plans_adds_their_overages() {
    let mut stack = Stack::new();
    stack.app.plans = two_plans(6_000, 7_000);
    stack.calls("acme", "2026-11-01", "pro", 11).await;
    stack.calls("acme", "2026-11-02", "team", 6).await;
    stack.night(NIGHT).await;
    // 0.6 and 0.7 cents: a cent together, and two if each were rounded.
    assert_eq!(stack.charges("acme", "2026-11").await, [(1, 1, 2)]);
    stack.calls("acme", "2026-11-03", "pro", 2).await;
    stack.night(NIGHT).await;
    let charges = [(1, 1, 2), (2, 3, 4)];
    assert_eq!(stack.charges("acme", "2026-11").await, charges);
}

#[tokio::test]
async fn a_month_that_became_cheaper_is_charged_no_more_until_it_is_dearer_again() {
    let mut stack = Stack::new();
    stack.app.plans = two_plans(10_000, 10_000);
    stack.calls("acme", "2026-11-01", "pro", 20).await;
    stack.night(NIGHT).await;
    stack.app.plans = two_plans(5_000, 10_000);
    for _ in 0..2 {
        stack.night(NIGHT).await;
        assert_eq!(stack.charges("acme", "2026-11").await, [(10, 1, 10)]);
    }
    stack.calls("acme", "2026-11-02", "pro", 12).await;
    stack.night(NIGHT).await;
    let charges = [(10, 1, 10), (1, 11, 22)];
    assert_eq!(stack.charges("acme", "2026-11").await, charges);
}

/// The plan `pro`, and its successor, in whose place it stands no more.
fn renamed() -> [Catalog; 2] {
    let both = two_plans(10_000, 10_000);
    let team: Vec<&Plan> = both.iter().filter(|plan| plan.id == p("team")).collect();
    let team = Catalog::from_json(&json!(team).to_string()).unwrap();
    [both, team]
}

#[tokio::test]
async fn usage_on_a_plan_that_is_not_in_the_catalogue_fails_the_bill_and_keeps_the_month_open() {
    let [both, team] = renamed();
    let mut stack = Stack::new();
    stack.app.plans = both.clone();
    stack.calls("acme", "2026-11-22", "pro", 60).await;
    stack.calls("globex", "2026-11-22", "team", 6).await;
    stack.app.plans = team;
    stack.calls("acme", "2026-11-23", "team", 105).await;
    let failure = json!([{
        "customer_id": "acme",
        "month": "2026-11",
        "reason": "plan pro is not in the catalogue",
    }]);
    let dry = run(&stack.app, Mode::DryRun).await.unwrap();
    assert_eq!((dry.failed, dry.charged, dry.cents), (1, 1, Cents(1)));
    let shown = serde_json::to_value(&dry).unwrap();
    assert_eq!(shown["failures"], failure);
    assert_eq!(stack.everything_billed(), [Value::Null; 0]);

    // Long after it would have closed, and after the two months that every run looks at.
    for night in [NIGHT, "2026-12-04T02:00:00Z", "2027-02-01T02:00:00Z"] {
        stack.at.time.set(p(night));
        let report = run(&stack.app, Mode::Charge).await.unwrap();
        assert_eq!(report.failed, 1, "{night}");
        assert!(report.months.contains(&p("2026-11")), "{night}");
        let shown = serde_json::to_value(&report).unwrap();
        assert_eq!(shown["failures"], failure, "{night}");
        let failed = stack.try_night(night).await.unwrap_err();
        assert!(matches!(failed, BillingRunError::Incomplete(_)), "{night}");
        assert_eq!(stack.charges("acme", "2026-11").await, NO_CHARGE, "{night}");
        assert_eq!(stack.charges("globex", "2026-11").await, [(1, 1, 1)]);
        assert!(!stack.is_closed("2026-11").await, "{night}");
    }
    let failed = stack.cloudwatch.sum(CHARGES_FAILED, &[]);
    assert_eq!(failed, 6, "the alarm rings");

    stack.app.plans = both;
    let report = stack.night("2027-05-01T02:00:00Z").await;
    // 50 calls beyond those of pro, and 100 beyond those of its successor.
    assert_eq!(stack.charges("acme", "2026-11").await, [(150, 1, 150)]);
    assert_eq!(report.closed[0], p("2026-11"));
    let report = stack.night("2027-05-02T02:00:00Z").await;
    assert_eq!(report.months, months(&["2027-04", "2027-05"]));
}

#[tokio::test]
async fn what_a_plan_was_charged_is_not_taken_off_what_its_successor_owes() {
    let [both, _] = renamed();
    let mut stack = Stack::new();
    stack.app.plans = both;
    stack.calls("acme", "2026-11-01", "pro", 60).await;
    stack.night(NIGHT).await;
    assert_eq!(stack.charges("acme", "2026-11").await, [(50, 1, 50)]);
    // The first price of a plan applies backwards: pro has become nearly free.
    stack.app.plans = two_plans(1, 10_000);
    stack.calls("acme", "2026-11-02", "team", 65).await;
    stack.night(NIGHT).await;
    let ledger = stack.ledger("acme", "2026-11").await;
    let last = &ledger[1].intent;
    assert_eq!(
        (last.cents, last.from_call, last.to_call),
        (Cents(60), 51, 110)
    );
    let plans = [
        (p("pro"), covered(50, 500_000)),
        (p("team"), covered(60, 600_000)),
    ];
    assert_eq!(last.covered, BTreeMap::from(plans));
}

/// Lists what is at stake of November, however many pages that takes: customer, and calls with what
/// they cost and what would be charged, or the reason why that is not known.
async fn at_stake(stack: &Stack) -> Vec<(String, Result<(u64, u64, u64), String>)> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = unbilled(&stack.app, p("2026-11"), after.as_deref()).await;
        let page = page.unwrap();
        all.extend(page.items.into_iter().map(|item| {
            let stake = item.stake.map(|s| (s.calls, s.overage.0, s.due.0));
            let stake = stake.map_err(|error| error.to_string());
            (item.customer_id.to_string(), stake)
        }));
        after = page.next;
        if after.is_none() {
            all.sort();
            return all;
        }
    }
}

#[tokio::test]
async fn what_is_counted_before_the_closing_run_is_billed_and_after_it_at_stake() {
    let stack = Stack::at("2026-12-03T02:00:00Z");
    for n in 0..60 {
        let customer = format!("c-{n:02}");
        stack.calls(&customer, "2026-11-22", "pro", 100_100).await;
    }
    stack.calls("acme", "2026-11-22", "pro", 100_100).await;
    stack.night("2026-12-03T23:59:59Z").await;
    assert!(!stack.is_closed("2026-11").await);

    // Counted three days and 1 h 59 min after the end of the month.
    stack.at.time.set(p("2026-12-04T01:59:00Z"));
    stack.calls("acme", "2026-11-30", "pro", 50).await;
    stack.night("2026-12-04T02:00:00Z").await;
    let billed = [(10, 1, 100), (5, 101, 150)];
    assert_eq!(stack.charges("acme", "2026-11").await, billed);
    assert!(stack.is_closed("2026-11").await);
    assert_eq!(at_stake(&stack).await, []);

    stack.calls("acme", "2026-11-30", "pro", 234).await;
    // Less than half a cent would not have been charged.
    stack.calls("c-07", "2026-11-30", "pro", 4).await;
    stack.night("2026-12-05T02:00:00Z").await;
    assert_eq!(stack.charges("acme", "2026-11").await, billed);
    let late = ("acme".to_owned(), Ok((234, 234_000, 23)));
    assert_eq!(at_stake(&stack).await, [late]);
}

#[tokio::test]
async fn what_is_at_stake_on_a_plan_that_has_gone_is_said_not_to_be_known() {
    let [both, team] = renamed();
    let mut stack = Stack::new();
    stack.app.plans = both;
    stack.calls("acme", "2026-11-22", "pro", 60).await;
    stack.calls("globex", "2026-11-22", "team", 55).await;
    stack.app.plans = team;
    let unknown = Err("plan pro is not in the catalogue".to_owned());
    let expected = [
        ("acme".to_owned(), unknown),
        ("globex".to_owned(), Ok((50, 500_000, 50))),
    ];
    assert_eq!(at_stake(&stack).await, expected);
}

/// 120 customers `c-000`, `c-001`, …, over by 10 calls each.
async fn with_120_customers() -> Stack {
    let stack = Stack::new();
    for n in 0..120 {
        let customer = format!("c-{n:03}");
        stack.calls(&customer, "2026-11-22", "pro", 100_010).await;
    }
    stack
}

#[tokio::test]
async fn everyone_is_charged_and_the_first_hundred_are_named() {
    let stack = with_120_customers().await;
    let report = stack.night(NIGHT).await;
    assert_eq!(
        (report.billing_periods, report.charged, report.failed),
        (120, 120, 0)
    );
    assert_eq!(report.cents, Cents(120));
    assert_eq!(reported(&report).len(), 100);
    for n in 0..120 {
        let charges = stack.charges(&format!("c-{n:03}"), "2026-11").await;
        assert_eq!(charges, [(1, 1, 10)], "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_failures_are_counted_and_the_first_hundred_named() {
    let stack = with_120_customers().await;
    stack.fail("\"c-", Fault::RequestLost);
    let report = run(&stack.app, Mode::Charge).await.unwrap();
    assert_eq!(
        (report.billing_periods, report.charged, report.failed),
        (120, 0, 120)
    );
    assert_eq!(report.failures.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn one_customers_failure_is_reported_and_stops_nobody_else() {
    let customers = ["acme", "globex", "initech"];
    let stack = Stack::new();
    for customer in customers {
        stack.calls(customer, "2026-11-22", "pro", 100_100).await;
    }
    stack.fail("globex", Fault::RequestLost);
    let report = run(&stack.app, Mode::Charge).await.unwrap();
    let found = serde_json::to_value(&report).unwrap();
    let failure = json!({
        "customer_id": "globex",
        "month": "2026-11",
        "reason": "the store did not answer",
    });
    assert_eq!(found["failures"], json!([failure]));
    assert_eq!((report.billing_periods, report.charged, report.failed), (3, 2, 1));
    let expected = BTreeMap::from([("acme", (10, 1, 100)), ("initech", (10, 1, 100))]);
    assert_eq!(reported(&report), expected);

    let failed = stack.try_night(NIGHT).await.unwrap_err();
    assert!(matches!(failed, BillingRunError::Incomplete(_)));
    let text = "1 billing periods could not be billed; the next run tries again";
    assert_eq!(failed.to_string(), text);

    stack.at.aws.heal();
    let report = stack.night(NIGHT).await;
    assert_eq!(
        reported(&report),
        BTreeMap::from([("globex", (10, 1, 100))])
    );
    for customer in customers {
        let charges = stack.charges(customer, "2026-11").await;
        assert_eq!(charges, [(10, 1, 100)], "{customer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_charge_whose_every_answer_is_lost_is_not_made_again() {
    let stack = Stack::new();
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    stack.fail("TransactItems", Fault::AnswerLost);
    stack.try_night(NIGHT).await.unwrap_err();
    assert_eq!(stack.charges("acme", "2026-11").await, [(23, 1, 234)]);
    stack.at.aws.heal();
    let report = stack.night("2026-11-24T02:00:00Z").await;
    assert_eq!((report.billing_periods, report.charged), (1, 0));
    assert_eq!(stack.charges("acme", "2026-11").await, [(23, 1, 234)]);
}

#[tokio::test(start_paused = true)]
async fn a_charge_whose_answer_is_lost_is_reported_by_the_run_that_made_it() {
    let stack = Stack::new();
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    let mut lost = false;
    stack.at.aws.inject(move |call| {
        let first = call.operation() == "TransactWriteItems" && !lost;
        lost |= first;
        if first {
            Fault::AnswerLost
        } else {
            Fault::None
        }
    });
    let report = stack.night(NIGHT).await;
    assert_eq!(reported(&report), BTreeMap::from([("acme", (23, 1, 234))]));
    assert_eq!(stack.charges("acme", "2026-11").await, [(23, 1, 234)]);
}

#[tokio::test(start_paused = true)]
async fn a_month_is_not_closed_while_anyone_is_left_to_bill() {
    let now = "2026-12-04T02:00:00Z";
    let stack = Stack::at(now);
    let days = ["2026-10-31", "2026-11-30", "2026-12-03"];
    for day in days {
        stack.calls("acme", day, "pro", 100_100).await;
        stack.calls("globex", day, "pro", 100_100).await;
    }
    let closed = async || {
        let mut closed = Vec::new();
        for day in days {
            closed.push(stack.is_closed(&day[..7]).await);
        }
        closed
    };
    // A failure keeps its own month open, and no later one.
    stack.fail("globex#2026-10", Fault::RequestLost);
    stack.try_night(now).await.unwrap_err();
    stack.at.aws.heal();
    assert_eq!(closed().await, [false, true, false]);
    assert_eq!(stack.charges("globex", "2026-10").await, NO_CHARGE);
    assert_eq!(stack.charges("globex", "2026-11").await, [(10, 1, 100)]);

    // Nor an earlier one.
    stack.calls("acme", "2026-10-30", "pro", 100).await;
    stack.fail("globex#2026-12", Fault::RequestLost);
    stack.try_night("2026-12-05T02:00:00Z").await.unwrap_err();
    stack.at.aws.heal();
    assert_eq!(closed().await, [true, true, false]);
    let both = [(10, 1, 100), (10, 101, 200)];
    assert_eq!(stack.charges("acme", "2026-10").await, both);
    assert_eq!(stack.charges("globex", "2026-10").await, [(10, 1, 100)]);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_customers_that_cannot_be_read_fails_the_night_and_not_the_next() {
    let now = "2026-12-04T02:00:00Z";
    let stack = Stack::at(now);
    let customers: Vec<String> = (0..40).map(|n| format!("c-{n}")).collect();
    for customer in &customers {
        stack.calls(customer, "2026-11-22", "pro", 100_100).await;
    }
    stack.fail(r#"{"S":"2026-11#5"}"#, Fault::RequestLost);
    let failed = stack.try_night(now).await.unwrap_err();
    assert!(matches!(failed, BillingRunError::Store(_)), "{failed:?}");
    assert!(!stack.is_closed("2026-11").await);
    let mut charged = 0;
    for customer in &customers {
        charged += stack.charges(customer, "2026-11").await.len();
    }
    assert!((1..40).contains(&charged), "{charged}");

    stack.at.aws.heal();
    let report = stack.night(now).await;
    assert_eq!(report.closed, months(&["2026-11"]));
    for customer in &customers {
        let charges = stack.charges(customer, "2026-11").await;
        assert_eq!(charges, [(10, 1, 100)], "{customer}");
    }
}
