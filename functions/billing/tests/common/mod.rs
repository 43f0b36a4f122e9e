//! A stack with billing, usage to bill, and the resulting ledger.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::{App, BillingRunError, handle};
use serde_json::Value;
use tollgate_api::billing::{BillingRun, ChargeSummary};
use tollgate_billing::{Billing, Mode, Part, run};

use tollgate_domain::id::random_base62;
use tollgate_domain::money::Cents;
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::submission::{ChargeState, LedgerCharge};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Fault};
use tollgate_runtime::Init;
use tollgate_store::schema::BILLING;
use tollgate_store::{ShardCounts, StoreError};
use tollgate_testing::faults::fail_containing;
use tollgate_testing::init::init;
pub(crate) use tollgate_testing::p;
use tollgate_testing::seed::seed_plans;
use tollgate_testing::stored::{items, text};
use tollgate_testing::usage::{self, event_part};

/// Time of most stacks: that of a nightly billing run.
pub(crate) const NOW: &str = "2026-11-23T02:00:00Z";

pub(crate) struct Stack {
    pub(crate) at: Fixture,
    pub(crate) app: App,
    /// The plans on which usage is counted. They may be more than those in the store.
    plans: PlanBook,
    /// Reads the metrics that the app writes.
    pub(crate) cloudwatch: CloudWatch,
}

/// Short form of a charge: cents, first and last overage call.
pub(crate) type Short = (i64, u64, u64);

impl Stack {
    pub(crate) fn at(now: &str) -> Self {
        Self::with_plans(now, &Catalog::shipped().unwrap())
    }

    pub(crate) fn with_plans(now: &str, plans: &Catalog) -> Self {
        let at = Fixture::at(now);
        seed_plans(&at, plans);
        let cloudwatch = CloudWatch::default();
        let init = Init {
            metrics: cloudwatch.metrics("test", at.clock()),
            ..init(&at, "BillingFunction")
        };
        let app = App::build(&init).unwrap();
        Self {
            plans: PlanBook::from_catalog(plans, p(now)),
            at,
            app,
            cloudwatch,
        }
    }

    pub(crate) fn new() -> Self {
        Self::at(NOW)
    }

    /// Counts billable calls of a customer, as one usage event.
    ///
    /// # Errors
    /// When the store fails. A retry with the same id counts nothing twice.
    pub(crate) async fn try_calls_of(
        &self,
        id: &str,
        customer: &str,
        (day, plan, calls): (&str, &str, u64),
    ) -> Result<(), Arc<StoreError>> {
        let aggregates = usage::on_day(day, usage::calls(plan, calls));
        let customer = p(customer);
        let event = event_part(id, &customer, &aggregates, self.app.billing.clock.now());
        let (store, shard_counts) = (&self.at.store, ShardCounts::default());
        let mut outcomes = store
            .write_usage(&[event], &self.plans, &shard_counts, usage::COUNTING_TIME)
            .await;
        outcomes.pop().unwrap().map(drop)
    }

    /// Counts billable calls of a customer on one day and plan.
    pub(crate) async fn calls(&self, customer: &str, day: &str, plan: &str, calls: u64) {
        let id = self.at.entropy.with(|rng| random_base62(rng, 24));
        let counted = self.try_calls_of(&id, customer, (day, plan, calls)).await;
        counted.unwrap();
    }

    /// Handles the nightly schedule at `now`.
    pub(crate) async fn try_run(&self, now: &str) -> Result<BillingRun, BillingRunError> {
        self.at.time.set(p(now));
        handle(&self.app, &Value::Null, None).await
    }

    /// Handles the nightly schedule at `now`, which must succeed.
    pub(crate) async fn run(&self, now: &str) -> BillingRun {
        self.try_run(now).await.unwrap()
    }

