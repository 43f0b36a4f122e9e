//! Invoice items: amounts that wait for an invoice, or are on one.

use serde_json::{Value, json};

use crate::call::Call;
use crate::error::ApiError;
use crate::form::Params;
use crate::invoice::{MAX_LINES, Status};
use crate::money::Decimal;
use crate::state::{Metadata, State, optional_text, update_metadata};
use crate::table::{Row, in_range};

/// Invoice item. It is pending until it is on an invoice.
#[derive(Debug, Clone)]
pub(crate) struct InvoiceItem {
    pub(crate) id: String,
    pub(crate) date: i64,
    pub(crate) customer: String,
    pub(crate) subscription: Option<String>,
    pub(crate) subscription_item: Option<String>,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) description: Option<String>,
    is_discountable: bool,
    pub(crate) metadata: Metadata,
    pub(crate) period: (i64, i64),
    pub(crate) price: Option<String>,
    pub(crate) unit_amount: Decimal,
    pub(crate) quantity: i64,
    pub(crate) is_proration: bool,
    pub(crate) invoice: Option<String>,
    is_deleted: bool,
}

impl Row for InvoiceItem {
    const WHAT: &'static str = "invoiceitem";

    fn id(&self) -> &str {
        &self.id
    }

    fn customer(&self) -> Option<&str> {
        Some(&self.customer)
    }

    fn is_deleted(&self) -> bool {
        self.is_deleted
    }
}

impl InvoiceItem {
    /// Returns whether the item waits for an invoice.
    pub(crate) fn is_pending(&self) -> bool {
        self.invoice.is_none() && !self.is_deleted
    }
}

