//! Billing runs: charge customers for overage, each cent once, however often they run. Used by the nightly
//! billing function and by `POST /admin/billing/run`.
//!
//! A billing run reads the months that are still open, computes for each customer what is due, and
//! writes a charge into the ledger. The charge worker submits it to Stripe.

mod due;
mod proof;
mod unbilled;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tollgate_api::billing::{BillingRun, ChargeSummary, FailedPeriod};
use tollgate_domain::billing::{Charge, NotRated, charge_due, may_close, months_to_bill};
use tollgate_domain::id::CustomerId;
use tollgate_domain::money::SignedCents;
use tollgate_domain::page::Page;
use tollgate_domain::plan_book::{Pins, PlanBook};
use tollgate_domain::window::Month;
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Chain, Clock, Env, Init, Metrics, env, metrics};
use tollgate_store::{OverageMark, RecordChargeOutcome, Store, StoreError};

pub use due::{DuePosition, due_charges};
pub use proof::{ProofError, proof};
pub use unbilled::{UnbilledCustomer, UnbilledUsage, unbilled};

/// State of billing in one instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Billing {
    /// The tables.
    pub store: Store,
    /// Clock that decides which months are open.
    pub clock: Clock,
    /// Metrics of billing runs and charges.
    pub metrics: Metrics,
    /// Destination of charges, as reports have it.
    pub destination: &'static str,
}

impl Billing {
    /// Builds billing for a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let (clock, metrics) = (init.clock.clone(), init.metrics.clone());
        Self::new(Store::build(init)?, clock, metrics).configured(&init.env)
    }

    /// Takes the destination of charges from the environment.
    ///
    /// # Errors
    /// When the environment does not say whether there is a secret key of Stripe.
    pub fn configured(mut self, env: &Env) -> Result<Self, InvalidConfig> {
        if !env.get(env::STRIPE_SECRET)?.is_empty() {
            self.destination = "stripe";
        }
        Ok(self)
    }

    /// Creates billing for a new instance, without a destination of charges.
    #[must_use]
    pub fn new(store: Store, clock: Clock, metrics: Metrics) -> Self {
        Self {
            store,
            clock,
            metrics,
            destination: "ledger_only",
        }
    }

    /// Reads the customer's pins to versions of plans. Usage may be of a customer that does not exist.
    async fn pins(&self, customer: &CustomerId) -> Result<Pins, StoreError> {
        let customer = self.store.customer(customer).await?;
        Ok(customer.map(|customer| customer.pins).unwrap_or_default())
    }
}

/// Customers billed at a time.
const CONCURRENCY: usize = 16;
/// Most attempts to charge a customer while concurrent runs charge the same one. Every failed attempt means
/// that another run has written a charge, so the next attempt nearly always succeeds.
const MAX_ATTEMPTS: usize = 10;
/// Most charges, and most failures, that a report lists. It counts all of them.
const MAX_LISTED: usize = 100;
/// Customers per page, at whose end a run whose time is over stops.
const PAGE: i32 = 200;

/// Mode of a billing run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Writes charges into the ledger.
    Charge,
    /// Writes nothing.
    DryRun,
}

/// Error of billing one customer for one month.
#[derive(Debug, thiserror::Error)]
enum NotBilled {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error(transparent)]
    NotRated(#[from] NotRated),
    #[error("concurrent runs kept charging the same customer")]
    Raced,
}

impl NotBilled {
    fn reason(&self) -> String {
        match self {
            NotBilled::Store(error) if error.is_transient() => "the store did not respond".into(),
            NotBilled::Store(_) => "the stored data of the customer cannot be read".into(),
            NotBilled::NotRated(_) | NotBilled::Raced => self.to_string(),
        }
    }
}

/// Position in a billing run that was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Month whose customers the run was charging.
    pub month: Month,
    /// Cursor in the list of these customers.
    pub after: Option<String>,
    /// Whether the month must stay open, because billing periods before the position could not be billed.
    pub has_failed: bool,
}

