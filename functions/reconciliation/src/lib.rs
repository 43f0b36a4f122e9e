//! Reconciliation: compares the admitted calls with the metered calls of each customer and day. One ledger
//! alone cannot distinguish a day without calls from a day whose calls were lost.
//!
//! Admitted calls are read from the hourly quota counters of the customer's keys, metered calls from the
//! aggregate of the day. Customers without keys have no admitted calls, and are left out.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio::task::JoinSet;
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::key::{KeyRecord, Owner};
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::window::Day;
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Clock, Init, Metrics, metrics};
use tollgate_store::{ReconciliationSummary, Store, StoreError};

/// State of a reconciliation instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// Clock that decides which day was yesterday.
    pub clock: Clock,
    /// Metrics of discrepancies.
    pub metrics: Metrics,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        Ok(Self {
            store: Store::build(init)?,
            clock: init.clock.clone(),
            metrics: init.metrics.clone(),
        })
    }
}

/// Customers compared at a time.
const CONCURRENCY: usize = 16;
/// Keys read at a time.
const PAGE: usize = 100;

/// Result of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReconciliationReport {
    /// The UTC day.
    pub day: Day,
    /// Customers with calls in either ledger.
    pub customers: u64,
    /// Admitted calls.
    pub admitted: u64,
    /// Metered calls.
    pub metered: u64,
    /// Customers whose ledgers differ by more than is tolerated.
    pub discrepancies: u64,
}

/// Handles the nightly schedule: compares the ledgers of yesterday. Records in a metric that the run has
/// finished, so that an alarm can be raised when none does.
///
/// # Errors
/// When the store fails. A retry starts from the beginning.
pub async fn handle(app: &App) -> Result<ReconciliationReport, StoreError> {
    let today = Day::containing(app.clock.now());
    let report = run(app, today.previous()).await?;
    app.metrics.record(metrics::RECONCILIATION_RUNS, &[], 1);
    app.metrics.write();
    Ok(report)
}

/// Compares the ledgers of a day. This must be done within two days after it: counters are kept no longer.
///
/// # Errors
/// When the store fails. A retry starts from the beginning.
pub async fn run(app: &App, day: Day) -> Result<ReconciliationReport, StoreError> {
    app.store.clear_reconciliation(day).await?;
    let mut found = Found::default();
    let mut running = JoinSet::new();
    let mut after: Option<String> = None;
    // Keys are listed by customer, and the keys of a customer may continue on the next page. A key and its
    // successors share their hourly counters, which must be added once.
    let mut open: Option<(CustomerId, BTreeSet<KeyId>)> = None;
    loop {
        let page = app.store.list_keys(None, after.as_deref(), PAGE).await?;
        for (_, key) in page.items {
            let Some(customer) = customer_of(&key, day) else {
                continue;
            };
            let counter = key.hour_counter_id().clone();
            match &mut open {
                Some((current, counters)) if current == customer => {
                    counters.insert(counter);
                }
                _ => {
                    let next = (customer.clone(), BTreeSet::from([counter]));
                    if let Some((customer, counters)) = open.replace(next) {
                        app.compare(&mut running, &mut found, day, customer, counters)
                            .await?;
                    }
                }
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if let Some((customer, counters)) = open {
        app.compare(&mut running, &mut found, day, customer, counters)
            .await?;
    }
    while !running.is_empty() {
        app.record_next(&mut running, &mut found, day).await?;
    }
    app.store.record_reconciled(day, &found.summary).await?;
    app.metrics
        .record(metrics::UNMETERED_CALLS, &[], found.unmetered);
    app.metrics
        .record(metrics::UNADMITTED_CALLS, &[], found.unadmitted);
    app.metrics
        .record(metrics::SILENT_CUSTOMERS, &[], found.silent);
    app.metrics.write();
    let ReconciliationSummary {
        customers,
        total,
        discrepancies,
    } = found.summary;
    let LedgerComparison { admitted, metered } = total;
    tracing::info!(%day, customers, admitted, metered, discrepancies, "reconciliation finished");
    Ok(ReconciliationReport {
        day,
        customers,
        admitted,
        metered,
        discrepancies,
    })
}

/// Returns the customer of a key that could be used on that day.
fn customer_of(key: &KeyRecord, day: Day) -> Option<&CustomerId> {
    let ended = [key.revoked_at, key.expires_at].into_iter().flatten().min();
    // A key that was revoked just before midnight may have been used after it, because the authorizer caches
    // keys.
    let has_ended_before = ended.is_some_and(|ended| Day::containing(ended) < day.previous());
    match &key.owner {
        Owner::Customer(customer)
            if !has_ended_before && Day::containing(key.created_at) <= day =>
        {
            Some(customer)
        }
        _ => None,
    }
}

/// Intermediate result of a run.
#[derive(Default)]
struct Found {
    summary: ReconciliationSummary,
    unmetered: u64,
    unadmitted: u64,
    silent: u64,
}

type ComparisonResult = Result<(CustomerId, LedgerComparison), StoreError>;

impl App {
    /// Starts to compare the ledgers of a customer, once fewer than [`CONCURRENCY`] comparisons are running.
    async fn compare(
        &self,
        running: &mut JoinSet<ComparisonResult>,
        found: &mut Found,
        day: Day,
        customer: CustomerId,
        counters: BTreeSet<KeyId>,
    ) -> Result<(), StoreError> {
        while running.len() >= CONCURRENCY {
            self.record_next(running, found, day).await?;
        }
        let store = self.store.clone();
        running.spawn(async move {
            let admitted = store.admitted_calls(&counters, day).await?;
            let metered = store.metered_calls(&customer, day).await?;
            Ok((customer, LedgerComparison { admitted, metered }))
        });
        Ok(())
    }

    /// Waits for the next comparison, adds it to the result, and stores a discrepancy if there is one.
    async fn record_next(
        &self,
        running: &mut JoinSet<ComparisonResult>,
        found: &mut Found,
        day: Day,
    ) -> Result<(), StoreError> {
        let (customer, compared) = match running.join_next().await {
            None => return Ok(()),
            Some(Ok(compared)) => compared?,
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        };
        if compared == LedgerComparison::default() {
            return Ok(());
        }
        let ReconciliationSummary {
            customers,
            total,
            discrepancies,
        } = &mut found.summary;
        *customers += 1;
        total.admitted = total.admitted.saturating_add(compared.admitted);
        total.metered = total.metered.saturating_add(compared.metered);
        if compared.is_discrepant() {
            *discrepancies += 1;
            found.unmetered += compared.unmetered();
            found.unadmitted += compared.unadmitted();
            found.silent += u64::from(compared.is_silent());
            let LedgerComparison { admitted, metered } = compared;
            tracing::warn!(%customer, %day, admitted, metered, "the ledgers differ");
            self.store
                .record_discrepancy(day, &customer, compared)
                .await?;
        }
        Ok(())
    }
}
