//! Invoices: of pending items, finalized, paid and listed; and events, in which all of it is reported.

use std::time::Duration;

use tollgate_stripe::{
    CustomerId, Event, EventFilter, Invoice, InvoiceFilter, InvoiceId, InvoiceStatus,
    PaymentMethodId, SubscriptionId,
};

use crate::stripe::{INVOICE_DESCRIPTION, Stripe, check, rejection};

/// Creates an invoice of a customer's pending items.
async fn invoice(
    stripe: &Stripe,
    customer: &CustomerId,
    subscription: Option<&SubscriptionId>,
    card: Option<&PaymentMethodId>,
) -> Invoice {
    let created = stripe
        .try_invoice(customer, subscription, card, false)
        .await;
    created.unwrap()
}

#[tokio::test]
async fn an_invoice_of_pending_items_is_drafted_finalized_and_paid() {
    check(async |stripe| {
        let (customer, card) = stripe.customer_with_card().await;
        stripe.item(&customer, 1_250, None).await;
        stripe.item(&customer, -250, None).await;
        let draft = invoice(stripe, &customer, None, Some(&card)).await;
        assert_eq!(draft.status, Some(InvoiceStatus::Draft));
        assert_eq!(
            (draft.subtotal, draft.total, draft.amount_due),
            (1_000, 1_000, 1_000)
        );
        assert_eq!((&draft.number, &draft.finalized_at()), (&None, &None));
        assert_eq!(draft.customer, Some(customer));
        assert_eq!(
            (draft.currency.as_str(), draft.subscription()),
            ("usd", None)
        );
        assert_eq!(draft.metadata.len(), 1);
        assert!(!draft.livemode);
        let path = format!("/v1/invoices/{}", draft.id);
        let raw = stripe.request(http::Method::GET, &path, "").await;
        assert_eq!(raw["description"], INVOICE_DESCRIPTION);
        assert_eq!(raw["default_payment_method"], card.as_str());

        let finalize = async || {
            let key = stripe.key();
            stripe
                .client
                .finalize_invoice(&draft.id, &key, Some(false))
                .await
        };
        let open = finalize().await.unwrap();
        assert_eq!(open.status, Some(InvoiceStatus::Open));
        assert!(open.number.is_some() && open.finalized_at().is_some());
        assert!(open.hosted_invoice_url.is_some() && open.invoice_pdf.is_some());
        assert_eq!((open.amount_paid, open.amount_remaining), (0, 1_000));
        rejection(finalize().await);

        stripe.post(&format!("{path}/pay"), "").await;
        let paid = stripe.client.invoice(&draft.id).await.unwrap();
        assert_eq!(paid.status, Some(InvoiceStatus::Paid));
        assert_eq!((paid.amount_paid, paid.amount_remaining), (1_000, 0));
        assert!(paid.paid_at().is_some());
    })
    .await;
}

#[tokio::test]
async fn a_final_invoice_that_advances_is_collected() {
    check(async |stripe| {
        let (customer, card) = stripe.customer_with_card().await;
        stripe.item(&customer, 1_250, None).await;
        let draft = stripe.try_invoice(&customer, None, Some(&card), true).await;
        let draft = draft.unwrap();
        assert_eq!(draft.status, Some(InvoiceStatus::Draft));
        let key = stripe.key();
        let made = stripe.client.finalize_invoice(&draft.id, &key, None);
        let mut made = made.await.unwrap();
        // Stripe does not say whether it is collected within the request.
        for seconds in 1..=5 {
            if made.status == Some(InvoiceStatus::Paid) {
                break;
            }
            assert_eq!(made.status, Some(InvoiceStatus::Open), "{made:?}");
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            made = stripe.client.invoice(&draft.id).await.unwrap();
        }
        assert_eq!(
            (made.status, made.amount_paid),
            (Some(InvoiceStatus::Paid), 1_250)
        );
    })
    .await;
}

/// These fields distinguish a debt from an invoice whose time has not come.
#[tokio::test]
async fn an_invoice_that_is_declined_stays_open_and_was_attempted() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        stripe.decline(&customer).await;
        stripe.item(&customer, 1_250, None).await;
        let draft = invoice(stripe, &customer, None, None).await;
        let key = stripe.key();
        let open = stripe.client.finalize_invoice(&draft.id, &key, Some(false));
        let open = open.await.unwrap();
        assert_eq!(
            (open.status, open.attempted),
            (Some(InvoiceStatus::Open), false)
        );
        let path = format!("/v1/invoices/{}/pay", draft.id);
        let (status, body) = stripe.send(&http::Method::POST, &path, "").await;
        assert_eq!(
            (status.as_u16(), &body["error"]["code"]),
            (402, &"card_declined".into())
        );
        let declined = stripe.client.invoice(&draft.id).await.unwrap();
        assert_eq!(
            (declined.status, declined.attempted),
            (Some(InvoiceStatus::Open), true)
        );
        assert_eq!(declined.amount_remaining, 1_250);
    })
    .await;
}

