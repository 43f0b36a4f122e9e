//! Operations on checkout sessions.

use serde_json::Value;

use super::{LineItem, Payment, Session, Status, SubscriptionData};
use crate::calendar::Interval;
use crate::call::Call;
use crate::error::ApiError;
use crate::form::Params;
use crate::state::{Metadata, State, Task, update_metadata};
use crate::subscription::{check_anchor, check_billing_mode, check_price, pending_interval};
use crate::table::{in_range, limit};

/// Seconds in which a session can be completed.
const LIFETIME: i64 = 24 * 3_600;

pub(crate) fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let is_subscription = match params.text("mode") {
        Some("subscription") => true,
        Some("payment") => false,
        Some(_) => return Err(ApiError::unsupported("mode")),
        None => return Err(ApiError::parameter_missing("mode")),
    };
    if params
        .text("ui_mode")
        .is_some_and(|mode| mode != "hosted_page")
    {
        return Err(ApiError::unsupported("ui_mode"));
    }
    check_billing_mode(params, "subscription_data.billing_mode.type")?;
    let metadata = update_metadata(&Metadata::new(), params, "metadata")?;
    let customer = params.non_empty("customer");
    let email = params.non_empty("customer_email");
    if customer.is_some() && email.is_some() {
        let message = "You may only specify one of these parameters: customer, customer_email.";
        return Err(ApiError::invalid(message).with_param("customer"));
    }
    if let Some(customer) = customer {
        state.customers.find(customer, "customer")?;
    }
    let success_url = params.non_empty("success_url");
    let success_url = success_url.ok_or_else(|| ApiError::parameter_missing("success_url"))?;
    for name in ["success_url", "cancel_url"] {
        if let Some(url) = params.non_empty(name)
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            let message = format!("Not a valid URL: {name} must start with http:// or https://.");
            return Err(ApiError::invalid(message)
                .with_code("url_invalid")
                .with_param(name));
        }
    }
    let (items, interval, currency) = line_items(state, params, is_subscription)?;
    if let Some(wanted) = params.non_empty("currency")
        && wanted != currency
    {
        let message = format!(
            "The price specified only supports `{currency}`. This doesn't match the expected currency: `{wanted}`."
        );
        return Err(ApiError::invalid(message).with_param("currency"));
    }
    if let Some(customer) = customer {
        state.check_currency(state.customers.find(customer, "customer")?, &currency)?;
    }
    let new = SubscriptionData {
        metadata: update_metadata(&Metadata::new(), params, "subscription_data.metadata")?,
        description: params
            .non_empty("subscription_data.description")
            .map(str::to_owned),
        anchor: params.integer("subscription_data.billing_cycle_anchor"),
        is_free_until_anchor: params.text("subscription_data.proration_behavior") == Some("none"),
        pending_interval: pending_interval(
            params,
            "subscription_data.pending_invoice_item_interval",
        ),
    };
    if let (Some(anchor), Some(interval)) = (new.anchor, interval) {
        check_anchor(
            anchor,
            state.now,
            interval,
            "subscription_data[billing_cycle_anchor]",
        )?;
    }
    let expires_at = params.integer("expires_at").unwrap_or(state.now + LIFETIME);
    if !(state.now + 1_800..=state.now + LIFETIME).contains(&expires_at) {
        let message = "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session \
                       creation.";
        return Err(ApiError::invalid(message).with_param("expires_at"));
    }
    let prefix = if state.is_live {
        "cs_live_a1"
    } else {
        "cs_test_a1"
    };
    let id = state.ids.next(prefix, 56);
    state.sessions.insert(Session {
        id: id.clone(),
        created: state.now,
        expires_at,
        is_subscription,
        status: Status::Open,
        payment: Payment::Unpaid,
        customer: customer.map(str::to_owned),
        customer_email: email.map(str::to_owned),
        client_reference_id: params.non_empty("client_reference_id").map(str::to_owned),
        metadata,
        items,
        success_url: Some(success_url.to_owned()),
        cancel_url: params.non_empty("cancel_url").map(str::to_owned),
        currency,
        interval,
        subscription: None,
        invoice: None,
        payment_intent: None,
        new,
        allows_promotion_codes: params.boolean("allow_promotion_codes"),
        is_adaptive: params.boolean("adaptive_pricing.enabled"),
    });
    state.schedule(expires_at, Task::ExpireSession(id.clone()));
    Ok(state.session_json(state.sessions.find(&id, "id")?))
}

