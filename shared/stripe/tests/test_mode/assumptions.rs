//! Behaviour of the stand-in where Stripe's documentation says little or nothing: only a run on Stripe decides these.
//! `shared/payments/src/follow.rs` relies on those about invoices.

use tollgate_stripe::{
    CustomerId, Invoice, InvoiceFilter, InvoiceItemFilter, InvoiceItemId, InvoiceStatus,
    PaymentMethodId, StripeError, SubscriptionId, SubscriptionStatus,
};

use crate::stripe::{Stripe, check, rejection};

/// Creates an invoice as the worker of Stripe's events does.
async fn invoice(
    stripe: &Stripe,
    customer: &CustomerId,
    subscription: Option<&SubscriptionId>,
    card: Option<&PaymentMethodId>,
) -> Result<Invoice, StripeError> {
    stripe.try_invoice(customer, subscription, card, true).await
}

/// Checks which items of a customer are pending.
async fn check_pending(stripe: &Stripe, customer: &CustomerId, expected: &[&InvoiceItemId]) {
    let items = stripe.client.invoice_items(&InvoiceItemFilter {
        customer,
        created_since: None,
        pending: Some(true),
    });
    let items = items.all().await.unwrap();
    let mut ids: Vec<&InvoiceItemId> = items.iter().map(|it| &it.id).collect();
    let mut expected = expected.to_vec();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
}

/// Documented, but not that its items need not be asked for.
#[tokio::test]
async fn an_invoice_of_a_subscription_takes_in_no_items_of_another_or_of_none() {
    check(async |stripe| {
        let (customer, card) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let one = stripe.subscribe(&customer, &price, "").await.id;
        let other = stripe.subscribe(&customer, &price, "").await.id;
        let of_one = stripe.item(&customer, 100, Some(&one)).await.id;
        let of_none = stripe.item(&customer, 200, None).await.id;
        stripe.item(&customer, 400, Some(&other)).await;
        let made = invoice(stripe, &customer, Some(&other), Some(&card)).await;
        let made = made.unwrap();
        assert_eq!((made.total, made.subscription()), (400, Some(&other)));
        check_pending(stripe, &customer, &[&of_one, &of_none]).await;
    })
    .await;
}

/// Documented by the code of the error only.
#[tokio::test]
async fn an_invoice_of_a_subscription_without_pending_items_is_rejected() {
    check(async |stripe| {
        let (customer, card) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let subscription = stripe.subscribe(&customer, &price, "").await.id;
        let of_none = stripe.item(&customer, 200, None).await.id;
        let made = invoice(stripe, &customer, Some(&subscription), Some(&card)).await;
        let rejected = rejection(made);
        let code = "invoice_no_subscription_line_items";
        assert_eq!(rejected.code.as_deref(), Some(code));
        check_pending(stripe, &customer, &[&of_none]).await;
    })
    .await;
}

/// Documented.
#[tokio::test]
async fn an_invoice_of_a_customer_without_pending_items_is_empty() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        let made = invoice(stripe, &customer, None, None).await.unwrap();
        assert_eq!(made.status, Some(InvoiceStatus::Draft));
        assert_eq!((made.total, made.amount_due), (0, 0));
    })
    .await;
}

/// Documented for earlier versions only, and not for ended subscriptions.
#[tokio::test]
async fn an_invoice_of_no_subscription_takes_in_all_items_also_of_an_ended_one() {
    check(async |stripe| {
        let (customer, card) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let ended = stripe.subscribe(&customer, &price, "").await.id;
        let of_ended = stripe.item(&customer, 100, Some(&ended)).await.id;
        let of_none = stripe.item(&customer, 200, None).await.id;
        stripe.cancel(&ended).await;
        check_pending(stripe, &customer, &[&of_ended, &of_none]).await;
        let made = invoice(stripe, &customer, None, Some(&card)).await.unwrap();
        assert_eq!((made.total, made.subscription()), (300, None));
        check_pending(stripe, &customer, &[]).await;
    })
    .await;
}

/// Not documented. If Stripe rejects it, charges of a subscription that has ended get no invoice while the customer
/// has another subscription.
#[tokio::test]
async fn an_invoice_of_an_ended_subscription_takes_in_its_items_beside_a_live_one() {
    check(async |stripe| {
        let (customer, card) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let ended = stripe.subscribe(&customer, &price, "").await.id;
        let of_ended = stripe.item(&customer, 100, Some(&ended)).await.id;
        stripe.cancel(&ended).await;
        let live = stripe.subscribe(&customer, &price, "").await;
        // The first invoice of the live one has not taken it in.
        assert_eq!(live.status, SubscriptionStatus::Active);
        let of_live = stripe.item(&customer, 400, Some(&live.id)).await.id;
        check_pending(stripe, &customer, &[&of_ended, &of_live]).await;
        let made = invoice(stripe, &customer, Some(&ended), Some(&card)).await;
        let made = made.unwrap();
        assert_eq!((made.total, made.subscription()), (100, Some(&ended)));
        check_pending(stripe, &customer, &[&of_live]).await;
    })
    .await;
}

/// Not documented. If Stripe rejects these lists, a customer who was deleted at Stripe is followed in vain, and a charge
/// whose outcome is unknown stays so.
#[tokio::test]
async fn lists_of_a_deleted_customer_have_what_the_customer_had() {
    check(async |stripe| {
        let (customer, _) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let subscription = stripe.subscribe(&customer, &price, "").await.id;
        let charge = stripe.name();
        let item = stripe.try_item(&charge, &customer, 100, None).await;
        let item = item.unwrap();
        stripe.delete_customer(&customer).await;
        let client = &stripe.client;
        let listed = client.subscriptions(&customer).all().await.unwrap();
        let statuses: Vec<_> = listed.iter().map(|it| (&it.id, &it.status)).collect();
        assert_eq!(statuses, [(&subscription, &SubscriptionStatus::Canceled)]);
        let found = client.invoice_items_of_charge(&charge, &customer, None);
        assert_eq!(found.await.unwrap(), [item]);
        let invoices = client.invoices(&InvoiceFilter {
            customer: Some(&customer),
            ..InvoiceFilter::default()
        });
        assert_eq!(invoices.all().await.unwrap().len(), 1);
    })
    .await;
}

/// Not documented for errors of the execution. Those of a parameter are not stored.
#[tokio::test]
async fn a_rejection_of_a_missing_object_is_stored_under_the_idempotency_key() {
    check(async |stripe| {
        let key = stripe.key();
        let session = "cs_test_TollgateNone".parse().unwrap();
        let expire = || stripe.client.expire_checkout_session(&key, &session);
        rejection(expire().await);
        rejection(expire().await);
        assert!(stripe.is_replay(&key));
    })
    .await;
}
