//! Operations of the API, and their calls.

use serde_json::Value;

use crate::checkout::operations as checkout;
use crate::error::ApiError;
use crate::event::Cause;
use crate::form::{Param, Params};
use crate::invoice::operations as invoice;
use crate::spec::SPEC;
use crate::state::State;
use crate::subscription::operations as subscription;
use crate::{customer, event, expand, invoice_item, portal, price, webhook};

/// Call of an operation.
pub(crate) struct Call<'a> {
    pub(crate) state: &'a mut State,
    /// Id in the path; empty if there is none.
    pub(crate) id: String,
    pub(crate) params: &'a Params,
}

/// Operation of the API.
pub(crate) struct Operation {
    method: &'static str,
    /// Path with the name of its id in braces, as in Stripe's OpenAPI document.
    path: &'static str,
    run: fn(&mut Call<'_>) -> Result<Value, ApiError>,
    /// Parameters that the stand-in implements, with dots and without indices; each includes those below it.
    implements: &'static [&'static str],
}

/// Response to a call.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// Request that is checked, and is to be executed now or later.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    /// Position of the operation in `OPERATIONS`.
    pub(crate) at: usize,
    pub(crate) id: String,
    pub(crate) params: Params,
    pub(crate) cause: Cause,
}

impl Reply {
    pub(crate) fn of_error(error: &ApiError, request_id: &str) -> Self {
        Self {
            status: error.status,
            body: error.body(request_id).to_string(),
            headers: error.headers.clone(),
        }
    }
}

impl Pending {
    /// Executes the request and stores the response under its idempotency key.
    pub(crate) fn execute(&self, state: &mut State) {
        let reply = self.run(state);
        let now = state.now;
        if let Some(key) = &self.cause.idempotency_key {
            state.keys.finish(key, reply, now);
        }
    }

    /// Executes the request.
    pub(crate) fn run(&self, state: &mut State) -> Reply {
        state.cause = self.cause.clone();
        let mut call = Call {
            state,
            id: self.id.clone(),
            params: &self.params,
        };
        let result = (OPERATIONS[self.at].run)(&mut call);
        let result = result.and_then(|json| expand::expand(call.state, json, &self.params));
        state.cause = Cause::default();
        match result {
            Ok(json) => Reply {
                status: 200,
                body: json.to_string(),
                headers: Vec::new(),
            },
            Err(error) => {
                Reply::of_error(&error, self.cause.request_id.as_deref().unwrap_or_default())
            }
        }
    }
}

