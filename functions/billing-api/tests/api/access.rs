//! Permissions, routes, bodies, and responses while the store or Stripe fails.

use std::collections::BTreeSet;

use serde_json::json;
use stripe_fake::Fault as StripeFault;
use tollgate_local_aws::Fault;
use tollgate_testing::event::{Event, declared_routes};
use tollgate_testing::response::{
    call, checks_bodies, has_no_other_routes, ignores_the_stage, names_fields, needs_a_manager,
    needs_an_admin,
};
use tollgate_testing::stored::stored;

use crate::stack::Stack;

fn events() -> Vec<Event> {
    let all = Event::all("billing-api").into_iter();
    all.map(|(_, event)| event).collect()
}

/// Returns the operations that make requests to Stripe for a customer who is linked.
fn events_with_stripe() -> Vec<Event> {
    let all = Event::all("billing-api").into_iter();
    let with_stripe = all.filter(|(name, _)| !name.starts_with("charge"));
    with_stripe.map(|(_, event)| event).collect()
}

#[tokio::test]
async fn every_operation_is_for_admins_or_keys_that_manage() {
    let walked: BTreeSet<_> = events().iter().map(Event::route).collect();
    let mut deployed = declared_routes();
    let names = ["subscription", "checkout", "portal", "invoices"];
    deployed.retain(|(_, path)| {
        let of_customer = path.strip_prefix("/admin/customers/{customer}/");
        path.starts_with("/api/billing/") || of_customer.is_some_and(|name| names.contains(&name))
    });
    assert_eq!(walked, deployed);
    for event in events() {
        let stack = Stack::new().await;
        match event.route().1.starts_with("/admin/") {
            true => needs_an_admin(&stack.function, &event).await,
            false => needs_a_manager(&stack.function, &event).await,
        }
    }
}

#[tokio::test]
async fn a_forbidden_request_changes_nothing() {
    for event in events() {
        let stack = Stack::new().await;
        let before = stored(&stack.at);
        call(&stack.function, &event.customer("acme", "free")).await;
        assert_eq!(stored(&stack.at), before);
        assert_eq!(stack.stripe.requests(), [""; 0]);
    }
}

#[tokio::test]
async fn the_function_has_only_these_routes_in_any_stage() {
    let stack = Stack::new().await;
    for event in events() {
        has_no_other_routes(&stack.function, &event).await;
        ignores_the_stage(&stack.function, &event).await;
    }
}

