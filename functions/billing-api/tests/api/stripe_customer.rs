//! One Stripe customer for each customer: created at the first checkout, and linked.

use std::sync::Arc;

use serde_json::{Value, json};
use stripe_fake::Fault as StripeFault;
use tokio::task::JoinSet;
use tollgate_local_aws::Fault;
use tollgate_store::{CustomerChange, Store};
use tollgate_testing::customers::add_customer;
use tollgate_testing::event::text;
use tollgate_testing::p;
use tollgate_testing::stripe::Stripe;

use crate::stack::Stack;

/// Changes name and e-mail address of `acme`.
async fn rename(stack: &Stack, name: &str, email: &str) {
    let change = CustomerChange {
        name: Some(name.to_owned()),
        email: Some(Some(email.to_owned())),
        ..CustomerChange::default()
    };
    stack
        .store()
        .update_customer(&p("acme"), &change)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_first_checkout_creates_a_stripe_customer_and_links_it() {
    let stack = Stack::new().await;
    rename(&stack, "Acme Inc", "bills@acme.example").await;
    stack.checkout("acme", "team").await.json(201);
    let customers = stack.stripe_customers().await;
    let [created] = &customers[..] else {
        panic!("{customers:#?}");
    };
    assert_eq!(created["name"], "Acme Inc");
    assert_eq!(created["email"], "bills@acme.example");
    let metadata = json!({ "tollgate_customer": "acme", "tollgate_stack": "test" });
    assert_eq!(created["metadata"], metadata);
    let linked = stack.recipient("acme").await.unwrap();
    assert_eq!(created["id"], linked.customer);
    assert_eq!(linked.subscription, None);
    let found = stack.store().customer_of_stripe(&linked.customer).await;
    assert_eq!(found.unwrap(), Some(p("acme")));

    stack.stripe.requests();
    stack.checkout("acme", "team").await.json(201);
    let requests = stack.stripe.requests();
    assert!(
        !requests
            .iter()
            .any(|it| it.starts_with("POST /v1/customers")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn concurrent_checkouts_create_one_stripe_customer() {
    let stack = Arc::new(Stack::new().await);
    let mut running = JoinSet::new();
    for _ in 0..8 {
        let stack = Arc::clone(&stack);
        running.spawn(async move { stack.checkout("acme", "team").await.json(201) });
    }
    let sessions: Vec<Value> = running.join_all().await;
    assert_eq!(stack.stripe_customers().await.len(), 1);
    let linked = stack.recipient("acme").await.unwrap();
    let all = stack.sessions().await;
    assert_eq!(all.len(), sessions.len());
    for session in all {
        assert_eq!(session["customer"], linked.customer);
    }
}

/// Responses of Stripe are lost at each step, and the customer's name changes before the request is repeated.
#[tokio::test(start_paused = true)]
async fn a_stripe_customer_whose_creation_was_lost_is_found_again() {
    for path in ["/v1/customers", "/v1/customers/*"] {
        let stack = Stack::new().await;
        stack
            .stripe
            .fail("POST", path, 4, StripeFault::ResponseLost);
        let lost = stack.checkout("acme", "team").await;
        lost.problem(503, "temporarily-unavailable", None);
        assert_eq!(stack.recipient("acme").await, None);
        rename(&stack, "Acme Inc", "bills@acme.example").await;
        stack.checkout("acme", "team").await.json(201);
        let customers = stack.stripe_customers().await;
        assert_eq!(customers.len(), 1, "{path}");
        assert_eq!(customers[0]["name"], "Acme Inc", "{path}");
    }
}

/// The store fails before the link is written, or its response is lost at every try.
#[tokio::test(start_paused = true)]
async fn a_stripe_customer_that_was_not_linked_is_linked_by_the_next_checkout() {
    for fault in [Fault::RequestLost, Fault::ResponseLost] {
        let stack = Stack::new().await;
        let is_link = |body: &str| body.contains("STRIPE#CUSTOMER#");
        stack.at.aws.inject(move |call| match is_link(&call.body) {
            true => fault,
            false => Fault::None,
        });
        let failed = stack.checkout("acme", "team").await;
        failed.problem(503, "temporarily-unavailable", None);
        stack.at.aws.heal();
        stack.checkout("acme", "team").await.json(201);
        assert_eq!(stack.stripe_customers().await.len(), 1, "{fault:?}");
        let linked = stack.recipient("acme").await.unwrap();
        assert_eq!(stack.sessions().await[0]["customer"], linked.customer);
    }
}

/// Two stacks share a Stripe account, and have customers of the same id.
#[tokio::test]
async fn stacks_that_share_stripe_have_customers_of_their_own() {
    let stack = Stack::new().await;
    stack.checkout("acme", "team").await.json(201);
    let Stripe { client, .. } = stack.stripe.clone();
    let mut app = stack.app.clone();
    let at = &stack.at;
    at.aws.create_tables("other").unwrap();
    app.payments.stack = "other".to_owned();
    app.payments.store = Store::new(
        &at.aws.sdk_config(),
        "other",
        at.clock(),
        at.entropy.clone(),
    );
    app.payments.stripe = Some(client);
    let other = tollgate_local_aws::fixture::Fixture {
        store: app.payments.store.clone(),
        ..at.clone()
    };
    add_customer(&other, "acme", "free").await;
    let plans = at.store.plans().await.unwrap();
    let team = plans.get(&p("team")).unwrap();
    other.store.create_plan(team).await.unwrap();
    let function = billing_api::routes(app);
    let event = tollgate_testing::event::Event::load("billing-api/checkout");
    let event = event.manager("acme", "free");
    tollgate_testing::response::call(&function, &event)
        .await
        .json(201);
    assert_eq!(stack.stripe_customers().await.len(), 2);
    let linked = other.store.customer(&p("acme")).await.unwrap().unwrap();
    assert_ne!(linked.recipient, stack.recipient("acme").await);
}

/// An admin sets the link while the first checkout creates a Stripe customer: the link of the admin stays.
#[tokio::test]
async fn a_link_that_an_admin_sets_meanwhile_is_used() {
    let stack = Stack::new().await;
    let created = stack
        .stripe
        .call("POST", "/v1/customers", "name=Acme")
        .await;
    let of_admin = text(&created, "id").to_owned();
    let (aws, id) = (stack.at.aws.clone(), of_admin.clone());
    let mut is_set = false;
    aws.clone().inject(move |call| {
        if call.body.contains("STRIPE#CUSTOMER#") && !is_set {
            is_set = true;
            let update = json!({
                "TableName": "test-registry",
                "Key": { "pk": { "S": "CUSTOMER#acme" } },
                "UpdateExpression": "SET stripe_customer = :id",
                "ExpressionAttributeValues": { ":id": { "S": id } },
            });
            let (status, response) = aws.call("DynamoDB_20120810.UpdateItem", &update.to_string());
            assert_eq!(status, 200, "{response}");
        }
        Fault::None
    });
    stack.checkout("acme", "team").await.json(201);
    stack.at.aws.heal();
    assert_eq!(stack.recipient("acme").await.unwrap().customer, of_admin);
    assert_eq!(stack.sessions().await[0]["customer"], of_admin);
}

/// The Stripe customer that Stripe replays was linked to another customer by an admin.
#[tokio::test]
async fn a_stripe_customer_of_another_customer_is_not_taken() {
    let stack = Stack::new().await;
    stack.checkout("acme", "team").await.json(201);
    let linked = stack.recipient("acme").await.unwrap().customer;
    stack.relink("acme", None).await;
    add_customer(&stack.at, "bolt", "free").await;
    stack.relink("bolt", Some(&linked)).await;
    let path = format!("/v1/customers/{linked}");
    let bolts = stack
        .stripe
        .call("POST", &path, "name=Bolt&email=bolt%40example.com");
    let bolts = bolts.await;
    stack.checkout("acme", "team").await.json(201);
    let other = stack.recipient("acme").await.unwrap().customer;
    assert_ne!(other, linked);
    assert_eq!(stack.recipient("bolt").await.unwrap().customer, linked);
    // Its invoices still go to bolt.
    let shown = stack.stripe.call("GET", &path, "").await;
    for member in ["name", "email", "metadata"] {
        assert_eq!(shown[member], bolts[member], "{member}");
    }
}

/// Within the day for which Stripe replays its creation, a Stripe customer was deleted, and an admin has removed
/// the link.
#[tokio::test]
async fn a_deleted_stripe_customer_is_replaced() {
    let stack = Stack::new().await;
    for deleted in 0..2 {
        stack.checkout("acme", "team").await.json(201);
        assert_eq!(stack.stripe_customers().await.len(), 1, "{deleted}");
        let linked = stack.recipient("acme").await.unwrap().customer;
        let path = format!("/v1/customers/{linked}");
        stack.stripe.call("DELETE", &path, "").await;
        stack.relink("acme", None).await;
    }
}

#[tokio::test]
async fn a_customer_erased_meanwhile_is_not_linked() {
    let stack = Stack::new().await;
    let aws = stack.at.aws.clone();
    aws.clone().inject(move |call| {
        if call.body.contains("STRIPE#CUSTOMER#") {
            let update = json!({
                "TableName": "test-registry",
                "Key": { "pk": { "S": "CUSTOMER#acme" } },
                "UpdateExpression": "SET erased_at = :now",
                "ExpressionAttributeValues": { ":now": { "S": "2026-11-22T10:00:00.000Z" } },
            });
            let (status, response) = aws.call("DynamoDB_20120810.UpdateItem", &update.to_string());
            assert_eq!(status, 200, "{response}");
        }
        Fault::None
    });
    stack.checkout("acme", "team").await.conflict();
    stack.at.aws.heal();
    assert_eq!(stack.recipient("acme").await, None);
    assert_eq!(stack.sessions().await.len(), 0);
}
