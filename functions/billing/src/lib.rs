//! Billing: charges what every customer owes for overage, each cent once, however often it runs.
//!
//! A run reads the months that are still open, computes for each customer what is due, and writes
//! a charge into the ledger. No payment provider is configured in this release, so charges stay in
//! the ledger, marked `ledger_only`.

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
use tollgate_store::{Recorded, Store, StoreError};

pub use unbilled::{AtStake, Stake, unbilled};

/// What billing works with.
#[derive(Debug, Clone)]
pub struct App {
    /// Usage and ledger.
    pub store: Store,
    /// What calls cost.
    pub plans: Catalog,
    /// Decides which months are open.
    pub clock: Clock,
    /// Charges are counted here.
    pub metrics: Metrics,
}

/// Customers billed at a time.
const CONCURRENCY: usize = 16;
/// How often a customer's charge is computed afresh when another run charged them meanwhile. Each
/// time another run has made progress, so that one more computation is nearly always the last.
const MAX_RACES: usize = 10;
/// Charges and failures that a report names; it counts them all.
const MAX_NAMED: usize = 100;

/// Whether a run charges, or only says what it would charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Writes charges into the ledger.
    Charge,
    /// Writes nothing.
    DryRun,
}

/// What a run did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// True if nothing was written.
    pub dry_run: bool,
    /// The months that were open.
    pub months: Vec<Month>,
    /// The months that this run closed.
    pub closed: Vec<Month>,
    /// Customers with billable usage, once for each month.
    pub billing_periods: u64,
    /// Charges made, or that would be.
    pub charged: u64,
    /// Their sum.
    pub cents: Cents,
    /// Customers who could not be billed, once for each month. The next run tries again.
    pub failed: u64,
    /// Where the charges go: `ledger_only` while no payment provider is configured.
    pub destination: &'static str,
    /// The charges, or the first hundred.
    pub charges: Vec<ChargeSummary>,
    /// The failures, or the first hundred.
    pub failures: Vec<Failure>,
}

/// A charge in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChargeSummary {
    /// The same for the same charge, whoever makes it.
    pub id: String,
    /// Who pays.
    pub customer_id: CustomerId,
    /// For which month.
    pub month: Month,
    /// How much.
    pub cents: Cents,
    /// The first overage call it covers, from 1.
    pub from_call: u64,
    /// The last one.
    pub to_call: u64,
    /// What adjustments had added to the month's billable calls, or taken away.
    pub adjusted_calls: i64,
}

/// A failure in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Who could not be billed.
    pub customer_id: CustomerId,
    /// For which month.
    pub month: Month,
    /// Why, in general words; the log has the details.
    pub reason: String,
}

/// Some customers could not be billed; all others were.
#[derive(Debug, thiserror::Error)]
#[error("{0} billing periods could not be billed; the next run tries again")]
pub struct Incomplete(u64);

/// Why one customer could not be billed.
#[derive(Debug, thiserror::Error)]
enum NotBilled {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error(transparent)]
    UnknownPlan(#[from] UnknownPlan),
    #[error("other runs kept charging the same customer")]
    Raced,
}

impl NotBilled {
    fn reason(&self) -> String {
        match self {
            NotBilled::Store(error) if error.is_transient() => "the store did not answer".into(),
            NotBilled::Store(_) => "what is stored of the customer cannot be used".into(),
            NotBilled::UnknownPlan(_) | NotBilled::Raced => self.to_string(),
        }
    }
}

/// Why a run, or one by the schedule, fails as a whole.
#[derive(Debug, thiserror::Error)]
pub enum BillingRunError {
    /// The list of customers could not be read.
    #[error("the run could not be finished")]
    Store(#[from] StoreError),
    /// Some customers could not be billed.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
}

/// A run by the schedule. It fails when anyone could not be billed, so that Lambda runs it again
/// and an alarm can see it.
///
/// # Errors
/// When the run could not be finished, or not for everyone.
pub async fn handle(app: &App) -> Result<Report, BillingRunError> {
    let report = run(app, Mode::Charge).await?;
    app.metrics.record(metrics::BILLING_RUNS, &[], 1);
    app.metrics.write();
    tracing::info!(
        billing_periods = report.billing_periods,
        charged = report.charged,
        cents = report.cents.0,
        failed = report.failed,
        "billing ran"
    );
    if report.failed > 0 {
        return Err(Incomplete(report.failed).into());
    }
    Ok(report)
}

/// Bills everyone for every month that is open. One customer's failure is reported, and stops
/// nobody else's bill.
///
/// # Errors
/// When the list of customers cannot be read to its end; charges made before that stand.
pub async fn run(app: &App, mode: Mode) -> Result<Report, StoreError> {
    let mut report = Report {
        dry_run: mode == Mode::DryRun,
        destination: "ledger_only",
        ..Report::default()
    };
    let outcome = bill_months(app, mode, &mut report).await;
    // A run that ends early has charged some already.
    if mode == Mode::Charge {
        let metrics = &app.metrics;
        metrics.record(metrics::CHARGES_CREATED, &[], report.charged);
        metrics.record(metrics::CHARGES_FAILED, &[], report.failed);
        metrics.record(metrics::CENTS_CHARGED, &[], report.cents.0);
        metrics.write();
    }
    outcome.map(|()| report)
}

async fn bill_months(app: &App, mode: Mode, report: &mut Report) -> Result<(), StoreError> {
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
            // Whoever is left to bill in it is, however long that takes.
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
    report: &mut Report,
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

/// Bills one customer for one month: the charge, if one was due.
async fn bill(
    app: &App,
    mode: Mode,
    customer: &CustomerId,
    month: Month,
) -> Result<Option<Charge>, NotBilled> {
    for _ in 0..MAX_RACES {
        let charged = app.store.charged(customer, month).await?;
        let days = app.store.billable_days(customer, month).await?;
        let now = app.clock.now();
        let due = charge_due(customer, month, &app.plans, &days, &charged, now)?;
        let Some(intent) = due else {
            return Ok(None);
        };
        if mode == Mode::DryRun {
            return Ok(Some(intent));
        }
        match app.store.record_charge(&intent, &charged).await? {
            Recorded::Written => return Ok(Some(intent)),
            Recorded::Raced => {}
        }
    }
    Err(NotBilled::Raced)
}

impl Report {
    fn add(
        &mut self,
        customer_id: CustomerId,
        month: Month,
        outcome: Result<Option<Charge>, NotBilled>,
    ) {
        self.billing_periods += 1;
        match outcome {
            Ok(None) => {}
            Ok(Some(intent)) => {
                self.charged += 1;
                self.cents.0 += intent.cents.0;
                if self.charges.len() < MAX_NAMED {
                    self.charges.push(ChargeSummary {
                        id: intent.id,
                        customer_id,
                        month,
                        cents: intent.cents,
                        from_call: intent.from_call,
                        to_call: intent.to_call,
                        adjusted_calls: intent.adjusted_calls,
                    });
                }
            }
            Err(error) => {
                tracing::error!(%customer_id, %month, error = %Chain(&error), "not billed");
                self.failed += 1;
                if self.failures.len() < MAX_NAMED {
                    self.failures.push(Failure {
                        customer_id,
                        month,
                        reason: error.reason(),
                    });
                }
            }
        }
    }
}
