//! Events: what happened, for operators and customers, each once per cause.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::billing::Charge;
use crate::id::{CustomerId, EventId};

/// An event. It has no personal data: ids and amounts alone, and the texts of charges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Digest of kind and cause, so that one cause has one event, whoever finds it and however often.
    pub id: EventId,
    /// Kind of the occurrence.
    pub kind: EventKind,
    /// Customer to whom it happened; `None` if it concerns the stack.
    pub customer: Option<CustomerId>,
    /// Time at which it happened, or was found to have.
    pub occurred_at: Timestamp,
    /// Members that depend on the kind.
    pub data: Value,
}

/// Kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A customer has used 80 % or all of the month's calls.
    QuotaThreshold,
    /// A charge is at the payment provider.
    ChargeSettled,
    /// The provider rejected a charge, or it could not be sent to anyone.
    ChargeFailed,
    /// A customer's invoice was not paid.
    PaymentFailed,
    /// A customer's subscription was started, changed or ended.
    SubscriptionChanged,
    /// A billing run has ended.
    BillingRunCompleted,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::QuotaThreshold,
        Self::ChargeSettled,
        Self::ChargeFailed,
        Self::PaymentFailed,
        Self::SubscriptionChanged,
        Self::BillingRunCompleted,
    ];

    /// Returns the name in items, requests and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::QuotaThreshold => "quota.threshold",
            EventKind::ChargeSettled => "charge.settled",
            EventKind::ChargeFailed => "charge.failed",
            EventKind::PaymentFailed => "payment.failed",
            EventKind::SubscriptionChanged => "subscription.changed",
            EventKind::BillingRunCompleted => "billing.run.completed",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = InvalidEventKind;

    fn from_str(text: &str) -> Result<Self, InvalidEventKind> {
        let named = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        named.ok_or(InvalidEventKind)
    }
}

/// Error: the text is not the kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is not the kind of an event")]
pub struct InvalidEventKind;

impl Event {
    /// Creates an event of the cause with this name, which is unique among those of its kind.
    #[must_use]
    pub fn new(
        kind: EventKind,
        cause: &str,
        customer: Option<CustomerId>,
        occurred_at: Timestamp,
        data: Value,
    ) -> Self {
        let digest = Sha256::digest(format!("{kind}\n{cause}"));
        Self {
            id: EventId::of_digest(&digest),
            kind,
            customer,
            occurred_at,
            data,
        }
    }

    /// Creates the event of a charge that is at the provider, as this invoice item.
    #[must_use]
    pub fn charge_settled(charge: &Charge, item: &str, occurred_at: Timestamp) -> Self {
        let mut data = charge_data(charge);
        data["invoice_item"] = item.into();
        Self::of_charge(EventKind::ChargeSettled, charge, occurred_at, data)
    }

    /// Creates the event of a charge that failed for the first time. Later failures of the charge have the same
    /// cause.
    #[must_use]
    pub fn charge_failed(charge: &Charge, reason: &str, occurred_at: Timestamp) -> Self {
        let mut data = charge_data(charge);
        data["failure_reason"] = reason.into();
        Self::of_charge(EventKind::ChargeFailed, charge, occurred_at, data)
    }

    fn of_charge(kind: EventKind, charge: &Charge, occurred_at: Timestamp, data: Value) -> Self {
        let customer = Some(charge.customer.clone());
        Self::new(kind, &charge.id, customer, occurred_at, data)
    }
}

fn charge_data(charge: &Charge) -> Value {
    json!({
        "charge": charge.id,
        "month": charge.month.to_string(),
        "amount_cents": charge.cents.0,
        "description": charge.description,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_of_a_kind_has_one_event() {
        let event = |kind, cause, at: i64| {
            let at = Timestamp::from_second(at).unwrap();
            Event::new(kind, cause, None, at, json!({}))
        };
        let first = event(EventKind::ChargeSettled, "a", 0);
        assert_eq!(first.id.as_str(), "evt_a12c6704a57f31d3c4ed7420b27900ea");
        assert_eq!(event(EventKind::ChargeSettled, "a", 1).id, first.id);
        assert_ne!(event(EventKind::ChargeSettled, "b", 0).id, first.id);
        assert_ne!(event(EventKind::ChargeFailed, "a", 0).id, first.id);
    }

    #[test]
    fn the_kinds_have_the_documented_names() {
        let names = EventKind::ALL.map(EventKind::as_str);
        let expected = [
            "quota.threshold",
            "charge.settled",
            "charge.failed",
            "payment.failed",
            "subscription.changed",
            "billing.run.completed",
        ];
        assert_eq!(names, expected);
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!("charge".parse::<EventKind>(), Err(InvalidEventKind));
    }
}
