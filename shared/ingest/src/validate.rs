//! Validation of usage events before any of them is counted.

use std::collections::BTreeSet;

use tollgate_domain::usage::{Defect, ReceivedEvent};
use tollgate_store::{RejectedRecord, StoreError};

use crate::split::split;
use crate::{IncomingEvent, Ingest};

/// Defects of an event, by the indexes of its records or adjustments.
type Defects = Vec<(usize, Defect)>;

impl Ingest {
    /// Validates usage events as of now. Returns, for each, the records and adjustments that cannot be
    /// counted. Those that are too old, but were counted in time, are not among them.
    ///
    /// # Errors
    /// When the plans, the owners of keys, or what was counted cannot be read.
    pub async fn validate(
        &self,
        events: &[IncomingEvent],
    ) -> Result<Vec<Vec<RejectedRecord>>, StoreError> {
        let now = self.clock.now();
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
                let checked = self.check_item(customer, item, &plans, &foreign, now);
                Some((index, checked.err()?))
            });
            let mut defects: Defects = defects.collect();
            if defects.iter().any(|(_, defect)| *defect == Defect::Ancient) {
                self.retain_uncounted(event, &mut defects).await?;
            }
            let defects = defects.into_iter().map(|(index, defect)| RejectedRecord {
                index,
                reason: defect.to_string(),
            });
            rejected.push(defects.collect());
        }
        Ok(rejected)
    }

    /// Removes the defects of age from parts that were counted whole before.
    async fn retain_uncounted(
        &self,
        event: &IncomingEvent,
        defects: &mut Defects,
    ) -> Result<(), StoreError> {
        let IncomingEvent { received, detail } = event;
        let ReceivedEvent {
            source, id, items, ..
        } = received;
        let store = &self.store;
        let counted = store.counted_parts(source, id, detail.as_bytes()).await?;
        let Some(mut counted) = counted.filter(|counted| !counted.is_empty()) else {
            return Ok(());
        };
        for part in store.quarantined_parts(source, id, &counted).await? {
            counted.remove(&part);
        }
        let parts = split(items).into_iter().enumerate();
        let counted = parts.filter(|(number, _)| counted.contains(number));
        let indexes: BTreeSet<usize> = counted.flat_map(|(_, indexes)| indexes).collect();
        defects.retain(|(index, defect)| *defect != Defect::Ancient || !indexes.contains(index));
        Ok(())
    }
}
