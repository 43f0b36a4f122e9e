//! Stripe's pages: checkout and billing portal.

use jiff::{SignedDuration, Timestamp};
use tollgate_stripe::{
    CheckoutMode, CheckoutSession, CheckoutStatus, CustomerId, NewCheckoutSession,
    NewPortalSession, PaymentStatus, PriceId, StripeError,
};

use crate::stripe::{Stripe, check, rejection};

/// Creates a session as a request of a customer does.
async fn check_out(
    stripe: &Stripe,
    customer: &CustomerId,
    price: &PriceId,
    expires_at: Option<Timestamp>,
) -> Result<CheckoutSession, StripeError> {
    let session = NewCheckoutSession {
        price,
        success_url: "https://example.com/done?session={CHECKOUT_SESSION_ID}",
        cancel_url: "https://example.com/",
        currency: Some("usd"),
        adaptive_pricing: Some(false),
        customer: Some(customer),
        customer_email: None,
        client_reference_id: Some("acme"),
        anchor_day_of_month: None,
        expires_at,
        metadata: &stripe.mark(),
        subscription_metadata: &stripe.mark(),
    };
    let key = stripe.key();
    let created = stripe.client.create_checkout_session(&key, &session);
    created.await
}

#[tokio::test]
async fn a_checkout_session_is_open_until_it_is_expired() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        let price = stripe.price("unit_amount=4900").await;
        let created = check_out(stripe, &customer, &price, None).await.unwrap();
        assert_eq!(created.status, Some(CheckoutStatus::Open));
        assert_eq!(created.payment_status, PaymentStatus::Unpaid);
        assert_eq!(created.mode, CheckoutMode::Subscription);
        assert!(created.url.is_some());
        assert_eq!(created.customer, Some(customer));
        assert_eq!(created.client_reference_id.as_deref(), Some("acme"));
        assert_eq!(created.amount_total, Some(4_900));
        assert_eq!(created.currency.as_deref(), Some("usd"));
        assert_eq!(created.subscription, None);
        assert_eq!(created.metadata.len(), 1);
        assert!(!created.livemode);
        let lifetime = created.expires_at.duration_since(created.created);
        assert_eq!(lifetime.as_hours(), 24);
        let found = stripe.client.checkout_session(&created.id).await.unwrap();
        assert_eq!((&found.status, &found.url), (&created.status, &created.url));

        let expire = async || {
            let key = stripe.key();
            stripe
                .client
                .expire_checkout_session(&key, &created.id)
                .await
        };
        let expired = expire().await.unwrap();
        assert_eq!(expired.status, Some(CheckoutStatus::Expired));
        assert_eq!(expired.url, None);
        let found = stripe.client.checkout_session(&created.id).await.unwrap();
        assert_eq!(found.status, Some(CheckoutStatus::Expired));
        // Then the session is read, which says why.
        let rejected = rejection(expire().await);
        assert!(!rejected.is_missing(), "{rejected:?}");
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_checkout_session_can_be_chosen() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        let price = stripe.price("unit_amount=4900").await;
        let at = Timestamp::now() + SignedDuration::from_hours(1);
        let at = Timestamp::from_second(at.as_second()).unwrap();
        let created = check_out(stripe, &customer, &price, Some(at)).await;
        assert_eq!(created.unwrap().expires_at, at);
    })
    .await;
}

#[tokio::test]
async fn a_checkout_of_a_missing_customer_or_a_retired_price_is_rejected() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        let price = stripe.price("unit_amount=4900").await;
        let path = format!("/v1/prices/{price}");
        stripe.post(&path, "active=false").await;
        let rejected = rejection(check_out(stripe, &customer, &price, None).await);
        assert!(!rejected.is_of_missing_customer(), "{rejected:?}");

        let price = stripe.price("unit_amount=4900").await;
        stripe.delete_customer(&customer).await;
        let rejected = rejection(check_out(stripe, &customer, &price, None).await);
        assert!(rejected.is_of_missing_customer(), "{rejected:?}");
    })
    .await;
}

/// In test mode, the settings of the billing portal must have been saved once, as docs/deploy.md asks.
#[tokio::test]
async fn the_billing_portal_is_opened_for_a_customer() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        let open = async || {
            let session = NewPortalSession {
                customer: &customer,
                return_url: "https://example.com/",
                configuration: None,
            };
            let key = stripe.key();
            stripe.client.create_portal_session(&key, &session).await
        };
        let opened = open().await.unwrap();
        assert_eq!((&opened.customer, opened.livemode), (&customer, false));
        assert!(opened.url.starts_with("http"));

        stripe.delete_customer(&customer).await;
        let rejected = rejection(open().await);
        assert!(rejected.is_of_missing_customer(), "{rejected:?}");
    })
    .await;
}