    /// Reads all charges of a customer's month, oldest first.
    pub(crate) async fn ledger(&self, customer: &str, month: &str) -> Vec<LedgerCharge> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            let page = self.at.store.charges(&p(customer), p(month), from).await;
            let page = page.unwrap();
            all.extend(page.items);
            match page.next {
                Some(next) => from = p(&next),
                None => return all,
            }
        }
    }

    pub(crate) async fn charges(&self, customer: &str, month: &str) -> Vec<Short> {
        let ledger = self.ledger(customer, month).await;
        let short = |LedgerCharge { charge, .. }: &LedgerCharge| {
            (charge.cents.0, charge.from_call, charge.to_call)
        };
        ledger.iter().map(short).collect()
    }

    pub(crate) async fn is_closed(&self, month: &str) -> bool {
        self.at.store.closed_at(p(month)).await.unwrap().is_some()
    }

    /// Injects a fault into all calls whose body contains this text, from now on.
    pub(crate) fn fail(&self, containing: &'static str, fault: Fault) {
        fail_containing(&self.at.aws, containing, fault);
    }

    /// Reads all items of the billing table but the plans, as DynamoDB JSON.
    pub(crate) fn billing_items(&self) -> Vec<Value> {
        let mut items = items(&self.at, BILLING);
        items.retain(|item| text(item, "pk") != "PLANS");
        items
    }

    /// Asserts that the ledger has each cent of this overage once: the sum of the charges is the overage
    /// rounded once, they are numbered consecutively, and each begins with the call after the last one of
    /// the charge before.
    pub(crate) async fn assert_each_cent_once(
        &self,
        customer: &str,
        month: &str,
        overage_calls: u64,
        when: &str,
    ) {
        let (mut cents, mut calls, mut number) = (0_i64, 0, 0);
        for LedgerCharge { charge, state, .. } in self.ledger(customer, month).await {
            let at = format!("{when}: {charge:?}");
            number += 1;
            assert_eq!(charge.number, number, "{at}");
            assert_eq!(
                charge.id,
                format!("ci_{customer}_{month}_{number:04}"),
                "{at}"
            );
            assert_eq!(charge.from_call, calls + 1, "{at}");
            assert!(charge.to_call >= charge.from_call, "{at}");
            assert!(charge.cents.0 > 0, "{at}");
            assert_eq!(state, ChargeState::Pending, "{at}");
            cents += charge.cents.0;
            calls = charge.to_call;
            assert_eq!(cents, cents_of(calls), "{at}");
        }
        assert!(
            calls <= overage_calls,
            "{when}: {calls} calls charged of {overage_calls}"
        );
        assert_eq!(cents, cents_of(overage_calls), "{when}: {customer} {month}");
        let ledger = self
            .at
            .store
            .period_ledger(&p(customer), p(month))
            .await
            .unwrap();
        let ledger = (ledger.charge_count, ledger.cents, ledger.overage_calls);
        let cents = Cents(cents.unsigned_abs());
        assert_eq!(ledger, (number, cents, calls), "{when}: {customer} {month}");
    }
}

/// Returns the cost of overage calls on `pro`: a tenth of a cent each, rounded half up.
pub(crate) fn cents_of(overage_calls: u64) -> i64 {
    i64::try_from((overage_calls + 5) / 10).unwrap()
}

/// Returns the charges of a report, by customer.
pub(crate) fn reported(report: &BillingRun) -> BTreeMap<&str, Short> {
    let short = |charge: &ChargeSummary| (charge.cents.0, charge.from_call, charge.to_call);
    let mut reported = BTreeMap::new();
    for charge in &report.charges {
        let before = reported.insert(charge.customer_id.as_str(), short(charge));
        assert!(before.is_none(), "{} is charged twice", charge.customer_id);
    }
    reported
}

/// Runs billing in one part.
///
/// # Errors
/// When the run fails.
pub(crate) async fn run_whole(billing: &Billing, mode: Mode) -> Result<BillingRun, StoreError> {
    let (report, position) = run(billing, mode, Part::default()).await?;
    assert_eq!(position, None, "a run without an end is not interrupted");
    Ok(report)
}
