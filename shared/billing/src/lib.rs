//! Billing runs: charge customers for overage, each cent once, however often they run. Used by the nightly
//! billing function and by `POST /admin/billing/run`.
//!
//! A billing run reads the months that are still open, computes for each customer what is due, and
//! writes a charge into the ledger. No payment provider is configured in this release, so charges stay
//! in the ledger, `pending`.

mod unbilled;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use tollgate_api::billing::{BillingRun, ChargeSummary, FailedPeriod};
use tollgate_domain::billing::{Charge, UnknownPlan, charge_due, may_close, months_to_bill};
use tollgate_domain::id::CustomerId;
use tollgate_domain::plan_book::{Pins, PlanBook};
use tollgate_domain::window::Month;
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Chain, Clock, Init, Metrics, metrics};
use tollgate_store::{RecordChargeOutcome, Store, StoreError};

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
}

impl Billing {
    /// Builds billing for a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let (clock, metrics) = (init.clock.clone(), init.metrics.clone());
        Ok(Self::new(Store::build(init)?, clock, metrics))
    }

    /// Creates billing for a new instance.
    #[must_use]
    pub fn new(store: Store, clock: Clock, metrics: Metrics) -> Self {
        Self {
            store,
            clock,
            metrics,
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
    UnknownPlan(#[from] UnknownPlan),
    #[error("concurrent runs kept charging the same customer")]
    Raced,
}

impl NotBilled {
    fn reason(&self) -> String {
        match self {
            NotBilled::Store(error) if error.is_transient() => "the store did not respond".into(),
            NotBilled::Store(_) => "the stored data of the customer cannot be read".into(),
            NotBilled::UnknownPlan(_) | NotBilled::Raced => self.to_string(),
        }
    }
}

/// Bills all customers for all months that are open. If a customer cannot be billed, that is reported, and
/// all others are billed.
///
/// # Errors
/// When the plans, the months or the list of customers cannot be read. Charges that were created before remain.
pub async fn run(billing: &Billing, mode: Mode) -> Result<BillingRun, StoreError> {
    let mut report = BillingRun {
        dry_run: mode == Mode::DryRun,
        destination: "ledger_only",
        ..BillingRun::default()
    };
    let outcome = bill_months(billing, mode, &mut report).await;
    // A run that fails half-way has created some charges.
    if mode == Mode::Charge {
        let metrics = &billing.metrics;
        metrics.record(metrics::CREATED_CHARGES, &[], report.charge_count);
        metrics.record(metrics::FAILED_BILLING_PERIODS, &[], report.failed);
        metrics.record(
            metrics::CHARGED_CENTS,
            &[],
            report.cents.0.max(0).unsigned_abs(),
        );
        metrics.write();
    }
    outcome.map(|()| report)
}

async fn bill_months(
    billing: &Billing,
    mode: Mode,
    report: &mut BillingRun,
) -> Result<(), StoreError> {
    let now = billing.clock.now();
    // The versions that apply to months which have begun are fixed.
    let plans = Arc::new(billing.store.plans().await?);
    let mut months = BTreeSet::from(months_to_bill(now));
    months.extend(billing.store.months_left_open().await?);
    for month in months {
        if billing.store.closed_at(month).await?.is_some() {
            continue;
        }
        report.months.push(month);
        let failed_before = report.failed;
        bill_month(billing, &plans, mode, month, report).await?;
        let complete = report.failed == failed_before;
        match mode {
            Mode::Charge if may_close(month, now) && complete => {
                if billing.store.close(month).await? {
                    report.closed.push(month);
                }
            }
            // The month stays open until all of its billing periods are billed, however long that takes.
            Mode::Charge if may_close(month, now) => billing.store.leave_open(month).await?,
            Mode::Charge | Mode::DryRun => {}
        }
    }
    Ok(())
}

async fn bill_month(
    billing: &Billing,
    plans: &Arc<PlanBook>,
    mode: Mode,
    month: Month,
    report: &mut BillingRun,
) -> Result<(), StoreError> {
    let mut after: Option<String> = None;
    loop {
        let page = billing
            .store
            .billable_customers(month, after.as_deref(), None);
        let page = page.await?;
        let mut customers = page.items.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < CONCURRENCY {
                let Some(customer) = customers.next() else {
                    break;
                };
                let (billing, plans) = (billing.clone(), Arc::clone(plans));
                running.spawn(async move {
                    let outcome = bill(&billing, &plans, mode, &customer, month).await;
                    (customer, outcome)
                });
            }
            match running.join_next().await {
                None => break,
                Some(Ok((customer, outcome))) => add(report, customer, month, outcome),
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Bills one customer for one month. Returns the charge if one was due.
async fn bill(
    billing: &Billing,
    plans: &PlanBook,
    mode: Mode,
    customer: &CustomerId,
    month: Month,
) -> Result<Option<Charge>, NotBilled> {
    let plans = plans.catalog(month, &billing.pins(customer).await?);
    for _ in 0..MAX_ATTEMPTS {
        let ledger = billing.store.period_ledger(customer, month).await?;
        let days = billing.store.billable_days(customer, month).await?;
        let now = billing.clock.now();
        let due = charge_due(customer, month, &plans, &days, &ledger, now)?;
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
