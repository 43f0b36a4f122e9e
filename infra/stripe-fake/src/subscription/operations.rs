//! Operations on subscriptions.

use serde_json::Value;

use super::{
    Status, Subscription, SubscriptionItem, check_anchor, check_billing_mode, check_price,
    pending_interval,
};
use crate::calendar::{Interval, next_day_of_month};
use crate::call::Call;
use crate::error::ApiError;
use crate::form::Params;
use crate::renewal::{FirstPayment, NewItem, NewSubscription};
use crate::state::{Metadata, State, optional_text, update_metadata};
use crate::table::in_range;

pub(crate) fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let customer_id = params
        .text("customer")
        .ok_or_else(|| ApiError::parameter_missing("customer"))?;
    let customer = state.customers.find(customer_id, "customer")?;
    let metadata = update_metadata(&Metadata::new(), params, "metadata")?;
    let mut items = Vec::new();
    let mut common: Option<(Interval, String)> = None;
    for (index, item) in params.objects("items").into_iter().enumerate() {
        let param = format!("items[{index}][price]");
        let price = item
            .non_empty("price")
            .ok_or_else(|| ApiError::parameter_missing(&param))?;
        let others = common
            .as_ref()
            .map(|(interval, currency)| (*interval, currency.as_str()));
        common = Some(check_price(state, price, &param, others)?);
        items.push(NewItem {
            price: price.to_owned(),
            quantity: item.integer("quantity").unwrap_or(1),
            metadata: update_metadata(&Metadata::new(), item, "metadata")?,
        });
    }
    let Some((interval, currency)) = common else {
        return Err(ApiError::parameter_missing("items"));
    };
    state.check_currency(customer, &currency)?;
    if let Some(wanted) = params.text("currency")
        && wanted.to_lowercase() != currency
    {
        let message = format!("The price specified does not have the currency {wanted}.");
        return Err(ApiError::invalid(message).with_param("currency"));
    }
    check_billing_mode(params, "billing_mode.type")?;
    let anchor = anchor(params, state.now, interval)?;
    let is_sent = params.text("collection_method") == Some("send_invoice");
    let days_until_due = params.integer("days_until_due");
    if is_sent && days_until_due.is_none() {
        return Err(ApiError::parameter_missing("days_until_due"));
    }
    let method = params.non_empty("default_payment_method");
    if let Some(method) = method
        && !customer.has_method(Some(method))
    {
        return Err(ApiError::missing(
            "PaymentMethod",
            method,
            "default_payment_method",
        ));
    }
    let behavior = params
        .text("payment_behavior")
        .unwrap_or("allow_incomplete");
    let payment = match behavior {
        "default_incomplete" => FirstPayment::Later,
        "pending_if_incomplete" => return Err(ApiError::unsupported("payment_behavior")),
        _ if !is_sent && !customer.has_method(method) => {
            let message = "This customer has no attached payment source or default payment method. Please \
                           consider adding a default payment method.";
            return Err(ApiError::invalid(message).with_code("resource_missing"));
        }
        "error_if_incomplete" if !is_sent && !customer.can_pay(method) => {
            return Err(ApiError::declined());
        }
        _ => FirstPayment::Now,
    };
    let new = NewSubscription {
        customer: customer_id.to_owned(),
        items,
        interval,
        currency,
        anchor,
        is_prorated: params.text("proration_behavior") != Some("none"),
        is_sent,
        days_until_due,
        method: method.map(str::to_owned),
        description: params.non_empty("description").map(str::to_owned),
        metadata,
        cancels_at_period_end: params.boolean("cancel_at_period_end").unwrap_or(false),
        cancel_at: cancel_at(params)?,
        pending_interval: pending_interval(params, "pending_invoice_item_interval"),
        payment,
    };
    let id = state.start_subscription(new);
    Ok(state.rendered_subscription(&id))
}