/// Pending items that an invoice draws.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Drawn<'a> {
    /// Items of a subscription, and items of none.
    ByRenewal(&'a str),
    /// Items of a subscription.
    OfSubscription(&'a str),
    /// All items of the customer.
    All,
}

/// Part of a subscription's price for a change within a period.
pub(crate) struct Proration {
    pub(crate) subscription: String,
    pub(crate) subscription_item: String,
    pub(crate) price: String,
    pub(crate) amount: i64,
    pub(crate) quantity: i64,
    pub(crate) period: (i64, i64),
    pub(crate) description: String,
}

impl State {
    /// Creates a pending item for the change of a subscription.
    pub(crate) fn add_proration(&mut self, customer: &str, currency: &str, proration: Proration) {
        let id = self.ids.next("ii_1", 23);
        self.invoice_items.insert(InvoiceItem {
            id: id.clone(),
            date: self.now,
            customer: customer.to_owned(),
            subscription: Some(proration.subscription),
            subscription_item: Some(proration.subscription_item),
            amount: proration.amount,
            currency: currency.to_owned(),
            description: Some(proration.description),
            is_discountable: false,
            metadata: Metadata::new(),
            period: proration.period,
            price: Some(proration.price),
            unit_amount: Decimal::from(proration.amount),
            quantity: proration.quantity,
            is_proration: true,
            invoice: None,
            is_deleted: false,
        });
        if let Some(item) = self.invoice_items.get(&id) {
            self.emit("invoiceitem.created", self.invoice_item_json(item));
        }
    }

    /// Returns the pending items of a customer that an invoice draws, from the oldest.
    pub(crate) fn pending_items(
        &self,
        customer: &str,
        drawn: Drawn<'_>,
        currency: &str,
    ) -> Vec<String> {
        let items = self.invoice_items.of_customer(customer);
        let drawn = items.filter(|item| {
            let of = item.subscription.as_deref();
            let is_drawn = match drawn {
                Drawn::ByRenewal(subscription) => of.is_none_or(|of| of == subscription),
                Drawn::OfSubscription(subscription) => of == Some(subscription),
                Drawn::All => true,
            };
            item.is_pending() && is_drawn && item.currency == currency
        });
        drawn.map(|item| item.id.clone()).collect()
    }

    pub(crate) fn invoice_item_json(&self, item: &InvoiceItem) -> Value {
        let parent = item.subscription.as_ref().map(|subscription| {
            let mut details = json!({ "subscription": subscription });
            if let Some(item) = &item.subscription_item {
                details["subscription_item"] = item.as_str().into();
            }
            json!({ "type": "subscription_details", "subscription_details": details })
        });
        json!({
            "id": item.id,
            "object": "invoiceitem",
            "amount": item.amount,
            "currency": item.currency,
            "customer": item.customer,
            "customer_account": null,
            "date": item.date,
            "description": item.description,
            "discountable": item.is_discountable,
            "discounts": [],
            "invoice": item.invoice,
            "livemode": self.is_live,
            "metadata": item.metadata,
            "net_amount": item.amount,
            "parent": parent,
            "period": { "start": item.period.0, "end": item.period.1 },
            "pricing": self.pricing_json(item.price.as_deref(), item.unit_amount),
            "proration": item.is_proration,
            "quantity": item.quantity,
            "quantity_decimal": item.quantity.to_string(),
            "tax_rates": [],
            "test_clock": null,
        })
    }

    /// Returns the member `pricing` of an item or a line.
    pub(crate) fn pricing_json(&self, price: Option<&str>, unit_amount: Decimal) -> Value {
        let mut pricing =
            json!({ "type": "price_details", "unit_amount_decimal": unit_amount.to_string() });
        if let Some(price) = price.and_then(|price| self.prices.get(price)) {
            pricing["price_details"] = json!({ "price": price.id, "product": price.product });
        }
        pricing
    }
}

/// Amount of an item, as its parameters give it.
struct Amount {
    amount: i64,
    unit_amount: Decimal,
    quantity: i64,
    price: Option<String>,
    currency: Option<String>,
}

fn amount(state: &State, params: &Params) -> Result<Amount, ApiError> {
    let quantity = params.integer("quantity");
    if quantity.is_some_and(|quantity| quantity < 0) {
        let message = "Invalid non-negative integer";
        return Err(ApiError::invalid(message).with_param("quantity"));
    }
    let given = ["amount", "unit_amount_decimal", "pricing"];
    let given: Vec<&str> = given
        .into_iter()
        .filter(|name| params.get(name).is_some())
        .collect();
    let currency = params.text("currency").map(str::to_lowercase);
    let (unit_amount, price, currency) = match given[..] {
        ["amount"] if quantity.is_some() => {
            let message = "You may only specify one of these parameters: amount, quantity.";
            return Err(ApiError::invalid(message));
        }
        ["amount"] => (
            Decimal::from(params.integer("amount").unwrap_or(0)),
            None,
            currency,
        ),
        ["unit_amount_decimal"] => {
            let amount = params.text("unit_amount_decimal").and_then(Decimal::parse);
            (amount.unwrap_or(Decimal::from(0)), None, currency)
        }
        ["pricing"] => {
            let id = params.text("pricing.price").unwrap_or_default();
            let price = state.prices.find(id, "pricing[price]")?;
            if price.recurring.is_some() {
                let message = "The price specified is set to `type=recurring` but this field only accepts \
                               prices with `type=one_time`.";
                return Err(ApiError::invalid(message).with_param("pricing[price]"));
            }
            if !price.is_active {
                let message =
                    "The price specified is inactive. This field only accepts active prices.";
                return Err(ApiError::invalid(message).with_param("pricing[price]"));
            }
            (
                price.unit_amount,
                Some(id.to_owned()),
                Some(price.currency.clone()),
            )
        }
        [] => return Err(ApiError::parameter_missing("amount")),
        [first, second, ..] => {
            let message =
                format!("You may only specify one of these parameters: {first}, {second}.");
            return Err(ApiError::invalid(message));
        }
        [_] => return Err(ApiError::parameter_missing("amount")),
    };
    let quantity = quantity.unwrap_or(1);
    Ok(Amount {
        amount: unit_amount.times(quantity),
        unit_amount,
        quantity,
        price,
        currency,
    })
}

fn period(params: &Params) -> Result<Option<(i64, i64)>, ApiError> {
    let (Some(start), Some(end)) = (params.integer("period.start"), params.integer("period.end"))
    else {
        return Ok(None);
    };
    if end < start {
        let message = "Invoice item period end must be greater than or equal to its start.";
        return Err(ApiError::invalid(message).with_param("period[end]"));
    }
    Ok(Some((start, end)))
}

pub(crate) fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let customer_id = params
        .text("customer")
        .ok_or_else(|| ApiError::parameter_missing("customer"))?;
    let customer = state.customers.find(customer_id, "customer")?;
    let metadata = update_metadata(&Metadata::new(), params, "metadata")?;
    let amount = amount(state, params)?;
    let period = period(params)?.unwrap_or((state.now, state.now));
    let subscription = match params.non_empty("subscription") {
        Some(id) => {
            let subscription = state.subscriptions.get(id);
            let subscription = subscription.filter(|subscription| {
                subscription.customer == customer_id && !subscription.status.is_ended()
            });
            // Stripe has the same text for a subscription that has ended.
            let message =
                format!("Customer {customer_id} does not have a subscription with ID {id}");
            Some(subscription.ok_or_else(|| {
                ApiError::invalid(message)
                    .with_code("resource_missing")
                    .with_param("subscription")
            })?)
        }
        None => None,
    };
    let currency = amount.currency.or_else(|| customer.currency.clone());
    let currency = currency.unwrap_or_else(|| "usd".to_owned());
    state.check_currency(customer, &currency)?;
    if let Some(subscription) = subscription
        && subscription.currency != currency
    {
        let message = format!(
            "The currency of the invoice item must match the subscription's ({})",
            subscription.currency
        );
        return Err(ApiError::invalid(message).with_param("currency"));
    }
    let subscription = subscription.map(|subscription| subscription.id.clone());
    let invoice = match params.non_empty("invoice") {
        Some(id) => {
            state.check_has_room(id, customer_id, &currency)?;
            Some(id.to_owned())
        }
        None => None,
    };
    let item = InvoiceItem {
        id: state.ids.next("ii_1", 23),
        date: state.now,
        customer: customer_id.to_owned(),
        subscription,
        subscription_item: None,
        amount: amount.amount,
        currency: currency.clone(),
        description: params.non_empty("description").map(str::to_owned),
        is_discountable: params.boolean("discountable").unwrap_or(amount.amount >= 0),
        metadata,
        period,
        price: amount.price,
        unit_amount: amount.unit_amount,
        quantity: amount.quantity,
        is_proration: false,
        invoice: None,
        is_deleted: false,
    };
    let id = item.id.clone();
    state.invoice_items.insert(item);
    if let Some(customer) = state.customers.get_mut(customer_id) {
        customer.currency.get_or_insert(currency);
    }
    if let Some(invoice) = invoice {
        state.add_items(&invoice, std::slice::from_ref(&id));
    }
    let json = state.invoice_item_json(state.invoice_items.find(&id, "id")?);
    state.emit("invoiceitem.created", json.clone());
    Ok(json)
}

