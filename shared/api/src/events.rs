//! Events for operators and customers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use tollgate_domain::event::{EventKind, NumberedEvent};
use tollgate_domain::id::{CustomerId, EventId};
use utoipa::{IntoParams, ToSchema};

use crate::schema;

/// Kinds of events, as they are described.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum EventKindSchema {
    /// A customer has used 80 % or all of the calls that the plan includes in a month.
    #[schema(rename = "quota.threshold")]
    QuotaThreshold,
    /// A charge is at Stripe.
    #[schema(rename = "charge.settled")]
    ChargeSettled,
    /// Stripe rejected a charge, or the customer has no Stripe customer.
    #[schema(rename = "charge.failed")]
    ChargeFailed,
    /// An invoice was not paid.
    #[schema(rename = "payment.failed")]
    PaymentFailed,
    /// A subscription was started, changed or ended.
    #[schema(rename = "subscription.changed")]
    SubscriptionChanged,
    /// A scheduled billing run has ended.
    #[schema(rename = "billing.run.completed")]
    BillingRunCompleted,
}

/// An event, as it is listed, put on the bus, and sent to webhooks.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Event {
    /// Id. A message with the id of an earlier one is a repetition.
    #[schema(value_type = schema::EventId)]
    pub id: EventId,
    /// Kind of the event.
    #[serde(rename = "type", serialize_with = "as_text")]
    #[schema(value_type = EventKindSchema)]
    pub kind: EventKind,
    /// Position in the order of all events, from 1 and without gaps.
    pub number: u64,
    /// Time at which it happened, or was found to have.
    #[schema(value_type = schema::Timestamp)]
    pub timestamp: Timestamp,
    /// Customer to whom it happened; `null` if it concerns the stack.
    #[schema(value_type = Option<schema::CustomerId>, required)]
    pub customer_id: Option<CustomerId>,
    /// Members that depend on the type.
    #[schema(value_type = Object)]
    pub data: Value,
}

fn as_text<S: Serializer>(kind: &EventKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.as_str())
}

impl Event {
    /// Represents a numbered event.
    #[must_use]
    pub fn new(numbered: NumberedEvent) -> Self {
        let NumberedEvent { number, event, .. } = numbered;
        Self {
            id: event.id,
            kind: event.kind,
            number,
            timestamp: event.occurred_at,
            customer_id: event.customer,
            data: event.data,
        }
    }
}

/// Query of events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Number of the last event that is known; 0 if absent.
    #[param(maximum = 9_223_372_036_854_775_807_u64)]
    pub after: Option<u64>,
    /// Page size; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
}

/// A page of events, in the order of their numbers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Events {
    /// The events. Empty if there are none yet.
    pub data: Vec<Event>,
    /// Value of `after` for the next request. Whoever has read all pages up to it has missed no event.
    pub next_after: u64,
}
