//! Reconciliations of a day's admission and usage ledgers, with the discrepancies found.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::page::Page;
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::window::{Day, Hour};

use crate::Store;
use crate::counters::CounterTotals;
use crate::error::StoreError;
use crate::item::{Item, MAX_SK, Reader, keys, n, s, t};
use crate::schema::{USAGE, attr};

/// Discrepancies per page.
const PAGE: i32 = 50;
/// The sort key of a day's summary. Customers' ids sort after it.
const SUMMARY: &str = "#";

/// Summary of a day's reconciliation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReconciliationSummary {
    /// Customers with calls in either ledger.
    pub customers: u64,
    /// Sums of their calls.
    pub total: LedgerComparison,
    /// Customers with a discrepancy.
    pub discrepancies: u64,
}

fn pk(day: Day) -> String {
    format!("RECONCILIATION#{day}")
}

fn with_comparison(mut item: Item, comparison: LedgerComparison) -> Item {
    item.insert("admitted".into(), n(comparison.admitted));
    item.insert("metered".into(), n(comparison.metered));
    item
}

fn read_comparison(item: &Reader<'_>) -> Result<LedgerComparison, StoreError> {
    Ok(LedgerComparison {
        admitted: item.number("admitted")?,
        metered: item.number("metered")?,
    })
}

impl Store {
    /// Sums up the admitted calls with these keys in a day, as far as authorizer instances have reported
    /// them: all of them about an hour after the day's end. The counters are kept for two days. The keys are
    /// those of hour counters ([`hour_counter_id`](tollgate_domain::key::KeyRecord::hour_counter_id())).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn admitted_calls(
        &self,
        keys: &BTreeSet<KeyId>,
        day: Day,
    ) -> Result<u64, StoreError> {
        let start = day.start();
        let hours = (0..24).map(|hour| start.saturating_add(SignedDuration::from_hours(hour)));
        let hours: Vec<Hour> = hours.flatten().map(Hour::containing).collect();
        let counters = self.hour_counters(keys, &hours).await?;
        Ok(counters.iter().map(CounterTotals::admitted).sum())
    }

    /// Reads the number of metered calls of a customer's day.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn metered_calls(&self, customer: &CustomerId, day: Day) -> Result<u64, StoreError> {
        Ok(self.one_day_usage(customer, day).await?.calls)
    }

    /// Deletes the results of an earlier reconciliation of this day.
    ///
    /// # Errors
    /// When the store fails; some of them may then be deleted.
    pub async fn clear_reconciliation(&self, day: Day) -> Result<(), StoreError> {
        let found = self.query_all(
            "reading a reconciliation",
            USAGE,
            "pk = :pk",
            [(":pk", s(pk(day)))],
        );
        for item in found.await? {
            let sk = Reader::new("reconciliation", &item).text(attr::SK)?;
            self.client
                .delete_item()
                .table_name(self.table(USAGE))
                .set_key(Some(keys(pk(day), sk)))
                .send()
                .await
                .map_err(|error| StoreError::service("clearing a reconciliation", error))?;
        }
        Ok(())
    }

    /// Records a customer's discrepancy. Idempotent.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn record_discrepancy(
        &self,
        day: Day,
        customer: &CustomerId,
        comparison: LedgerComparison,
    ) -> Result<(), StoreError> {
        let item = with_comparison(keys(pk(day), customer.as_str()), comparison);
        self.put_reconciliation(item).await
    }

    /// Records the summary of a completed reconciliation.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn record_reconciled(
        &self,
        day: Day,
        summary: &ReconciliationSummary,
    ) -> Result<(), StoreError> {
        let mut item = with_comparison(keys(pk(day), SUMMARY), summary.total);
        item.insert("customers".into(), n(summary.customers));
        item.insert("discrepancies".into(), n(summary.discrepancies));
        item.insert("at".into(), t(self.clock.now()));
        self.put_reconciliation(item).await
    }

    async fn put_reconciliation(&self, item: Item) -> Result<(), StoreError> {
        self.client
            .put_item()
            .table_name(self.table(USAGE))
            .set_item(Some(item))
            .send()
            .await
            .map_err(|error| StoreError::service("recording a reconciliation", error))?;
        Ok(())
    }

    /// Reads the summary of this day's last reconciliation and the instant at which it was recorded; `None`
    /// if it was not completed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn reconciled(
        &self,
        day: Day,
    ) -> Result<Option<(ReconciliationSummary, Timestamp)>, StoreError> {
        let found = self.query_all(
            "reading a reconciliation",
            USAGE,
            "pk = :pk AND sk = :sk",
            [(":pk", s(pk(day))), (":sk", s(SUMMARY))],
        );
        let found = found.await?;
        let read = |item: &Item| {
            let item = Reader::new("reconciliation", item);
            let summary = ReconciliationSummary {
                customers: item.number("customers")?,
                total: read_comparison(&item)?,
                discrepancies: item.number("discrepancies")?,
            };
            Ok((summary, item.parsed("at")?))
        };
        found.first().map(read).transpose()
    }

    /// Lists the customers with a discrepancy on this day, by id, after the cursor `after`.
    ///
    /// # Errors
    /// When the store fails, or the cursor is invalid.
    pub async fn list_discrepancies(
        &self,
        day: Day,
        after: Option<&str>,
    ) -> Result<Page<(CustomerId, LedgerComparison)>, StoreError> {
        const OPERATION: &str = "listing discrepancies";
        let after = after.unwrap_or(SUMMARY);
        if !(1..=MAX_SK).contains(&after.len()) {
            return Err(StoreError::invalid_cursor(OPERATION));
        }
        let found = self
            .client
            .query()
            .table_name(self.table(USAGE))
            .key_condition_expression("pk = :pk AND sk > :after")
            .expression_attribute_values(":pk", s(pk(day)))
            .expression_attribute_values(":after", s(after))
            .consistent_read(true)
            .limit(PAGE)
            .send()
            .await
            .map_err(|error| StoreError::service(OPERATION, error))?;
        let read = |item: &Item| {
            let item = Reader::new("reconciliation", item);
            Ok((item.parsed(attr::SK)?, read_comparison(&item)?))
        };
        let items: Vec<(CustomerId, LedgerComparison)> = found
            .items()
            .iter()
            .map(read)
            .collect::<Result<_, StoreError>>()?;
        let last = items.last().filter(|_| found.last_evaluated_key.is_some());
        let next = last.map(|(customer, _)| customer.to_string());
        Ok(Page { items, next })
    }
}
