//! Validation of usage events before any of them is counted.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tollgate_domain::usage::{Defect, ReceivedEvent};
use tollgate_store::{RejectedRecord, StoreError};

use crate::split::split;
use crate::{IncomingEvent, Ingest};

impl Ingest {
    /// Validates usage events that were received at this time. Returns, for each, the records and adjustments that cannot
    /// be counted. Those that are too old, but were counted in time, are not among them.
    ///
    /// # Errors
    /// When the plans, the owners of keys, or what was counted cannot be read, or a too old event is being counted.
    pub async fn validate(
        &self,
        events: &[IncomingEvent],
        received_at: Timestamp,
    ) -> Result<Vec<Vec<RejectedRecord>>, StoreError> {
        let plans = self
            .plans_of(events.iter().map(|event| &event.received))
            .await?;
        let received = events.iter().map(|event| &event.received);
        let foreign = self.owners.foreign(&self.store, received).await?;
        let mut rejected = Vec::with_capacity(events.len());
        for event in events {
            let ReceivedEvent {
                customer, items, ..
            } = &event.received;
            let defects = items.iter().enumerate().filter_map(|(index, item)| {
                let checked = self.check_item(customer, item, &plans, &foreign, received_at);
                Some((index, checked.err()?))
            });
            let mut defects: Vec<(usize, Defect)> = defects.collect();
            if defects.iter().any(|(_, defect)| *defect == Defect::Ancient) {
                let counted = self.counted_before(event).await?;
                defects.retain(|(index, defect)| {
                    *defect != Defect::Ancient || !counted.contains(index)
                });
            }
            let defects = defects.into_iter().map(|(index, defect)| RejectedRecord {
                index,
                reason: defect.to_string(),
            });
            rejected.push(defects.collect());
        }
        Ok(rejected)
    }

    /// Returns the indexes of the records and adjustments of an event that were counted before.
    async fn counted_before(&self, event: &IncomingEvent) -> Result<BTreeSet<usize>, StoreError> {
        let IncomingEvent { received, detail } = event;
        let ReceivedEvent {
            source, id, items, ..
        } = received;
        let store = &self.store;
        let parts = store.counted_parts(source, id, detail.as_bytes()).await?;
        let parts = parts.unwrap_or_default();
        if parts.is_empty() {
            return Ok(BTreeSet::new());
        }
        let rejected = store.rejected_of_parts(source, id, &parts).await?;
        let all = split(items).into_iter().enumerate();
        let counted = all.filter(|(number, _)| parts.contains(number));
        let indexes = counted.flat_map(|(_, indexes)| indexes);
        Ok(indexes.filter(|index| !rejected.contains(index)).collect())
    }
}
