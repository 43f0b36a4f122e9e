//! Events: what happened, for operators and customers, each once per cause.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::billing::Charge;
use crate::customer::Customer;
use crate::id::{CustomerId, EventId, PlanId};
use crate::money::SignedCents;
use crate::window::Month;

/// Percentages of the month's included calls that have an event, in ascending order.
pub const QUOTA_THRESHOLDS: [u8; 2] = [80, 100];

/// Returns the thresholds that `calls` of the `included` ones have reached, in ascending order. A plan that
/// includes no calls has none.
pub fn reached_thresholds(calls: u64, included: u64) -> impl DoubleEndedIterator<Item = u8> {
    let is_reached =
        move |percent: &u8| u128::from(calls) * 100 >= u128::from(included) * u128::from(*percent);
    let thresholds = QUOTA_THRESHOLDS.into_iter();
    thresholds.filter(move |percent| included > 0 && is_reached(percent))
}

/// A threshold of a customer's month that was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaThreshold {
    /// Customer.
    pub customer: CustomerId,
    /// Month of the calls.
    pub month: Month,
    /// Plan that the customer follows.
    pub plan: PlanId,
    /// Calls that the plan includes.
    pub included: u64,
    /// The threshold, in percent of the included calls.
    pub percent: u8,
    /// Calls of the month when that was seen.
    pub calls: u64,
}

/// Counts of a scheduled billing run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunTotals {
    /// Time for which the run was scheduled, by which its repetitions are known to be the same run.
    pub scheduled_at: Timestamp,
    /// Billing periods with billable usage.
    pub billing_periods: u64,
    /// Charges and credits created.
    pub charge_count: u64,
    /// Sum of these.
    pub cents: SignedCents,
    /// Billing periods that could not be billed.
    pub failed: u64,
}

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

/// An event with its number in the order of publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedEvent {
    /// Number, from 1 and without gaps.
    pub number: u64,
    /// Time at which it was numbered.
    pub published_at: Timestamp,
    /// The event.
    pub event: Event,
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
    /// A payment of a customer's subscription failed.
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

    /// Creates the event of a customer who reached a threshold. The next plan of the month has thresholds of its
    /// own, unless it includes as many calls.
    #[must_use]
    pub fn quota_threshold(reached: &QuotaThreshold, occurred_at: Timestamp) -> Self {
        let QuotaThreshold {
            customer,
            month,
            plan,
            included,
            percent,
            calls,
        } = reached;
        let cause = format!("{customer}\n{month}\n{included}\n{percent}");
        let data = json!({
            "month": month.to_string(),
            "plan": plan.as_str(),
            "included": included,
            "threshold_percent": percent,
            "calls": calls,
        });
        let customer = Some(customer.clone());
        Self::new(
            EventKind::QuotaThreshold,
            &cause,
            customer,
            occurred_at,
            data,
        )
    }

    /// Creates the event of a scheduled billing run that has ended.
    #[must_use]
    pub fn billing_run_completed(run: &RunTotals, occurred_at: Timestamp) -> Self {
        let data = json!({
            "scheduled_at": run.scheduled_at.to_string(),
            "billing_periods": run.billing_periods,
            "charge_count": run.charge_count,
            "amount_cents": run.cents.0,
            "failed": run.failed,
        });
        let cause = run.scheduled_at.to_string();
        Self::new(
            EventKind::BillingRunCompleted,
            &cause,
            None,
            occurred_at,
            data,
        )
    }

    /// Creates the events of a customer that follows its subscription for the `number`th time: its subscription or
    /// plan has changed, or a payment is outstanding. Mostly there is none.
    #[must_use]
    pub fn of_subscription(
        before: &Customer,
        after: &Customer,
        number: u64,
        occurred_at: Timestamp,
    ) -> Vec<Self> {
        let (earlier, now) = (before.subscription(), after.subscription());
        let since = after.unpaid.map(|unpaid| unpaid.since.to_string());
        // The number repeats if the table is restored to an earlier time.
        let cause = format!("{}\n{number}\n{now:?}\n{}\n{since:?}", after.id, after.plan);
        let event = |kind, data| {
            let customer = Some(after.id.clone());
            Self::new(kind, &cause, customer, occurred_at, data)
        };
        let mut events = Vec::new();
        if (earlier, &before.plan) != (now, &after.plan) {
            let data = json!({
                "subscription": now,
                "subscription_before": earlier,
                "plan": after.plan.as_str(),
                "plan_before": before.plan.as_str(),
            });
            events.push(event(EventKind::SubscriptionChanged, data));
        }
        if let (None, Some(unpaid)) = (before.unpaid, after.unpaid) {
            let data = json!({
                "subscription": now.or(earlier),
                "unpaid_since": unpaid.since.to_string(),
            });
            events.push(event(EventKind::PaymentFailed, data));
        }
        events
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
    fn thresholds_are_reached_at_whole_percentages_of_the_included_calls() {
        let check = |calls, included, expected: &[u8]| {
            let reached: Vec<u8> = reached_thresholds(calls, included).collect();
            assert_eq!(reached, expected, "{calls} of {included}");
        };
        check(0, 1_000, &[]);
        check(799, 1_000, &[]);
        check(800, 1_000, &[80]);
        check(999, 1_000, &[80]);
        check(1_000, 1_000, &[80, 100]);
        check(5_000, 1_000, &[80, 100]);
        check(2, 3, &[]);
        check(1, 1, &[80, 100]);
        check(5, 0, &[]);
        check(u64::MAX, u64::MAX, &[80, 100]);
    }

    #[test]
    fn a_threshold_has_one_event_for_each_month_and_number_of_included_calls() {
        let reached = QuotaThreshold {
            customer: "acme".parse().unwrap(),
            month: "2026-11".parse().unwrap(),
            plan: "free".parse().unwrap(),
            included: 1_000,
            percent: 80,
            calls: 801,
        };
        let id =
            |reached: &QuotaThreshold| Event::quota_threshold(reached, Timestamp::UNIX_EPOCH).id;
        let first = id(&reached);
        let same = QuotaThreshold {
            calls: 802,
            plan: "other".parse().unwrap(),
            ..reached.clone()
        };
        assert_eq!(id(&same), first);
        let others = [
            QuotaThreshold {
                percent: 100,
                ..reached.clone()
            },
            QuotaThreshold {
                included: 2_000,
                ..reached.clone()
            },
            QuotaThreshold {
                month: "2026-12".parse().unwrap(),
                ..reached.clone()
            },
            QuotaThreshold {
                customer: "bolt".parse().unwrap(),
                ..reached
            },
        ];
        for other in others {
            assert_ne!(id(&other), first, "{other:?}");
        }
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
