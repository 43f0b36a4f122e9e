//! A stack with billing on it, usage to bill, and the ledger that comes of it.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;

use billing::{App, ChargeSummary, BillingRunError, Report, handle};
use serde_json::{Value, json};
use tollgate_domain::id::random_base62;
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::{Aggregates, Aggregate};
use tollgate_domain::window::Day;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Fault};
use tollgate_store::{EventPart, LedgerCharge, ShardCounts, StoreError};

/// The night at which most stacks stand.
pub(crate) const NIGHT: &str = "2026-11-23T02:00:00Z";

/// Reads an id, an instant, a month: whatever a literal stands for.
pub(crate) fn p<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(crate) struct Stack {
    pub(crate) at: Fixture,
    pub(crate) app: App,
    /// Reads the metrics that the app writes.
    pub(crate) cloudwatch: CloudWatch,
}

/// A charge as tests compare it: cents, first and last call.
pub(crate) type Short = (u64, u64, u64);

impl Stack {
    pub(crate) fn at(now: &str) -> Self {
        let at = Fixture::at(now);
        let cloudwatch = CloudWatch::default();
        let app = App {
            store: at.store.clone(),
            plans: Catalog::shipped().unwrap(),
            clock: at.clock(),
            metrics: cloudwatch.metrics("test", at.clock()),
        };
        Self {
            at,
            app,
            cloudwatch,
        }
    }

    pub(crate) fn new() -> Self {
        Self::at(NIGHT)
    }

    /// Counts billable calls of a customer, as one entry.
    ///
    /// # Errors
    /// When the store does not answer. The same id, tried again, counts nothing twice.
    pub(crate) async fn try_calls_of(
        &self,
        id: &str,
        customer: &str,
        (day, plan, calls): (&str, &str, u64),
    ) -> Result<(), Arc<StoreError>> {
        let day: Day = p(day);
        let tally = Aggregate {
            calls,
            billable: BTreeMap::from([(p(plan), calls)]),
            ..Aggregate::default()
        };
        let aggregates = Aggregates {
            days: BTreeMap::from([(day, tally.clone())]),
            endpoints: BTreeMap::new(),
            months: BTreeMap::from([(day.month(), tally)]),
        };
        let entry = EventPart {
            source: "tests",
            id,
            part: 0,
            customer: &p(customer),
            aggregates: &aggregates,
            records: 1,
            adjustments: &[],
            refused: &[],
            body: id.as_bytes(),
            received_at: self.app.clock.now(),
        };
        let (store, spread) = (&self.at.store, ShardCounts::default());
        let mut outcomes = store.write_usage(&[entry], &self.app.plans, &spread).await;
        outcomes.pop().unwrap().map(drop)
    }

    /// Counts billable calls of a customer on one day and plan.
    pub(crate) async fn calls(&self, customer: &str, day: &str, plan: &str, calls: u64) {
        let id = self.at.entropy.with(|rng| random_base62(rng, 24));
        let counted = self.try_calls_of(&id, customer, (day, plan, calls)).await;
        counted.unwrap();
    }

    /// The run of the night at `now`.
    pub(crate) async fn try_night(&self, now: &str) -> Result<Report, BillingRunError> {
        self.at.time.set(p(now));
        handle(&self.app).await
    }

    /// The run of the night at `now`, in which nobody is left out.
    pub(crate) async fn night(&self, now: &str) -> Report {
        self.try_night(now).await.unwrap()
    }

    /// What the ledger has on a customer's month, oldest first.
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
        let short = |entry: &LedgerCharge| {
            let intent = &entry.intent;
            (intent.cents.0, intent.from_call, intent.to_call)
        };
        ledger.iter().map(short).collect()
    }

    pub(crate) async fn is_closed(&self, month: &str) -> bool {
        self.at.store.closed_at(p(month)).await.unwrap().is_some()
    }

    /// Lets this happen to all calls that have this in their body, from now on.
    pub(crate) fn fail(&self, containing: &'static str, fault: Fault) {
        self.at.aws.inject(move |call| {
            if call.body.contains(containing) {
                fault
            } else {
                Fault::None
            }
        });
    }

    /// All items of the ledger, as DynamoDB JSON.
    pub(crate) fn everything_billed(&self) -> Vec<Value> {
        let mut items = Vec::new();
        let mut request = json!({ "TableName": "test-billing" });
        loop {
            let answer = self
                .at
                .aws
                .answer("DynamoDB_20120810.Scan", &request.to_string());
            assert_eq!(answer.0, 200, "{}", answer.1);
            let mut page: Value = serde_json::from_str(&answer.1).unwrap();
            items.append(page["Items"].as_array_mut().unwrap());
            match page.get("LastEvaluatedKey") {
                Some(last) => request["ExclusiveStartKey"] = last.clone(),
                None => return items,
            }
        }
    }

    /// The ledger has each cent of this overage once: the sum is the overage rounded once, the
    /// charges are numbered one after another, and each begins with the call after the last one's.
    pub(crate) async fn assert_each_cent_once(
        &self,
        customer: &str,
        month: &str,
        over: u64,
        when: &str,
    ) {
        let (mut cents, mut calls, mut number) = (0, 0, 0);
        for LedgerCharge { intent, status } in self.ledger(customer, month).await {
            let at = format!("{when}: {intent:?}");
            number += 1;
            assert_eq!(intent.number, number, "{at}");
            assert_eq!(
                intent.id,
                format!("ci_{customer}_{month}_{number:04}"),
                "{at}"
            );
            assert_eq!(intent.from_call, calls + 1, "{at}");
            assert!(intent.to_call >= intent.from_call, "{at}");
            assert!(intent.cents.0 > 0, "{at}");
            assert_eq!(status, "ledger_only", "{at}");
            cents += intent.cents.0;
            calls = intent.to_call;
            assert_eq!(cents, cents_of(calls), "{at}");
        }
        assert!(calls <= over, "{when}: {calls} calls charged of {over}");
        assert_eq!(cents, cents_of(over), "{when}: {customer} {month}");
        let account = self.at.store.charged(&p(customer), p(month)).await.unwrap();
        let account = (account.charges, account.cents.0, account.over_calls);
        assert_eq!(
            account,
            (number, cents, calls),
            "{when}: {customer} {month}"
        );
    }
}

/// What that many calls on `pro` beyond the included ones cost: a tenth of a cent each, rounded
/// half up.
pub(crate) fn cents_of(over: u64) -> u64 {
    (over + 5) / 10
}

/// The charges of a report, by customer.
pub(crate) fn reported(report: &Report) -> BTreeMap<&str, Short> {
    let short = |charge: &ChargeSummary| (charge.cents.0, charge.from_call, charge.to_call);
    let mut reported = BTreeMap::new();
    for charge in &report.charges {
        let before = reported.insert(charge.customer_id.as_str(), short(charge));
        assert!(before.is_none(), "{} is charged twice", charge.customer_id);
    }
    reported
}
