//! Checkout sessions (<https://docs.stripe.com/api/checkout/sessions>).

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::fmt::serde::timestamp::second;
use serde::Deserialize;

use crate::client::StripeClient;
use crate::decode::{open_enum, optional_id, or_default};
use crate::error::StripeError;
use crate::id::{CheckoutSessionId, CustomerId, PriceId, SubscriptionId};
use crate::request::{ApiRequest, IdempotencyKey};

open_enum! {
    /// State of a checkout session.
    CheckoutStatus {
        /// The customer has not finished.
        Open = "open",
        /// The customer has finished. The payment may still be outstanding.
        Complete = "complete",
        /// The session has expired.
        Expired = "expired",
    }
}

open_enum! {
    /// State of the payment of a checkout session.
    PaymentStatus {
        /// The payment has arrived.
        Paid = "paid",
        /// The payment has not arrived.
        Unpaid = "unpaid",
        /// Nothing is to be paid yet.
        NoPaymentRequired = "no_payment_required",
    }
}

open_enum! {
    /// Purpose of a checkout session.
    CheckoutMode {
        /// A single payment.
        Payment = "payment",
        /// A payment method for later.
        Setup = "setup",
        /// A subscription.
        Subscription = "subscription",
    }
}

/// Checkout session: a page of Stripe's on which a customer subscribes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CheckoutSession {
    /// Id of the session.
    pub id: CheckoutSessionId,
    /// State, if known.
    #[serde(default)]
    pub status: Option<CheckoutStatus>,
    /// State of the payment.
    pub payment_status: PaymentStatus,
    /// Purpose.
    pub mode: CheckoutMode,
    /// Address of the page while the session is open.
    #[serde(default)]
    pub url: Option<String>,
    /// Customer, once there is one.
    #[serde(default, deserialize_with = "optional_id")]
    pub customer: Option<CustomerId>,
    /// Subscription, once there is one.
    #[serde(default, deserialize_with = "optional_id")]
    pub subscription: Option<SubscriptionId>,
    /// Id that the session was created with, by which its creator recognises it.
    #[serde(default)]
    pub client_reference_id: Option<String>,
    /// Amount in the smallest unit of the currency, taxes included.
    #[serde(default)]
    pub amount_total: Option<i64>,
    /// Currency, in lower case.
    #[serde(default)]
    pub currency: Option<String>,
    /// Time of creation.
    #[serde(with = "second::required")]
    pub created: Timestamp,
    /// Time from which the page no longer works.
    #[serde(with = "second::required")]
    pub expires_at: Timestamp,
    /// Whether it exists in live mode.
    pub livemode: bool,
    /// Metadata.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, String>,
}

/// Parameters of a checkout session that subscribes a customer to one price.
#[derive(Debug, Clone, Copy)]
pub struct NewCheckoutSession<'a> {
    /// Price of the subscription, of which one is bought.
    pub price: &'a PriceId,
    /// Address to return to after success. Stripe replaces `{CHECKOUT_SESSION_ID}` in it.
    pub success_url: &'a str,
    /// Address to return to otherwise.
    pub cancel_url: &'a str,
    /// Currency in which it is paid, in lower case. Without it, Stripe chooses one of those that the price has, by
    /// the place of whoever opens the page.
    pub currency: Option<&'a str>,
    /// Whether Stripe may offer to pay in another currency, converted by its rate; without it, as Stripe's dashboard
    /// is set.
    pub adaptive_pricing: Option<bool>,
    /// Customer; without one, Stripe creates one.
    pub customer: Option<&'a CustomerId>,
    /// Email address to begin with, if there is no customer.
    pub customer_email: Option<&'a str>,
    /// Id by which the creator recognises the session.
    pub client_reference_id: Option<&'a str>,
    /// Day of the month on which the subscription renews; without it, the day on which it begins.
    pub anchor_day_of_month: Option<u8>,
    /// Time from which the page no longer works: 30 minutes to 24 hours from now.
    pub expires_at: Option<Timestamp>,
    /// Metadata of the session.
    pub metadata: &'a [(&'a str, &'a str)],
    /// Metadata of the subscription.
    pub subscription_metadata: &'a [(&'a str, &'a str)],
}

impl StripeClient {
    /// Creates a checkout session.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn create_checkout_session(
        &self,
        key: &IdempotencyKey,
        session: &NewCheckoutSession<'_>,
    ) -> Result<CheckoutSession, StripeError> {
        let mut request = ApiRequest::post("/v1/checkout/sessions", None, key);
        let form = &mut request.form;
        form.add("mode", "subscription");
        form.add("line_items[0][price]", session.price);
        form.add("line_items[0][quantity]", 1);
        form.add("success_url", session.success_url);
        form.add("cancel_url", session.cancel_url);
        form.add_some("currency", session.currency);
        form.add_some("adaptive_pricing[enabled]", session.adaptive_pricing);
        form.add_some("customer", session.customer);
        form.add_some("customer_email", session.customer_email);
        form.add_some("client_reference_id", session.client_reference_id);
        form.add_some(
            "subscription_data[billing_cycle_anchor_config][day_of_month]",
            session.anchor_day_of_month,
        );
        form.add_time("expires_at", session.expires_at);
        form.add_map("metadata", session.metadata);
        form.add_map("subscription_data[metadata]", session.subscription_metadata);
        self.call(&request).await
    }

    /// Expires a checkout session: nobody can pay on its page any more. One that is not open is a rejection; then the
    /// session has to be read.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn expire_checkout_session(
        &self,
        key: &IdempotencyKey,
        id: &CheckoutSessionId,
    ) -> Result<CheckoutSession, StripeError> {
        let route = "/v1/checkout/sessions/{id}/expire";
        self.call(&ApiRequest::post(route, Some(id.as_str()), key))
            .await
    }

    /// Reads a checkout session.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn checkout_session(
        &self,
        id: &CheckoutSessionId,
    ) -> Result<CheckoutSession, StripeError> {
        let request = ApiRequest::get("/v1/checkout/sessions/{id}", Some(id.as_str()));
        self.call(&request).await
    }
}