impl State {
    /// Checks that an item can be added to an invoice.
    fn check_has_room(&self, id: &str, customer: &str, currency: &str) -> Result<(), ApiError> {
        let invoice = self.invoices.find(id, "invoice")?;
        let error = |message: &str| Err(ApiError::invalid(message).with_param("invoice"));
        if invoice.customer != customer {
            return error("The invoice belongs to another customer than the invoice item.");
        }
        if invoice.status != Status::Draft {
            return Err(not_editable());
        }
        if invoice.currency != currency {
            return error("The currency of the invoice item must match the invoice's.");
        }
        if invoice.lines.len() >= MAX_LINES {
            return error("An invoice can have at most 250 invoice items.");
        }
        Ok(())
    }

    /// Checks that an item can be changed: it is pending, or its invoice is a draft.
    fn check_editable(&self, id: &str) -> Result<(), ApiError> {
        let item = self.invoice_items.find(id, "id")?;
        let invoice = item
            .invoice
            .as_deref()
            .and_then(|invoice| self.invoices.get(invoice));
        if invoice.is_some_and(|invoice| invoice.status != Status::Draft) {
            return Err(not_editable());
        }
        Ok(())
    }
}

fn not_editable() -> ApiError {
    ApiError::invalid("This invoice is no longer editable").with_code("invoice_not_editable")
}

pub(crate) fn get(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let item = call.state.invoice_items.find(&call.id, "id")?;
    Ok(call.state.invoice_item_json(item))
}

pub(crate) fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    state.check_editable(&call.id)?;
    let item = state.invoice_items.find(&call.id, "id")?;
    let metadata = update_metadata(&item.metadata, params, "metadata")?;
    let period = period(params)?;
    let item = state.invoice_items.find_mut(&call.id, "id")?;
    item.metadata = metadata;
    item.period = period.unwrap_or(item.period);
    if let Some(amount) = params.integer("amount") {
        item.amount = amount;
        item.unit_amount = Decimal::from(amount);
        item.quantity = 1;
    }
    if let Some(description) = optional_text(params, "description") {
        item.description = description;
    }
    item.is_discountable = params
        .boolean("discountable")
        .unwrap_or(item.is_discountable);
    let item = item.clone();
    if let Some(invoice) = item.invoice.clone() {
        state.update_line(&invoice, &item);
    }
    Ok(state.invoice_item_json(&item))
}

pub(crate) fn delete(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let state = &mut *call.state;
    state.check_editable(&call.id)?;
    let item = state.invoice_items.find_mut(&call.id, "id")?;
    item.is_deleted = true;
    let item = item.clone();
    if let Some(invoice) = &item.invoice {
        state.remove_line(invoice, &item.id);
    }
    state.emit("invoiceitem.deleted", state.invoice_item_json(&item));
    Ok(json!({ "id": item.id, "object": "invoiceitem", "deleted": true }))
}

pub(crate) fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&*call.state, call.params);
    state.check_customer(params)?;
    state.invoice_items.list(
        params,
        "/v1/invoiceitems",
        |item| {
            in_range(params, "created", item.date)
                && params
                    .boolean("pending")
                    .is_none_or(|pending| pending == item.invoice.is_none())
                && params
                    .text("invoice")
                    .is_none_or(|invoice| item.invoice.as_deref() == Some(invoice))
        },
        |item| state.invoice_item_json(item),
    )
}

impl State {
    /// Checks the filter `customer` of a list. Lists of a deleted customer are allowed.
    pub(crate) fn check_customer(&self, params: &Params) -> Result<(), ApiError> {
        match params.text("customer") {
            Some(id) if self.customers.get(id).is_none() => {
                Err(ApiError::missing("customer", id, "customer"))
            }
            _ => Ok(()),
        }
    }
}