impl Operation {
    /// Returns the operation's name, such as `POST /v1/customers/{customer}`.
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// Finds the operation of a request, and the id in its path.
///
/// # Errors
/// When there is none.
pub(crate) fn route(method: &str, path: &str) -> Result<(usize, String), ApiError> {
    for (at, operation) in OPERATIONS.iter().enumerate() {
        if operation.method == method
            && let Some(id) = match_path(operation.path, path)
        {
            return Ok((at, id));
        }
    }
    let mut error = ApiError::invalid(format!(
        "Unrecognized request URL ({method}: {path}). If you are trying to list objects, remove the trailing \
         slash. If you are trying to retrieve an object, make sure you passed a valid (non-empty) identifier \
         in your code. Please see https://stripe.com/docs or we can help at https://support.stripe.com/."
    ));
    error.status = 404;
    Err(error)
}

fn match_path(template: &str, path: &str) -> Option<String> {
    let mut id = String::new();
    let mut parts = path.split('/');
    for expected in template.split('/') {
        let part = parts.next()?;
        if expected.starts_with('{') {
            if part.is_empty() {
                return None;
            }
            part.clone_into(&mut id);
        } else if expected != part {
            return None;
        }
    }
    parts.next().is_none().then_some(id)
}

/// Checks a request's parameters, before it is executed.
///
/// # Errors
/// When Stripe does not have one, or this stand-in does not implement it.
pub(crate) fn check(at: usize, params: &Params) -> Result<(), ApiError> {
    let operation = &OPERATIONS[at];
    SPEC.check(&operation.name(), params)?;
    check_implemented(operation.implements, params, "")
}

fn check_implemented(implements: &[&str], params: &Params, path: &str) -> Result<(), ApiError> {
    for (name, param) in params.iter() {
        let is_index = name.bytes().all(|byte| byte.is_ascii_digit());
        let path = match (path, is_index) {
            (path, true) => path.to_owned(),
            ("", false) => name.to_owned(),
            (path, false) => format!("{path}.{name}"),
        };
        if implements.contains(&path.as_str()) || path == "expand" {
            continue;
        }
        match param {
            Param::Nested(params) => check_implemented(implements, params, &path)?,
            Param::Text(_) => return Err(ApiError::unsupported(&path)),
        }
    }
    Ok(())
}

const PAGE: [&str; 3] = ["limit", "starting_after", "ending_before"];

macro_rules! operations {
    ($($method:literal $path:literal => $module:ident::$run:ident $implements:expr;)*) => {
        /// All operations that the stand-in serves.
        pub(crate) static OPERATIONS: &[Operation] = &[$(Operation {
            method: $method,
            path: $path,
            run: $module::$run,
            implements: $implements,
        }),*];
    };
}

const CUSTOMER_UPDATE: &[&str] = &[
    "email",
    "name",
    "description",
    "phone",
    "address",
    "balance",
    "metadata",
    "invoice_settings.default_payment_method",
];
const CUSTOMER: &[&str] = &[
    "email",
    "name",
    "description",
    "phone",
    "address",
    "balance",
    "metadata",
    "payment_method",
    "invoice_settings.default_payment_method",
];
const ITEM: &[&str] = &[
    "customer",
    "subscription",
    "invoice",
    "amount",
    "currency",
    "description",
    "discountable",
    "metadata",
    "period",
    "pricing",
    "quantity",
    "unit_amount_decimal",
];

operations! {
    "POST" "/v1/customers" => customer::create CUSTOMER;
    "GET" "/v1/customers" => customer::list &[PAGE[0], PAGE[1], PAGE[2], "created", "email"];
    "GET" "/v1/customers/{customer}" => customer::get &[];
    "POST" "/v1/customers/{customer}" => customer::update CUSTOMER_UPDATE;
    "DELETE" "/v1/customers/{customer}" => customer::delete &[];
    "POST" "/v1/payment_methods/{payment_method}/attach" => customer::attach &["customer"];
    "POST" "/v1/products" => price::create_product
        &["id", "name", "description", "active", "metadata", "unit_label", "statement_descriptor", "url"];
    "GET" "/v1/products" => price::list_products &[PAGE[0], PAGE[1], PAGE[2], "created", "active", "ids"];
    "GET" "/v1/products/{id}" => price::get_product &[];
    "POST" "/v1/products/{id}" => price::update_product
        &["name", "description", "active", "metadata", "unit_label", "statement_descriptor", "url", "default_price"];
    "POST" "/v1/prices" => price::create
        &["product", "product_data.name", "product_data.metadata", "product_data.id", "product_data.active",
          "currency", "unit_amount", "unit_amount_decimal", "recurring.interval", "recurring.interval_count",
          "nickname", "lookup_key", "metadata", "active", "tax_behavior", "billing_scheme"];
    "GET" "/v1/prices" => price::list
        &[PAGE[0], PAGE[1], PAGE[2], "created", "active", "currency", "product", "type", "lookup_keys",
          "recurring.interval"];
    "GET" "/v1/prices/{price}" => price::get &[];
    "POST" "/v1/prices/{price}" => price::update &["active", "nickname", "metadata", "lookup_key", "tax_behavior"];
    "POST" "/v1/checkout/sessions" => checkout::create
        &["mode", "currency", "adaptive_pricing.enabled", "customer", "customer_email", "client_reference_id",
          "metadata", "line_items.price", "line_items.quantity", "success_url", "cancel_url", "expires_at", "ui_mode", "locale",
          "allow_promotion_codes", "billing_address_collection", "payment_method_collection",
          "subscription_data.metadata", "subscription_data.description",
          "subscription_data.billing_cycle_anchor", "subscription_data.proration_behavior",
          "subscription_data.billing_mode.type", "subscription_data.pending_invoice_item_interval",
          "payment_intent_data.metadata", "payment_intent_data.description", "submit_type"];
    "GET" "/v1/checkout/sessions" => checkout::list
        &[PAGE[0], PAGE[1], PAGE[2], "created", "customer", "subscription", "status", "customer_details.email"];
    "GET" "/v1/checkout/sessions/{session}" => checkout::get &[];
    "POST" "/v1/checkout/sessions/{session}/expire" => checkout::expire &[];
    "GET" "/v1/checkout/sessions/{session}/line_items" => checkout::list_line_items &PAGE;
    "POST" "/v1/billing_portal/sessions" => portal::create &["customer", "return_url", "locale", "configuration"];
    "POST" "/v1/subscriptions" => subscription::create
        &["customer", "items.price", "items.quantity", "items.metadata", "billing_cycle_anchor",
          "billing_cycle_anchor_config", "proration_behavior", "collection_method", "days_until_due",
          "default_payment_method", "description", "metadata", "cancel_at_period_end", "cancel_at", "currency",
          "payment_behavior", "off_session", "pending_invoice_item_interval", "billing_mode.type"];
    "GET" "/v1/subscriptions" => subscription::list
        &[PAGE[0], PAGE[1], PAGE[2], "created", "customer", "price", "status", "collection_method",
          "current_period_end", "current_period_start"];
    "GET" "/v1/subscriptions/{subscription_exposed_id}" => subscription::get &[];
    "POST" "/v1/subscriptions/{subscription_exposed_id}" => subscription::update
        &["items.id", "items.price", "items.quantity", "items.metadata", "items.deleted",
          "billing_cycle_anchor.type", "proration_behavior", "collection_method", "days_until_due",
          "default_payment_method", "description", "metadata", "cancel_at_period_end", "cancel_at",
          "cancellation_details.comment", "cancellation_details.feedback", "payment_behavior", "off_session",
          "pending_invoice_item_interval"];
    "DELETE" "/v1/subscriptions/{subscription_exposed_id}" => subscription::cancel
        &["invoice_now", "prorate", "cancellation_details.comment", "cancellation_details.feedback"];
    "POST" "/v1/invoiceitems" => invoice_item::create ITEM;
    "GET" "/v1/invoiceitems" => invoice_item::list
        &[PAGE[0], PAGE[1], PAGE[2], "created", "customer", "invoice", "pending"];
    "GET" "/v1/invoiceitems/{invoiceitem}" => invoice_item::get &[];
    "POST" "/v1/invoiceitems/{invoiceitem}" => invoice_item::update
        &["amount", "description", "discountable", "metadata", "period"];
    "DELETE" "/v1/invoiceitems/{invoiceitem}" => invoice_item::delete &[];
    "POST" "/v1/invoices" => invoice::create
        &["customer", "subscription", "pending_invoice_items_behavior", "auto_advance", "collection_method",
          "currency", "days_until_due", "due_date", "description", "footer", "metadata",
          "default_payment_method", "automatically_finalizes_at"];
    "GET" "/v1/invoices" => invoice::list
        &[PAGE[0], PAGE[1], PAGE[2], "created", "customer", "subscription", "status", "collection_method", "due_date"];
    "GET" "/v1/invoices/{invoice}" => invoice::get &[];
    "POST" "/v1/invoices/{invoice}" => invoice::update
        &["auto_advance", "description", "footer", "metadata", "days_until_due", "due_date"];
    "POST" "/v1/invoices/{invoice}/finalize" => invoice::finalize &["auto_advance"];
    "POST" "/v1/invoices/{invoice}/pay" => invoice::pay
        &["paid_out_of_band", "payment_method", "off_session"];
    "POST" "/v1/invoices/{invoice}/void" => invoice::void &[];
    "GET" "/v1/invoices/{invoice}/lines" => invoice::list_lines &PAGE;
    "GET" "/v1/events" => event::list &[PAGE[0], PAGE[1], PAGE[2], "created", "type", "types"];
    "GET" "/v1/events/{id}" => event::get &[];
    "POST" "/v1/webhook_endpoints" => webhook::create
        &["url", "enabled_events", "api_version", "description", "metadata"];
    "GET" "/v1/webhook_endpoints" => webhook::list &PAGE;
    "GET" "/v1/webhook_endpoints/{webhook_endpoint}" => webhook::get &[];
    "DELETE" "/v1/webhook_endpoints/{webhook_endpoint}" => webhook::delete &[];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operation_has_its_parameters() {
        let served: BTreeSet<String> = OPERATIONS.iter().map(Operation::name).collect();
        let listed: BTreeSet<String> = SPEC.operations().map(str::to_owned).collect();
        assert_eq!(served, listed);
    }

    #[test]
    fn what_is_implemented_is_in_the_api() {
        for operation in OPERATIONS {
            for path in operation.implements {
                let name = operation.name();
                assert!(SPEC.has(&name, path), "{name} {path}");
            }
        }
    }

    #[test]
    fn paths_are_matched_in_whole() {
        let check = |path: &str, expected: Option<&str>| {
            let id = match_path("/v1/invoices/{invoice}/pay", path);
            assert_eq!(id.as_deref(), expected, "{path}");
        };
        check("/v1/invoices/in_1/pay", Some("in_1"));
        check("/v1/invoices/in_1", None);
        check("/v1/invoices//pay", None);
        check("/v1/invoices/in_1/pay/", None);
    }
}