fn anchor(params: &Params, now: i64, interval: Interval) -> Result<Option<i64>, ApiError> {
    let config = "billing_cycle_anchor_config";
    let anchor = match (
        params.integer("billing_cycle_anchor"),
        params.nested(config),
    ) {
        (Some(_), Some(_)) => {
            let message = "You may only specify one of these parameters: billing_cycle_anchor, \
                           billing_cycle_anchor_config.";
            return Err(ApiError::invalid(message));
        }
        (Some(anchor), None) => anchor,
        (None, Some(config)) => {
            let day = config.integer("day_of_month").unwrap_or(1);
            let time = ["hour", "minute", "second"].map(|name| config.integer(name));
            next_day_of_month(now, day, time)
        }
        (None, None) => return Ok(None),
    };
    check_anchor(anchor, now, interval, "billing_cycle_anchor")?;
    Ok(Some(anchor))
}

fn cancel_at(params: &Params) -> Result<Option<i64>, ApiError> {
    match params.non_empty("cancel_at") {
        Some(text) => match text.parse() {
            Ok(time) => Ok(Some(time)),
            Err(_) => Err(ApiError::unsupported("cancel_at")),
        },
        None => Ok(None),
    }
}

pub(crate) fn get(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let subscription = call.state.subscriptions.find(&call.id, "id")?;
    Ok(call.state.subscription_json(subscription))
}

pub(crate) fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let subscription = state.subscriptions.find(&call.id, "id")?.clone();
    if subscription.status.is_ended() {
        let changes = params.iter().map(|(name, _)| name);
        if !{ changes }.all(|name| matches!(name, "metadata" | "cancellation_details" | "expand")) {
            let message =
                "A canceled subscription can only update its cancellation_details and metadata.";
            return Err(ApiError::invalid(message));
        }
    }
    let metadata = update_metadata(&subscription.metadata, params, "metadata")?;
    let (items, interval) = changed_items(state, &subscription, params)?;
    let cancel_at_time = cancel_at(params)?;
    if let Some(method) = params.non_empty("default_payment_method") {
        let customer = state.customers.find(&subscription.customer, "customer")?;
        if !customer.has_method(Some(method)) {
            return Err(ApiError::missing(
                "PaymentMethod",
                method,
                "default_payment_method",
            ));
        }
    }
    if params.text("payment_behavior") == Some("pending_if_incomplete") {
        return Err(ApiError::unsupported("payment_behavior"));
    }
    let is_reset = interval != subscription.interval
        || params.text("billing_cycle_anchor.type") == Some("now");
    let behavior = params
        .text("proration_behavior")
        .unwrap_or("create_prorations");

    let before = state.subscription_json(&subscription);
    let now = state.now;
    let changed = state.subscriptions.find_mut(&call.id, "id")?;
    changed.metadata = metadata;
    for (path, stored) in [
        ("description", &mut changed.description),
        ("default_payment_method", &mut changed.method),
        ("cancellation_details.comment", &mut changed.comment),
        ("cancellation_details.feedback", &mut changed.feedback),
    ] {
        if let Some(text) = optional_text(params, path) {
            *stored = text;
        }
    }
    if let Some(method) = params.text("collection_method") {
        changed.is_sent = method == "send_invoice";
    }
    changed.days_until_due = params.integer("days_until_due").or(changed.days_until_due);
    if let Some(at_end) = params.boolean("cancel_at_period_end") {
        changed.cancels_at_period_end = at_end;
        changed.cancel_at = at_end.then_some(changed.period.1);
        changed.canceled_at = at_end.then_some(now);
    }
    if params.text("cancel_at").is_some() {
        changed.cancel_at = cancel_at_time;
        changed.canceled_at = cancel_at_time.map(|_| now);
        changed.cancels_at_period_end = cancel_at_time == Some(changed.period.1);
    }
    if params.get("pending_invoice_item_interval").is_some() {
        changed.pending_interval = pending_interval(params, "pending_invoice_item_interval");
        changed.next_pending = None;
    }
    state.schedule_subscription(&call.id);
    state.change_items(&call.id, items, interval, is_reset, behavior);
    let after = state.rendered_subscription(&call.id);
    state.emit_change("customer.subscription.updated", &before, after.clone());
    Ok(after)
}

