//! Subscriptions (<https://docs.stripe.com/api/subscriptions>).

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::fmt::serde::timestamp::second;
use serde::Deserialize;

use crate::client::StripeClient;
use crate::decode::{id, open_enum, optional_id, or_default};
use crate::error::StripeError;
use crate::id::{
    CustomerId, InvoiceId, PaymentMethodId, PriceId, SubscriptionId, SubscriptionItemId,
};
use crate::pages::{Listed, Pages};
use crate::prices::Price;
use crate::request::{ApiRequest, IdempotencyKey};

open_enum! {
    /// State of a subscription.
    SubscriptionStatus {
        /// Paid.
        Active = "active",
        /// On trial.
        Trialing = "trialing",
        /// The first payment is outstanding.
        Incomplete = "incomplete",
        /// The first payment did not arrive in time.
        IncompleteExpired = "incomplete_expired",
        /// A later payment is outstanding, and tried again.
        PastDue = "past_due",
        /// A later payment is outstanding, and no longer tried.
        Unpaid = "unpaid",
        /// Paused after a trial without payment method.
        Paused = "paused",
        /// Ended, for good.
        Canceled = "canceled",
    }
}

/// Subscription of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Subscription {
    /// Id of the subscription.
    pub id: SubscriptionId,
    /// Customer.
    #[serde(deserialize_with = "id")]
    pub customer: CustomerId,
    /// State.
    pub status: SubscriptionStatus,
    /// Items, each with its price and period.
    pub items: SubscriptionItems,
    /// Currency, in lower case.
    pub currency: String,
    /// Whether it ends with the current period.
    #[serde(default, deserialize_with = "or_default")]
    pub cancel_at_period_end: bool,
    /// Time at which it is to end.
    #[serde(default, with = "second::optional")]
    pub cancel_at: Option<Timestamp>,
    /// Time at which its end was ordered.
    #[serde(default, with = "second::optional")]
    pub canceled_at: Option<Timestamp>,
    /// Time at which it ended.
    #[serde(default, with = "second::optional")]
    pub ended_at: Option<Timestamp>,
    /// Time that its renewals are counted from.
    #[serde(with = "second::required")]
    pub billing_cycle_anchor: Timestamp,
    /// Time of creation.
    #[serde(with = "second::required")]
    pub created: Timestamp,
    /// Payment method, to which checkout sets the one that was used; without it, the customer's is charged.
    #[serde(default, deserialize_with = "optional_id")]
    pub default_payment_method: Option<PaymentMethodId>,
    /// Latest invoice.
    #[serde(default, deserialize_with = "optional_id")]
    pub latest_invoice: Option<InvoiceId>,
    /// Whether it exists in live mode.
    pub livemode: bool,
    /// Metadata.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, String>,
}

/// Items of a subscription, as they are embedded in it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SubscriptionItems {
    /// First items, of which Stripe embeds ten.
    pub data: Vec<SubscriptionItem>,
    /// Whether there are more.
    #[serde(default)]
    pub has_more: bool,
}

/// Item of a subscription. Since version 2025-03-31 of the API, the period is the item's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SubscriptionItem {
    /// Id of the item.
    pub id: SubscriptionItemId,
    /// Price.
    pub price: Price,
    /// Start of the current period.
    #[serde(with = "second::required")]
    pub current_period_start: Timestamp,
    /// End of the current period, which is the start of the next.
    #[serde(with = "second::required")]
    pub current_period_end: Timestamp,
    /// Quantity, unless the price is metered.
    #[serde(default)]
    pub quantity: Option<u64>,
}

impl Listed for Subscription {
    fn cursor(&self) -> &str {
        self.id.as_str()
    }
}

/// Treatment of the time that was paid or used when a subscription changes within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proration {
    /// The difference is invoiced with the next renewal.
    CreateProrations,
    /// The difference is invoiced at once.
    AlwaysInvoice,
    /// Nothing is credited, and nothing is due before the next renewal.
    None,
}

impl Proration {
    fn as_str(self) -> &'static str {
        match self {
            Proration::CreateProrations => "create_prorations",
            Proration::AlwaysInvoice => "always_invoice",
            Proration::None => "none",
        }
    }
}

/// Replacement of the price of a subscription's item.
#[derive(Debug, Clone, Copy)]
pub struct PriceChange<'a> {
    /// Item.
    pub item: &'a SubscriptionItemId,
    /// New price.
    pub price: &'a PriceId,
}

/// Change of a subscription. What is `None` is left as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct SubscriptionUpdate<'a> {
    /// New price of an item.
    pub price: Option<PriceChange<'a>>,
    /// Treatment of the time that is left of the period.
    pub proration: Option<Proration>,
    /// Whether to end with the current period.
    pub cancel_at_period_end: Option<bool>,
    /// Metadata to set.
    pub metadata: &'a [(&'a str, &'a str)],
}

/// Immediate end of a subscription.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cancellation {
    /// Whether a final invoice is made of pending invoice items.
    pub invoice_now: Option<bool>,
    /// Whether the rest of the period is credited.
    pub prorate: Option<bool>,
}

impl StripeClient {
    /// Reads a subscription.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn subscription(&self, id: &SubscriptionId) -> Result<Subscription, StripeError> {
        let request = ApiRequest::get("/v1/subscriptions/{id}", Some(id.as_str()));
        self.call(&request).await
    }

    /// Lists the subscriptions of a customer, newest first, ended ones included.
    pub fn subscriptions(&self, customer: &CustomerId) -> Pages<Subscription> {
        let mut request = ApiRequest::get("/v1/subscriptions", None);
        request.form.add("customer", customer);
        // Stripe leaves out ended ones by default.
        request.form.add("status", "all");
        Pages::new(self, request)
    }

    /// Changes a subscription.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn update_subscription(
        &self,
        id: &SubscriptionId,
        key: &IdempotencyKey,
        update: &SubscriptionUpdate<'_>,
    ) -> Result<Subscription, StripeError> {
        let mut request = ApiRequest::post("/v1/subscriptions/{id}", Some(id.as_str()), key);
        let form = &mut request.form;
        if let Some(change) = update.price {
            form.add("items[0][id]", change.item);
            form.add("items[0][price]", change.price);
        }
        form.add_some(
            "proration_behavior",
            update.proration.map(Proration::as_str),
        );
        form.add_some("cancel_at_period_end", update.cancel_at_period_end);
        form.add_map("metadata", update.metadata);
        self.call(&request).await
    }

    /// Ends a subscription at once. A subscription that has ended is a rejection, so that a call whose first
    /// response was lost may end in an unknown outcome; then the subscription has to be read.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn cancel_subscription(
        &self,
        id: &SubscriptionId,
        cancellation: &Cancellation,
    ) -> Result<Subscription, StripeError> {
        let mut request = ApiRequest::delete("/v1/subscriptions/{id}", id.as_str());
        request
            .form
            .add_some("invoice_now", cancellation.invoice_now);
        request.form.add_some("prorate", cancellation.prorate);
        self.call(&request).await
    }
}
