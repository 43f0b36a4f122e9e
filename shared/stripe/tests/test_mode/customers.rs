//! Customers: created, read, changed, deleted.

use tollgate_stripe::{CustomerDetails, CustomerLookup};

use crate::stripe::{check, rejection};

#[tokio::test]
async fn a_customer_is_created_read_and_changed() {
    check(async |stripe| {
        let details = CustomerDetails {
            email: Some("test-mode@example.com"),
            name: Some("Acme & Söhne"),
            description: Some("Test"),
            metadata: &stripe.mark(),
        };
        let key = stripe.key();
        let created = stripe.client.create_customer(&key, &details);
        let created = created.await.unwrap();
        assert_eq!(created.email.as_deref(), details.email);
        assert_eq!(created.name.as_deref(), details.name);
        assert_eq!(created.metadata.get(stripe.mark()[0].0), Some(&stripe.run));
        assert!(!created.livemode);
        let found = stripe.client.customer(&created.id).await.unwrap();
        assert_eq!(found, CustomerLookup::Present(created.clone()));

        // What is not sent stays.
        let change = CustomerDetails {
            name: Some("Acme"),
            metadata: &[("further", "1")],
            ..CustomerDetails::default()
        };
        let key = stripe.key();
        let changed = stripe.client.update_customer(&created.id, &key, &change);
        let changed = changed.await.unwrap();
        assert_eq!(changed.name.as_deref(), Some("Acme"));
        assert_eq!(changed.email, created.email);
        assert_eq!(changed.metadata.len(), 2);
        let found = stripe.client.customer(&created.id).await.unwrap();
        assert_eq!(found, CustomerLookup::Present(changed));
    })
    .await;
}

#[tokio::test]
async fn a_deleted_customer_is_found_as_such_and_can_be_charged_no_more() {
    check(async |stripe| {
        let key = stripe.key();
        let details = CustomerDetails {
            metadata: &stripe.mark(),
            ..CustomerDetails::default()
        };
        let create = || stripe.client.create_customer(&key, &details);
        let created = create().await.unwrap();
        stripe.delete_customer(&created.id).await;
        let found = stripe.client.customer(&created.id).await.unwrap();
        assert_eq!(found, CustomerLookup::Deleted(created.id.clone()));
        // A repeated creation returns the customer as it was, so that it has to be looked up.
        assert_eq!(create().await.unwrap(), created);

        let item = stripe.try_item("none", &created.id, 100, None).await;
        let rejected = rejection(item);
        assert!(rejected.is_of_missing_customer(), "{rejected:?}");
        let key = stripe.key();
        let changed = stripe.client.update_customer(&created.id, &key, &details);
        let rejected = rejection(changed.await);
        assert!(rejected.is_missing(), "{rejected:?}");
    })
    .await;
}
