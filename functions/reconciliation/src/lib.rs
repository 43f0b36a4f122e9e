//! Reconciliation: the calls that the authorizer let in, held against those that were metered, for each
//! customer and day. Either ledger alone cannot tell that nothing happened from that it was not told.
//!
//! The authorizer's ledger are the counters of the hours of a customer's keys; the other is the tally of
//! the day. Customers without keys have no calls to let in, and are not looked at.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio::task::JoinSet;
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::key::{KeyRecord, Owner};
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::window::Day;
use tollgate_runtime::{Clock, Metrics, metrics};
use tollgate_store::{ReconciliationSummary, Store, StoreError};

/// What reconciliation works with.
#[derive(Debug, Clone)]
pub struct App {
    /// Keys, counters and tallies.
    pub store: Store,
    /// Decides which day was yesterday.
    pub clock: Clock,
    /// Differences are counted here.
    pub metrics: Metrics,
}

/// Customers compared at a time.
const CONCURRENCY: usize = 16;
/// Keys read at a time.
const PAGE: usize = 100;

/// What a run found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The UTC day.
    pub day: Day,
    /// Customers with calls in either ledger.
    pub customers: u64,
    /// Calls that were let in.
    pub admitted: u64,
    /// Calls that were metered.
    pub metered: u64,
    /// Customers whose ledgers differ by more than is tolerated.
    pub differences: u64,
}

/// The run of a night: compares the ledgers of yesterday, and leaves word that it came to its end, so
/// that an alarm can see when none does.
///
/// # Errors
/// When the store does not answer; a further run begins anew.
pub async fn handle(app: &App) -> Result<Report, StoreError> {
    let today = Day::containing(app.clock.now());
    let report = run(app, today.previous()).await?;
    app.metrics.record(metrics::RECONCILIATION_RUNS, &[], 1);
    app.metrics.write();
    Ok(report)
}

/// Compares the ledgers of a day, at most two days after it: counters are kept no longer.
///
/// # Errors
/// When the store does not answer; a further run begins anew.
pub async fn run(app: &App, day: Day) -> Result<Report, StoreError> {
    app.store.clear_reconciliation(day).await?;
    let mut found = Found::default();
    let mut running = JoinSet::new();
    let mut after: Option<String> = None;
    // Keys are listed by customer; those of the last one of a page may go on in the next. A key and
    // its successors share their hours, which count once.
    let mut open: Option<(CustomerId, BTreeSet<KeyId>)> = None;
    loop {
        let page = app.store.list_keys(None, after.as_deref(), PAGE).await?;
        for (_, key) in page.items {
            let Some(customer) = customer_of(&key, day) else {
                continue;
            };
            let hours = key.hour_key().clone();
            match &mut open {
                Some((current, keys)) if current == customer => {
                    keys.insert(hours);
                }
                _ => {
                    let next = (customer.clone(), BTreeSet::from([hours]));
                    if let Some((customer, keys)) = open.replace(next) {
                        app.compare(&mut running, &mut found, day, customer, keys)
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
    if let Some((customer, keys)) = open {
        app.compare(&mut running, &mut found, day, customer, keys)
            .await?;
    }
    while !running.is_empty() {
        app.take_one(&mut running, &mut found, day).await?;
    }
    app.store.record_reconciled(day, &found.reconciled).await?;
    app.metrics
        .record(metrics::CALLS_UNMETERED, &[], found.unmetered);
    app.metrics
        .record(metrics::CALLS_UNADMITTED, &[], found.unadmitted);
    app.metrics
        .record(metrics::CUSTOMERS_SILENT, &[], found.silent);
    app.metrics.write();
    let ReconciliationSummary {
        customers,
        total,
        off,
    } = found.reconciled;
    let LedgerComparison { admitted, metered } = total;
    tracing::info!(%day, customers, admitted, metered, differences = off, "reconciled");
    Ok(Report {
        day,
        customers,
        admitted,
        metered,
        differences: off,
    })
}

/// Whose key it is, if it could be used on that day.
fn customer_of(key: &KeyRecord, day: Day) -> Option<&CustomerId> {
    let ended = [key.revoked_at, key.expires_at].into_iter().flatten().min();
    // A revoked key works on for as long as it is remembered.
    let is_over = ended.is_some_and(|ended| Day::containing(ended) < day.previous());
    match &key.owner {
        Owner::Customer(customer) if !is_over && Day::containing(key.created_at) <= day => {
            Some(customer)
        }
        _ => None,
    }
}

/// What a run has found so far.
#[derive(Default)]
struct Found {
    reconciled: ReconciliationSummary,
    unmetered: u64,
    unadmitted: u64,
    silent: u64,
}

type Compared = Result<(CustomerId, LedgerComparison), StoreError>;

impl App {
    /// Begins to compare a customer's ledgers, as soon as few enough are being compared.
    async fn compare(
        &self,
        running: &mut JoinSet<Compared>,
        found: &mut Found,
        day: Day,
        customer: CustomerId,
        keys: BTreeSet<KeyId>,
    ) -> Result<(), StoreError> {
        while running.len() >= CONCURRENCY {
            self.take_one(running, found, day).await?;
        }
        let store = self.store.clone();
        running.spawn(async move {
            let admitted = store.admitted_calls(&keys, day).await?;
            let metered = store.metered_calls(&customer, day).await?;
            Ok((customer, LedgerComparison { admitted, metered }))
        });
        Ok(())
    }

    /// Takes the next comparison that is done, and writes it down if the ledgers differ.
    async fn take_one(
        &self,
        running: &mut JoinSet<Compared>,
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
            off,
        } = &mut found.reconciled;
        *customers += 1;
        total.admitted = total.admitted.saturating_add(compared.admitted);
        total.metered = total.metered.saturating_add(compared.metered);
        if compared.is_discrepant() {
            *off += 1;
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
