//! `POST /api/billing/portal`.

use serde_json::json;
use tollgate_runtime::metrics::PORTALS_OPENED;
use tollgate_testing::event::{Event, text};
use tollgate_testing::stored::stored;

use crate::stack::{ORIGIN, Stack};

#[tokio::test]
async fn the_portal_is_opened_for_the_customers_own_stripe_customer() {
    let stack = Stack::new().await;
    stack.link("acme").await;
    for operation in ["portal", "customer-portal"] {
        let shown = stack.call(operation, |event| event).await.json(201);
        let members = shown.as_object().unwrap();
        assert_eq!(members.len(), 1, "{shown}");
        assert!(text(&shown, "url").contains("/p/session/"), "{shown}");
        assert_eq!(
            stack.stripe.requests(),
            ["POST /v1/billing_portal/sessions"]
        );
    }
    // Each request opens another session.
    let [one, other] = [
        stack.call("portal", |event| event).await.json(201),
        stack.call("portal", |event| event).await.json(201),
    ];
    assert_ne!(one["url"], other["url"]);
    assert_eq!(stack.metrics().values(PORTALS_OPENED, &[]), [1, 1, 1, 1]);
}

#[tokio::test]
async fn a_customer_without_a_stripe_customer_is_a_conflict() {
    let stack = Stack::new().await;
    let before = stored(&stack.at);
    for operation in ["portal", "customer-portal"] {
        let response = stack.call(operation, |event| event).await;
        let detail = response.conflict();
        assert!(detail.contains("first checkout"), "{detail}");
    }
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.stripe.requests(), [""; 0]);
    assert_eq!(stack.metrics().values(PORTALS_OPENED, &[]), [0; 0]);
}

#[tokio::test]
async fn only_pages_of_the_allowed_origins_are_returned_to() {
    let stack = Stack::new().await;
    stack.link("acme").await;
    let open = async |url: &str| {
        let body = json!({ "return_url": url });
        stack.call("portal", |event: Event| event.body(&body)).await
    };
    for url in [
        "",
        "https://attacker.example/",
        "https://app.example@attacker.example/",
    ] {
        open(url).await.unprocessable(Some("return_url"));
    }
    assert_eq!(stack.stripe.requests(), [""; 0]);
    open(ORIGIN).await.json(201);
}
