//! Reading back what was counted of a usage event.

use tollgate_domain::failure::{Failure, FailureKind};
use tollgate_domain::usage::{
    Adjustment, CountableItem, Defect, EventItem, ReceivedEvent, UsageRecord, parse_event,
};
use tollgate_store::{LoggedPart, StoreError};

use crate::Ingest;
use crate::split::split;

/// Counted records and adjustments of a part of a usage event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedPart {
    /// Source of the usage event.
    pub source: String,
    /// Id of the usage event.
    pub id: String,
    /// Counted records.
    pub records: Vec<UsageRecord>,
    /// Counted adjustments.
    pub adjustments: Vec<Adjustment>,
}

/// Error: what was counted of a usage event cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum CountedError {
    /// The plans or the owners of keys cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The logged body is not a usage event.
    #[error("a logged usage event cannot be read: {0}")]
    Unreadable(Defect),
}

impl Failure for CountedError {
    fn kind(&self) -> FailureKind {
        match self {
            CountedError::Store(error) => error.kind(),
            CountedError::Unreadable(_) => FailureKind::Permanent,
        }
    }
}

impl Ingest {
    /// Returns the records and adjustments of a logged part that were counted: those that are valid as of its
    /// arrival. The log has the whole event, and how many of its records were counted.
    ///
    /// # Errors
    /// When the plans or the owners of keys cannot be read, or the log has something else than a usage event.
    pub async fn counted(&self, logged: &LoggedPart) -> Result<CountedPart, CountedError> {
        let body = String::from_utf8_lossy(&logged.body);
        let received = parse_event(&body).map_err(CountedError::Unreadable)?;
        let plans = self.plans_of(std::iter::once(&received)).await?;
        let foreign = self.owners.foreign(&self.store, [&received]).await?;
        let ReceivedEvent {
            source,
            id,
            customer,
            items,
            ..
        } = &received;
        let indexes = split(items).into_iter().nth(logged.part);
        let items = indexes.into_iter().flatten().map(|index| &items[index]);
        let checked = |item: &EventItem| {
            let at = logged.received_at;
            let checked = self.check_item(customer, item, &plans, &foreign, at).ok()?;
            Some(match checked {
                CountableItem::Record(record) => Ok(record.clone()),
                CountableItem::Adjustment(adjustment) => Err(adjustment.clone()),
            })
        };
        let mut counted = CountedPart {
            source: source.clone(),
            id: id.clone(),
            records: Vec::new(),
            adjustments: Vec::new(),
        };
        for item in items.filter_map(checked) {
            match item {
                Ok(record) => counted.records.push(record),
                Err(adjustment) => counted.adjustments.push(adjustment),
            }
        }
        if counted.records.len() as u64 > logged.records {
            // Rejected because its plan did not exist yet.
            let exists = |record: &UsageRecord| {
                let first = plans.get(&record.plan).and_then(|plan| plan.iter().next());
                first.is_some_and(|first| first.created_at <= logged.received_at)
            };
            counted.records.retain(exists);
        }
        if counted.records.len() as u64 != logged.records {
            tracing::error!(
                source,
                id,
                part = logged.part,
                counted = logged.records,
                found = counted.records.len(),
                "the log has other records than were counted"
            );
        }
        Ok(counted)
    }
}
