//! Operations on invoices.

use serde_json::{Value, json};

use super::{Collection, MAX_LINES, NewInvoice, Status};
use crate::call::Call;
use crate::error::ApiError;
use crate::form::Params;
use crate::invoice_item::Drawn;
use crate::renewal::DRAFT;
use crate::state::{Metadata, State, Task, optional_text, update_metadata};
use crate::table::{in_range, limit};

impl State {
    /// Checks Stripe's limit on new invoices of a subscription: 10 in a minute, 20 in a day
    /// (<https://docs.stripe.com/rate-limits>).
    fn check_new_invoices(&self, customer: &str, subscription: &str) -> Result<(), ApiError> {
        let created_since = |since: i64| {
            let newest = self.invoices.of_customer(customer).rev();
            let recent = newest.take_while(|invoice| invoice.created > since);
            recent
                .filter(|invoice| invoice.subscription.as_deref() == Some(subscription))
                .count()
        };
        let message = "You have created too many invoices for this subscription recently. Please try again later.";
        if created_since(self.now - 60) >= 10 || created_since(self.now - 86_400) >= 20 {
            return Err(ApiError::rate_limited(message, "resource-specific"));
        }
        Ok(())
    }
}

/// Reads when an invoice that is sent is due.
fn collection(params: &Params, now: i64) -> Result<Collection, ApiError> {
    if params.text("collection_method") != Some("send_invoice") {
        return Ok(Collection::Charge);
    }
    let days = params
        .integer("days_until_due")
        .map(|days| now + days * 86_400);
    match params.integer("due_date").or(days) {
        Some(due) => Ok(Collection::Send { due }),
        None => Err(ApiError::invalid(
            "If invoice collection method is 'send_invoice', you must specify 'due_date' or 'days_until_due'.",
        )
        .with_param("days_until_due")),
    }
}

/// Checks that there is no parameter that Stripe rejects beside `subscription`, although its documentation does not
/// say so (<https://github.com/stripe/stripe-cli/issues/1249>).
fn check_subscription_alone(params: &Params) -> Result<(), ApiError> {
    let others = ["pending_invoice_items_behavior", "currency"];
    let Some(other) = others.iter().find(|name| params.get(name).is_some()) else {
        return Ok(());
    };
    let message = format!("You may only specify one of these parameters: {other}, subscription.");
    Err(ApiError::invalid(message).with_param(*other))
}

pub(crate) fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    if params.non_empty("subscription").is_some() {
        check_subscription_alone(params)?;
    }
    let subscription = match params.non_empty("subscription") {
        Some(id) => Some(state.subscriptions.find(id, "subscription")?),
        None => None,
    };
    let customer_id = params
        .non_empty("customer")
        .or(subscription.map(|of| of.customer.as_str()));
    let customer_id = customer_id.ok_or_else(|| ApiError::parameter_missing("customer"))?;
    let customer = state.customers.find(customer_id, "customer")?;
    if let Some(subscription) = subscription
        && subscription.customer != customer_id
    {
        return Err(ApiError::missing(
            "subscription",
            &subscription.id,
            "subscription",
        ));
    }
    let metadata = update_metadata(&Metadata::new(), params, "metadata")?;
    let collection = collection(params, state.now)?;
    let currency = params.text("currency").map(str::to_lowercase);
    let currency = currency.or_else(|| subscription.map(|of| of.currency.clone()));
    let currency = currency.or_else(|| customer.currency.clone());
    let currency = currency.unwrap_or_else(|| "usd".to_owned());
    let method = params.non_empty("default_payment_method");
    let method = method.or(subscription.and_then(|subscription| subscription.method.as_deref()));
    let method = method.map(str::to_owned);
    let customer_id = customer_id.to_owned();
    let subscription = subscription.map(|subscription| subscription.id.clone());
    let drawn = match (&subscription, params.text("pending_invoice_items_behavior")) {
        (Some(subscription), _) => Some(Drawn::OfSubscription(subscription)),
        (None, Some("include")) => Some(Drawn::All),
        (None, _) => None,
    };
    let items = drawn.map(|drawn| state.pending_items(&customer_id, drawn, &currency));
    let mut items = items.unwrap_or_default();
    items.truncate(MAX_LINES);
    if let Some(subscription) = &subscription {
        state.check_new_invoices(&customer_id, subscription)?;
        if items.is_empty() {
            let message = "Nothing to invoice for subscription";
            return Err(ApiError::invalid(message).with_code("invoice_no_subscription_line_items"));
        }
    }
    let is_automatic = params.boolean("auto_advance").unwrap_or(false);
    let now = state.now;
    let id = state.new_invoice(NewInvoice {
        customer: customer_id,
        subscription,
        reason: "manual",
        collection,
        currency,
        period: (now, now),
        is_automatic,
    });
    let finalizes_at = params
        .integer("automatically_finalizes_at")
        .filter(|_| is_automatic);
    let finalizes_at = finalizes_at.unwrap_or(now + DRAFT);
    let invoice = state.invoices.find_mut(&id, "id")?;
    invoice.metadata = metadata;
    invoice.method = method;
    invoice.description = params.non_empty("description").map(str::to_owned);
    invoice.footer = params.non_empty("footer").map(str::to_owned);
    if is_automatic {
        invoice.finalizes_at = Some(finalizes_at);
        state.schedule(finalizes_at, Task::Finalize(id.clone()));
    }
    state.add_items(&id, &items);
    state.emit_invoice("invoice.created", &id);
    state.rendered_invoice(&id)
}

