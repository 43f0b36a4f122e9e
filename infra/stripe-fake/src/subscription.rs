//! Subscriptions. They begin, renew and end in `renewal`.

pub(crate) mod operations;

use serde_json::{Value, json};

use crate::calendar::{Interval, Unit};
use crate::error::ApiError;
use crate::form::Params;
use crate::state::{Metadata, State};
use crate::table::Row;

/// Subscription of a customer to prices of one currency and one interval.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    pub(crate) id: String,
    pub(crate) created: i64,
    pub(crate) customer: String,
    pub(crate) items: Vec<SubscriptionItem>,
    pub(crate) status: Status,
    pub(crate) currency: String,
    pub(crate) interval: Interval,
    pub(crate) anchor: i64,
    pub(crate) period: (i64, i64),
    pub(crate) cancel_at: Option<i64>,
    pub(crate) cancels_at_period_end: bool,
    pub(crate) canceled_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) comment: Option<String>,
    pub(crate) feedback: Option<String>,
    /// Whether invoices are sent, in place of charged automatically.
    pub(crate) is_sent: bool,
    pub(crate) days_until_due: Option<i64>,
    pub(crate) method: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) latest_invoice: Option<String>,
    pub(crate) pending_interval: Option<Interval>,
    pub(crate) next_pending: Option<i64>,
    /// Whether there was an event of its creation, before which there are none of changes.
    pub(crate) is_announced: bool,
}

/// Price of a subscription, with its quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubscriptionItem {
    pub(crate) id: String,
    pub(crate) created: i64,
    pub(crate) price: String,
    pub(crate) quantity: i64,
    pub(crate) metadata: Metadata,
}

/// Status of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Incomplete,
    IncompleteExpired,
    Active,
    PastDue,
    Unpaid,
    Canceled,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Unpaid => "unpaid",
            Self::Canceled => "canceled",
        }
    }

    /// Returns whether the status is final.
    pub(crate) fn is_ended(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }
}

impl Row for Subscription {
    const WHAT: &'static str = "subscription";

    fn id(&self) -> &str {
        &self.id
    }

    fn customer(&self) -> Option<&str> {
        Some(&self.customer)
    }
}

impl State {
    pub(crate) fn subscription_json(&self, subscription: &Subscription) -> Value {
        let items: Vec<Value> = subscription
            .items
            .iter()
            .map(|item| self.subscription_item_json(subscription, item))
            .collect();
        let url = format!("/v1/subscription_items?subscription={}", subscription.id);
        let pending_interval = subscription.pending_interval.map(
            |interval| json!({ "interval": interval.unit.name(), "interval_count": interval.count }),
        );
        let reason = match (subscription.status, subscription.canceled_at) {
            (Status::Canceled, _) | (_, Some(_)) => Some("cancellation_requested"),
            _ => None,
        };
        json!({
            "id": subscription.id,
            "object": "subscription",
            "application": null,
            "application_fee_percent": null,
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
            "billing_cycle_anchor": subscription.anchor,
            "billing_cycle_anchor_config": null,
            "billing_mode": { "type": "flexible", "flexible": { "proration_discounts": "included" } },
            "billing_schedules": [],
            "billing_thresholds": null,
            "cancel_at": subscription.cancel_at,
            "cancel_at_period_end": subscription.cancels_at_period_end,
            "canceled_at": subscription.canceled_at,
            "cancellation_details": {
                "comment": subscription.comment,
                "feedback": subscription.feedback,
                "reason": reason,
            },
            "collection_method": if subscription.is_sent { "send_invoice" } else { "charge_automatically" },
            "created": subscription.created,
            "currency": subscription.currency,
            "customer": subscription.customer,
            "customer_account": null,
            "days_until_due": subscription.days_until_due,
            "default_payment_method": subscription.method,
            "default_source": null,
            "default_tax_rates": [],
            "description": subscription.description,
            "discounts": [],
            "ended_at": subscription.ended_at,
            "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
            "items": {
                "object": "list",
                "data": items,
                "has_more": false,
                "total_count": subscription.items.len(),
                "url": url,
            },
            "latest_invoice": subscription.latest_invoice,
            "livemode": self.is_live,
            "managed_payments": null,
            "metadata": subscription.metadata,
            "next_pending_invoice_item_invoice": subscription.next_pending,
            "on_behalf_of": null,
            "pause_collection": null,
            "payment_settings": {
                "payment_method_options": null,
                "payment_method_types": null,
                "save_default_payment_method": "off",
            },
            "pending_invoice_item_interval": pending_interval,
            "pending_setup_intent": null,
            "pending_update": null,
            "schedule": null,
            "start_date": subscription.created,
            "status": subscription.status.name(),
            "test_clock": null,
            "transfer_data": null,
            "trial_end": null,
            "trial_settings": { "end_behavior": { "missing_payment_method": "create_invoice" } },
            "trial_start": null,
        })
    }