type LineItems = (Vec<LineItem>, Option<Interval>, String);

fn line_items(
    state: &mut State,
    params: &Params,
    is_subscription: bool,
) -> Result<LineItems, ApiError> {
    let sent = params.objects("line_items");
    if sent.is_empty() {
        return Err(ApiError::parameter_missing("line_items"));
    }
    let mut items = Vec::with_capacity(sent.len());
    let mut common: Option<(Option<Interval>, String)> = None;
    for (index, item) in sent.into_iter().enumerate() {
        let param = |name: &str| format!("line_items[{index}][{name}]");
        let id = item
            .non_empty("price")
            .ok_or_else(|| ApiError::parameter_missing(&param("price")))?;
        let price = state.prices.find(id, &param("price"))?;
        let Some(quantity) = item.integer("quantity") else {
            let message = format!("Quantity is required. Add `quantity` to `line_items[{index}]`");
            return Err(ApiError::invalid(message).with_param(param("quantity")));
        };
        let of_item = match (is_subscription, price.recurring) {
            (true, Some(_)) => {
                let others = common
                    .as_ref()
                    .and_then(|(interval, currency)| Some(((*interval)?, currency.as_str())));
                let (interval, currency) = check_price(state, id, &param("price"), others)?;
                (Some(interval), currency)
            }
            (true, None) => {
                let message = "You must provide at least one recurring price in `subscription` mode when using \
                               prices.";
                return Err(ApiError::invalid(message).with_param("line_items"));
            }
            (false, Some(_)) => {
                let message = "You specified `payment` mode but passed a recurring price. Either switch to \
                               `subscription` mode or use only one-time prices.";
                return Err(ApiError::invalid(message).with_param("mode"));
            }
            (false, None) => (None, price.currency.clone()),
        };
        let id = id.to_owned();
        common = Some(of_item);
        items.push(LineItem {
            id: state.ids.next("li_1", 23),
            price: id,
            quantity,
        });
    }
    let (interval, currency) = common.unwrap_or_default();
    Ok((items, interval, currency))
}

pub(crate) fn get(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let session = call.state.sessions.find(&call.id, "id")?;
    Ok(call.state.session_json(session))
}

pub(crate) fn expire(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let state = &mut *call.state;
    if state.sessions.find(&call.id, "id")?.status != Status::Open {
        let message = "Only Checkout Sessions with a status in [\"open\"] can be expired.";
        return Err(ApiError::invalid(message));
    }
    state.expire_session(&call.id);
    Ok(state.session_json(state.sessions.find(&call.id, "id")?))
}

pub(crate) fn list_line_items(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let state = &*call.state;
    state.sessions.find(&call.id, "id")?;
    let limit = limit(call.params)?;
    let mut list = state.line_items_of(&call.id).unwrap_or_default();
    if let Some(data) = list["data"].as_array_mut() {
        let has_more = data.len() > limit;
        data.truncate(limit);
        list["has_more"] = has_more.into();
    }
    Ok(list)
}

pub(crate) fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&*call.state, call.params);
    state.check_customer(params)?;
    state.sessions.list(
        params,
        "/v1/checkout/sessions",
        |session| {
            let status = match session.status {
                Status::Open => "open",
                Status::Complete => "complete",
                Status::Expired => "expired",
            };
            let subscription = session.subscription.as_deref().unwrap_or_default();
            let email = session.customer_email.as_deref().unwrap_or_default();
            in_range(params, "created", session.created)
                && params.text("status").is_none_or(|wanted| wanted == status)
                && params
                    .text("subscription")
                    .is_none_or(|wanted| wanted == subscription)
                && params
                    .text("customer_details.email")
                    .is_none_or(|wanted| wanted == email)
        },
        |session| state.session_json(session),
    )
}
