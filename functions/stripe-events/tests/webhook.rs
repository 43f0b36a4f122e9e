//! The webhook endpoint: whatever Stripe did not sign is rejected, and the ids of what it signed are queued.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Fault};
use tollgate_payments::Webhooks;
use tollgate_runtime::metrics::REJECTED_WEBHOOKS;
use tollgate_runtime::{Metrics, env};
use tollgate_testing::event::Event;
use tollgate_testing::init::init_with;
use tollgate_testing::p;
use tollgate_testing::response::{ApiResponse, call};

const NOW: &str = "2026-11-22T12:00:00Z";
const SECRET: &str = "whsec_EXAMPLE1";

struct Stack {
    at: Fixture,
    webhooks: Webhooks,
    lines: Arc<Mutex<String>>,
}

impl Stack {
    fn new() -> Self {
        Self::named("stripe-webhook")
    }

    /// Creates an endpoint whose secrets have this name.
    fn named(secret: &str) -> Self {
        let at = Fixture::at(NOW);
        at.aws.set_secret("stripe-webhook", SECRET);
        let changed = [(env::STRIPE_WEBHOOK_SECRET, secret)];
        let init = init_with(&at, "StripeWebhookFunction", changed);
        let mut webhooks = Webhooks::build(&init).unwrap();
        let lines = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&lines);
        webhooks.metrics = Metrics::new("test", at.clock(), move |line| {
            written.lock().unwrap().push_str(line);
        });
        Self {
            at,
            webhooks,
            lines,
        }
    }

    async fn send(&self, event: &Event) -> ApiResponse {
        call(&stripe_events::routes(self.webhooks.clone()), event).await
    }

    /// Returns the body of the event file, signed now with these secrets.
    fn signed(&self, secrets: &[&str]) -> Event {
        self.sign(Event::load("stripe-events/webhook"), secrets)
    }

    fn sign(&self, event: Event, secrets: &[&str]) -> Event {
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        let body = event.0["body"].as_str().unwrap().to_owned();
        let time = self.at.clock().now().as_second();
        event.header(
            "Stripe-Signature",
            &stripe_fake::sign(&body, time, &secrets),
        )
    }

    /// Returns the bodies of the queued messages.
    fn queued(&self) -> Vec<String> {
        let queue = self.at.aws.named_queue("StripeEventQueue").unwrap();
        let messages = queue.receive(100).unwrap();
        messages.into_iter().map(|message| message.body).collect()
    }

    /// Checks that a request is a 400 with this detail, and queues nothing.
    async fn assert_rejected(&self, event: &Event, detail: &str) {
        let response = self.send(event).await;
        assert_eq!(response.status, 400, "{}", response.text);
        assert_eq!(response.body["detail"], detail);
        assert_eq!(self.queued(), [""; 0]);
    }
}

#[tokio::test]
async fn the_ids_of_a_signed_event_are_queued() {
    let stack = Stack::new();
    let event = stack.signed(&[SECRET]);
    let response = stack.send(&event).await;
    assert_eq!(response.status, 200, "{}", response.text);
    assert_eq!(response.body, json!({ "queued": true }));
    let queued = stack.queued();
    assert_eq!(queued.len(), 1);
    let queued: Value = serde_json::from_str(&queued[0]).unwrap();
    let expected = json!({
        "id": "evt_1SXmP2LkdIwHu7ixQ0b3C4dE", "object": "event",
        "type": "customer.subscription.updated", "created": 1_795_348_800, "livemode": false,
        "api_version": "2026-10-28.endive",
        "data": { "object": {
            "id": "sub_1QbZk2LkdIwHu7ix", "object": "subscription", "customer": "cus_TfGhJkLmNpQrSt",
        } },
    });
    assert_eq!(queued, expected);
}

#[tokio::test]
async fn an_event_that_changes_nothing_is_received_and_not_queued() {
    let stack = Stack::new();
    let event = Event::load("stripe-events/webhook").member("type", "payout.paid".into());
    let response = stack.send(&stack.sign(event, &[SECRET])).await;
    assert_eq!(response.status, 200, "{}", response.text);
    assert_eq!(response.body, json!({ "queued": false }));
    assert_eq!(stack.queued(), [""; 0]);
}

#[tokio::test]
async fn what_stripe_did_not_sign_is_rejected_and_counted() {
    let stack = Stack::new();
    let signed = stack.signed(&[SECRET]);
    let header = |value: &str| signed.clone().header("Stripe-Signature", value);
    let no_match = "The signature is not valid: no signature matches.";
    stack
        .assert_rejected(&stack.signed(&["whsec_other"]), no_match)
        .await;
    // Another body under the signature of this one, and the same JSON in another form.
    let other = signed.clone().member("type", "invoice.paid".into());
    stack.assert_rejected(&other, no_match).await;
    let body: Value = serde_json::from_str(signed.0["body"].as_str().unwrap()).unwrap();
    stack
        .assert_rejected(&signed.clone().body(&body), no_match)
        .await;
    let malformed = "The signature is not valid: malformed signature header.";
    stack.assert_rejected(&header(""), malformed).await;
    stack.assert_rejected(&header("t=x,v1=00"), malformed).await;
    let no_v1 = "The signature is not valid: no v1 signature.";
    stack.assert_rejected(&header("t=1,v0=00"), no_v1).await;
    let missing = "Send one header field Stripe-Signature: only Stripe calls this route.";
    stack
        .assert_rejected(
            &signed.clone().repeated_header("Stripe-Signature", &[]),
            missing,
        )
        .await;
    let rejected = CloudWatch::default();
    rejected.read(&stack.lines.lock().unwrap());
    let counts = rejected.values(REJECTED_WEBHOOKS, &[]);
    assert_eq!(counts.iter().sum::<u64>(), 6);
}