pub(crate) fn get(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.state.rendered_invoice(&call.id)
}

pub(crate) fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let before = state.rendered_invoice(&call.id)?;
    let invoice = state.invoices.find(&call.id, "id")?;
    let metadata = update_metadata(&invoice.metadata, params, "metadata")?;
    let is_draft = invoice.status == Status::Draft;
    let for_drafts = ["description", "footer", "days_until_due", "due_date"];
    if !is_draft && for_drafts.iter().any(|name| params.get(name).is_some()) {
        let message = "Finalized invoices can't be updated in this way";
        return Err(ApiError::invalid(message).with_code("invoice_not_editable"));
    }
    let now = state.now;
    let invoice = state.invoices.find_mut(&call.id, "id")?;
    invoice.metadata = metadata;
    for (name, stored) in [
        ("description", &mut invoice.description),
        ("footer", &mut invoice.footer),
    ] {
        if let Some(text) = optional_text(params, name) {
            *stored = text;
        }
    }
    let days = params
        .integer("days_until_due")
        .map(|days| now + days * 86_400);
    if let (Collection::Send { .. }, Some(due)) =
        (invoice.collection, params.integer("due_date").or(days))
    {
        invoice.collection = Collection::Send { due };
    }
    if let Some(is_automatic) = params.boolean("auto_advance") {
        invoice.is_automatic = is_automatic;
        invoice.finalizes_at = (is_draft && is_automatic).then_some(now + DRAFT);
        let task = match (is_automatic, is_draft) {
            (true, true) => Some((now + DRAFT, Task::Finalize(call.id.clone()))),
            (true, false) => {
                invoice.next_attempt = Some(now);
                Some((now, Task::Collect(call.id.clone())))
            }
            (false, _) => None,
        };
        if let Some((due, task)) = task {
            state.schedule(due, task);
        }
    }
    let json = state.rendered_invoice(&call.id)?;
    state.emit_change("invoice.updated", &before, json.clone());
    Ok(json)
}

/// Finalizes a draft. A payment is attempted at once if it is automatic, else when it is asked for.
pub(crate) fn finalize(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let invoice = state.invoices.find(&call.id, "id")?;
    if invoice.status != Status::Draft {
        let message =
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.";
        return Err(ApiError::invalid(message));
    }
    state.customers.find(&invoice.customer, "customer")?;
    let now = state.now;
    let invoice = state.invoices.find_mut(&call.id, "id")?;
    invoice.is_automatic = params
        .boolean("auto_advance")
        .unwrap_or(invoice.is_automatic);
    let is_automatic = invoice.is_automatic;
    state.finalize_invoice(&call.id);
    let invoice = state.invoices.find_mut(&call.id, "id")?;
    if is_automatic && invoice.status == Status::Open && invoice.collection == Collection::Charge {
        invoice.next_attempt = Some(now);
        state.schedule(now, Task::Collect(call.id.clone()));
    }
    state.rendered_invoice(&call.id)
}

