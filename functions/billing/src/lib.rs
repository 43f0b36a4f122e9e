//! Billing: charges customers for overage, each cent once, however often it runs.
//!
//! A billing run reads the months that are still open, computes for each customer what is due, and
//! writes a charge into the ledger. No payment provider is configured in this release, so charges stay
//! in the ledger with the status `ledger_only`.

mod unbilled;

use std::collections::BTreeSet;

use serde::Serialize;
use tokio::task::JoinSet;
use tollgate_domain::billing::{Charge, UnknownPlan, charge_due, may_close, months_to_bill};
use tollgate_domain::id::CustomerId;
use tollgate_domain::money::Cents;
use tollgate_domain::plan::Catalog;
use tollgate_domain::window::Month;
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::{RecordChargeOutcome, Store, StoreError};

pub use unbilled::{UnbilledCustomer, UnbilledUsage, unbilled};

/// State of a billing instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// The plans, with the prices of calls.
    pub plans: Catalog,
    /// Clock that decides which months are open.
    pub clock: Clock,
    /// Metrics of billing runs and charges.
    pub metrics: Metrics,
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

/// Result of a billing run.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunReport {
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Months that were open.
    pub months: Vec<Month>,
    /// Months that this run closed.
    pub closed: Vec<Month>,
    /// Billing periods with billable usage: one for each customer and month.
    pub billing_periods: u64,
    /// Charges created, or in a dry run, charges that would be.
    pub charge_count: u64,
    /// Sum of these charges.
    pub cents: Cents,
    /// Billing periods that could not be billed. The next run tries them again.
    pub failed: u64,
    /// Destination of the charges: `ledger_only` while no payment provider is configured.
    pub destination: &'static str,
    /// The first hundred charges.
    pub charges: Vec<ChargeSummary>,
    /// The first hundred failures.
    pub failures: Vec<FailedPeriod>,
}

/// A charge in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChargeSummary {
    /// Id, which every run computes the same.
    pub id: String,
    /// Customer who pays.
    pub customer_id: CustomerId,
    /// Month of the usage.
    pub month: Month,
    /// Amount.
    pub cents: Cents,
    /// Number of the first overage call that the charge covers, from 1.
    pub from_call: u64,
    /// Number of the last overage call that the charge covers.
    pub to_call: u64,
    /// Sum of the adjustments of the month's billable calls when the charge was made.
    pub adjusted_calls: i64,
}

/// A billing period in a report that could not be billed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedPeriod {
    /// Customer who could not be billed.
    pub customer_id: CustomerId,
    /// Month of the usage.
    pub month: Month,
    /// Reason in general terms. The log has the details.
    pub reason: String,
}

/// Error of a billing run in which some billing periods could not be billed. All others were.
#[derive(Debug, thiserror::Error)]
#[error("{0} billing periods could not be billed; the next run tries again")]
pub struct Incomplete(u64);

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