#[tokio::test]
async fn a_list_has_the_invoices_of_a_status_a_customer_and_a_subscription() {
    check(async |stripe| {
        let (customer, _) = stripe.customer_with_card().await;
        let price = stripe.price("unit_amount=3000").await;
        let subscribed = stripe.subscribe(&customer, &price, "").await;
        let first = subscribed.latest_invoice.unwrap();
        stripe.item(&customer, 100, None).await;
        let open = invoice(stripe, &customer, None, None).await;
        let key = stripe.key();
        let finalized = stripe.client.finalize_invoice(&open.id, &key, Some(false));
        finalized.await.unwrap();
        stripe.item(&customer, 200, Some(&subscribed.id)).await;
        let draft = invoice(stripe, &customer, Some(&subscribed.id), None).await;
        assert_eq!(
            (draft.total, draft.subscription()),
            (200, Some(&subscribed.id))
        );

        let check = async |filter: InvoiceFilter<'_>, expected: &[&InvoiceId]| {
            let filter = InvoiceFilter {
                customer: Some(&customer),
                ..filter
            };
            let listed = stripe.client.invoices(&filter).all().await.unwrap();
            let mut ids: Vec<&InvoiceId> = listed.iter().map(|it| &it.id).collect();
            let mut expected = expected.to_vec();
            ids.sort();
            expected.sort();
            assert_eq!(ids, expected, "{filter:?}");
        };
        let all = InvoiceFilter::default();
        check(all, &[&first, &open.id, &draft.id]).await;
        for (status, of_status) in [
            (InvoiceStatus::Paid, vec![&first]),
            (InvoiceStatus::Open, vec![&open.id]),
            (InvoiceStatus::Draft, vec![&draft.id]),
            (InvoiceStatus::Void, vec![]),
        ] {
            let status = Some(&status);
            check(InvoiceFilter { status, ..all }, &of_status).await;
        }
        let subscription = Some(&subscribed.id);
        let of_subscription = InvoiceFilter {
            subscription,
            ..all
        };
        check(of_subscription, &[&first, &draft.id]).await;
        let created_since = Some(draft.created + jiff::SignedDuration::from_hours(1));
        check(
            InvoiceFilter {
                created_since,
                ..all
            },
            &[],
        )
        .await;

        // By this parameter, a cursor of a customer's request is known to be invalid.
        let list = stripe.client.invoices(&InvoiceFilter {
            customer: Some(&customer),
            ..all
        });
        let rejected = rejection(list.after("in_TollgateNone").next_page().await);
        assert_eq!(rejected.param.as_deref(), Some("starting_after"));
        let nobody: CustomerId = "cus_TollgateNobody".parse().unwrap();
        let list = stripe.client.invoices(&InvoiceFilter {
            customer: Some(&nobody),
            ..all
        });
        let rejected = rejection(list.all().await);
        assert!(rejected.is_of_missing_customer(), "{rejected:?}");
    })
    .await;
}

#[tokio::test]
async fn events_report_what_happened_to_a_customer() {
    check(async |stripe| {
        let customer = stripe.customer().await;
        let item = stripe.item(&customer.id, 100, None).await;
        let created = find_event(stripe, "invoiceitem.created", item.id.as_str(), &customer);
        let created = created.await;
        assert_eq!(created.object_type, "invoiceitem");
        assert_eq!(created.customer.as_deref(), Some(customer.id.as_str()));
        assert!(!created.livemode);
        assert_eq!(stripe.client.event(&created.id).await.unwrap(), created);
        stripe.delete_customer(&customer.id).await;
        let id = customer.id.as_str();
        let deleted = find_event(stripe, "customer.deleted", id, &customer).await;
        assert_eq!(deleted.customer.as_deref(), Some(id));
    })
    .await;
}

/// Waits for an event of an object. Stripe records it soon after the request, and maybe not before its response.
async fn find_event(
    stripe: &Stripe,
    kind: &str,
    object: &str,
    customer: &tollgate_stripe::Customer,
) -> Event {
    for _ in 0..20 {
        let listed = stripe.client.events(&EventFilter {
            kinds: &[kind, "customer.updated"],
            created_since: Some(customer.created),
            delivered: None,
        });
        let listed = listed.all().await.unwrap();
        let mut of_object = listed.into_iter().filter(|event| event.kind == kind);
        let found = of_object.find(|event| event.object_id.as_deref() == Some(object));
        if let Some(found) = found {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("no event {kind} of {object}");
}