/// Pays an invoice, and finalizes it before if it is a draft.
pub(crate) fn pay(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let invoice = state.invoices.find(&call.id, "id")?;
    match invoice.status {
        Status::Paid => return Err(ApiError::invalid("Invoice is already paid")),
        Status::Void => return Err(ApiError::invalid("Voided invoices cannot be paid")),
        Status::Draft | Status::Open => {}
    }
    let customer = state.customers.find(&invoice.customer, "customer")?;
    let method = params.non_empty("payment_method");
    if let Some(method) = method
        && !customer.has_method(Some(method))
    {
        return Err(ApiError::missing("PaymentMethod", method, "payment_method"));
    }
    let is_out_of_band = params.boolean("paid_out_of_band").unwrap_or(false);
    let of_subscription = invoice
        .subscription
        .as_deref()
        .and_then(|id| state.subscriptions.get(id));
    let preferred = method.or(invoice.method.as_deref());
    let preferred = preferred.or(of_subscription.and_then(|of| of.method.as_deref()));
    if !is_out_of_band && !customer.has_method(preferred) {
        let message = "There is no `default_payment_method` set on this Customer or Invoice. Please set a default \
                       or supply one with the payment_method parameter.";
        return Err(ApiError::invalid(message).with_code("invoice_payment_intent_requires_action"));
    }
    if invoice.status == Status::Draft {
        state.finalize_invoice(&call.id);
    }
    let is_open = state.invoices.find(&call.id, "id")?.status == Status::Open;
    if is_open && is_out_of_band {
        state.mark_paid(&call.id);
    } else if is_open {
        // The given method is for this attempt only.
        let invoice = state.invoices.find_mut(&call.id, "id")?;
        let before = invoice.method.clone();
        invoice.method = method.map(str::to_owned).or(invoice.method.take());
        let is_paid = state.collect(&call.id);
        state.invoices.find_mut(&call.id, "id")?.method = before;
        if !is_paid {
            return Err(ApiError::declined());
        }
    }
    state.rendered_invoice(&call.id)
}

pub(crate) fn void(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let state = &mut *call.state;
    if state.invoices.find(&call.id, "id")?.status != Status::Open {
        let message = "You can only pass in open invoices. This invoice isn't open.";
        return Err(ApiError::invalid(message));
    }
    state.void_invoice(&call.id);
    state.rendered_invoice(&call.id)
}

pub(crate) fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&*call.state, call.params);
    state.check_customer(params)?;
    let is = |name: &str, value: &str| params.text(name).is_none_or(|wanted| wanted == value);
    state.invoices.list(
        params,
        "/v1/invoices",
        |invoice| {
            in_range(params, "created", invoice.created)
                && in_range(params, "due_date", invoice.due_date().unwrap_or(i64::MIN))
                && is("status", invoice.status.name())
                && is("collection_method", invoice.collection_method())
                && is(
                    "subscription",
                    invoice.subscription.as_deref().unwrap_or_default(),
                )
        },
        |invoice| state.invoice_json(invoice),
    )
}

/// Lists the lines of an invoice in their order.
pub(crate) fn list_lines(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&*call.state, call.params);
    let invoice = state.invoices.find(&call.id, "id")?;
    let position = |param: &str| match params.text(param) {
        Some(id) => {
            let at = invoice.lines.iter().position(|line| line.id == id);
            at.map(Some)
                .ok_or_else(|| ApiError::missing("line item", id, param))
        }
        None => Ok(None),
    };
    let limit = limit(params)?;
    let first = match (position("starting_after")?, position("ending_before")?) {
        (Some(after), _) => after + 1,
        (None, Some(before)) => before.saturating_sub(limit),
        (None, None) => 0,
    };
    let end = position("ending_before")?.unwrap_or(invoice.lines.len());
    let lines = &invoice.lines[first.min(end)..end];
    let data = lines
        .iter()
        .take(limit)
        .map(|line| state.line_json(invoice, line));
    let data: Vec<Value> = data.collect();
    Ok(json!({
        "object": "list",
        "data": data,
        "has_more": lines.len() > limit,
        "url": format!("/v1/invoices/{}/lines", invoice.id),
    }))
}
