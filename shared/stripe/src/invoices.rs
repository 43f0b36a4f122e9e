//! Invoices (<https://docs.stripe.com/api/invoices>).

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::fmt::serde::timestamp::second;
use serde::Deserialize;

use crate::client::StripeClient;
use crate::decode::{open_enum, optional_id, or_default};
use crate::error::StripeError;
use crate::id::{CustomerId, InvoiceId, PaymentMethodId, SubscriptionId};
use crate::pages::{Listed, Pages};
use crate::parent::Parent;
use crate::request::{ApiRequest, IdempotencyKey};

open_enum! {
    /// State of an invoice.
    InvoiceStatus {
        /// It may still change.
        Draft = "draft",
        /// It is final, and to be paid.
        Open = "open",
        /// It is paid.
        Paid = "paid",
        /// It is not expected to be paid.
        Uncollectible = "uncollectible",
        /// It is cancelled.
        Void = "void",
    }
}

/// Invoice of a customer. Amounts are in the smallest unit of the currency.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Invoice {
    /// Id of the invoice.
    pub id: InvoiceId,
    /// Customer, if known.
    #[serde(default, deserialize_with = "optional_id")]
    pub customer: Option<CustomerId>,
    /// State, if known.
    #[serde(default)]
    pub status: Option<InvoiceStatus>,
    /// Number, once it is final.
    #[serde(default)]
    pub number: Option<String>,
    /// Currency, in lower case.
    pub currency: String,
    /// Total before taxes and discounts.
    pub subtotal: i64,
    /// Total.
    pub total: i64,
    /// Amount to pay, after the customer's balance.
    pub amount_due: i64,
    /// Amount that is paid.
    pub amount_paid: i64,
    /// Amount that is still to be paid.
    pub amount_remaining: i64,
    /// Whether a payment has been attempted.
    #[serde(default)]
    pub attempted: bool,
    /// Reason for which it was made, such as `subscription_cycle`.
    #[serde(default)]
    pub billing_reason: Option<String>,
    /// Page on which it can be paid: whoever has the address can read it.
    #[serde(default)]
    pub hosted_invoice_url: Option<String>,
    /// Address of the PDF file.
    #[serde(default)]
    pub invoice_pdf: Option<String>,
    /// Time of creation.
    #[serde(with = "second::required")]
    pub created: Timestamp,
    /// Start of the time in which its items were added.
    #[serde(with = "second::required")]
    pub period_start: Timestamp,
    /// End of the time in which its items were added.
    #[serde(with = "second::required")]
    pub period_end: Timestamp,
    /// Time until which it is to be paid, if it is sent.
    #[serde(default, with = "second::optional")]
    pub due_date: Option<Timestamp>,
    #[serde(default, deserialize_with = "or_default")]
    status_transitions: StatusTransitions,
    #[serde(default)]
    parent: Option<Parent>,
    /// Whether it exists in live mode.
    pub livemode: bool,
    /// Metadata.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct StatusTransitions {
    #[serde(default, with = "second::optional")]
    finalized_at: Option<Timestamp>,
    #[serde(default, with = "second::optional")]
    paid_at: Option<Timestamp>,
}

impl Invoice {
    /// Returns the subscription that it is for.
    #[must_use]
    pub fn subscription(&self) -> Option<&SubscriptionId> {
        self.parent.as_ref()?.subscription()
    }

    /// Returns the time from which it was final.
    #[must_use]
    pub fn finalized_at(&self) -> Option<Timestamp> {
        self.status_transitions.finalized_at
    }

    /// Returns the time at which it was paid.
    #[must_use]
    pub fn paid_at(&self) -> Option<Timestamp> {
        self.status_transitions.paid_at
    }
}

impl Listed for Invoice {
    fn cursor(&self) -> &str {
        self.id.as_str()
    }
}

/// Invoices to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct InvoiceFilter<'a> {
    /// Customer.
    pub customer: Option<&'a CustomerId>,
    /// Subscription.
    pub subscription: Option<&'a SubscriptionId>,
    /// State.
    pub status: Option<&'a InvoiceStatus>,
    /// Time since which they were created, in whole seconds.
    pub created_since: Option<Timestamp>,
}

/// Parameters of an invoice of a customer's pending invoice items.
#[derive(Debug, Clone, Copy)]
pub struct NewInvoice<'a> {
    /// Customer.
    pub customer: &'a CustomerId,
    /// Subscription whose pending items it is for; without one, all of the customer's, also those of subscriptions.
    pub subscription: Option<&'a SubscriptionId>,
    /// Currency of the items, in lower case; without it, the customer's. That of a subscription is the
    /// subscription's, whatever this says.
    pub currency: Option<&'a str>,
    /// Whether Stripe finalizes and collects it by itself.
    pub auto_advance: bool,
    /// Payment method to charge; without it, the customer's.
    pub payment_method: Option<&'a PaymentMethodId>,
    /// Text on the invoice.
    pub description: Option<&'a str>,
    /// Metadata.
    pub metadata: &'a [(&'a str, &'a str)],
}

impl StripeClient {
    /// Reads an invoice.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn invoice(&self, id: &InvoiceId) -> Result<Invoice, StripeError> {
        self.call(&ApiRequest::get("/v1/invoices/{id}", Some(id.as_str())))
            .await
    }

    /// Lists invoices, newest first.
    pub fn invoices(&self, filter: &InvoiceFilter<'_>) -> Pages<Invoice> {
        let mut request = ApiRequest::get("/v1/invoices", None);
        let form = &mut request.form;
        form.add_some("customer", filter.customer);
        form.add_some("subscription", filter.subscription);
        form.add_some("status", filter.status.map(InvoiceStatus::as_str));
        form.add_time("created[gte]", filter.created_since);
        Pages::new(self, request)
    }

    /// Creates a draft invoice that takes in pending invoice items. Of a customer without any, it is empty; for a
    /// subscription without any, it is a rejection.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn create_invoice(
        &self,
        key: &IdempotencyKey,
        invoice: &NewInvoice<'_>,
    ) -> Result<Invoice, StripeError> {
        let mut request = ApiRequest::post("/v1/invoices", None, key);
        let form = &mut request.form;
        form.add("customer", invoice.customer);
        match invoice.subscription {
            // Stripe then takes in its items, in its currency, and rejects `pending_invoice_items_behavior` beside it
            // (https://github.com/stripe/stripe-cli/issues/1249).
            Some(subscription) => form.add("subscription", subscription),
            None => {
                form.add_some("currency", invoice.currency);
                // Stripe leaves them out by default.
                form.add("pending_invoice_items_behavior", "include");
            }
        }
        form.add("auto_advance", invoice.auto_advance);
        form.add_some("default_payment_method", invoice.payment_method);
        form.add_some("description", invoice.description);
        form.add_map("metadata", invoice.metadata);
        self.call(&request).await
    }

    /// Makes a draft invoice final. Unless `auto_advance` says otherwise, Stripe then collects it as it was
    /// created.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn finalize_invoice(
        &self,
        id: &InvoiceId,
        key: &IdempotencyKey,
        auto_advance: Option<bool>,
    ) -> Result<Invoice, StripeError> {
        let mut request = ApiRequest::post("/v1/invoices/{id}/finalize", Some(id.as_str()), key);
        request.form.add_some("auto_advance", auto_advance);
        self.call(&request).await
    }
}
