//! Billing runs: charges, failures that the next run makes up for, and the closing of months.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::collections::BTreeMap;

use billing::BillingRunError;
use serde_json::{Value, json};
use tollgate_api::billing::BillingRun;
use tollgate_billing::{Mode, Part, run, unbilled};
use tollgate_domain::billing::{Charge, ChargedOverage};
use tollgate_domain::money::{MicroUsd, SignedCents};
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::{Pin, Pins, PlanVersion, PlanVersions};
use tollgate_domain::submission::{Attempts, ChargeState, LedgerCharge};
use tollgate_domain::usage::Adjustment;
use tollgate_domain::window::Month;
use tollgate_local_aws::Fault;
use tollgate_runtime::metrics::FAILED_BILLING_PERIODS;
use tollgate_store::{CustomerChange, PinChange, PlanOutcome, UpdateCustomerOutcome};
use tollgate_testing::customers::add_customer;
use tollgate_testing::event_file;
use tollgate_testing::seed::remove_plan;
use tollgate_testing::usage::adjust;

mod common;

use common::{NOW, Short, Stack, p, reported, run_whole};

const NO_CHARGE: [Short; 0] = [];

fn charged_overage(calls: u64, micro_usd: u64) -> ChargedOverage {
    let micro_usd = MicroUsd(micro_usd);
    ChargedOverage { calls, micro_usd }
}

fn months(list: &[&str]) -> Vec<Month> {
    list.iter().map(|month| p(month)).collect()
}

