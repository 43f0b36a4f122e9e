//! Prices, as a checkout checks them.

use crate::stripe::check;

#[tokio::test]
async fn a_price_is_read() {
    check(async |stripe| {
        let id = stripe.price("unit_amount=4900").await;
        let price = stripe.client.price(&id).await.unwrap();
        assert_eq!(
            (&price.id, price.active, price.currency.as_str()),
            (&id, true, "usd")
        );
        assert_eq!(price.unit_amount, Some(4_900));
        assert!(price.is_monthly() && price.is_fixed());
        assert!(price.product.is_some() && !price.livemode);

        let path = format!("/v1/prices/{id}");
        stripe.post(&path, "active=false").await;
        assert!(!stripe.client.price(&id).await.unwrap().active);
    })
    .await;
}

#[tokio::test]
async fn a_price_of_a_fraction_of_a_cent_has_no_amount_in_cents() {
    check(async |stripe| {
        let id = stripe.price("unit_amount_decimal=0.1").await;
        let price = stripe.client.price(&id).await.unwrap();
        assert_eq!(price.unit_amount, None);
    })
    .await;
}
