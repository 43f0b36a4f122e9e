//! Totals of counters, over root and branches.

use std::collections::{BTreeSet, HashMap};

use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::window::{Hour, Month};

use super::item::{Branch, Reported, Root, branch_pk, hour_pk, month_pk};
use crate::error::StoreError;
use crate::item::{Item, Reader};
use crate::schema::{COUNTERS, attr};
use crate::{Store, item};

/// Totals of a quota counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterTotals {
    /// Units that instances have reserved. Never more than the limit.
    pub reserved: u64,
    /// Calls that each spent a unit, as far as instances have reported them: without those since each
    /// instance's last reservation, and those that an instance did not report before it crashed.
    pub spent: u64,
    /// Calls that were allowed without a unit, while the store was down.
    pub uncounted: u64,
}

impl CounterTotals {
    /// Returns the number of admitted calls.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.spent.saturating_add(self.uncounted)
    }
}

impl Store {
    /// Reads the counter of a customer's month.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn month_counter(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<CounterTotals, StoreError> {
        let totals = self.counter_totals(vec![month_pk(customer, month)]).await?;
        Ok(totals.into_iter().next().unwrap_or_default())
    }

    /// Reads the counters of each of these keys in each of these hours that exist.
    pub(crate) async fn hour_counters(
        &self,
        keys: &BTreeSet<KeyId>,
        hours: &[Hour],
    ) -> Result<Vec<CounterTotals>, StoreError> {
        let each = keys
            .iter()
            .flat_map(|key| hours.iter().map(|hour| hour_pk(key, *hour)));
        self.counter_totals(each.collect()).await
    }

    pub(super) async fn counter_totals(
        &self,
        counters: Vec<String>,
    ) -> Result<Vec<CounterTotals>, StoreError> {
        const OPERATION: &str = "reading counters";
        let mut roots = Vec::new();
        for (pk, item) in self.counter_items(OPERATION, counters).await? {
            roots.push((pk, Root::read(&item)?));
        }
        let of = roots.iter().map(|(pk, root)| (&**pk, root));
        let mut branches = self.branches_of(OPERATION, of).await?;
        let totals = roots.iter().map(|(pk, root)| {
            let mut reserved = root.used;
            let Reported {
                mut spent,
                mut uncounted,
            } = root.reported;
            for number in root.grants.keys() {
                let branch = branches.remove(&branch_pk(pk, *number));
                let branch = branch.unwrap_or_default();
                reserved = reserved.saturating_sub(root.unused_at(*number, &branch));
                spent += branch.reported.spent;
                uncounted += branch.reported.uncounted;
            }
            CounterTotals {
                reserved,
                spent: u64::try_from(spent).unwrap_or(0),
                uncounted: u64::try_from(uncounted).unwrap_or(0),
            }
        });
        Ok(totals.collect())
    }

    /// Reads the branches of counters that have followed a grant, by partition key.
    pub(super) async fn branches_of(
        &self,
        operation: &'static str,
        counters: impl IntoIterator<Item = (&str, &Root)>,
    ) -> Result<HashMap<String, Branch>, StoreError> {
        let pks = counters.into_iter().flat_map(|(counter, root)| {
            let numbers = root.grants.keys();
            numbers.map(move |number| branch_pk(counter, *number))
        });
        let items = self.counter_items(operation, pks.collect()).await?;
        let branches = items.into_iter();
        branches
            .map(|(pk, item)| Ok((pk, Branch::read(&item)?)))
            .collect()
    }

    /// Reads items of counters, by partition key.
    async fn counter_items(
        &self,
        operation: &'static str,
        pks: Vec<String>,
    ) -> Result<Vec<(String, Item)>, StoreError> {
        let keys = pks.into_iter().map(item::key).collect();
        let items = self.batch_get(operation, COUNTERS, keys).await?;
        let keyed = items.into_iter().map(|item| {
            let pk = Reader::new("counter", &item).text(attr::PK)?.to_owned();
            Ok((pk, item))
        });
        keyed.collect()
    }
}
