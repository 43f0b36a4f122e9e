//! What the two ledgers of a day's calls say, and where they differ.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::window::{Day, Hour};

use crate::Store;
use crate::accounts::Page;
use crate::counters::Units;
use crate::error::StoreError;
use crate::item::{Item, MAX_SK, Reader, keys, n, s, t};
use crate::schema::{USAGE, attr};

/// Differences in a page.
const PAGE: i32 = 50;
/// The sort key of a day's summary. Customers' ids sort after it.
const SUMMARY: &str = "#";

/// What a run found of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReconciliationSummary {
    /// Customers with calls in either ledger.
    pub customers: u64,
    /// Their calls.
    pub total: LedgerComparison,
    /// Customers whose ledgers differ.
    pub off: u64,
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
    /// The calls that were let in with these keys in a day, as far as the instances that let them in
    /// have said: all of them, an hour or so after its end. Known for two days. The keys are those
    /// in whose hours calls count ([`hour_key`](tollgate_domain::key::KeyRecord::hour_key)), each
    /// once.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn admitted_calls(
        &self,
        keys: &BTreeSet<KeyId>,
        day: Day,
    ) -> Result<u64, StoreError> {
        let start = day.start();
        let hours = (0..24).map(|hour| start.saturating_add(SignedDuration::from_hours(hour)));
        let hours: Vec<Hour> = hours.flatten().map(Hour::containing).collect();
        let units = self.hour_units(keys, &hours).await?;
        Ok(units.iter().map(Units::admitted).sum())
    }

    /// The calls of a customer's day that were metered.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn metered_calls(&self, customer: &CustomerId, day: Day) -> Result<u64, StoreError> {
        Ok(self.one_day_usage(customer, day).await?.calls)
    }

    /// Forgets what an earlier run found of this day.
    ///
    /// # Errors
    /// When the store does not answer; some of it may then be forgotten.
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

    /// Writes down that a customer's ledgers differ. Writing it again changes nothing.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn record_discrepancy(
        &self,
        day: Day,
        customer: &CustomerId,
        comparison: LedgerComparison,
    ) -> Result<(), StoreError> {
        let item = with_comparison(keys(pk(day), customer.as_str()), comparison);
        self.put_reconciliation(item).await
    }

    /// Writes down what a run found, when it has found all.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn record_reconciled(&self, day: Day, found: &ReconciliationSummary) -> Result<(), StoreError> {
        let mut item = with_comparison(keys(pk(day), SUMMARY), found.total);
        item.insert("customers".into(), n(found.customers));
        item.insert("off".into(), n(found.off));
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

    /// What the last run found of this day, and when, if it came to its end.
    ///
    /// # Errors
    /// When the store does not answer.
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
            let found = ReconciliationSummary {
                customers: item.number("customers")?,
                total: read_comparison(&item)?,
                off: item.number("off")?,
            };
            Ok((found, item.parsed("at")?))
        };
        found.first().map(read).transpose()
    }

    /// The customers whose ledgers differ in this day, by id, from after `after` on.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn differences(
        &self,
        day: Day,
        after: Option<&str>,
    ) -> Result<Page<(CustomerId, LedgerComparison)>, StoreError> {
        const OPERATION: &str = "listing differences";
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