/// Bounds of a part of a billing run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Position from which the run continues; the beginning if `None`.
    pub from: Option<Position>,
    /// Time at which the part ends, if the run is not finished by then.
    pub until: Option<Timestamp>,
}

/// Bills all customers for all months that are open, and credits corrections of closed ones. If a customer
/// cannot be billed, that is reported, and all others are billed. Returns the position from which the run is to
/// be continued, if its time has run out.
///
/// # Errors
/// When the plans, the months or the list of customers cannot be read. Charges that were created before remain.
pub async fn run(
    billing: &Billing,
    mode: Mode,
    part: Part,
) -> Result<(BillingRun, Option<Position>), StoreError> {
    let mut report = BillingRun {
        dry_run: mode == Mode::DryRun,
        destination: billing.destination,
        ..BillingRun::default()
    };
    let mut running = Running {
        billing,
        plans: Arc::default(),
        mode,
        started: billing.clock.now(),
        until: part.until,
        report: &mut report,
    };
    let outcome = running.bill_months(part.from).await;
    // A run that fails half-way has created some charges.
    if mode == Mode::Charge {
        let metrics = &billing.metrics;
        let cents = report.cents.0.max(0).unsigned_abs();
        metrics.record(metrics::CREATED_CHARGES, &[], report.charge_count);
        metrics.record(metrics::FAILED_BILLING_PERIODS, &[], report.failed);
        metrics.record(metrics::CHARGED_CENTS, &[], cents);
        metrics.write();
    }
    outcome.map(|position| (report, position))
}

/// State of a billing run.
struct Running<'a> {
    billing: &'a Billing,
    plans: Arc<PlanBook>,
    mode: Mode,
    /// Time at which this part has begun, which decides what may close and what is due.
    started: Timestamp,
    until: Option<Timestamp>,
    report: &'a mut BillingRun,
}

/// Stage of a month's billing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The month runs, or its usage may still arrive.
    Open,
    /// The run closes the month. It reads all customers with usage, whether they are marked or not.
    Closing,
    /// The month is closed, and only credits are due.
    Closed,
}

impl Running<'_> {
    async fn bill_months(
        &mut self,
        from: Option<Position>,
    ) -> Result<Option<Position>, StoreError> {
        let store = &self.billing.store;
        // The versions that apply to months which have begun are fixed.
        self.plans = Arc::new(store.plans().await?);
        let mut months = BTreeSet::from(months_to_bill(self.started));
        months.extend(store.months_left_open().await?);
        let mut from = from;
        let first = from.as_ref().map(|position| position.month);
        for month in months {
            if first.is_some_and(|first| month < first) {
                continue;
            }
            let resumed = from.take_if(|position| position.month == month);
            let stage = if store.closed_at(month).await?.is_some() {
                Stage::Closed
            } else if may_close(month, self.started) {
                Stage::Closing
            } else {
                Stage::Open
            };
            if stage != Stage::Closed && !self.report.months.contains(&month) {
                self.report.months.push(month);
            }
            let position = self.bill_month(month, stage, resumed).await?;
            if position.after.is_some() {
                return Ok(Some(position));
            }
            if stage == Stage::Closing && self.mode == Mode::Charge {
                if position.has_failed {
                    // The month stays open until all of its billing periods are billed, however long that takes.
                    store.leave_open(month).await?;
                } else if store.close(month).await? {
                    self.report.closed.push(month);
                }
            }
        }
        Ok(None)
    }

    /// Bills the customers of a month, from a position on. Returns the position at which the time ran out,
    /// without a cursor if all are billed.
    async fn bill_month(
        &mut self,
        month: Month,
        stage: Stage,
        from: Option<Position>,
    ) -> Result<Position, StoreError> {
        let mut position = from.unwrap_or(Position {
            month,
            after: None,
            has_failed: false,
        });
        loop {
            let page = self
                .customers(month, stage, position.after.as_deref())
                .await?;
            let failed_before = self.report.failed;
            self.bill_page(month, stage, page.items).await;
            position.has_failed |= self.report.failed > failed_before;
            position.after = page.next;
            let is_over = self
                .until
                .is_some_and(|until| self.billing.clock.now() >= until);
            if position.after.is_none() || is_over {
                return Ok(position);
            }
        }
    }

    async fn customers(
        &self,
        month: Month,
        stage: Stage,
        after: Option<&str>,
    ) -> Result<Page<CustomerId>, StoreError> {
        let store = &self.billing.store;
        let mark = match stage {
            Stage::Closing => return store.billable_customers(month, after, Some(PAGE)).await,
            Stage::Open => OverageMark::Overage,
            Stage::Closed => OverageMark::LateAdjustment,
        };
        store.marked_customers(mark, month, after, Some(PAGE)).await
    }

    async fn bill_page(&mut self, month: Month, stage: Stage, customers: Vec<CustomerId>) {
        let mut customers = customers.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < CONCURRENCY {
                let Some(customer) = customers.next() else {
                    break;
                };
                let (billing, plans) = (self.billing.clone(), Arc::clone(&self.plans));
                let (mode, started) = (self.mode, self.started);
                running.spawn(async move {
                    let period = (&customer, month, stage);
                    let outcome = bill(&billing, &plans, mode, started, period).await;
                    (customer, outcome)
                });
            }
            match running.join_next().await {
                None => return,
                Some(Ok((customer, outcome))) => add(self.report, customer, month, outcome),
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
    }
}

