//! Counted usage events, as the API lists them.

use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_domain::usage::{EventItem, ReceivedEvent, UsageRecord, parse_event};
use tollgate_domain::window::Day;

use crate::failure::Failure;
use crate::text::printable;

/// Counted usage event: the whole event as it arrived, listed once for each day of its records.
#[derive(Deserialize)]
pub(crate) struct LoggedEvent {
    pub(crate) day: Day,
    /// Counted records of the day.
    pub(crate) records: usize,
    event: Box<RawValue>,
}

/// Counted records of an event's day, each with its index in the event.
pub(crate) enum Records {
    Certain(Vec<(usize, UsageRecord)>),
    /// Some of the records were not counted, and the API does not say which.
    Uncertain,
}

impl LoggedEvent {
    /// Returns the event without its items, and the records of the day that were counted: none of an adjustment.
    pub(crate) fn counted(&self) -> Result<(ReceivedEvent, Records), Failure> {
        let mut event = parse_event(self.event.get()).map_err(|defect| {
            Failure::because(
                "a counted usage event cannot be read by this release",
                &defect,
            )
        })?;
        let items = std::mem::take(&mut event.items).into_iter().enumerate();
        let of_day = items.filter_map(|(index, item)| match item {
            EventItem::Record(record) if Day::containing(record.time) == self.day => {
                Some((index, record))
            }
            _ => None,
        });
        let records: Vec<(usize, UsageRecord)> = of_day.collect();
        let records = match records.len() == self.records {
            true => Records::Certain(records),
            false => Records::Uncertain,
        };
        Ok((event, records))
    }
}

/// Returns source and id of an event, for people.
pub(crate) fn name(event: &ReceivedEvent) -> String {
    printable(&format!("{} of {}", event.id, event.source))
}
