//! Parts of usage events, and the keys of their items.

use jiff::Timestamp;
use tollgate_domain::id::CustomerId;
use tollgate_domain::usage::{Adjustment, Aggregates};

/// The part of a usage event whose records are of one day, which is counted as a whole.
#[derive(Debug)]
pub struct EventPart<'a> {
    /// Source of the event, which is identified by `source` and `id`.
    pub source: &'a str,
    /// Id of the event, unique within the source.
    pub id: &'a str,
    /// Number of the part, from 0.
    pub part: usize,
    /// Customer whose usage it is.
    pub customer: &'a CustomerId,
    /// Sums of the part's valid records and adjustments, which are all of one day.
    pub aggregates: &'a Aggregates,
    /// Sums of the records and adjustments that are rejected for their age alone: if the part was counted before, they may
    /// be among what was counted.
    pub too_old: Option<&'a Aggregates>,
    /// Number of valid records.
    pub records: usize,
    /// Valid adjustments, with their indexes in the event.
    pub adjustments: &'a [(usize, Adjustment)],
    /// Records or adjustments that failed validation.
    pub rejected: &'a [RejectedRecord],
    /// The event as it arrived.
    pub body: &'a [u8],
    /// Time of arrival.
    pub received_at: Timestamp,
}

/// A usage record or adjustment that failed validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRecord {
    /// Index in the usage event, from 0.
    pub index: usize,
    /// Reason of the rejection.
    pub reason: String,
}

impl EventPart<'_> {
    pub(crate) fn pk(&self) -> String {
        event_pk(self.source, self.id)
    }
}

/// Returns `<source>#<id>`. The separator is percent-encoded within the source, so that two events with
/// different sources or ids never share a key.
pub(crate) fn event_pk(source: &str, id: &str) -> String {
    format!("{}#{id}", source.replace('%', "%25").replace('#', "%23"))
}

pub(crate) fn part_sk(part: usize) -> String {
    format!("{part:02}")
}