/// Error of a scheduled billing run.
#[derive(Debug, thiserror::Error)]
pub enum BillingRunError {
    /// The list of customers could not be read.
    #[error("the run could not be finished")]
    Store(#[from] StoreError),
    /// Some customers could not be billed.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
}

/// Handles the nightly schedule: runs billing. Fails if any billing period could not be billed, so that
/// Lambda retries the run and an alarm is raised.
///
/// # Errors
/// When the run could not be finished, or some billing periods could not be billed.
pub async fn handle(app: &App) -> Result<RunReport, BillingRunError> {
    let report = run(app, Mode::Charge).await?;
    app.metrics.record(metrics::BILLING_RUNS, &[], 1);
    app.metrics.write();
    tracing::info!(
        billing_periods = report.billing_periods,
        charge_count = report.charge_count,
        cents = report.cents.0,
        failed = report.failed,
        "billing run finished"
    );
    if report.failed > 0 {
        return Err(Incomplete(report.failed).into());
    }
    Ok(report)
}

/// Bills all customers for all months that are open. If a customer cannot be billed, that is reported, and
/// all others are billed.
///
/// # Errors
/// When the months or the list of customers cannot be read. Charges that were created before remain.
pub async fn run(app: &App, mode: Mode) -> Result<RunReport, StoreError> {
    let mut report = RunReport {
        dry_run: mode == Mode::DryRun,
        destination: "ledger_only",
        ..RunReport::default()
    };
    let outcome = bill_months(app, mode, &mut report).await;
    // A run that fails half-way has created some charges.
    if mode == Mode::Charge {
        let metrics = &app.metrics;
        metrics.record(metrics::CREATED_CHARGES, &[], report.charge_count);
        metrics.record(metrics::FAILED_BILLING_PERIODS, &[], report.failed);
        metrics.record(metrics::CHARGED_CENTS, &[], report.cents.0);
        metrics.write();
    }
    outcome.map(|()| report)
}

async fn bill_months(app: &App, mode: Mode, report: &mut RunReport) -> Result<(), StoreError> {
    let now = app.clock.now();
    let mut months = BTreeSet::from(months_to_bill(now));
    months.extend(app.store.months_left_open().await?);
    for month in months {
        if app.store.closed_at(month).await?.is_some() {
            continue;
        }
        report.months.push(month);
        let failed_before = report.failed;
        bill_month(app, mode, month, report).await?;
        let complete = report.failed == failed_before;
        match mode {
            Mode::Charge if may_close(month, now) && complete => {
                if app.store.close(month).await? {
                    report.closed.push(month);
                }
            }
            // The month stays open until all of its billing periods are billed, however long that takes.
            Mode::Charge if may_close(month, now) => app.store.leave_open(month).await?,
            Mode::Charge | Mode::DryRun => {}
        }
    }
    Ok(())
}

async fn bill_month(
    app: &App,
    mode: Mode,
    month: Month,
    report: &mut RunReport,
) -> Result<(), StoreError> {
    let mut after: Option<String> = None;
    loop {
        let page = app.store.billable_customers(month, after.as_deref(), None);
        let page = page.await?;
        let mut customers = page.items.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < CONCURRENCY {
                let Some(customer) = customers.next() else {
                    break;
                };
                let app = app.clone();
                running.spawn(async move {
                    let outcome = bill(&app, mode, &customer, month).await;
                    (customer, outcome)
                });
            }
            match running.join_next().await {
                None => break,
                Some(Ok((customer, outcome))) => report.add(customer, month, outcome),
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
    app: &App,
    mode: Mode,
    customer: &CustomerId,
    month: Month,
) -> Result<Option<Charge>, NotBilled> {
    for _ in 0..MAX_ATTEMPTS {
        let ledger = app.store.period_ledger(customer, month).await?;
        let days = app.store.billable_days(customer, month).await?;
        let now = app.clock.now();
        let due = charge_due(customer, month, &app.plans, &days, &ledger, now)?;
        let Some(charge) = due else {
            return Ok(None);
        };
        if mode == Mode::DryRun {
            return Ok(Some(charge));
        }
        match app.store.record_charge(&charge, &ledger).await? {
            RecordChargeOutcome::Written => return Ok(Some(charge)),
            RecordChargeOutcome::Raced => {}
        }
    }
    Err(NotBilled::Raced)
}

impl RunReport {
    fn add(
        &mut self,
        customer_id: CustomerId,
        month: Month,
        outcome: Result<Option<Charge>, NotBilled>,
    ) {
        self.billing_periods += 1;
        match outcome {
            Ok(None) => {}
            Ok(Some(charge)) => {
                self.charge_count += 1;
                self.cents.0 += charge.cents.0;
                if self.charges.len() < MAX_LISTED {
                    self.charges.push(ChargeSummary {
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
                self.failed += 1;
                if self.failures.len() < MAX_LISTED {
                    self.failures.push(FailedPeriod {
                        customer_id,
                        month,
                        reason: error.reason(),
                    });
                }
            }
        }
    }
}
