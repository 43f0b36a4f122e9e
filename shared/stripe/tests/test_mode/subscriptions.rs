//! Subscriptions: listed, read, changed and cancelled.

use tollgate_stripe::{
    Cancellation, InvoiceStatus, PriceChange, Proration, SubscriptionStatus, SubscriptionUpdate,
};

use crate::stripe::{check, rejection};

#[tokio::test]
async fn a_subscription_that_is_paid_is_active_and_its_invoice_is_paid() {
    check(async |stripe| {
        let (customer, card) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let more = format!("&default_payment_method={card}");
        let created = stripe.subscribe(&customer, &price, &more).await;
        let found = stripe.client.subscription(&created.id).await.unwrap();
        assert_eq!(found.status, SubscriptionStatus::Active);
        assert_eq!((&found.customer, found.livemode), (&customer, false));
        assert_eq!(found.currency, "usd");
        assert_eq!(found.default_payment_method, Some(card));
        assert_eq!(found.metadata.len(), 1);
        let [item] = &found.items.data[..] else {
            panic!("not one item: {found:?}");
        };
        assert_eq!((&item.price.id, item.quantity), (&price, Some(1)));
        assert!(item.current_period_start < item.current_period_end);
        let nothing = (false, None, None, None);
        let end = (
            found.cancel_at_period_end,
            found.cancel_at,
            found.canceled_at,
            found.ended_at,
        );
        assert_eq!(end, nothing);

        let invoice = found.latest_invoice.unwrap();
        let invoice = stripe.client.invoice(&invoice).await.unwrap();
        assert_eq!(invoice.status, Some(InvoiceStatus::Paid));
        assert_eq!((invoice.total, invoice.amount_remaining), (3_000, 0));
        assert_eq!(invoice.subscription(), Some(&created.id));
        let reason = invoice.billing_reason.as_deref();
        assert_eq!(reason, Some("subscription_create"));
        assert!(invoice.paid_at().is_some());
    })
    .await;
}

#[tokio::test]
async fn a_subscription_whose_first_payment_is_outstanding_or_declined_is_incomplete() {
    check(async |stripe| {
        let price = stripe.price("unit_amount=3000").await;
        for is_declined in [false, true] {
            let customer = stripe.customer().await.id;
            let more = match is_declined {
                true => "",
                false => "&payment_behavior=default_incomplete",
            };
            if is_declined {
                stripe.decline(&customer).await;
            }
            let created = stripe.subscribe(&customer, &price, more).await;
            assert_eq!(created.status, SubscriptionStatus::Incomplete);
            let invoice = created.latest_invoice.unwrap();
            let invoice = stripe.client.invoice(&invoice).await.unwrap();
            assert_eq!(invoice.status, Some(InvoiceStatus::Open));
            assert_eq!((invoice.attempted, invoice.due_date), (is_declined, None));
            assert_eq!(invoice.amount_remaining, 3_000);
        }
    })
    .await;
}

#[tokio::test]
async fn the_list_of_a_customer_has_ended_subscriptions_too() {
    check(async |stripe| {
        let (customer, _) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let first = stripe.subscribe(&customer, &price, "").await.id;
        let second = stripe.subscribe(&customer, &price, "").await.id;
        stripe.cancel(&first).await;
        let listed = stripe.client.subscriptions(&customer).all().await.unwrap();
        let mut statuses: Vec<_> = listed.iter().map(|it| (&it.id, &it.status)).collect();
        statuses.sort_by_key(|(id, _)| **id != first);
        let ended = (&first, &SubscriptionStatus::Canceled);
        let live = (&second, &SubscriptionStatus::Active);
        assert_eq!(statuses, [ended, live]);
        let ended = listed.iter().find(|it| it.id == first).unwrap();
        assert!(ended.ended_at.is_some() && ended.canceled_at.is_some());

        let cancellation = Cancellation::default();
        let again = stripe.client.cancel_subscription(&first, &cancellation);
        rejection(again.await);
        let nobody = "cus_TollgateNobody".parse().unwrap();
        let rejected = rejection(stripe.client.subscriptions(&nobody).all().await);
        assert!(rejected.is_of_missing_customer(), "{rejected:?}");
    })
    .await;
}

#[tokio::test]
async fn a_subscription_is_moved_to_another_price_and_ends_with_its_period() {
    check(async |stripe| {
        let (customer, _) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let dearer = stripe.price("unit_amount=6000").await;
        let created = stripe.subscribe(&customer, &price, "").await;
        let item = &created.items.data[0];
        let update = async |update: SubscriptionUpdate<'_>| {
            let key = stripe.key();
            let changed = stripe
                .client
                .update_subscription(&created.id, &key, &update);
            changed.await.unwrap()
        };
        let moved = update(SubscriptionUpdate {
            price: Some(PriceChange {
                item: &item.id,
                price: &dearer,
            }),
            proration: Some(Proration::None),
            ..SubscriptionUpdate::default()
        });
        let moved = moved.await;
        assert_eq!(moved.items.data[0].price.id, dearer);
        assert_eq!(moved.items.data[0].id, item.id);

        let ends = |ends| SubscriptionUpdate {
            cancel_at_period_end: Some(ends),
            ..SubscriptionUpdate::default()
        };
        let ending = update(ends(true)).await;
        assert_eq!(ending.status, SubscriptionStatus::Active);
        assert!(ending.cancel_at_period_end);
        assert_eq!(ending.cancel_at, Some(item.current_period_end));
        let kept = update(ends(false)).await;
        assert_eq!((kept.cancel_at_period_end, kept.cancel_at), (false, None));
    })
    .await;
}