#[tokio::test]
async fn a_replayed_request_is_rejected_after_five_minutes() {
    let stack = Stack::new();
    let signed = stack.signed(&[SECRET]);
    stack.at.time.set(p("2026-11-22T12:05:00Z"));
    assert_eq!(stack.send(&signed).await.status, 200);
    stack.queued();
    stack.at.time.set(p("2026-11-22T12:05:01Z"));
    let detail = "The signature is not valid: the signature is too old.";
    stack.assert_rejected(&signed, detail).await;
    stack.at.time.set(p("2026-11-22T11:54:59Z"));
    let detail = "The signature is not valid: the signature is in the future.";
    stack.assert_rejected(&signed, detail).await;
}

#[tokio::test]
async fn a_secret_is_replaced_without_a_lost_event() {
    let stack = Stack::new();
    assert_eq!(stack.send(&stack.signed(&[SECRET])).await.status, 200);
    // Stripe signs with both, and then with the new one only.
    let both = stack.signed(&["whsec_EXAMPLE2", SECRET]);
    assert_eq!(stack.send(&both).await.status, 200);
    let replaced = format!("{SECRET} whsec_EXAMPLE2\n");
    stack.at.aws.set_secret("stripe-webhook", &replaced);
    // The secrets are read again at most once a minute: Stripe sends the event again.
    let new = stack.signed(&["whsec_EXAMPLE2"]);
    assert_eq!(stack.send(&new).await.status, 400);
    stack.at.time.set(p("2026-11-22T12:01:00Z"));
    assert_eq!(
        stack.send(&stack.signed(&["whsec_EXAMPLE2"])).await.status,
        200
    );
    assert_eq!(stack.send(&stack.signed(&[SECRET])).await.status, 200);
}

#[tokio::test]
async fn forged_requests_do_not_read_the_secret_again_and_again() {
    let stack = Stack::new();
    let reads = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&reads);
    stack.at.aws.inject(move |call| {
        *counted.lock().unwrap() += u32::from(call.operation() == "GetSecretValue");
        Fault::None
    });
    for _ in 0..10 {
        stack.send(&stack.signed(&["whsec_other"])).await;
    }
    assert_eq!(*reads.lock().unwrap(), 1);
    // Nor if it cannot be read.
    stack.at.aws.set_secret("stripe-webhook", "sk_test_1");
    stack.at.time.set(p("2026-11-22T12:01:00Z"));
    for _ in 0..10 {
        stack.send(&stack.signed(&["whsec_other"])).await;
    }
    assert_eq!(*reads.lock().unwrap(), 2);
}

#[tokio::test]
async fn what_is_signed_and_no_event_is_rejected() {
    let stack = Stack::new();
    let thin = json!({ "id": "evt_1", "object": "v2.core.event", "type": "v1.invoice.paid" });
    for (body, detail) in [
        ("{}".to_owned(), "Not an event: not an event of Stripe."),
        (
            thin.to_string(),
            "Not an event: a thin event: the endpoint must be set up for snapshot events.",
        ),
    ] {
        let event = Event::load("stripe-events/webhook").text(&body);
        stack
            .assert_rejected(&stack.sign(event, &[SECRET]), detail)
            .await;
    }
}

#[tokio::test]
async fn a_large_body_is_not_read() {
    let stack = Stack::new();
    let padded = |length: usize| {
        let event = Event::load("stripe-events/webhook");
        let body = event.0["body"].as_str().unwrap().to_owned();
        let padding = " ".repeat(length - body.len());
        stack.sign(event.text(&(body + &padding)), &[SECRET])
    };
    assert_eq!(stack.send(&padded(256 * 1024)).await.status, 200);
    stack.queued();
    let response = stack.send(&padded(256 * 1024 + 1)).await;
    assert_eq!(response.status, 413);
    assert_eq!(
        response.body["detail"],
        "A body may have at most 256 KB here."
    );
    assert_eq!(stack.queued(), [""; 0]);
}

#[tokio::test]
async fn an_unknown_parameter_is_rejected() {
    let stack = Stack::new();
    let event = stack.signed(&[SECRET]).query(&[("colour", "red")]);
    assert_eq!(stack.send(&event).await.status, 400);
}

/// Stripe sends again what is not a success.
#[tokio::test]
async fn without_secret_or_queue_an_event_is_not_received() {
    let unconfigured = Stack::named("");
    let response = unconfigured.send(&unconfigured.signed(&[SECRET])).await;
    assert_eq!(response.status, 503);
    assert_eq!(
        response.body["type"],
        "urn:tollgate:problem:payments-not-configured"
    );
    let missing = Stack::named("other");
    assert_eq!(missing.send(&missing.signed(&[SECRET])).await.status, 503);
    let malformed = Stack::new();
    malformed.at.aws.set_secret("stripe-webhook", "sk_test_1");
    let response = malformed.send(&malformed.signed(&[SECRET])).await;
    assert_eq!(response.status, 503);
    assert!(!response.text.contains("sk_test_1"), "{}", response.text);
    let stack = Stack::new();
    stack.at.aws.inject(|call| match call.operation() {
        "SendMessageBatch" => Fault::RequestLost,
        _ => Fault::None,
    });
    assert_eq!(stack.send(&stack.signed(&[SECRET])).await.status, 503);
}
