//! Invoice items: what a charge becomes.

use tollgate_stripe::{InvoiceItem, InvoiceItemFilter, StripeError, UnavailableCause};

use crate::stripe::{DESCRIPTION, PERIOD, check, rejection};

#[tokio::test]
async fn an_item_has_the_amount_the_text_the_period_and_the_charge_that_were_sent() {
    check(async |stripe| {
        let (customer, _) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let subscription = stripe.subscribe(&customer, &price, "").await.id;
        for (amount, of) in [(1_250, Some(&subscription)), (-250, None)] {
            let charge = stripe.name();
            let item = stripe.try_item(&charge, &customer, amount, of);
            let item = item.await.unwrap();
            assert_eq!((item.amount, item.currency.as_str()), (amount, "usd"));
            assert_eq!((&item.customer, item.subscription()), (&customer, of));
            assert_eq!(item.description.as_deref(), Some(DESCRIPTION));
            let period = item.period.unwrap();
            let period = [period.start, period.end].map(|time| time.as_second());
            assert_eq!(period, PERIOD);
            assert_eq!(item.charge(), Some(charge.as_str()));
            assert_eq!(item.metadata.len(), 2);
            assert_eq!((&item.invoice, item.livemode), (&None, false));
        }
    })
    .await;
}

#[tokio::test]
async fn an_item_is_found_by_its_charge_and_the_time_of_its_creation() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        let charge = stripe.name();
        let item = stripe.try_item(&charge, &customer, 1_250, None);
        let item = item.await.unwrap();
        stripe.item(&customer, 100, None).await;
        let client = &stripe.client;
        let found = async |since| {
            let found = client.invoice_items_of_charge(&charge, &customer, since);
            found.await.unwrap()
        };
        let expected = std::slice::from_ref(&item);
        assert_eq!(found(None).await, expected);
        // The time is inclusive.
        assert_eq!(found(Some(item.date)).await, expected);
        let later = item.date + jiff::SignedDuration::from_hours(1);
        assert_eq!(found(Some(later)).await, []);
    })
    .await;
}

#[tokio::test]
async fn an_item_is_pending_until_it_is_on_an_invoice() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        let first = stripe.item(&customer, 1_250, None).await.id;
        let listed = async |pending| {
            let items = stripe.client.invoice_items(&InvoiceItemFilter {
                customer: &customer,
                created_since: None,
                pending: Some(pending),
            });
            let items: Vec<InvoiceItem> = items.all().await.unwrap();
            items.into_iter().map(|it| (it.id, it.invoice)).collect()
        };
        let check = async |pending: &[_], drawn: &[_]| {
            let (found, invoiced): (Vec<_>, Vec<_>) = (listed(true).await, listed(false).await);
            assert_eq!((&found[..], &invoiced[..]), (pending, drawn));
        };
        check(&[(first.clone(), None)], &[]).await;
        let invoice = stripe.try_invoice(&customer, None, None, false).await;
        let invoice = invoice.unwrap().id;
        let second = stripe.item(&customer, 100, None).await.id;
        check(&[(second, None)], &[(first, Some(invoice))]).await;
    })
    .await;
}

#[tokio::test]
async fn an_item_of_an_ended_subscription_is_rejected() {
    check(async |stripe| {
        let (customer, _) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let subscription = stripe.subscribe(&customer, &price, "").await.id;
        stripe.cancel(&subscription).await;
        let charge = stripe.name();
        let item = stripe.try_item(&charge, &customer, 100, Some(&subscription));
        let rejected = rejection(item.await);
        assert!(!rejected.is_of_missing_customer(), "{rejected:?}");
    })
    .await;
}

#[tokio::test]
async fn a_list_is_read_over_all_of_its_pages() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        let mut created = Vec::new();
        for cents in 1..=5 {
            created.push(stripe.item(&customer, cents, None).await.id);
        }
        let list = || {
            let items = stripe.client.invoice_items(&InvoiceItemFilter {
                customer: &customer,
                created_since: None,
                pending: None,
            });
            items.page_size(2)
        };
        let (mut pages, mut sizes, mut found) = (list(), Vec::new(), Vec::new());
        while let Some(page) = pages.next_page().await.unwrap() {
            sizes.push((page.items.len(), page.has_more));
            found.extend(page.items);
        }
        assert_eq!(sizes, [(2, true), (2, true), (1, false)]);
        assert_eq!(list().all().await.unwrap(), found);
        // The order within a second is not documented.
        let dates: Vec<_> = found.iter().map(|item| item.date).collect();
        assert!(dates.is_sorted_by(|newer, older| newer >= older), "{dates:?}");
        let mut ids: Vec<_> = found.iter().map(|item| item.id.clone()).collect();
        let rest = list().after(ids[1].as_str()).all().await.unwrap();
        assert_eq!(rest, found[2..]);
        ids.sort();
        created.sort();
        assert_eq!(ids, created);

        let part = list().max_pages(2).all().await;
        let is_too_long = |error: &StripeError| {
            matches!(error, StripeError::Unavailable(it) if matches!(it.cause, UnavailableCause::ListTooLong(2)))
        };
        assert!(part.is_err_and(|error| is_too_long(&error)));
        // By this parameter, a cursor of a customer's request is known to be invalid.
        let rejected = rejection(list().after("ii_TollgateNone").all().await);
        assert_eq!(rejected.param.as_deref(), Some("starting_after"));
    })
    .await;
}