#[tokio::test]
async fn the_nightly_event_charges_overage() {
    // EventBridge Scheduler sends this if a schedule has no input of its own.
    let event = event_file::load("billing/schedule");
    assert_eq!(event["source"], "aws.scheduler");
    assert_eq!(event["detail"], "{}");
    let stack = Stack::at(event["time"].as_str().unwrap());
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    let report = billing::handle(&stack.app, &Value::Null, None)
        .await
        .unwrap();
    assert_eq!(
        serde_json::to_value(&report).unwrap(),
        json!({
            "dry_run": false,
            "months": ["2026-09", "2026-10", "2026-11"],
            "closed": ["2026-09", "2026-10"],
            "billing_periods": 1,
            "charge_count": 1,
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
        charge: Charge {
            id: "ci_acme_2026-11_0001".into(),
            customer: p("acme"),
            month: p("2026-11"),
            number: 1,
            cents: SignedCents(23),
            cumulative_overage: MicroUsd(234_000),
            overage_by_plan: BTreeMap::from([(p("pro"), charged_overage(234, 234_000))]),
            overage_calls: 234,
            from_call: 1,
            to_call: 234,
            adjusted_calls: 0,
            description: "234 calls beyond the 100,000 included, 1–23 November 2026".into(),
            // printf '2026-11-22 pro 100234\n' | sha256sum
            usage: "2026-11-22 pro 100234\n".into(),
            usage_digest: "f6a74b54a42c6f4ecba14f99ad05d0958e12d294641887b78a040e1f220dca32".into(),
            created_at: p(NOW),
        },
        state: ChargeState::Pending,
        attempts: Attempts::default(),
        next_try: Some(p(NOW)),
    };
    assert_eq!(stack.ledger("acme", "2026-11").await, [charge]);
}

#[tokio::test]
async fn a_second_run_charges_nothing() {
    let stack = Stack::new();
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    assert_eq!(stack.run(NOW).await.cents, SignedCents(23));
    let before = stack.billing_items();
    for now in [NOW, "2026-11-24T02:00:00Z"] {
        let report = stack.run(now).await;
        let expected = BillingRun {
            months: months(&["2026-11"]),
            billing_periods: 1,
            destination: "ledger_only",
            ..BillingRun::default()
        };
        assert_eq!(report, expected, "{now}");
        assert_eq!(stack.billing_items(), before, "{now}");
    }
}

#[tokio::test]
async fn a_dry_run_reports_the_charges_and_writes_nothing() {
    // November may be closed by then, and October has no usage.
    let now = "2026-12-04T02:00:00Z";
    let stack = Stack::at(now);
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    stack.calls("globex", "2026-12-03", "pro", 100_100).await;
    let dry = run_whole(&stack.app.billing, Mode::DryRun).await.unwrap();
    assert_eq!(stack.billing_items(), [Value::Null; 0]);
    assert!(dry.dry_run);
    assert_eq!(dry.closed, []);
    let expected = BTreeMap::from([("acme", (23, 1, 234)), ("globex", (10, 1, 100))]);
    assert_eq!(reported(&dry), expected);

    let charged = run_whole(&stack.app.billing, Mode::Charge).await.unwrap();
    let as_if_charged = BillingRun {
        dry_run: false,
        closed: months(&["2026-10", "2026-11"]),
        ..dry
    };
    assert_eq!(charged, as_if_charged);
}

/// Checks the charges of daily billing runs, given the calls on `pro` of each day.
async fn check_daily_runs(daily: &[u64], expected: &[Short]) {
    let stack = Stack::new();
    for (index, calls) in daily.iter().enumerate() {
        let day = format!("2026-11-{:02}", index + 1);
        stack.calls("acme", &day, "pro", *calls).await;
        stack.run(&format!("{day}T23:00:00Z")).await;
    }
    let charges = stack.charges("acme", "2026-11").await;
    assert_eq!(charges, expected, "{daily:?}");
}

#[tokio::test]
async fn each_run_charges_the_rounded_sum_less_earlier_charges() {
    check_daily_runs(&[100_000], &NO_CHARGE).await;
    check_daily_runs(&[60_000, 40_000], &NO_CHARGE).await;
    check_daily_runs(&[60_000, 50_000], &[(1_000, 1, 10_000)]).await;
    check_daily_runs(&[100_234, 1_000], &[(23, 1, 234), (100, 235, 1_234)]).await;
    // 23.4 cents are 23, and one more call makes 23.5, which are 24.
    check_daily_runs(&[100_234, 1], &[(23, 1, 234), (1, 235, 235)]).await;
    check_daily_runs(&[100_004], &NO_CHARGE).await;
    // Each day alone would round to 0.
    let four = [100_004, 4, 4, 4, 4, 4];
    check_daily_runs(&four, &[(1, 1, 8), (1, 9, 16)]).await;
    // Each day alone would round to a cent.
    let six = [100_006, 6, 6, 6, 6];
    check_daily_runs(&six, &[(1, 1, 6), (1, 7, 18), (1, 19, 30)]).await;
}

#[tokio::test]
async fn a_month_stays_open_three_days_and_is_not_billed_after_that() {
    let stack = Stack::at("2026-12-01T02:00:00Z");
    let late = async |calls| stack.calls("acme", "2026-11-30", "pro", calls).await;
    let run = async |now: &str, open: &[&str], closed: &[&str]| {
        let report = stack.run(now).await;
        assert_eq!(report.months, months(open), "{now}");
        assert_eq!(report.closed, months(closed), "{now}");
    };
    late(100_100).await;
    let first = ["2026-10", "2026-11", "2026-12"];
    run("2026-12-01T02:00:00Z", &first, &["2026-10"]).await;
    late(100).await;
    let both = ["2026-11", "2026-12"];
    run("2026-12-03T23:59:59.999Z", &both, &[]).await;
    late(100).await;
    run("2026-12-04T00:00:00Z", &both, &["2026-11"]).await;
    let charges = [(10, 1, 100), (10, 101, 200), (10, 201, 300)];
    assert_eq!(stack.charges("acme", "2026-11").await, charges);

    late(5_000).await;
    run("2026-12-04T02:00:00Z", &["2026-12"], &[]).await;
    run("2027-01-02T02:00:00Z", &["2026-12", "2027-01"], &[]).await;
    assert_eq!(stack.charges("acme", "2026-11").await, charges);
}

#[tokio::test]
async fn each_month_has_its_own_included_calls() {
    let stack = Stack::at("2027-01-01T02:00:00Z");
    stack.calls("acme", "2026-12-31", "pro", 99_990).await;
    stack.calls("acme", "2027-01-01", "pro", 100_020).await;
    let report = stack.run("2027-01-01T02:00:00Z").await;
    assert_eq!(report.billing_periods, 1);
    assert_eq!(stack.charges("acme", "2026-12").await, NO_CHARGE);
    assert_eq!(stack.charges("acme", "2027-01").await, [(2, 1, 20)]);
}

#[tokio::test]
async fn missed_runs_are_made_up_for() {
    let stack = Stack::at("2026-12-31T02:00:00Z");
    stack.calls("acme", "2026-10-31", "pro", 100_100).await;
    stack.calls("acme", "2026-11-30", "pro", 100_200).await;
    let report = stack.run("2026-12-31T02:00:00Z").await;
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
    let report = stack.run(NOW).await;
    assert_eq!((report.billing_periods, report.charge_count), (0, 0));
    let report = stack.run("2026-12-04T02:00:00Z").await;
    assert_eq!((report.billing_periods, report.charge_count), (1, 0));
    for customer in ["free", "large", "small"] {
        assert_eq!(stack.charges(customer, "2026-11").await, NO_CHARGE);
    }
}

#[tokio::test]
async fn calls_count_on_the_plan_they_were_made_on() {
    let stack = Stack::new();
    let run = async |day: &str, plan: &str, calls: u64| {
        stack.calls("acme", day, plan, calls).await;
        stack.run(&format!("{day}T23:00:00Z")).await;
        stack.charges("acme", "2026-11").await
    };
    assert_eq!(run("2026-11-01", "free", 1_000).await, NO_CHARGE);
    assert_eq!(run("2026-11-02", "pro", 100_000).await, NO_CHARGE);
    let mut expected = vec![(10, 1, 100)];
    assert_eq!(run("2026-11-03", "pro", 100).await, expected);
    assert_eq!(run("2026-11-04", "enterprise", 500_000).await, expected);
    assert_eq!(run("2026-11-05", "free", 900).await, expected);
    expected.push((1, 101, 110));
    assert_eq!(run("2026-11-06", "pro", 10).await, expected);
}

/// Returns plans that charge these prices for calls beyond 10 on `pro`, and beyond 5 on `team`.
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
    let stack = Stack::with_plans(NOW, &two_plans(6_000, 7_000));
    stack.calls("acme", "2026-11-01", "pro", 11).await;
    stack.calls("acme", "2026-11-02", "team", 6).await;
    stack.run(NOW).await;
    // 0.6 and 0.7 cents round to 1 cent together, and would be 2 if each were rounded.
    assert_eq!(stack.charges("acme", "2026-11").await, [(1, 1, 2)]);
    stack.calls("acme", "2026-11-03", "pro", 2).await;
    stack.run(NOW).await;
    let charges = [(1, 1, 2), (2, 3, 4)];
    assert_eq!(stack.charges("acme", "2026-11").await, charges);
}

/// Returns version `number` of `pro`, with this price, from `month` on.
fn version(number: u64, month: &str, price: u64) -> PlanVersion {
    PlanVersion {
        number,
        takes_effect: p(month),
        created_at: p(NOW),
        plan: two_plans(price, 1).iter().next().unwrap().clone(),
    }
}

#[tokio::test]
async fn a_version_applies_to_the_months_from_which_it_takes_effect_and_a_pin_keeps_the_one_before()
{
    let stack = Stack::with_plans(NOW, &two_plans(10_000, 10_000));
    add_customer(&stack.at, "acme", "pro").await;
    add_customer(&stack.at, "bolt", "pro").await;
    let store = &stack.at.store;
    let added = store.add_plan_version(&version(2, "2026-12", 20_000)).await;
    assert_eq!(added.unwrap(), PlanOutcome::Written);
    let mut pins = Pins::default();
    let pin = |version, from: &str| Pin {
        plan: p("pro"),
        version,
        from: p(from),
    };
    pins.set(pin(Some(1), "2026-12"), p(NOW)).unwrap();
    pins.set(pin(None, "2027-01"), p(NOW)).unwrap();
    let change = CustomerChange {
        pins: Some(PinChange {
            before: Pins::default(),
            after: pins,
        }),
        ..CustomerChange::default()
    };
    let changed = store.update_customer(&p("bolt"), &change).await.unwrap();
    assert!(matches!(changed, UpdateCustomerOutcome::Done(_)));

    for (month, acme, bolt) in [
        ("2026-11", 10, 10),
        ("2026-12", 20, 10),
        ("2027-01", 20, 20),
    ] {
        for customer in ["acme", "bolt"] {
            stack
                .calls(customer, &format!("{month}-15"), "pro", 20)
                .await;
        }
        stack.run(&format!("{month}-16T02:00:00Z")).await;
        assert_eq!(
            stack.charges("acme", month).await,
            [(acme, 1, 10)],
            "{month}"
        );
        assert_eq!(
            stack.charges("bolt", month).await,
            [(bolt, 1, 10)],
            "{month}"
        );
    }
}

#[tokio::test]
async fn usage_on_a_plan_that_does_not_exist_cannot_be_billed_and_keeps_the_month_open() {
    let stack = Stack::with_plans(NOW, &two_plans(10_000, 10_000));
    stack.calls("acme", "2026-11-22", "pro", 60).await;
    stack.calls("globex", "2026-11-22", "team", 6).await;
    remove_plan(&stack.at, "pro");
    stack.calls("acme", "2026-11-23", "team", 105).await;
    let failure = json!([{
        "customer_id": "acme",
        "month": "2026-11",
        "reason": "plan pro does not exist",
    }]);
    let dry = run_whole(&stack.app.billing, Mode::DryRun).await.unwrap();
    assert_eq!(
        (dry.failed, dry.charge_count, dry.cents),
        (1, 1, SignedCents(1))
    );
    let shown = serde_json::to_value(&dry).unwrap();
    assert_eq!(shown["failures"], failure);
    assert_eq!(stack.charges("globex", "2026-11").await, NO_CHARGE);

    // Also long after the month could have closed, and when it is no longer one of the two latest months.
    for now in [NOW, "2026-12-04T02:00:00Z", "2027-02-01T02:00:00Z"] {
        stack.at.time.set(p(now));
        let report = run_whole(&stack.app.billing, Mode::Charge).await.unwrap();
        assert_eq!(report.failed, 1, "{now}");
        assert!(report.months.contains(&p("2026-11")), "{now}");
        let shown = serde_json::to_value(&report).unwrap();
        assert_eq!(shown["failures"], failure, "{now}");
        let failed = stack.try_run(now).await.unwrap_err();
        assert!(matches!(failed, BillingRunError::Incomplete(_)), "{now}");
        assert_eq!(stack.charges("acme", "2026-11").await, NO_CHARGE, "{now}");
        assert_eq!(stack.charges("globex", "2026-11").await, [(1, 1, 1)]);
        assert!(!stack.is_closed("2026-11").await, "{now}");
    }
    let failed = stack.cloudwatch.sum(FAILED_BILLING_PERIODS, &[]);
    assert_eq!(failed, 6, "the alarm is raised");

    let pro = PlanVersions::new(
        version(1, "2026-11", 10_000).plan,
        p("2027-05-01T00:00:00Z"),
    );
    let created = stack.at.store.create_plan(&pro).await;
    assert_eq!(created.unwrap(), PlanOutcome::Written);
    let report = stack.run("2027-05-01T02:00:00Z").await;
    // 50 overage calls on pro, and 100 on its successor.
    assert_eq!(stack.charges("acme", "2026-11").await, [(150, 1, 150)]);
    assert_eq!(report.closed[0], p("2026-11"));
    let report = stack.run("2027-05-02T02:00:00Z").await;
    assert_eq!(report.months, months(&["2027-04", "2027-05"]));
}

#[tokio::test]
async fn a_credit_for_one_plan_is_netted_with_the_charge_for_its_successor() {
    let stack = Stack::with_plans(NOW, &two_plans(10_000, 10_000));
    stack.calls("acme", "2026-11-01", "pro", 60).await;
    stack.run(NOW).await;
    assert_eq!(stack.charges("acme", "2026-11").await, [(50, 1, 50)]);
    let correction = Adjustment {
        time: p("2026-11-01T12:00:00Z"),
        plan: p("pro"),
        billable_calls: -45,
        micro_usd: 0,
        reason: "counted in error".into(),
    };
    adjust(&stack.at, "acme", correction).await;
    stack.calls("acme", "2026-11-02", "team", 65).await;
    stack.run(NOW).await;
    let ledger = stack.ledger("acme", "2026-11").await;
    let last = &ledger[1].charge;
    assert_eq!(
        (last.cents, last.from_call, last.to_call),
        (SignedCents(15), 51, 65)
    );
    let plans = [
        (p("pro"), charged_overage(5, 50_000)),
        (p("team"), charged_overage(60, 600_000)),
    ];
    assert_eq!(last.overage_by_plan, BTreeMap::from(plans));
}

/// Lists the unbilled usage of November, from all pages: the customer, and the calls with their cost and the
/// charge due for them, or the reason why these cannot be computed.
async fn all_unbilled(stack: &Stack) -> Vec<(String, Result<(u64, u64, u64), String>)> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = unbilled(&stack.app.billing, p("2026-11"), after.as_deref()).await;
        let page = page.unwrap();
        all.extend(page.items.into_iter().map(|item| {
            let usage = item
                .usage
                .map(|usage| (usage.calls, usage.overage.0, usage.due.0));
            let usage = usage.map_err(|error| error.to_string());
            (item.customer_id.to_string(), usage)
        }));
        after = page.next;
        if after.is_none() {
            all.sort();
            return all;
        }
    }
}

