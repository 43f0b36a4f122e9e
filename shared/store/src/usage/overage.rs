//! Marks of customers with overage, which the nightly billing run reads instead of all customers with usage.
//!
//! A mark is written after the usage was counted, and before it is acknowledged: whoever counts usage and cannot
//! write the mark reports an error, and the repetition, which counts nothing, writes it. The run that closes a month
//! does not rely on marks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Instant, timeout_at};
use tollgate_domain::billing::may_close;
use tollgate_domain::id::CustomerId;
use tollgate_domain::page::Page;
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::usage::{Aggregate, Aggregates};
use tollgate_domain::window::Month;

use super::sort_keys::shard_of;
use crate::Store;
use crate::error::StoreError;
use crate::item::{MAX_SK, Reader, keys, s};
use crate::query::concurrently;
use crate::schema::{BILLABLE_SHARDS, USAGE, attr};

const MARKING: &str = "marking overage";
const LISTING: &str = "listing customers with overage";
/// Marks that an instance remembers, so that it does not look for them again.
const MAX_REMEMBERED: usize = 10_000;
/// Separator of a cursor's parts, which no id contains.
const SEPARATOR: char = '\n';

/// Kind of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OverageMark {
    /// The customer has calls beyond the included ones.
    Overage,
    /// An adjustment of the customer's calls was counted when the month may have been closed.
    LateAdjustment,
}

impl OverageMark {
    fn partition(self, month: Month, shard: u32) -> String {
        let kind = match self {
            OverageMark::Overage => "OVERAGE",
            OverageMark::LateAdjustment => "LATE",
        };
        format!("{kind}#{month}#{shard}")
    }
}

type Mark = (OverageMark, CustomerId, Month);

/// Marks that this instance has written or found. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct WrittenMarks(Arc<Mutex<HashSet<Mark>>>);

impl WrittenMarks {
    fn contains(&self, mark: &Mark) -> bool {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.contains(mark)
    }

    fn insert(&self, mark: Mark) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() >= MAX_REMEMBERED {
            marks.clear();
        }
        marks.insert(mark);
    }
}

impl fmt::Debug for WrittenMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrittenMarks")
    }
}

/// Whether billable calls of a month exceed what some version of their plan includes.
fn has_overage(usage: &Aggregate, plans: &PlanBook) -> bool {
    usage.billable.iter().any(|(plan, calls)| {
        let adjusted = usage.adjusted.billable.get(plan).copied().unwrap_or(0);
        let calls = calls.saturating_add_signed(adjusted);
        let included = plans.least_charged_from(plan);
        included.is_some_and(|included| calls > included)
    }) || usage.adjusted.billable.iter().any(|(plan, calls)| {
        let included = plans.least_charged_from(plan);
        let is_counted = usage.billable.contains_key(plan);
        !is_counted && included.is_some_and(|included| i128::from(*calls) > i128::from(included))
    })
}