    fn subscription_item_json(
        &self,
        subscription: &Subscription,
        item: &SubscriptionItem,
    ) -> Value {
        let price = self.prices.get(&item.price);
        let plan = price.map(|price| {
            json!({
                "id": price.id,
                "object": "plan",
                "active": price.is_active,
                "amount": price.unit_amount.whole(),
                "amount_decimal": price.unit_amount.to_string(),
                "billing_scheme": "per_unit",
                "currency": price.currency,
                "interval": subscription.interval.unit.name(),
                "interval_count": subscription.interval.count,
                "livemode": self.is_live,
                "metadata": {},
                "meter": null,
                "nickname": price.nickname,
                "product": price.product,
                "tiers_mode": null,
                "transform_usage": null,
                "trial_period_days": null,
                "usage_type": "licensed",
            })
        });
        json!({
            "id": item.id,
            "object": "subscription_item",
            "billing_thresholds": null,
            "created": item.created,
            "current_period_end": subscription.period.1,
            "current_period_start": subscription.period.0,
            "current_trial": null,
            "discounts": [],
            "metadata": item.metadata,
            "plan": plan,
            "price": price.map(|price| self.price_json(price)),
            "quantity": item.quantity,
            "subscription": subscription.id,
            "tax_rates": [],
        })
    }

    pub(crate) fn rendered_subscription(&self, id: &str) -> Value {
        let subscription = self.subscriptions.get(id);
        subscription.map_or(Value::Null, |subscription| {
            self.subscription_json(subscription)
        })
    }

    /// Changes a subscription and emits the event of it.
    pub(crate) fn change_subscription(&mut self, id: &str, change: impl FnOnce(&mut Subscription)) {
        let before = self.rendered_subscription(id);
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            change(subscription);
            let is_announced = subscription.is_announced;
            let after = self.rendered_subscription(id);
            if is_announced {
                self.emit_change("customer.subscription.updated", &before, after);
            }
        }
    }
}

/// Reads an item's price, which is active, recurring and of the same interval and currency as the others'.
pub(crate) fn check_price(
    state: &State,
    id: &str,
    param: &str,
    others: Option<(Interval, &str)>,
) -> Result<(Interval, String), ApiError> {
    let price = state.prices.find(id, param)?;
    let error = |message: &str| Err(ApiError::invalid(message).with_param(param));
    if !price.is_active {
        return error("The price specified is inactive. This field only accepts active prices.");
    }
    let Some(interval) = price.recurring else {
        return error(
            "The price specified is set to `type=one_time` but this field only accepts prices with \
             `type=recurring`.",
        );
    };
    if let Some((others, currency)) = others {
        if price.currency != currency {
            return error(
                "The price specified has another currency than the subscription's other prices.",
            );
        }
        if interval != others {
            return Err(ApiError::unsupported("items with different intervals"));
        }
    }
    Ok((interval, price.currency.clone()))
}

/// Checks that the billing mode is the one that the stand-in has, which is Stripe's default.
pub(crate) fn check_billing_mode(params: &Params, path: &str) -> Result<(), ApiError> {
    match params.text(path) {
        None | Some("flexible") => Ok(()),
        Some(_) => Err(ApiError::unsupported(path)),
    }
}

pub(crate) fn pending_interval(params: &Params, path: &str) -> Option<Interval> {
    let unit = Unit::parse(params.text(&format!("{path}.interval"))?)?;
    let count = params
        .integer(&format!("{path}.interval_count"))
        .unwrap_or(1);
    Some(Interval { unit, count })
}

/// Checks that an anchor is in the future, and not after the first period would end without it.
pub(crate) fn check_anchor(
    anchor: i64,
    now: i64,
    interval: Interval,
    param: &str,
) -> Result<(), ApiError> {
    let error = |message: &str| Err(ApiError::invalid(message).with_param(param));
    if anchor < now {
        return error("billing_cycle_anchor must be a timestamp in the future.");
    }
    if anchor > interval.boundary(now, 1) {
        return error("billing_cycle_anchor cannot be later than next natural billing date.");
    }
    Ok(())
}