#[tokio::test]
async fn usage_counted_before_the_closing_run_is_billed_and_after_it_unbilled() {
    let stack = Stack::at("2026-12-03T02:00:00Z");
    for n in 0..60 {
        let customer = format!("c-{n:02}");
        stack.calls(&customer, "2026-11-22", "pro", 100_100).await;
    }
    stack.calls("acme", "2026-11-22", "pro", 100_100).await;
    stack.run("2026-12-03T23:59:59Z").await;
    assert!(!stack.is_closed("2026-11").await);

    // Counted three days and 1 h 59 min after the end of the month.
    stack.at.time.set(p("2026-12-04T01:59:00Z"));
    stack.calls("acme", "2026-11-30", "pro", 50).await;
    stack.run("2026-12-04T02:00:00Z").await;
    let billed = [(10, 1, 100), (5, 101, 150)];
    assert_eq!(stack.charges("acme", "2026-11").await, billed);
    assert!(stack.is_closed("2026-11").await);
    assert_eq!(all_unbilled(&stack).await, []);

    stack.calls("acme", "2026-11-30", "pro", 234).await;
    // Less than half a cent would not have been charged.
    stack.calls("c-07", "2026-11-30", "pro", 4).await;
    stack.run("2026-12-05T02:00:00Z").await;
    assert_eq!(stack.charges("acme", "2026-11").await, billed);
    let late = ("acme".to_owned(), Ok((234, 234_000, 23)));
    assert_eq!(all_unbilled(&stack).await, [late]);
}