impl Store {
    /// Marks the customers of usage that was counted, now or before, if they have overage. Returns the errors of those for
    /// whom that failed, or was not done at the deadline.
    pub(super) async fn mark_overage<'a>(
        &self,
        counted: impl Iterator<Item = (&'a CustomerId, &'a Aggregates)>,
        plans: &PlanBook,
        deadline: Instant,
    ) -> HashMap<CustomerId, Arc<StoreError>> {
        let charges = |aggregate: &Aggregate| {
            let adjusted = aggregate.adjusted.billable.keys();
            let mut used = aggregate.billable.keys().chain(adjusted);
            used.any(|plan| plans.may_charge_overage(plan))
        };
        let now = self.clock.now();
        let mut marks = BTreeSet::new();
        for (customer, aggregates) in counted {
            for (month, aggregate) in &aggregates.months {
                if !charges(aggregate) {
                    continue;
                }
                marks.insert((OverageMark::Overage, customer.clone(), *month));
                if may_close(*month, now) && !aggregate.adjusted.billable.is_empty() {
                    marks.insert((OverageMark::LateAdjustment, customer.clone(), *month));
                }
            }
        }
        let marks = marks
            .into_iter()
            .filter(|mark| !self.written_marks.contains(mark));
        let marking = marks.map(|mark| async move {
            let marked = timeout_at(deadline, self.mark_if_due(&mark, plans)).await;
            let marked = marked.unwrap_or_else(|_| Err(StoreError::timed_out(MARKING)));
            marked.err().map(|error| (mark.1, Arc::new(error)))
        });
        let failed = concurrently(marking.collect()).await;
        failed.into_iter().flatten().collect()
    }

    async fn mark_if_due(
        &self,
        mark: &(OverageMark, CustomerId, Month),
        plans: &PlanBook,
    ) -> Result<(), StoreError> {
        let (kind, customer, month) = mark;
        let is_due = match kind {
            OverageMark::LateAdjustment => true,
            // Read consistently after the write: of concurrent writers, the last one sees all calls.
            OverageMark::Overage => has_overage(&self.month_usage(customer, *month).await?, plans),
        };
        if is_due {
            self.put_mark(*kind, customer, *month).await?;
            self.written_marks.insert(mark.clone());
        }
        Ok(())
    }

    /// Writes a mark. Idempotent: a mark has no content.
    async fn put_mark(
        &self,
        kind: OverageMark,
        customer: &CustomerId,
        month: Month,
    ) -> Result<(), StoreError> {
        let partition = kind.partition(month, shard_of(customer));
        self.client
            .put_item()
            .table_name(self.table(USAGE))
            .set_item(Some(keys(partition, customer.as_str())))
            .send()
            .await
            .map_err(|error| StoreError::service(MARKING, error))?;
        Ok(())
    }

    /// Lists the customers with a mark in `month`, after the cursor `after`, at most `limit` of them or as many
    /// as a response of DynamoDB contains. A page may be empty and have a next one.
    ///
    /// # Errors
    /// When the store fails, or the cursor is invalid.
    pub async fn marked_customers(
        &self,
        kind: OverageMark,
        month: Month,
        after: Option<&str>,
        limit: Option<i32>,
    ) -> Result<Page<CustomerId>, StoreError> {
        let (shard, last) = match after {
            None => (0, None),
            Some(cursor) => read_cursor(cursor)?,
        };
        let partition = kind.partition(month, shard);
        let start = last.map(|last| keys(&partition, last));
        let found = self
            .client
            .query()
            .table_name(self.table(USAGE))
            .key_condition_expression("pk = :mark")
            .expression_attribute_values(":mark", s(&partition))
            .set_limit(limit)
            .set_exclusive_start_key(start)
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service(LISTING, error))?;
        let customer = |item| Reader::new("mark of overage", item).parsed(attr::SK);
        let items: Vec<CustomerId> = found
            .items()
            .iter()
            .map(customer)
            .collect::<Result<_, _>>()?;
        let next = match &found.last_evaluated_key {
            Some(last) => {
                let last = Reader::new("mark of overage", last).text(attr::SK)?;
                Some(format!("{shard}{SEPARATOR}{last}"))
            }
            None => (shard + 1 < BILLABLE_SHARDS).then(|| (shard + 1).to_string()),
        };
        Ok(Page { items, next })
    }
}

/// Reads a cursor: the shard, and the last customer of it that was read.
fn read_cursor(cursor: &str) -> Result<(u32, Option<String>), StoreError> {
    let invalid = || StoreError::invalid_cursor(LISTING);
    let (shard, last) = match cursor.split_once(SEPARATOR) {
        Some((shard, last)) => (shard, Some(last)),
        None => (cursor, None),
    };
    let shard = shard.parse().ok().filter(|shard| *shard < BILLABLE_SHARDS);
    if last.is_some_and(|last| !(1..=MAX_SK).contains(&last.len())) {
        return Err(invalid());
    }
    Ok((shard.ok_or_else(invalid)?, last.map(str::to_owned)))
}
