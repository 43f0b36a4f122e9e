//! The life of a subscription at the local product, from the quota that is used up to the payment that lifts a
//! suspension.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod support;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use stripe_fake::Completion;
use support::program::Dir;
use support::target::{Target, assert_problem};
use tollgate_local::client::{Client, Response};
use tollgate_local::local_stack::Options;

const NOW: &str = "2026-11-10T10:00:00Z";
const PING: &str = "/api/secure/ping";
const UPGRADE_URL: &str = "https://app.example/plans";

/// Plans of which the free one includes five calls.
const PLANS: &str = r#"[
  { "id": "free", "name": "Free", "requests_per_hour": 100, "fail_mode": "closed",
    "month": { "kind": "blocked", "included": 5 } }
]"#;

/// A local product with a customer on the plan `free`.
struct Story {
    target: Target,
    /// Client with a key that may call.
    caller: Client,
    /// Client with a key that may manage.
    manager: Client,
}

impl Story {
    async fn new(data: Option<&Dir>) -> Self {
        let options = Options {
            data: data.map(|dir| dir.0.clone()),
            parameters: vec![
                ("Plans", PLANS.to_owned()),
                ("UpgradeUrl", UPGRADE_URL.to_owned()),
                ("ReturnOrigins", "https://app.example".to_owned()),
                ("UnpaidGraceDays", "7".to_owned()),
            ],
            ..Options::default()
        };
        let target = Target::with_options(options, NOW).await;
        target.customer("acme", "free").await;
        let (caller, _) = target.key(json!({ "customer_id": "acme" })).await;
        let manage = json!({ "customer_id": "acme", "role": "manage" });
        let (manager, _) = target.key(manage).await;
        let story = Self {
            target,
            caller,
            manager,
        };
        story.add_plan().await;
        story
    }

    /// Adds the plan `pro`, with a price at the stand-in for Stripe.
    async fn add_plan(&self) {
        let form = "currency=usd&unit_amount=4900&recurring[interval]=month&product_data[name]=Pro";
        let price = self.at_stripe(Method::POST, "/v1/prices", form).await;
        let plan = json!({ "id": "pro", "definition": {
            "name": "Pro", "requests_per_hour": 1_000, "month": { "kind": "unlimited" },
            "fail_mode": "open", "monthly_fee_cents": 4_900, "stripe_price": price["id"],
        } });
        let created = self.target.admin.post("/admin/plans", plan).await.unwrap();
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    }