#[tokio::test]
async fn unbilled_usage_on_a_plan_that_does_not_exist_is_an_error() {
    let stack = Stack::with_plans(NOW, &two_plans(10_000, 10_000));
    stack.calls("acme", "2026-11-22", "pro", 60).await;
    stack.calls("globex", "2026-11-22", "team", 55).await;
    remove_plan(&stack.at, "pro");
    let unknown = Err("plan pro does not exist".to_owned());
    let expected = [
        ("acme".to_owned(), unknown),
        ("globex".to_owned(), Ok((50, 500_000, 50))),
    ];
    assert_eq!(all_unbilled(&stack).await, expected);
}

/// Returns a stack with 120 customers `c-000`, `c-001`, …, with 10 overage calls each.
async fn with_120_customers() -> Stack {
    let stack = Stack::new();
    for n in 0..120 {
        let customer = format!("c-{n:03}");
        stack.calls(&customer, "2026-11-22", "pro", 100_010).await;
    }
    stack
}

#[tokio::test]
async fn all_customers_are_charged_and_the_first_hundred_listed() {
    let stack = with_120_customers().await;
    let report = stack.run(NOW).await;
    assert_eq!(
        (report.billing_periods, report.charge_count, report.failed),
        (120, 120, 0)
    );
    assert_eq!(report.cents, SignedCents(120));
    assert_eq!(reported(&report).len(), 100);
    for n in 0..120 {
        let charges = stack.charges(&format!("c-{n:03}"), "2026-11").await;
        assert_eq!(charges, [(1, 1, 10)], "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_failures_are_counted_and_the_first_hundred_listed() {
    let stack = with_120_customers().await;
    stack.fail("\"c-", Fault::RequestLost);
    let report = run_whole(&stack.app.billing, Mode::Charge).await.unwrap();
    assert_eq!(
        (report.billing_periods, report.charge_count, report.failed),
        (120, 0, 120)
    );
    assert_eq!(report.failures.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn one_customers_failure_is_reported_and_all_others_are_charged() {
    let customers = ["acme", "globex", "initech"];
    let stack = Stack::new();
    for customer in customers {
        stack.calls(customer, "2026-11-22", "pro", 100_100).await;
    }
    stack.fail("globex", Fault::RequestLost);
    let report = run_whole(&stack.app.billing, Mode::Charge).await.unwrap();
    let found = serde_json::to_value(&report).unwrap();
    let failure = json!({
        "customer_id": "globex",
        "month": "2026-11",
        "reason": "the store did not respond",
    });
    assert_eq!(found["failures"], json!([failure]));
    assert_eq!(
        (report.billing_periods, report.charge_count, report.failed),
        (3, 2, 1)
    );
    let expected = BTreeMap::from([("acme", (10, 1, 100)), ("initech", (10, 1, 100))]);
    assert_eq!(reported(&report), expected);

    let failed = stack.try_run(NOW).await.unwrap_err();
    assert!(matches!(failed, BillingRunError::Incomplete(_)));
    let text = "1 billing periods could not be billed; the next run tries again";
    assert_eq!(failed.to_string(), text);

    stack.at.aws.heal();
    let report = stack.run(NOW).await;
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
async fn a_charge_is_not_repeated_if_all_responses_to_its_write_are_lost() {
    let stack = Stack::new();
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    stack.fail("TransactItems", Fault::ResponseLost);
    stack.try_run(NOW).await.unwrap_err();
    assert_eq!(stack.charges("acme", "2026-11").await, [(23, 1, 234)]);
    stack.at.aws.heal();
    let report = stack.run("2026-11-24T02:00:00Z").await;
    assert_eq!((report.billing_periods, report.charge_count), (1, 0));
    assert_eq!(stack.charges("acme", "2026-11").await, [(23, 1, 234)]);
}

#[tokio::test(start_paused = true)]
async fn a_charge_is_reported_by_the_run_that_wrote_it_even_if_a_response_is_lost() {
    let stack = Stack::new();
    stack.calls("acme", "2026-11-22", "pro", 100_234).await;
    let mut lost = false;
    stack.at.aws.inject(move |call| {
        let first = call.operation() == "TransactWriteItems" && !lost;
        lost |= first;
        if first {
            Fault::ResponseLost
        } else {
            Fault::None
        }
    });
    let report = stack.run(NOW).await;
    assert_eq!(reported(&report), BTreeMap::from([("acme", (23, 1, 234))]));
    assert_eq!(stack.charges("acme", "2026-11").await, [(23, 1, 234)]);
}

#[tokio::test(start_paused = true)]
async fn a_month_is_not_closed_while_a_billing_period_of_it_has_failed() {
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
    // A failure keeps its own month open, and no later month.
    stack.fail("globex#2026-10", Fault::RequestLost);
    stack.try_run(now).await.unwrap_err();
    stack.at.aws.heal();
    assert_eq!(closed().await, [false, true, false]);
    assert_eq!(stack.charges("globex", "2026-10").await, NO_CHARGE);
    assert_eq!(stack.charges("globex", "2026-11").await, [(10, 1, 100)]);

    // It keeps no earlier month open, either.
    stack.calls("acme", "2026-10-30", "pro", 100).await;
    stack.fail("globex#2026-12", Fault::RequestLost);
    stack.try_run("2026-12-05T02:00:00Z").await.unwrap_err();
    stack.at.aws.heal();
    assert_eq!(closed().await, [true, true, false]);
    let both = [(10, 1, 100), (10, 101, 200)];
    assert_eq!(stack.charges("acme", "2026-10").await, both);
    assert_eq!(stack.charges("globex", "2026-10").await, [(10, 1, 100)]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_cannot_read_the_list_of_customers_fails_and_the_next_completes_it() {
    let now = "2026-12-04T02:00:00Z";
    let stack = Stack::at(now);
    let customers: Vec<String> = (0..40).map(|n| format!("c-{n}")).collect();
    for customer in &customers {
        stack.calls(customer, "2026-11-22", "pro", 100_100).await;
    }
    stack.fail(r#"{"S":"2026-11#5"}"#, Fault::RequestLost);
    let failed = stack.try_run(now).await.unwrap_err();
    assert!(matches!(failed, BillingRunError::Store(_)), "{failed:?}");
    assert!(!stack.is_closed("2026-11").await);
    let mut charged = 0;
    for customer in &customers {
        charged += stack.charges(customer, "2026-11").await.len();
    }
    assert!((1..40).contains(&charged), "{charged}");

    stack.at.aws.heal();
    let report = stack.run(now).await;
    assert_eq!(report.closed, months(&["2026-11"]));
    for customer in &customers {
        let charges = stack.charges(customer, "2026-11").await;
        assert_eq!(charges, [(10, 1, 100)], "{customer}");
    }
}

/// Returns plans with these cadences, each with ten included calls and a price of a cent.
fn with_cadences() -> Catalog {
    let plan = |id: &str, submission: &str| {
        json!({
            "id": id, "name": id, "requests_per_hour": 1, "fail_mode": "open", "submission": submission,
            "month": { "kind": "overage", "included": 10, "prices": [
                { "from": "2026-01-01", "micro_usd_per_call": 10_000 },
            ] },
        })
    };
    let plans = ["nightly", "weekly", "monthly"].map(|cadence| plan(cadence, cadence));
    Catalog::from_json(&json!(plans).to_string()).unwrap()
}

/// November 2026 begins on a Sunday. Charges add up in between, and the month's close leaves nothing out.
#[tokio::test]
async fn charges_are_made_at_the_cadence_of_the_plan() {
    let stack = Stack::with_plans(NOW, &with_cadences());
    for plan in ["nightly", "weekly", "monthly"] {
        add_customer(&stack.at, plan, plan).await;
        stack.calls(plan, "2026-11-01", plan, 10).await;
    }
    let mut dates = Vec::new();
    for day in 2..=30 {
        dates.push(format!("2026-11-{day:02}"));
    }
    dates.extend((1..=4).map(|day| format!("2026-12-{day:02}")));
    for date in &dates {
        for plan in ["nightly", "weekly", "monthly"] {
            if date.starts_with("2026-11") {
                stack.calls(plan, date, plan, 1).await;
            }
        }
        stack.run(&format!("{date}T02:00:00Z")).await;
    }
    let mut cents = BTreeMap::new();
    for plan in ["nightly", "weekly", "monthly"] {
        let charges = stack.charges(plan, "2026-11").await;
        let of_plan: Vec<i64> = charges.iter().map(|(cents, _, _)| *cents).collect();
        cents.insert(plan, of_plan);
    }
    assert_eq!(cents["nightly"], [1; 29]);
    // On the 2nd, 9th, 16th, 23rd and 30th, all of them Mondays.
    assert_eq!(cents["weekly"], [1, 7, 7, 7, 7]);
    assert_eq!(cents["monthly"], [29]);
    assert!(stack.is_closed("2026-11").await);
}

#[tokio::test]
async fn a_correction_of_a_closed_month_is_credited_and_late_usage_is_not_charged() {
    let stack = Stack::new();
    stack.calls("acme", "2026-11-22", "pro", 100_100).await;
    stack.calls("bolt", "2026-11-22", "pro", 100_100).await;
    stack.run("2026-12-04T02:00:00Z").await;
    assert!(stack.is_closed("2026-11").await);
    let correction = |calls: i64| Adjustment {
        time: p("2026-11-22T12:00:00Z"),
        plan: p("pro"),
        billable_calls: calls,
        micro_usd: 0,
        reason: "counted in error".into(),
    };
    stack.at.time.set(p("2026-12-05T01:00:00Z"));
    adjust(&stack.at, "acme", correction(-40)).await;
    adjust(&stack.at, "bolt", correction(70)).await;
    for now in ["2026-12-05T02:00:00Z", "2026-12-06T02:00:00Z"] {
        let report = stack.run(now).await;
        assert!(!report.months.contains(&p("2026-11")), "{now}");
        let acme = stack.charges("acme", "2026-11").await;
        assert_eq!(acme, [(10, 1, 100), (-4, 61, 100)], "{now}");
        assert_eq!(
            stack.charges("bolt", "2026-11").await,
            [(10, 1, 100)],
            "{now}"
        );
    }
    let late = ("bolt".to_owned(), Ok((70, 70_000, 7)));
    assert_eq!(all_unbilled(&stack).await, [late]);
}

/// The parts add up to the run, whatever their number, and the month closes at the end of the last.
#[tokio::test]
async fn a_run_whose_time_is_over_is_continued() {
    let stack = Stack::new();
    for n in 0..450 {
        stack
            .calls(&format!("c-{n:03}"), "2026-11-22", "pro", 100_010)
            .await;
    }
    stack.at.time.set(p("2026-12-04T02:00:00Z"));
    let (mut from, mut parts, mut charges) = (None, 0, 0);
    loop {
        let part = Part {
            from,
            until: Some(p("2026-12-04T02:00:00Z")),
        };
        let (report, position) = run(&stack.app.billing, Mode::Charge, part).await.unwrap();
        parts += 1;
        charges += report.charge_count;
        let Some(position) = position else {
            break;
        };
        let is_before_the_end = position.month <= p("2026-11");
        assert_ne!(stack.is_closed("2026-11").await, is_before_the_end);
        // As it is on its way to the next invocation.
        let json = serde_json::to_string(&position).unwrap();
        from = Some(serde_json::from_str(&json).unwrap());
    }
    assert!(parts > 1, "{parts}");
    assert_eq!(charges, 450);
    assert!(stack.is_closed("2026-11").await);
}

/// A failure in an earlier part keeps the month open.
#[tokio::test]
async fn a_continued_run_does_not_close_a_month_with_failures() {
    let stack = Stack::new();
    stack.calls("acme", "2026-11-22", "pro", 100_010).await;
    stack.at.time.set(p("2026-12-04T02:00:00Z"));
    let part = Part {
        from: Some(tollgate_billing::Position {
            month: p("2026-11"),
            after: None,
            has_failed: true,
        }),
        until: None,
    };
    let (report, position) = run(&stack.app.billing, Mode::Charge, part).await.unwrap();
    assert_eq!((report.charge_count, position), (1, None));
    assert!(!stack.is_closed("2026-11").await);
    let report = stack.run("2026-12-05T02:00:00Z").await;
    assert!(report.closed.contains(&p("2026-11")));
}

/// Customers whose calls are all included cost a run nothing, until it closes the month.
#[tokio::test]
async fn a_nightly_run_reads_only_customers_with_overage() {
    let stack = Stack::new();
    for n in 0..50 {
        let calls = if n == 7 { 100_010 } else { 100_000 };
        stack
            .calls(&format!("c-{n:02}"), "2026-11-22", "pro", calls)
            .await;
    }
    let report = stack.run(NOW).await;
    assert_eq!((report.billing_periods, report.charge_count), (1, 1));
    let report = stack.run("2026-12-04T02:00:00Z").await;
    assert_eq!((report.billing_periods, report.charge_count), (50, 0));
}
