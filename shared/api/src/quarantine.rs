//! The quarantine: usage that failed validation.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tollgate_domain::id::CustomerId;
use utoipa::{IntoParams, ToSchema};

use crate::usage::IngestedOutcome;
use crate::{Cursor, schema};

/// Kind of a quarantined item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QuarantinedKind {
    /// Records or adjustments of a usage event whose others were counted.
    Items,
    /// A usage event whose source and id another one has.
    Conflict,
    /// A message that is not a usage event.
    Message,
}

/// State of a quarantined item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QuarantinedStatus {
    /// Waits to be replayed or discarded.
    Open,
    /// Replayed: counted after all.
    Replayed,
    /// Discarded: never to be counted.
    Discarded,
}

/// A quarantined item.
#[derive(Debug, Serialize, ToSchema)]
pub struct Quarantined {
    /// Id.
    #[schema(value_type = schema::Cursor)]
    pub id: Cursor,
    /// Kind.
    pub kind: QuarantinedKind,
    /// State.
    pub status: QuarantinedStatus,
    /// Customer, if it can be read.
    #[schema(value_type = Option<schema::CustomerId>, required)]
    pub customer_id: Option<CustomerId>,
    /// Rejected records or adjustments; one with index 0 if the whole item is rejected.
    pub rejected: Vec<Rejected>,
    /// Time of arrival.
    #[schema(value_type = schema::Timestamp)]
    pub received_at: Timestamp,
}

/// A rejected record or adjustment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rejected {
    /// Index among the records or adjustments of the usage event, from 0.
    pub index: usize,
    /// Reason.
    pub reason: String,
}

/// A quarantined item with its content.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuarantinedDetails {
    /// The item.
    #[serde(flatten)]
    pub item: Quarantined,
    /// Content as it arrived.
    pub body: String,
    /// Usage event that a replay would count, to be corrected: of a usage event, its rejected records or
    /// adjustments. `null` if no usage event can be read from the content.
    #[schema(value_type = Option<Object>, required)]
    pub event: Option<Value>,
}

/// Query of the open quarantined items.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct QuarantineQuery {
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// Request to replay a quarantined item.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Corrected usage event, whose source and id are ignored. If absent, the quarantined one is counted as
    /// it is.
    #[schema(value_type = Option<Object>)]
    pub event: Option<Map<String, Value>>,
}

/// Outcome of a replay.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// Source under which the usage event was counted.
    #[schema(value_type = String)]
    pub source: &'static str,
    /// Id under which the usage event was counted.
    pub id: String,
    /// `duplicate` if the item was replayed before.
    pub outcome: IngestedOutcome,
}

/// A quarantined item of an earlier usage event with the same source and id.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuarantinedRef {
    /// JSON pointer to the usage event in the request that has the same source and id.
    #[schema(examples("/events/0"))]
    pub pointer: String,
    /// Id of the quarantined item.
    #[schema(value_type = schema::Cursor)]
    pub id: Cursor,
    /// State of the quarantined item.
    pub status: QuarantinedStatus,
}
