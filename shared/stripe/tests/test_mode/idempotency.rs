//! Idempotency keys.

use tollgate_stripe::{
    CustomerDetails, InvoiceItemFilter, NewInvoiceItem, StripeError, UnknownCause,
};

use crate::stripe::check;

#[tokio::test]
async fn a_key_is_for_one_request_whose_response_is_replayed() {
    check(async |stripe| {
        let customer = stripe.customer().await.id;
        let (key, charge) = (stripe.key(), stripe.name());
        let create = async |amount| {
            let item = NewInvoiceItem {
                charge: &charge,
                key: &key,
                customer: &customer,
                amount,
                currency: "usd",
                description: "Test",
                subscription: None,
                period: None,
                metadata: &stripe.mark(),
            };
            stripe.client.create_invoice_item(&item).await
        };
        let first = create(100).await.unwrap();
        assert!(!stripe.is_replay(&key));
        assert_eq!(create(100).await.unwrap(), first);
        assert!(stripe.is_replay(&key));

        let is_of_used_key = |error: StripeError| {
            let cause = match &error {
                StripeError::Unknown(unknown) => &unknown.cause,
                error => panic!("not unknown: {error:?}"),
            };
            assert!(matches!(cause, UnknownCause::KeyReused), "{error:?}");
            assert!(error.is_of_used_key() && error.may_have_taken_effect());
        };
        // Other parameters, and another path.
        is_of_used_key(create(200).await.unwrap_err());
        let details = CustomerDetails::default();
        let other = stripe.client.create_customer(&key, &details).await;
        is_of_used_key(other.unwrap_err());
        let items = stripe.client.invoice_items(&InvoiceItemFilter {
            customer: &customer,
            created_since: None,
            pending: None,
        });
        assert_eq!(items.all().await.unwrap(), [first]);
    })
    .await;
}