#[tokio::test]
async fn invalid_bodies_are_rejected() {
    let stack = Stack::new().await;
    for name in ["checkout", "customer-checkout", "portal", "customer-portal"] {
        checks_bodies(
            &stack.function,
            &Event::load(&format!("billing-api/{name}")),
        )
        .await;
    }
    let invalid = [
        ("plan", json!(1)),
        ("plan", json!("NO")),
        ("success_url", json!(null)),
        ("cancel_url", json!(["https://app.example"])),
    ];
    names_fields(
        &stack.function,
        &Event::load("billing-api/checkout"),
        &invalid,
    )
    .await;
    let invalid = [("return_url", json!(1))];
    names_fields(
        &stack.function,
        &Event::load("billing-api/portal"),
        &invalid,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_every_operation_returns_503_with_retry_after() {
    let stack = Stack::new().await;
    for fault in [Fault::Throttled, Fault::RequestLost] {
        stack.at.aws.inject(move |_| fault);
        for event in events() {
            let response = call(&stack.function, &event).await;
            response.problem(503, "temporarily-unavailable", None);
            assert_eq!(response.header("retry-after"), Some("1"));
        }
    }
    assert_eq!(stack.stripe.requests(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn while_stripe_is_down_every_operation_returns_503_with_retry_after() {
    let stack = Stack::new().await;
    stack.link("acme").await;
    let before = stored(&stack.at);
    for (fault, retry_after) in [
        (StripeFault::RequestLost, "1"),
        (StripeFault::ServerError, "1"),
        (StripeFault::Malformed, "1"),
        (
            StripeFault::RateLimited {
                retry_after: Some(60),
            },
            "60",
        ),
    ] {
        for event in events_with_stripe() {
            for method in ["GET", "POST"] {
                stack.stripe.fail(method, "/v1/*", 100, fault.clone());
            }
            let response = call(&stack.function, &event).await;
            response.problem(503, "temporarily-unavailable", None);
            assert_eq!(
                response.header("retry-after"),
                Some(retry_after),
                "{fault:?}"
            );
            stack.stripe.fake.clear_faults();
        }
    }
    assert_eq!(stored(&stack.at), before);
}

/// The response names nothing that Stripe says of its objects.
#[tokio::test]
async fn a_rejection_of_stripes_is_a_500_without_its_message() {
    let mut stack = Stack::new().await;
    let id = stack.link("acme").await;
    stack.call_stripe_by(stack.stripe.with_key("sk_test_revoked"));
    for event in events_with_stripe() {
        let response = call(&stack.function, &event).await;
        response.problem(500, "internal", None);
        assert!(!response.text.contains(&id), "{}", response.text);
        assert!(!response.text.contains("Stripe"), "{}", response.text);
    }
}

/// It was deleted, or is of another operator. Stripe still lists what a deleted one had.
#[tokio::test]
async fn a_stripe_customer_that_does_not_exist_is_a_conflict_until_it_is_unlinked() {
    let stack = Stack::new().await;
    let deleted = stack.link("acme").await;
    let path = format!("/v1/customers/{deleted}");
    stack.stripe.call("DELETE", &path, "").await;
    let check = async |event: &Event, id: &str| {
        let response = call(&stack.function, event).await;
        let detail = response.conflict();
        assert!(detail.contains("no longer exists at Stripe"), "{detail}");
        assert!(!response.text.contains(id), "{}", response.text);
    };
    let before = stored(&stack.at);
    for event in events_with_stripe() {
        match event.route().0.as_str() {
            "POST" => check(&event, &deleted).await,
            _ => {
                call(&stack.function, &event).await.json(200);
            }
        }
    }
    assert_eq!(stored(&stack.at), before);
    stack.relink("acme", Some("cus_of_elsewhere")).await;
    let before = stored(&stack.at);
    for event in events_with_stripe() {
        check(&event, "cus_of_elsewhere").await;
    }
    assert_eq!(stored(&stack.at), before);
    stack.relink("acme", None).await;
    stack.checkout("acme", "team").await.json(201);
    stack.get("subscription", &[]).await.json(200);
    stack.get("invoices", &[]).await.json(200);
    stack.call("portal", |event| event).await.json(201);
}

/// Each request to Stripe takes less time than it may by itself.
#[tokio::test(start_paused = true)]
async fn the_response_comes_before_the_gateways_timeout() {
    let stack = Stack::new().await;
    stack.link("acme").await;
    for event in events_with_stripe() {
        let fault = StripeFault::Slow {
            milliseconds: 25_000,
        };
        stack.stripe.fail("GET", "/v1/*", 100, fault.clone());
        stack.stripe.fail("POST", "/v1/*", 100, fault);
        let began = tokio::time::Instant::now();
        let response = call(&stack.function, &event).await;
        response.problem(503, "temporarily-unavailable", None);
        assert_eq!(response.header("retry-after"), Some("1"));
        assert_eq!(began.elapsed().as_secs(), 20);
        stack.stripe.fake.clear_faults();
    }
}

#[tokio::test]
async fn without_a_secret_key_of_stripe_payments_are_not_configured() {
    let mut stack = Stack::new().await;
    stack.link("acme").await;
    stack.app.payments.stripe = None;
    stack.function = billing_api::routes(stack.app.clone());
    let before = stored(&stack.at);
    for event in events_with_stripe() {
        let response = call(&stack.function, &event).await;
        response.problem(503, "payments-not-configured", None);
        assert_eq!(response.header("retry-after"), None);
    }
    assert_eq!(stored(&stack.at), before);
    stack.get("charges", &[]).await.json(200);
    // Of a customer who is not linked, there is nothing to ask.
    stack.relink("acme", None).await;
    let shown = stack.get("subscription", &[]).await.json(200);
    assert_eq!(shown["subscription"], json!(null));
    let shown = stack.get("invoices", &[]).await.json(200);
    assert_eq!(shown, json!({ "data": [], "next_cursor": null }));
}

#[tokio::test]
async fn an_unknown_customer_is_not_found() {
    let stack = Stack::new().await;
    let before = stored(&stack.at);
    for name in ["subscription", "checkout", "portal", "invoices"] {
        let twin = format!("customer-{name}");
        for id in ["nobody", "a b"] {
            let response = stack.call(&twin, |event| event.param("customer", id)).await;
            response.not_found();
        }
    }
    assert_eq!(stored(&stack.at), before);
}