    /// Sends a request to the stand-in for Stripe, as someone else does.
    async fn at_stripe(&self, method: Method, path: &str, form: &str) -> Value {
        let headers = [
            ("authorization", "Bearer sk_test_stripe_fake"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let stripe = Client::new(&self.target.running.stripe_url).unwrap();
        let response = stripe.send(method, path, &headers, form.to_owned().into());
        let response = response.await.unwrap();
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        response.json()
    }

    async fn ping(&self) -> Response {
        // A change of the customer is known after the time for which keys are cached.
        self.advance(10).await;
        self.caller.get(PING).await.unwrap()
    }

    async fn advance(&self, seconds: i64) {
        self.target.set_clock(json!({ "advance_s": seconds })).await;
    }

    /// Starts a checkout of `pro`, and pays on Stripe's page.
    async fn subscribe(&self) {
        let body = json!({
            "plan": "pro", "success_url": "https://app.example/", "cancel_url": UPGRADE_URL,
        });
        let started = self.manager.post("/api/billing/checkout", body).await;
        let started = started.unwrap();
        assert_eq!(started.status, StatusCode::CREATED, "{}", started.text);
        let session = started.json()["id"].as_str().unwrap().to_owned();
        let stripe = &self.target.running.stripe;
        stripe
            .complete_checkout(&session, Completion::Paid, None)
            .unwrap();
        self.target.drain().await;
    }

    async fn subscription(&self) -> Value {
        let found = self.manager.get("/api/billing/subscription").await.unwrap();
        assert_eq!(found.status, StatusCode::OK, "{}", found.text);
        found.json()
    }

    /// Returns the parts of the quota, in percent, of which an event says that they are used.
    async fn warnings(&self) -> Vec<i64> {
        let published = self.target.admin.post("/_local/publish", json!({})).await;
        assert_eq!(published.unwrap().status, StatusCode::OK);
        let events = self.target.admin.get("/admin/events").await.unwrap().json();
        let events = events["data"].as_array().unwrap().iter();
        let warnings = events.filter(|event| event["type"] == "quota.threshold");
        warnings
            .map(|event| event["data"]["threshold_percent"].as_i64().unwrap())
            .collect()
    }

    /// Returns the id of the customer at the stand-in for Stripe.
    async fn stripe_customer(&self) -> String {
        let customer = self.target.admin.get("/admin/customers/acme").await;
        let customer = customer.unwrap().json();
        customer["stripe"]["customer"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_customer_without_quota_subscribes_and_one_who_does_not_pay_is_suspended_until_the_payment()
 {
    let story = Story::new(None).await;
    for (percent, calls) in [(80, 4), (100, 1)] {
        assert!(!story.warnings().await.contains(&percent));
        for _ in 0..calls {
            assert_eq!(story.ping().await.status, StatusCode::OK);
        }
        assert!(story.warnings().await.contains(&percent));
    }
    let denied = story.ping().await;
    assert_problem(&denied, StatusCode::TOO_MANY_REQUESTS, "quota-exceeded");
    assert_eq!(denied.json()["upgrade_url"], UPGRADE_URL);

    story.subscribe().await;
    assert_eq!(story.ping().await.status, StatusCode::OK);
    let subscription = story.subscription().await;
    assert_eq!(subscription["plan"]["id"], "pro");
    assert_eq!(subscription["subscription"]["status"], "active");

    // The renewal of December is not paid.
    let stripe = &story.target.running.stripe;
    let customer = story.stripe_customer().await;
    stripe.decline_payments(&customer, true).unwrap();
    let renewal = json!({ "now": "2026-12-10T12:00:00Z" });
    story.target.set_clock(renewal).await;
    story.target.drain().await;
    assert!(story.subscription().await["unpaid_since"].is_string());
    story.target.nightly().await;
    assert_eq!(story.ping().await.status, StatusCode::OK);

    let after_grace = json!({ "now": "2026-12-17T12:30:00Z" });
    story.target.set_clock(after_grace).await;
    story.target.nightly().await;
    let denied = story.ping().await;
    assert_problem(&denied, StatusCode::TOO_MANY_REQUESTS, "customer-suspended");
    let shown = story.target.admin.get("/admin/customers/acme").await;
    let shown = shown.unwrap().json();
    assert_eq!(shown["unpaid"]["consequence"], "suspended");

    // Who is suspended can open the billing portal, and pays there.
    let portal = json!({ "return_url": "https://app.example/" });
    let portal = story.manager.post("/api/billing/portal", portal).await;
    assert_eq!(portal.unwrap().status, StatusCode::CREATED);
    stripe.decline_payments(&customer, false).unwrap();
    let path = format!("/v1/invoices?customer={customer}&status=open");
    let open = story.at_stripe(Method::GET, &path, "").await;
    let invoice = open["data"][0]["id"].as_str().unwrap();
    story
        .at_stripe(Method::POST, &format!("/v1/invoices/{invoice}/pay"), "")
        .await;
    story.target.drain().await;
    assert_eq!(story.ping().await.status, StatusCode::OK);
    assert_eq!(story.subscription().await["unpaid_since"], Value::Null);
}

#[tokio::test]
async fn a_customer_who_cancels_can_subscribe_again() {
    let story = Story::new(None).await;
    for _ in 0..2 {
        story.subscribe().await;
        assert_eq!(story.subscription().await["plan"]["id"], "pro");
        let subscription = story.subscription().await;
        let subscription = subscription["subscription"]["id"].as_str().unwrap();
        let path = format!("/v1/subscriptions/{subscription}");
        story.at_stripe(Method::DELETE, &path, "").await;
        story.target.drain().await;
        let ended = story.subscription().await;
        assert_eq!(ended["plan"]["id"], "free");
        assert_eq!(ended["subscription"], Value::Null);
    }
}

/// The stand-in delivers what it could not deliver before.
#[tokio::test]
async fn events_that_a_stop_has_interrupted_are_handled_after_the_next_start() {
    let dir = Dir::new("subscriptions");
    let story = Story::new(Some(&dir)).await;
    let body = json!({
        "plan": "pro", "success_url": "https://app.example/", "cancel_url": UPGRADE_URL,
    });
    let started = story.manager.post("/api/billing/checkout", body).await;
    let started = started.unwrap().json();
    let page = Client::new(&story.target.running.stripe_url).unwrap();
    let path = format!(
        "/_fake/checkout/{}/complete",
        started["id"].as_str().unwrap()
    );
    let body = json!({ "payment": "paid", "email": null });
    let headers = [("content-type", "application/json")];
    let completed = page.send(Method::POST, &path, &headers, body.to_string().into());
    // Stopped before the next delivery, or in the middle of it.
    let completed = completed.await.unwrap();
    assert_eq!(
        completed.status,
        StatusCode::NO_CONTENT,
        "{}",
        completed.text
    );
    story.target.running.stop().await.unwrap();
    let options = Options {
        data: Some(dir.0.clone()),
        ..Options::default()
    };
    let running = tollgate_local::local_stack::start(options).await.unwrap();
    let anyone = Client::new(&running.url).unwrap();
    anyone.post("/_local/drain", json!({})).await.unwrap();
    let customer = running.store.customer(&tollgate_testing::p("acme")).await;
    assert_eq!(customer.unwrap().unwrap().plan.as_str(), "pro");
    running.stop().await.unwrap();
}
