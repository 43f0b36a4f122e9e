//! Parts of usage events, each written in one transaction.

use jiff::Timestamp;
use tollgate_domain::usage::{Adjustment, Aggregates, CountableItem, Defect, EventItem};
use tollgate_store::{EventPart, RejectedRecord};

use crate::IncomingEvent;

/// A part of a usage event that is written in one transaction.
pub(crate) struct Part<'a> {
    pub(crate) event: &'a IncomingEvent,
    /// Number of the part within the event, from 0.
    pub(crate) number: usize,
    pub(crate) aggregates: Aggregates,
    /// Sums of the items that are rejected for their age alone.
    pub(crate) too_old: Aggregates,
    /// Number of valid records.
    pub(crate) records: usize,
    /// Valid adjustments, by their index in the event.
    pub(crate) adjustments: Vec<(usize, Adjustment)>,
    pub(crate) rejected: Vec<RejectedRecord>,
    /// The time of its earliest record, or of its arrival if that is earlier.
    pub(crate) earliest: Timestamp,
}

impl Part<'_> {
    /// Adds an item of the event, as checked.
    pub(crate) fn add(&mut self, index: usize, checked: Result<CountableItem<'_>, Defect>) {
        match checked {
            Ok(CountableItem::Record(record)) => {
                self.aggregates.add(record);
                self.records += 1;
                self.earliest = self.earliest.min(record.time);
            }
            Ok(CountableItem::Adjustment(adjustment)) => {
                self.aggregates.adjust(adjustment);
                self.adjustments.push((index, adjustment.clone()));
            }
            Err(defect) => {
                if defect == Defect::Ancient {
                    match &self.event.received.items[index] {
                        EventItem::Record(record) => self.too_old.add(record),
                        EventItem::Adjustment(adjustment) => self.too_old.adjust(adjustment),
                        EventItem::Unreadable(_) => {}
                    }
                }
                let reason = defect.to_string();
                self.rejected.push(RejectedRecord { index, reason });
            }
        }
    }

    pub(crate) fn as_stored(&self, received_at: Timestamp) -> EventPart<'_> {
        let IncomingEvent { received, detail } = self.event;
        EventPart {
            source: &received.source,
            id: &received.id,
            part: self.number,
            customer: &received.customer,
            aggregates: &self.aggregates,
            too_old: (!self.too_old.days.is_empty()).then_some(&self.too_old),
            records: self.records,
            adjustments: &self.adjustments,
            rejected: &self.rejected,
            body: detail.as_bytes(),
            received_at,
        }
    }
}
