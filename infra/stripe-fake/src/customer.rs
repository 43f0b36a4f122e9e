//! Customers, and their payment methods as far as payments depend on them.

use serde_json::{Value, json};

use crate::call::Call;
use crate::error::ApiError;
use crate::form::Params;
use crate::state::{Metadata, State, optional_text, update_metadata};
use crate::table::{Row, in_range};

/// Customer.
#[derive(Default)]
pub(crate) struct Customer {
    pub(crate) id: String,
    created: i64,
    pub(crate) email: Option<String>,
    pub(crate) name: Option<String>,
    description: Option<String>,
    phone: Option<String>,
    address: Value,
    metadata: Metadata,
    /// Cents that the customer owes, or is owed if negative: applied to the next invoice.
    pub(crate) balance: i64,
    /// Currency of the first charge, which all others must have.
    pub(crate) currency: Option<String>,
    invoice_prefix: String,
    /// Number of invoices that were finalized.
    pub(crate) invoices: u32,
    methods: Vec<PaymentMethod>,
    default_method: Option<String>,
    /// Whether all payments are declined, as the stand-in was asked.
    pub(crate) is_declined: bool,
    pub(crate) is_delinquent: bool,
    is_deleted: bool,
}

/// Card of a customer.
struct PaymentMethod {
    id: String,
    is_declined: bool,
}

impl Row for Customer {
    const WHAT: &'static str = "customer";

    fn id(&self) -> &str {
        &self.id
    }

    fn is_deleted(&self) -> bool {
        self.is_deleted
    }
}

impl Customer {
    /// Returns the number of the next invoice, such as `8F3K2QZ1-0001`.
    pub(crate) fn next_invoice_number(&mut self) -> String {
        self.invoices += 1;
        format!("{}-{:04}", self.invoice_prefix, self.invoices)
    }

    /// Returns whether there is a payment method to charge: `preferred`, or the customer's default.
    pub(crate) fn has_method(&self, preferred: Option<&str>) -> bool {
        self.method(preferred).is_some()
    }

    /// Returns whether a payment by `preferred`, or by the default payment method, succeeds.
    pub(crate) fn can_pay(&self, preferred: Option<&str>) -> bool {
        !self.is_declined
            && self
                .method(preferred)
                .is_some_and(|method| !method.is_declined)
    }

    fn method(&self, preferred: Option<&str>) -> Option<&PaymentMethod> {
        let wanted = preferred.or(self.default_method.as_deref())?;
        self.methods.iter().find(|method| method.id == wanted)
    }

    /// Makes a payment method the default, as the portal does.
    pub(crate) fn set_default_method(&mut self, id: String) {
        self.default_method = Some(id);
    }
}

impl State {
    /// Creates a customer with an email address, as checkout does.
    pub(crate) fn new_customer(&mut self, email: Option<String>) -> String {
        let id = self.ids.next("cus_", 14);
        let invoice_prefix = self.ids.next("", 8).to_uppercase();
        self.customers.insert(Customer {
            id: id.clone(),
            created: self.now,
            email,
            invoice_prefix,
            ..Customer::default()
        });
        id
    }

    /// Adds a card to a customer, and returns its id.
    pub(crate) fn attach_card(&mut self, customer: &str, is_declined: bool) -> String {
        let id = self.ids.next("pm_1", 23);
        if let Some(customer) = self.customers.get_mut(customer) {
            let id = id.clone();
            customer.methods.push(PaymentMethod { id, is_declined });
        }
        id
    }

    /// Returns the id of a payment method of a customer. Stripe's test methods are added to the customer.
    fn payment_method(
        &mut self,
        customer: &str,
        id: &str,
        param: &str,
    ) -> Result<String, ApiError> {
        match id {
            "pm_card_visa" | "pm_card_mastercard" | "pm_card_us" => {
                Ok(self.attach_card(customer, false))
            }
            // It can be added to a customer, and payments by it are declined.
            "pm_card_chargeCustomerFail" => Ok(self.attach_card(customer, true)),
            id => {
                let customer = self.customers.find(customer, "customer")?;
                if customer.methods.iter().any(|method| method.id == id) {
                    Ok(id.to_owned())
                } else {
                    Err(ApiError::missing("PaymentMethod", id, param))
                }
            }
        }
    }

    /// Applies the parameters that are the same when a customer is created and when it is updated.
    fn update_customer(&mut self, id: &str, params: &Params) -> Result<(), ApiError> {
        let default_path = "invoice_settings.default_payment_method";
        // Everything that can fail comes before the first change.
        let metadata = &self.customers.find(id, "id")?.metadata;
        let metadata = update_metadata(metadata, params, "metadata")?;
        let attached = match params.non_empty("payment_method") {
            Some(method) => Some(self.payment_method(id, method, "payment_method")?),
            None => None,
        };
        let default = match params.non_empty(default_path) {
            // A test method that is sent twice is one card.
            Some(method) if Some(method) == params.text("payment_method") => attached,
            Some(method) => {
                let param = "invoice_settings[default_payment_method]";
                Some(self.payment_method(id, method, param)?)
            }
            None => None,
        };
        let customer = self.customers.find_mut(id, "id")?;
        customer.metadata = metadata;
        let texts = [
            ("email", &mut customer.email),
            ("name", &mut customer.name),
            ("description", &mut customer.description),
            ("phone", &mut customer.phone),
        ];
        for (name, stored) in texts {
            if let Some(text) = optional_text(params, name) {
                *stored = text;
            }
        }
        if let Some(address) = params.nested("address") {
            customer.address = address.to_json();
        }
        if let Some(balance) = params.integer("balance") {
            customer.balance = balance;
        }
        if default.is_some() {
            customer.default_method = default;
        }
        Ok(())
    }

