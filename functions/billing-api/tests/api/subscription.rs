//! `GET /api/billing/subscription`.

use serde_json::{Value, json};
use tollgate_domain::submission::Recipient;
use tollgate_store::{CustomerChange, RecipientChange};
use tollgate_testing::customers::add_customer;
use tollgate_testing::event::{Event, text};
use tollgate_testing::p;
use tollgate_testing::seed::remove_plan;

use crate::stack::{NOW, Stack};

#[tokio::test]
async fn a_customer_without_a_subscription_has_a_plan() {
    let stack = Stack::new().await;
    let expected = json!({
        "plan": {
            "id": "free", "name": "Free", "monthly_fee": { "micro_usd": 0, "display": "$0.00" },
        },
        "subscription": null,
        "unpaid_since": null,
    });
    assert_eq!(stack.get("subscription", &[]).await.json(200), expected);
    assert_eq!(stack.stripe.requests(), [""; 0]);
    stack.link("acme").await;
    assert_eq!(stack.get("subscription", &[]).await.json(200), expected);
    let twin = stack.get("customer-subscription", &[]).await;
    assert_eq!(twin.json(200), expected);
}

#[tokio::test]
async fn the_subscription_is_as_it_is_at_stripe() {
    let stack = Stack::new().await;
    add_customer(&stack.at, "bolt", "team").await;
    let id = stack.link("bolt").await;
    let created = stack.stripe.subscribe(&id, &stack.price).await;
    let show = async || {
        let change = |event: Event| event.manager("bolt", "team");
        stack.call("subscription", change).await.json(200)
    };
    let mut expected = json!({
        "plan": {
            "id": "team", "name": "Pro",
            "monthly_fee": { "micro_usd": 49_000_000, "display": "$49.00" },
        },
        "subscription": {
            "id": created["id"],
            "status": "active",
            "current_period_start": NOW,
            "current_period_end": "2026-12-22T10:00:00Z",
            "cancel_at_period_end": false,
            "cancel_at": null,
        },
        "unpaid_since": null,
    });
    assert_eq!(show().await, expected);
    let twin = stack.call("customer-subscription", |event| {
        event.param("customer", "bolt")
    });
    assert_eq!(twin.await.json(200), expected);

    let path = format!("/v1/subscriptions/{}", text(&created, "id"));
    stack
        .stripe
        .call("POST", &path, "cancel_at_period_end=true")
        .await;
    expected["subscription"]["cancel_at_period_end"] = true.into();
    expected["subscription"]["cancel_at"] = "2026-12-22T10:00:00Z".into();
    assert_eq!(show().await, expected);
    stack.stripe.call("DELETE", &path, "").await;
    assert_eq!(show().await["subscription"], Value::Null);
}

#[tokio::test]
async fn of_several_subscriptions_the_linked_one_is_shown() {
    let stack = Stack::new().await;
    let id = stack.link("acme").await;
    let first = stack.stripe.subscribe(&id, &stack.price).await;
    let second = stack.stripe.subscribe(&id, &stack.price).await;
    let shown = async || {
        let shown = stack.get("subscription", &[]).await.json(200);
        shown["subscription"]["id"].clone()
    };
    assert_eq!(shown().await, second["id"]);
    let change = CustomerChange {
        recipient: Some(RecipientChange {
            before: stack.recipient("acme").await,
            after: Some(Recipient {
                customer: id,
                subscription: Some(text(&first, "id").to_owned()),
            }),
        }),
        ..CustomerChange::default()
    };
    stack
        .store()
        .update_customer(&p("acme"), &change)
        .await
        .unwrap();
    assert_eq!(shown().await, first["id"]);
    let path = format!("/v1/subscriptions/{}", text(&first, "id"));
    stack.stripe.call("DELETE", &path, "").await;
    assert_eq!(shown().await, second["id"]);
}

/// Stripe's list has a subscription of another customer.
#[tokio::test]
async fn a_subscription_of_another_stripe_customer_is_not_shown() {
    let mut stack = Stack::new().await;
    stack.link("acme").await;
    add_customer(&stack.at, "bolt", "free").await;
    let other = stack.link("bolt").await;
    let foreign = stack.stripe.subscribe(&other, &stack.price).await;
    let client = stack.stripe.altered(move |path, _, list| {
        if path == "/v1/subscriptions" {
            list["data"] = json!([foreign]);
        }
    });
    stack.call_stripe_by(client);
    let shown = stack.get("subscription", &[]).await.json(200);
    assert_eq!(shown["subscription"], Value::Null);
    stack.checkout("acme", "team").await.json(201);
}

#[tokio::test]
async fn a_plan_that_does_not_exist_has_neither_name_nor_fee() {
    let stack = Stack::new().await;
    remove_plan(&stack.at, "free");
    let shown = stack.get("subscription", &[]).await.json(200);
    assert_eq!(
        shown["plan"],
        json!({ "id": "free", "name": null, "monthly_fee": null })
    );
}