/// Bills one customer for one month. Returns the charge if one was due.
async fn bill(
    billing: &Billing,
    plans: &PlanBook,
    mode: Mode,
    started: Timestamp,
    (customer, month, stage): (&CustomerId, Month, Stage),
) -> Result<Option<Charge>, NotBilled> {
    // Usage may be of a customer that does not exist.
    let stored = billing.store.customer(customer).await?;
    let pins = stored
        .as_ref()
        .map(|stored| stored.pins.clone())
        .unwrap_or_default();
    let catalog = plans.catalog(month, &pins);
    let plan = stored.and_then(|stored| catalog.get(&stored.plan).cloned());
    let cadence = plan.map(|plan| plan.submission).unwrap_or_default();
    if !cadence.is_due(started, stage != Stage::Open) {
        return Ok(None);
    }
    for _ in 0..MAX_ATTEMPTS {
        let ledger = billing.store.period_ledger(customer, month).await?;
        let days = billing.store.billable_days(customer, month).await?;
        let now = billing.clock.now();
        let due = charge_due(customer, month, &catalog, &days, &ledger, now)?;
        // Usage that was counted after the close is not charged.
        let due = due.filter(|due| stage != Stage::Closed || due.cents < SignedCents(0));
        let Some(charge) = due else {
            return Ok(None);
        };
        if mode == Mode::DryRun {
            return Ok(Some(charge));
        }
        match billing.store.record_charge(&charge, &ledger).await? {
            RecordChargeOutcome::Written => return Ok(Some(charge)),
            RecordChargeOutcome::Raced => {}
        }
    }
    Err(NotBilled::Raced)
}

/// Adds the outcome of one billing period to the report.
fn add(
    report: &mut BillingRun,
    customer_id: CustomerId,
    month: Month,
    outcome: Result<Option<Charge>, NotBilled>,
) {
    report.billing_periods += 1;
    match outcome {
        Ok(None) => {}
        Ok(Some(charge)) => {
            report.charge_count += 1;
            report.cents.0 = report.cents.0.saturating_add(charge.cents.0);
            if report.charges.len() < MAX_LISTED {
                report.charges.push(ChargeSummary {
                    id: charge.id,
                    customer_id,
                    month,
                    cents: charge.cents,
                    from_call: charge.from_call,
                    to_call: charge.to_call,
                    adjusted_calls: charge.adjusted_calls,
                });
            }
        }
        Err(error) => {
            tracing::error!(%customer_id, %month, error = %Chain(&error), "a customer could not be billed");
            report.failed += 1;
            if report.failures.len() < MAX_LISTED {
                report.failures.push(FailedPeriod {
                    customer_id,
                    month,
                    reason: error.reason(),
                });
            }
        }
    }
}