/// Returns the items as they are after an update, and their interval.
fn changed_items(
    state: &mut State,
    subscription: &Subscription,
    params: &Params,
) -> Result<(Vec<SubscriptionItem>, Interval), ApiError> {
    let mut items = subscription.items.clone();
    for (index, change) in params.objects("items").into_iter().enumerate() {
        let param = |name: &str| format!("items[{index}][{name}]");
        let at = match change.non_empty("id") {
            Some(id) => {
                let at = items.iter().position(|item| item.id == id);
                at.ok_or_else(|| ApiError::missing("subscription item", id, &param("id")))?
            }
            None => {
                let price = change.non_empty("price");
                let price = price.ok_or_else(|| ApiError::parameter_missing(&param("price")))?;
                if items.iter().any(|item| item.price == price) {
                    let message = format!(
                        "Price {price} is already using an existing Subscription Item. Please update the \
                         existing Subscription Item instead."
                    );
                    return Err(ApiError::invalid(message).with_param(param("price")));
                }
                items.push(SubscriptionItem {
                    id: state.ids.next("si_", 14),
                    created: state.now,
                    price: price.to_owned(),
                    quantity: 1,
                    metadata: Metadata::new(),
                });
                items.len() - 1
            }
        };
        if change.boolean("deleted") == Some(true) {
            items.remove(at);
            continue;
        }
        let item = &mut items[at];
        if let Some(price) = change.non_empty("price") {
            price.clone_into(&mut item.price);
        }
        item.quantity = change.integer("quantity").unwrap_or(item.quantity);
        item.metadata = update_metadata(&item.metadata, change, "metadata")?;
    }
    let mut interval = None;
    for item in &items {
        // A price that is no longer active stays where it is.
        if subscription
            .items
            .iter()
            .any(|before| before.price == item.price)
        {
            interval.get_or_insert(subscription.interval);
        } else {
            let others = interval.map(|interval| (interval, subscription.currency.as_str()));
            let (of_price, currency) = check_price(state, &item.price, "items[0][price]", others)?;
            if currency != subscription.currency {
                let message = "The price specified has another currency than the subscription.";
                return Err(ApiError::invalid(message).with_param("items[0][price]"));
            }
            interval = Some(of_price);
        }
    }
    match interval {
        Some(interval) => Ok((items, interval)),
        None => Err(ApiError::invalid(
            "A subscription must have at least one active plan.",
        )),
    }
}

pub(crate) fn cancel(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let subscription = state.subscriptions.find(&call.id, "id")?;
    if subscription.status.is_ended() {
        return Err(ApiError::missing("subscription", &call.id, "id"));
    }
    let subscription = state.subscriptions.find_mut(&call.id, "id")?;
    for (path, stored) in [
        ("cancellation_details.comment", &mut subscription.comment),
        ("cancellation_details.feedback", &mut subscription.feedback),
    ] {
        if let Some(text) = optional_text(params, path) {
            *stored = text;
        }
    }
    if params.boolean("prorate") == Some(true) {
        state.credit_unused(&call.id);
    }
    let is_invoiced = params.boolean("invoice_now") == Some(true);
    state.end_subscription(&call.id, is_invoiced.then_some("subscription_update"));
    Ok(state.rendered_subscription(&call.id))
}

/// Lists subscriptions: those that have not ended, unless a status is asked.
pub(crate) fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&*call.state, call.params);
    state.check_customer(params)?;
    let has_status = |status: Status| match params.text("status") {
        None => !status.is_ended(),
        Some("all") => true,
        Some("ended") => status.is_ended(),
        Some(wanted) => status.name() == wanted,
    };
    state.subscriptions.list(
        params,
        "/v1/subscriptions",
        |subscription| {
            let method = if subscription.is_sent {
                "send_invoice"
            } else {
                "charge_automatically"
            };
            has_status(subscription.status)
                && in_range(params, "created", subscription.created)
                && in_range(params, "current_period_start", subscription.period.0)
                && in_range(params, "current_period_end", subscription.period.1)
                && params
                    .text("collection_method")
                    .is_none_or(|wanted| wanted == method)
                && params
                    .text("price")
                    .is_none_or(|price| subscription.items.iter().any(|item| item.price == price))
        },
        |subscription| state.subscription_json(subscription),
    )
}
