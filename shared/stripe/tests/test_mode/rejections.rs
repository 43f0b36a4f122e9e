//! Rejections, as the client classifies them.

use tollgate_stripe::CustomerDetails;

use crate::stripe::{check, rejection};

#[tokio::test]
async fn an_object_that_does_not_exist_is_missing() {
    check(async |stripe| {
        let client = &stripe.client;
        let check = |rejected: tollgate_stripe::Rejection| {
            assert!(rejected.is_missing(), "{rejected:?}");
            assert_eq!(rejected.status, 404);
            assert!(!rejected.is_of_key() && !rejected.is_of_missing_customer());
            assert!(rejected.request_id.is_some());
        };
        let customer = "cus_TollgateNone".parse().unwrap();
        check(rejection(client.customer(&customer).await));
        let price = "price_TollgateNone".parse().unwrap();
        check(rejection(client.price(&price).await));
        let session = "cs_test_TollgateNone".parse().unwrap();
        check(rejection(client.checkout_session(&session).await));
        let subscription = "sub_TollgateNone".parse().unwrap();
        check(rejection(client.subscription(&subscription).await));
        let invoice = "in_TollgateNone".parse().unwrap();
        check(rejection(client.invoice(&invoice).await));
        let event = "evt_TollgateNone".parse().unwrap();
        check(rejection(client.event(&event).await));
        let nobody = "cus_TollgateNone".parse().unwrap();
        let charged = stripe.try_item("none", &nobody, 100, None).await;
        let rejected = rejection(charged);
        assert!(rejected.is_of_missing_customer(), "{rejected:?}");
    })
    .await;
}

#[tokio::test]
async fn a_parameter_is_rejected_by_its_name() {
    check(async |stripe| {
        let details = CustomerDetails {
            email: Some("nobody"),
            metadata: &stripe.mark(),
            ..CustomerDetails::default()
        };
        let key = stripe.key();
        let created = stripe.client.create_customer(&key, &details);
        let rejected = rejection(created.await);
        assert_eq!(rejected.status, 400);
        assert_eq!(rejected.kind.as_deref(), Some("invalid_request_error"));
        assert_eq!(rejected.code.as_deref(), Some("email_invalid"));
        assert_eq!(rejected.param.as_deref(), Some("email"));
        assert!(!rejected.is_missing() && !rejected.is_of_key());
    })
    .await;
}

#[tokio::test]
async fn a_wrong_key_is_unauthorized() {
    check(async |stripe| {
        let client = stripe.with_key("sk_test_TollgateWrongKey");
        let customer = "cus_TollgateNone".parse().unwrap();
        let rejected = rejection(client.customer(&customer).await);
        assert_eq!(rejected.status, 401);
        assert!(rejected.is_of_key() && !rejected.is_missing());
    })
    .await;
}