    pub(crate) fn customer_json(&self, customer: &Customer) -> Value {
        if customer.is_deleted {
            return json!({ "id": customer.id, "object": "customer", "deleted": true });
        }
        json!({
            "id": customer.id,
            "object": "customer",
            "address": customer.address,
            "balance": customer.balance,
            "created": customer.created,
            "currency": customer.currency,
            "customer_account": null,
            "default_source": null,
            "delinquent": customer.is_delinquent,
            "description": customer.description,
            "discount": null,
            "email": customer.email,
            "invoice_prefix": customer.invoice_prefix,
            "invoice_settings": {
                "custom_fields": null,
                "default_payment_method": customer.default_method,
                "footer": null,
                "rendering_options": null,
            },
            "livemode": self.is_live,
            "metadata": customer.metadata,
            "name": customer.name,
            "next_invoice_sequence": customer.invoices + 1,
            "phone": customer.phone,
            "preferred_locales": [],
            "shipping": null,
            "tax_exempt": "none",
            "test_clock": null,
        })
    }

    fn rendered_customer(&self, id: &str) -> Result<Value, ApiError> {
        let customer = self.customers.get(id);
        let customer = customer.ok_or_else(|| ApiError::missing("customer", id, "id"))?;
        Ok(self.customer_json(customer))
    }

    /// Returns the error for a currency that is not the customer's, if it is not.
    pub(crate) fn check_currency(
        &self,
        customer: &Customer,
        currency: &str,
    ) -> Result<(), ApiError> {
        match &customer.currency {
            Some(known) if known != currency => Err(ApiError::invalid(format!(
                "You cannot combine currencies on a single customer. This customer has an active \
                 subscription, subscription schedule, discount, quote, invoice item or invoice with currency \
                 {known}"
            ))
            .with_param("currency")),
            _ => Ok(()),
        }
    }
}

pub(crate) fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    update_metadata(&Metadata::new(), call.params, "metadata")?;
    check_email(call.params)?;
    for path in ["payment_method", "invoice_settings.default_payment_method"] {
        // A new customer has no other methods.
        if let Some(method) = call.params.non_empty(path)
            && !method.starts_with("pm_card_")
        {
            return Err(ApiError::missing("PaymentMethod", method, "payment_method"));
        }
    }
    let id = call.state.new_customer(None);
    call.state.update_customer(&id, call.params)?;
    let json = call.state.rendered_customer(&id)?;
    call.state.emit("customer.created", json.clone());
    Ok(json)
}

/// Returns a customer. One that was deleted is returned as such.
pub(crate) fn get(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.state.rendered_customer(&call.id)
}

pub(crate) fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.state.customers.find(&call.id, "id")?;
    check_email(call.params)?;
    let before = call.state.rendered_customer(&call.id)?;
    call.state.update_customer(&call.id, call.params)?;
    let json = call.state.rendered_customer(&call.id)?;
    call.state
        .emit_change("customer.updated", &before, json.clone());
    Ok(json)
}

/// Deletes a customer and cancels the customer's subscriptions. Pending items are invoiced no more.
pub(crate) fn delete(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let state = &mut *call.state;
    state.customers.find(&call.id, "id")?;
    let live = state.subscriptions.of_customer(&call.id);
    let live = live.filter(|subscription| !subscription.status.is_ended());
    let live: Vec<String> = live.map(|subscription| subscription.id.clone()).collect();
    for subscription in live {
        state.end_subscription(&subscription, None);
    }
    let before = state.rendered_customer(&call.id)?;
    state.customers.find_mut(&call.id, "id")?.is_deleted = true;
    state.emit("customer.deleted", before);
    state.rendered_customer(&call.id)
}

/// Adds one of Stripe's test methods to a customer.
pub(crate) fn attach(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let state = &mut *call.state;
    let customer = call.params.non_empty("customer");
    let customer = customer.ok_or_else(|| ApiError::parameter_missing("customer"))?;
    state.customers.find(customer, "customer")?;
    let id = state.payment_method(customer, &call.id, "id")?;
    let card = json!({
        "brand": "visa", "country": "US", "exp_month": 12, "exp_year": 2034, "funding": "credit", "last4": "4242",
    });
    Ok(json!({
        "id": id,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": { "address": null, "email": null, "name": null, "phone": null, "tax_id": null },
        "card": card,
        "created": state.now,
        "customer": customer,
        "customer_account": null,
        "livemode": state.is_live,
        "metadata": {},
        "type": "card",
    }))
}

pub(crate) fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&*call.state, call.params);
    state.customers.list(
        params,
        "/v1/customers",
        |customer| {
            in_range(params, "created", customer.created)
                && params
                    .text("email")
                    .is_none_or(|email| customer.email.as_deref() == Some(email))
        },
        |customer| state.customer_json(customer),
    )
}

fn check_email(params: &Params) -> Result<(), ApiError> {
    match params.non_empty("email") {
        Some(email) if !email.contains('@') => {
            Err(ApiError::invalid(format!("Invalid email address: {email}"))
                .with_code("email_invalid")
                .with_param("email"))
        }
        _ => Ok(()),
    }
}
