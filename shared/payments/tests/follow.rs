//! Customers that follow their subscriptions at a stand-in for Stripe, with events that are late, repeated and out of
//! order.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stripe_fake::{Completion, DeliveryMode, Fault, NewEndpoint};
use tollgate_domain::customer::{Consequence, Customer};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanVersions;
use tollgate_domain::submission::Recipient;
use tollgate_domain::subscription::{SubscriptionRules, UnpaidRule};
use tollgate_local_aws::fixture::Fixture;
use tollgate_payments::{EventOutcome, Follower, MessageError, Payments, PaymentsError};
use tollgate_runtime::Metrics;
use tollgate_store::{
    CheckoutRecord, CustomerChange, PlanOutcome, RecipientChange, RecordCheckoutOutcome,
    StartedCheckout, UpdateCustomerOutcome,
};
use tollgate_testing::customers::add_customer;
use tollgate_testing::p;
use tollgate_testing::stored::stored;
use tollgate_testing::stripe::Stripe;

const NOW: &str = "2026-11-10T10:00:00Z";
const DAY: SignedDuration = SignedDuration::from_hours(24);

struct Stack {
    at: Fixture,
    stripe: Stripe,
    follower: Follower,
    /// Stripe customer of `acme`.
    customer: String,
}

impl Stack {
    /// Creates a stack with the customer `acme` on the plan `free`, linked to a Stripe customer with a card, and the
    /// plans `team` and `scale`, each with a Stripe price.
    async fn new(unpaid: UnpaidRule) -> Self {
        let at = Fixture::at(NOW);
        let stripe = Stripe::new(&at);
        stripe.fake.register_endpoint(NewEndpoint::default());
        let payments = Payments {
            stack: "test".to_owned(),
            store: at.store.clone(),
            stripe: Some(stripe.client.clone()),
            clock: at.clock(),
            metrics: Metrics::none(),
        };
        let rules = SubscriptionRules {
            plan_after_cancellation: p("free"),
            grace: 7 * DAY,
            unpaid,
        };
        let shipped = Catalog::shipped().unwrap();
        at.store.seed_plans(&shipped).await.unwrap();
        add_customer(&at, "acme", "free").await;
        let created = stripe.call("POST", "/v1/customers", "").await;
        let customer = text(&created["id"]);
        let stack = Self {
            at,
            follower: Follower { payments, rules },
            customer,
            stripe,
        };
        stack.pay_with("pm_card_visa").await;
        for (plan, fee) in [("team", 4_900), ("scale", 19_900)] {
            let price = stack.stripe.price(fee).await;
            stack.add_plan(plan, &price).await;
        }
        stack.link(None, Some((&stack.customer, None))).await;
        assert_eq!(stack.follow_up().await, 1);
        stack.take_events();
        stack
    }

    async fn add_plan(&self, id: &str, price: &str) {
        let shipped = Catalog::shipped().unwrap();
        let mut plan = shipped.get(&p("pro")).unwrap().clone();
        plan.id = p(id);
        plan.stripe_price = Some(price.to_owned());
        let plan = PlanVersions::new(plan, self.at.clock().now());
        let created = self.at.store.create_plan(&plan).await;
        assert_eq!(created.unwrap(), PlanOutcome::Written);
    }

    /// Returns the Stripe price of a plan.
    async fn price(&self, plan: &str) -> String {
        let plans = self.at.store.plans().await.unwrap();
        let plan = plans.get(&p(plan)).unwrap();
        plan.latest().plan.stripe_price.clone().unwrap()
    }

    async fn pay_with(&self, card: &str) {
        let path = format!("/v1/customers/{}", self.customer);
        let form = format!("invoice_settings[default_payment_method]={card}");
        self.stripe.call("POST", &path, &form).await;
    }

    /// Replaces the link of `acme`.
    async fn link(
        &self,
        before: Option<(&str, Option<&str>)>,
        after: Option<(&str, Option<&str>)>,
    ) {
        let recipient = |(customer, subscription): (&str, Option<&str>)| Recipient {
            customer: customer.to_owned(),
            subscription: subscription.map(str::to_owned),
        };
        let change = CustomerChange {
            recipient: Some(RecipientChange {
                before: before.map(recipient),
                after: after.map(recipient),
            }),
            ..CustomerChange::default()
        };
        self.change(&change).await;
    }

    async fn change(&self, change: &CustomerChange) {
        let updated = self.at.store.update_customer(&p("acme"), change).await;
        assert!(matches!(updated, Ok(UpdateCustomerOutcome::Done(_))));
    }

    /// Subscribes the Stripe customer of `acme` to a plan. Returns the id of the subscription.
    async fn subscribe(&self, plan: &str) -> String {
        let price = self.price(plan).await;
        let form = format!("customer={}&items[0][price]={price}", self.customer);
        let subscription = self.stripe.call("POST", "/v1/subscriptions", &form).await;
        text(&subscription["id"])
    }

    /// Completes a checkout of a plan. Returns the id of the session.
    async fn check_out(&self, plan: &str, completion: Completion) -> String {
        let form = format!(
            "mode=subscription&line_items[0][price]={}&line_items[0][quantity]=1&customer={}\
             &success_url=https://app.example/&cancel_url=https://app.example/",
            self.price(plan).await,
            self.customer
        );
        let session = self
            .stripe
            .call("POST", "/v1/checkout/sessions", &form)
            .await;
        let session = text(&session["id"]);
        let fake = &self.stripe.fake;
        fake.complete_checkout(&session, completion, None).unwrap();
        self.handle_events().await;
        session
    }

    async fn cancel(&self, subscription: &str) {
        let path = format!("/v1/subscriptions/{subscription}");
        self.stripe.call("DELETE", &path, "").await;
    }

    /// Moves a subscription to the price of another plan.
    async fn move_to(&self, subscription: &str, plan: &str) {
        let path = format!("/v1/subscriptions/{subscription}");
        let found = self.stripe.call("GET", &path, "").await;
        let item = text(&found["items"]["data"][0]["id"]);
        let form = format!(
            "items[0][id]={item}&items[0][price]={}",
            self.price(plan).await
        );
        self.stripe.call("POST", &path, &form).await;
    }

    /// Takes the bodies of all events since the last time.
    fn take_events(&self) -> Vec<String> {
        let events = self.stripe.fake.take_events().into_iter();
        events.map(|event| event.body).collect()
    }

    async fn handle(&self, event: &str) -> EventOutcome {
        self.follower.handle_message(event).await.unwrap()
    }

    /// Handles all events since the last time. Returns the outcomes of those that are not ignored.
    async fn handle_events(&self) -> Vec<EventOutcome> {
        let mut outcomes = Vec::new();
        for event in self.take_events() {
            let outcome = self.handle(&event).await;
            if outcome != EventOutcome::Ignored {
                outcomes.push(outcome);
            }
        }
        outcomes
    }

    /// Returns the stored events for operator and customer: kind and data, by kind.
    fn own_events(&self) -> Vec<(String, Value)> {
        let stored = stored(&self.at);
        let events = stored["events"].as_array().into_iter().flatten();
        let mut events: Vec<(String, Value)> = events
            .map(|item| {
                let data = serde_json::from_str(item["data"]["S"].as_str().unwrap());
                (text(&item["kind"]["S"]), data.unwrap())
            })
            .collect();
        events.sort_by(|one, other| one.0.cmp(&other.0));
        events
    }

    async fn acme(&self) -> Customer {
        self.at.store.customer(&p("acme")).await.unwrap().unwrap()
    }

    async fn plan(&self) -> String {
        self.acme().await.plan.to_string()
    }

    async fn subscription(&self) -> Option<String> {
        self.acme().await.recipient.unwrap().subscription
    }

    fn advance(&self, by: SignedDuration) {
        self.at.time.set(self.at.clock().now() + by);
    }

    /// Names the customers whose follow-up is due, as the nightly run does, and follows them.
    async fn follow_up(&self) -> usize {
        let now = self.at.clock().now();
        let page = self.at.store.follow_ups(None).await.unwrap();
        let due = page.items.into_iter().filter(|(_, it)| it.due <= now);
        let mut count = 0;
        for (_, follow_up) in due {
            let message = json!({
                "follow_up": follow_up.customer.as_str(),
                "stripe_customer": follow_up.stripe_customer,
            });
            self.handle(&message.to_string()).await;
            count += 1;
        }
        count
    }

    /// Adds a pending invoice item of this stack's.
    async fn add_item(&self, charge: &str, subscription: Option<&str>) {
        let mut form = format!(
            "customer={}&amount=123&currency=usd&metadata[tollgate_charge]={charge}",
            self.customer
        );
        if let Some(subscription) = subscription {
            form.push_str(&format!("&subscription={subscription}"));
        }
        self.stripe.call("POST", "/v1/invoiceitems", &form).await;
    }

    /// Returns the invoices of the Stripe customer that were not made by a subscription: amounts and states.
    async fn own_invoices(&self) -> Vec<(i64, String)> {
        let path = format!("/v1/invoices?customer={}", self.customer);
        let found = self.stripe.call("GET", &path, "").await;
        let invoices = found["data"].as_array().unwrap().iter();
        let own = invoices.filter(|invoice| invoice["billing_reason"] == "manual");
        own.map(|it| (it["total"].as_i64().unwrap(), text(&it["status"])))
            .collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Returns an event of this type about an object.
fn event(kind: &str, object: &Value) -> String {
    json!({
        "id": format!("evt_{}", kind.replace('.', "")), "object": "event", "type": kind,
        "created": 1_794_300_000, "livemode": false, "api_version": "2019-01-01",
        "data": { "object": object },
    })
    .to_string()
}

#[tokio::test]
async fn a_paid_subscription_gives_its_plan_until_it_ends() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let subscription = stack.subscribe("team").await;
    let outcomes = stack.handle_events().await;
    assert!(!outcomes.is_empty());
    assert!(outcomes.iter().all(|it| *it == EventOutcome::Followed));
    assert_eq!(stack.plan().await, "team");
    assert_eq!(stack.subscription().await, Some(subscription.clone()));
    // Several events of Stripe have one cause, and so one event.
    let started = json!({
        "subscription": subscription, "subscription_before": null,
        "plan": "team", "plan_before": "free",
    });
    assert_eq!(
        stack.own_events(),
        [("subscription.changed".to_owned(), started)]
    );

    stack.move_to(&subscription, "scale").await;
    stack.handle_events().await;
    assert_eq!(stack.plan().await, "scale");

    stack.cancel(&subscription).await;
    stack.handle_events().await;
    assert_eq!(stack.plan().await, "free");
    assert_eq!(stack.subscription().await, None);
}

#[tokio::test]
async fn repeated_and_reordered_events_end_in_the_same_state() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    stack.stripe.fake.set_delivery(DeliveryMode {
        copies: 3,
        is_shuffled: true,
    });
    let first = stack.subscribe("team").await;
    stack.cancel(&first).await;
    let second = stack.subscribe("scale").await;
    stack.move_to(&second, "team").await;
    let events = stack.take_events();
    let mut repeated = 0;
    for event in &events {
        let outcome = stack.handle(event).await;
        repeated += usize::from(outcome == EventOutcome::Repeated);
        // Whichever event is first, the state is the last one.
        if outcome != EventOutcome::Ignored {
            assert_eq!(stack.plan().await, "team");
        }
    }
    assert_eq!(stack.subscription().await, Some(second));
    assert!(repeated > 0);
}

/// The older of two readings of Stripe is written last, and must not count.
#[tokio::test]
async fn an_older_reading_of_stripe_does_not_overwrite_a_newer_one() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let subscription = stack.subscribe("team").await;
    let store = &stack.at.store;
    let early = store.customer_to_follow(&p("acme")).await.unwrap().unwrap();
    let mut as_read = early.customer.clone();
    as_read.plan = p("team");
    as_read.recipient.as_mut().unwrap().subscription = Some(subscription.clone());
    stack.cancel(&subscription).await;
    // The other one finds nothing to change: the customer is on the plan of those without a subscription.
    stack.handle_events().await;
    let followed = store.follow(&early, &as_read, None).await.unwrap();
    assert_eq!(followed, tollgate_store::FollowOutcome::Raced);
    assert_eq!(stack.plan().await, "free");
}

#[tokio::test]
async fn a_bank_debit_gives_the_plan_when_the_money_arrives() {
    for arrives in [true, false] {
        let stack = Stack::new(UnpaidRule::Nothing).await;
        let session = stack.check_out("team", Completion::Unpaid).await;
        assert_eq!(stack.plan().await, "free");
        let fake = &stack.stripe.fake;
        fake.settle_checkout(&session, arrives).unwrap();
        stack.handle_events().await;
        let expected = if arrives { "team" } else { "free" };
        assert_eq!(stack.plan().await, expected);
    }
}

#[tokio::test]
async fn an_admins_plan_stays_until_the_subscription_changes() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let subscription = stack.subscribe("team").await;
    stack.handle_events().await;
    let change = CustomerChange {
        plan: Some(p("enterprise")),
        ..CustomerChange::default()
    };
    stack.change(&change).await;
    let found = stack
        .stripe
        .call("GET", &format!("/v1/subscriptions/{subscription}"), "")
        .await;
    let updated = event("customer.subscription.updated", &found);
    assert_eq!(stack.handle(&updated).await, EventOutcome::Followed);
    assert_eq!(stack.plan().await, "enterprise");
    stack.cancel(&subscription).await;
    stack.handle_events().await;
    assert_eq!(stack.plan().await, "enterprise");
    assert_eq!(stack.subscription().await, None);
}

#[tokio::test]
async fn a_subscription_to_something_else_changes_nothing() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let price = stack.stripe.price(700).await;
    let form = format!("customer={}&items[0][price]={price}", stack.customer);
    stack.stripe.call("POST", "/v1/subscriptions", &form).await;
    stack.handle_events().await;
    assert_eq!(stack.plan().await, "free");
    assert_eq!(stack.subscription().await, None);
    fail_renewal(&stack).await;
    assert_eq!(stack.acme().await.unpaid, None);
}

#[tokio::test]
async fn events_of_others_are_recognised_by_our_own_links() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    stack.stripe.requests();
    let foreign = json!({
        "id": "sub_1", "object": "subscription", "customer": "cus_other",
        "metadata": { "tollgate_customer": "acme" },
    });
    let foreign = event("customer.subscription.created", &foreign);
    assert_eq!(stack.handle(&foreign).await, EventOutcome::Foreign);
    let session = json!({ "id": "cs_other", "object": "checkout.session", "customer": null });
    let session = event("checkout.session.completed", &session);
    assert_eq!(stack.handle(&session).await, EventOutcome::Foreign);
    // Of other types, whoever they are about.
    let other = json!({ "id": "pi_1", "object": "payment_intent", "customer": stack.customer });
    let other = event("payment_intent.succeeded", &other);
    assert_eq!(stack.handle(&other).await, EventOutcome::Ignored);
    assert_eq!(stack.stripe.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_event_is_an_error() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let thin = json!({ "id": "evt_1", "object": "v2.core.event" }).to_string();
    for message in ["", "{}", "[]", r#"{"follow_up":"a b"}"#, &thin] {
        let failed = stack.follower.handle_message(message).await;
        assert!(matches!(failed, Err(MessageError::Event(_))), "{message}");
    }
}

#[tokio::test]
async fn an_event_that_failed_is_handled_when_it_comes_again() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    stack.subscribe("team").await;
    let events = stack.take_events();
    let about_it = events
        .iter()
        .find(|it| it.contains("\"customer.subscription.created\""));
    let about_it = about_it.unwrap();
    stack
        .stripe
        .fail("GET", "/v1/subscriptions", 100, Fault::RequestLost);
    let failed = stack.follower.handle_message(about_it).await;
    assert!(matches!(
        failed,
        Err(MessageError::Payments(PaymentsError::Stripe(_)))
    ));
    assert_eq!(stack.plan().await, "free");
    stack.stripe.fake.clear_faults();
    assert_eq!(stack.handle(about_it).await, EventOutcome::Followed);
    assert_eq!(stack.plan().await, "team");
    assert_eq!(stack.handle(about_it).await, EventOutcome::Repeated);
}

#[tokio::test]
async fn a_plan_after_cancellation_that_does_not_exist_is_an_error() {
    let mut stack = Stack::new(UnpaidRule::Nothing).await;
    stack.follower.rules.plan_after_cancellation = p("gone");
    let subscription = stack.subscribe("team").await;
    stack.handle_events().await;
    stack.cancel(&subscription).await;
    let mut failed = Vec::new();
    for event in stack.take_events() {
        failed.extend(stack.follower.handle_message(&event).await.err());
    }
    let is_named = |error: &MessageError| error.to_string().contains("no plan gone");
    assert!(
        !failed.is_empty() && failed.iter().all(is_named),
        "{failed:?}"
    );
    assert_eq!(stack.plan().await, "team");
    assert_eq!(stack.subscription().await, Some(subscription));
}

/// Fails the payment of the next renewal, which is made when Stripe's clock reaches it.
async fn fail_renewal(stack: &Stack) {
    stack
        .stripe
        .fake
        .decline_payments(&stack.customer, true)
        .unwrap();
    let renewal: Timestamp = p("2026-12-10T12:00:00Z");
    stack.at.time.set(renewal);
    stack.handle_events().await;
}

/// Pays the open invoice, as the customer does in the billing portal.
async fn pay(stack: &Stack) {
    stack
        .stripe
        .fake
        .decline_payments(&stack.customer, false)
        .unwrap();
    let path = format!("/v1/invoices?customer={}&status=open", stack.customer);
    let open = stack.stripe.call("GET", &path, "").await;
    let invoice = text(&open["data"][0]["id"]);
    let path = format!("/v1/invoices/{invoice}/pay");
    stack.stripe.call("POST", &path, "").await;
    stack.handle_events().await;
}

#[tokio::test]
async fn who_does_not_pay_is_suspended_after_the_grace_period_and_served_after_the_payment() {
    let stack = Stack::new(UnpaidRule::Suspend).await;
    stack.subscribe("team").await;
    stack.handle_events().await;
    fail_renewal(&stack).await;
    let kinds = stack.own_events().into_iter().map(|(kind, _)| kind);
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        ["payment.failed", "subscription.changed"]
    );
    let flagged = stack.acme().await;
    let unpaid = flagged.unpaid.unwrap();
    assert_eq!((unpaid.consequence, flagged.suspended_at), (None, None));
    assert_eq!(flagged.plan, p("team"));
    stack.advance(6 * DAY);
    assert_eq!(stack.follow_up().await, 0);
    stack.advance(DAY);
    assert_eq!(stack.follow_up().await, 1);
    let suspended = stack.acme().await;
    assert_eq!(suspended.suspended_at, Some(stack.at.clock().now()));
    assert_eq!(
        suspended.unpaid.unwrap().consequence,
        Some(Consequence::Suspended)
    );
    stack.advance(DAY);
    assert_eq!(stack.follow_up().await, 0);
    pay(&stack).await;
    let paid = stack.acme().await;
    assert_eq!((paid.suspended_at, paid.unpaid), (None, None));
    assert_eq!(paid.plan, p("team"));
}

#[tokio::test]
async fn who_does_not_pay_is_moved_to_a_plan_after_the_grace_period() {
    let stack = Stack::new(UnpaidRule::Move(p("enterprise"))).await;
    stack.subscribe("team").await;
    stack.handle_events().await;
    fail_renewal(&stack).await;
    stack.advance(7 * DAY);
    assert_eq!(stack.follow_up().await, 1);
    assert_eq!(stack.plan().await, "enterprise");
    pay(&stack).await;
    assert_eq!(stack.plan().await, "team");
}

#[tokio::test]
async fn a_debt_outlasts_the_subscription_and_ends_with_the_payment() {
    let stack = Stack::new(UnpaidRule::Suspend).await;
    let subscription = stack.subscribe("team").await;
    stack.handle_events().await;
    fail_renewal(&stack).await;
    stack.cancel(&subscription).await;
    stack.handle_events().await;
    let ended = stack.acme().await;
    assert_eq!(ended.plan, p("free"));
    assert!(ended.unpaid.is_some());
    stack.advance(7 * DAY);
    stack.follow_up().await;
    assert!(stack.acme().await.suspended_at.is_some());
    pay(&stack).await;
    let paid = stack.acme().await;
    assert_eq!((paid.suspended_at, paid.unpaid), (None, None));
}

/// An invoice for usage alone, of a customer without a subscription.
#[tokio::test]
async fn an_invoice_of_no_subscription_that_is_not_paid_has_the_same_consequence() {
    let stack = Stack::new(UnpaidRule::Suspend).await;
    stack.add_item("test/ci_acme_2026-11_0001", None).await;
    let fake = &stack.stripe.fake;
    fake.decline_payments(&stack.customer, true).unwrap();
    let (acme, due) = (p("acme"), stack.at.clock().now());
    let scheduled = stack.at.store.schedule_invoice(&acme, &stack.customer, due);
    scheduled.await.unwrap();
    assert_eq!(stack.follow_up().await, 1);
    stack.advance(DAY);
    let events = stack.take_events();
    assert_eq!(stack.own_invoices().await, [(123, "open".to_owned())]);
    // Its payment may be on its way, until Stripe says that it has failed.
    let created = events
        .iter()
        .find(|event| event.contains("invoice.created"));
    assert_eq!(stack.handle(created.unwrap()).await, EventOutcome::Ignored);
    let subscription =
        json!({ "id": "sub_1", "object": "subscription", "customer": stack.customer });
    let other = json!({ "id": "in_other", "object": "invoice", "customer": stack.customer });
    for (kind, about) in [
        ("customer.subscription.updated", &subscription),
        ("invoice.payment_failed", &other),
    ] {
        let handled = stack.handle(&event(kind, about)).await;
        assert_eq!(handled, EventOutcome::Followed);
        assert_eq!(stack.acme().await.unpaid, None, "{kind}");
    }
    let failed = events
        .iter()
        .find(|event| event.contains("invoice.payment_failed"));
    let failed = failed.unwrap();
    assert_eq!(stack.handle(failed).await, EventOutcome::Followed);
    assert_eq!(
        stack.acme().await.unpaid.unwrap().since,
        stack.at.clock().now()
    );
    let kinds = stack.own_events().into_iter().map(|(kind, _)| kind);
    assert_eq!(kinds.collect::<Vec<_>>(), ["payment.failed"]);
    stack.advance(7 * DAY);
    assert_eq!(stack.follow_up().await, 1);
    assert!(stack.acme().await.suspended_at.is_some());
    pay(&stack).await;
    let paid = stack.acme().await;
    assert_eq!((paid.suspended_at, paid.unpaid), (None, None));
    // The failure is reported again, after the payment.
    let again = failed.replacen("evt_", "evt_again", 1);
    assert_eq!(stack.handle(&again).await, EventOutcome::Followed);
    assert_eq!(stack.acme().await.unpaid, None);
}

#[tokio::test]
async fn a_first_payment_that_fails_makes_no_debt() {
    let stack = Stack::new(UnpaidRule::Suspend).await;
    let fake = &stack.stripe.fake;
    fake.decline_payments(&stack.customer, true).unwrap();
    let subscription = stack.subscribe("team").await;
    // The event of the failed payment comes when the subscription has ended.
    stack.cancel(&subscription).await;
    let events = stack.take_events();
    assert!(
        events
            .iter()
            .any(|event| event.contains("invoice.payment_failed"))
    );
    for event in &events {
        stack.handle(event).await;
    }
    let acme = stack.acme().await;
    assert_eq!((acme.plan, acme.unpaid), (p("free"), None));
}

/// An invoice that is sent to the customer, and due later, is for what the subscription gave meanwhile.
#[tokio::test]
async fn a_first_invoice_that_was_sent_is_a_debt_also_after_the_subscription() {
    let stack = Stack::new(UnpaidRule::Suspend).await;
    let form = format!(
        "customer={}&items[0][price]={}&collection_method=send_invoice&days_until_due=10",
        stack.customer,
        stack.price("team").await
    );
    let subscription = stack.stripe.call("POST", "/v1/subscriptions", &form).await;
    let subscription = text(&subscription["id"]);
    let linked = Some((stack.customer.as_str(), None));
    stack
        .link(linked, Some((&stack.customer, Some(&subscription))))
        .await;
    stack.advance(12 * DAY);
    stack.handle_events().await;
    assert!(stack.acme().await.unpaid.is_some());
    stack.cancel(&subscription).await;
    stack.handle_events().await;
    assert_eq!(stack.subscription().await, None);
    assert!(stack.acme().await.unpaid.is_some());
    pay(&stack).await;
    assert_eq!(stack.acme().await.unpaid, None);
}

/// The id has a typing error, or the secret key is one of other software.
#[tokio::test]
async fn a_link_to_nobody_changes_nothing_until_it_is_mended() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let subscription = stack.subscribe("team").await;
    stack.handle_events().await;
    let (right, wrong) = (stack.customer.as_str(), "cus_nobody");
    let before = Some((right, Some(subscription.as_str())));
    stack.link(before, Some((wrong, None))).await;
    let acme: CustomerId = p("acme");
    let now = stack.at.clock().now();
    let scheduled = stack.at.store.schedule_invoice(&acme, wrong, now);
    scheduled.await.unwrap();
    // Of the link, of the earlier Stripe customer's items, and of the invoice.
    assert_eq!(stack.follow_up().await, 3);
    assert_eq!(stack.follow_up().await, 2);
    stack.advance(8 * DAY);
    assert_eq!(stack.follow_up().await, 2);
    assert_eq!(stack.plan().await, "team");
    let about = json!({ "id": "sub_1", "object": "subscription", "customer": wrong });
    let about = event("customer.subscription.updated", &about);
    // An event that this key cannot follow is kept as a dead letter.
    let failed = stack.follower.handle_message(&about).await;
    assert!(matches!(
        failed,
        Err(MessageError::Payments(PaymentsError::LinkGone(_)))
    ));
    stack.link(Some((wrong, None)), Some((right, None))).await;
    stack.follow_up().await;
    assert_eq!(stack.subscription().await, Some(subscription));
    // Of the invoice: the link was the mistake, unless it is the secret key, and that has a week to be mended.
    assert_eq!(stack.follow_up().await, 1);
    stack.advance(8 * DAY);
    stack.follow_up().await;
    assert_eq!(stack.follow_up().await, 0);
}

/// Stripe does not say whether it has lists of a customer who was deleted.
#[tokio::test]
async fn the_deletion_of_a_stripe_customer_ends_its_subscription_and_pays_no_debt() {
    for (is_owing, has_lists) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut stack = Stack::new(UnpaidRule::Suspend).await;
        stack.subscribe("team").await;
        stack.handle_events().await;
        if is_owing {
            fail_renewal(&stack).await;
            stack.advance(7 * DAY);
            stack.follow_up().await;
        }
        let path = format!("/v1/customers/{}", stack.customer);
        stack.stripe.call("DELETE", &path, "").await;
        let without = |path: &str, _: &str, body: &mut Value| {
            if ["/v1/subscriptions", "/v1/invoices"].contains(&path) {
                let missing = json!({ "code": "resource_missing", "param": "customer" });
                *body = json!({ "error": missing });
            }
        };
        if !has_lists {
            stack.follower.payments.stripe = Some(stack.stripe.altered(without));
        }
        stack.handle_events().await;
        let acme = stack.acme().await;
        assert_eq!(acme.plan, p("free"));
        assert_eq!(acme.recipient.unwrap().subscription, None);
        assert_eq!(acme.unpaid.is_some(), is_owing, "{has_lists}");
        assert_eq!(acme.suspended_at.is_some(), is_owing, "{has_lists}");
    }
}

#[tokio::test]
async fn who_is_linked_by_hand_follows_a_subscription_of_which_no_event_comes() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let linked = Some((stack.customer.as_str(), None));
    stack.link(linked, None).await;
    // Of the customer, and of the Stripe customer's items.
    assert_eq!(stack.follow_up().await, 2);
    // It is paid while the Stripe customer has no link.
    let subscription = stack.subscribe("team").await;
    let outcomes = stack.handle_events().await;
    assert!(outcomes.iter().all(|it| *it == EventOutcome::Foreign));
    stack.link(None, linked).await;
    assert_eq!(stack.plan().await, "free");
    assert_eq!(stack.follow_up().await, 1);
    assert_eq!(stack.plan().await, "team");
    assert_eq!(stack.subscription().await, Some(subscription));
    assert_eq!(stack.follow_up().await, 0);
}

#[tokio::test]
async fn the_last_charges_of_a_subscription_get_an_invoice_of_their_own() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let subscription = stack.subscribe("team").await;
    stack.handle_events().await;
    stack
        .add_item("test/ci_acme_2026-11_0001", Some(&subscription))
        .await;
    stack.cancel(&subscription).await;
    // A charge that is made before the event is handled.
    stack.add_item("test/ci_acme_2026-11_0002", None).await;
    stack.handle_events().await;
    assert_eq!(stack.own_invoices().await, [(246, "draft".to_owned())]);
    // The events come again.
    for event in stack.take_events() {
        stack.handle(&event).await;
    }
    stack.advance(2 * DAY);
    stack.follow_up().await;
    assert_eq!(stack.own_invoices().await, [(246, "paid".to_owned())]);
    assert!(
        stack
            .at
            .store
            .follow_ups(None)
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn an_invoice_whose_response_was_lost_is_made_once() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let subscription = stack.subscribe("team").await;
    stack.handle_events().await;
    stack
        .add_item("test/ci_acme_2026-11_0001", Some(&subscription))
        .await;
    stack.cancel(&subscription).await;
    stack
        .stripe
        .fail("POST", "/v1/invoices", 100, Fault::ResponseLost);
    let events = stack.take_events();
    let deleted = events.iter().find(|it| it.contains("subscription.deleted"));
    let deleted = deleted.unwrap();
    stack.follower.handle_message(deleted).await.unwrap_err();
    stack.stripe.fake.clear_faults();
    stack.handle(deleted).await;
    assert_eq!(stack.own_invoices().await.len(), 1);
}

#[tokio::test]
async fn items_that_others_made_get_no_invoice() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let subscription = stack.subscribe("team").await;
    stack.handle_events().await;
    stack.add_item("other/ci_acme_2026-11_0001", None).await;
    stack.cancel(&subscription).await;
    stack.handle_events().await;
    assert_eq!(stack.own_invoices().await, []);
}

#[tokio::test]
async fn charges_of_an_ended_subscription_are_invoiced_beside_a_new_one() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let first = stack.subscribe("team").await;
    stack.handle_events().await;
    stack
        .add_item("test/ci_acme_2026-11_0001", Some(&first))
        .await;
    stack.cancel(&first).await;
    let second = stack.subscribe("scale").await;
    stack
        .add_item("test/ci_acme_2026-11_0002", Some(&second))
        .await;
    stack.handle_events().await;
    assert_eq!(stack.plan().await, "scale");
    assert_eq!(stack.subscription().await, Some(second));
    assert_eq!(stack.own_invoices().await, [(123, "draft".to_owned())]);
}

#[tokio::test]
async fn a_subscription_that_stripe_cancels_for_debts_ends() {
    let stack = Stack::new(UnpaidRule::Suspend).await;
    stack.subscribe("team").await;
    stack.handle_events().await;
    fail_renewal(&stack).await;
    stack.advance(60 * DAY);
    stack.handle_events().await;
    let ended = stack.acme().await;
    assert_eq!(
        (ended.plan, ended.recipient.unwrap().subscription),
        (p::<PlanId>("free"), None)
    );
    assert!(ended.suspended_at.is_some());
}

#[tokio::test]
async fn the_last_invoice_is_charged_to_the_card_of_the_subscription() {
    let mut stack = Stack::new(UnpaidRule::Nothing).await;
    let created = stack.stripe.call("POST", "/v1/customers", "").await;
    let without_card = text(&created["id"]);
    let (before, after) = (Some((&*stack.customer, None)), Some((&*without_card, None)));
    stack.link(before, after).await;
    stack.customer = without_card;
    // It leaves the card with the subscription.
    stack.check_out("team", Completion::Paid).await;
    let subscription = stack.subscription().await.unwrap();
    stack
        .add_item("test/ci_acme_2026-11_0001", Some(&subscription))
        .await;
    stack.cancel(&subscription).await;
    stack.handle_events().await;
    stack.advance(2 * DAY);
    assert_eq!(stack.own_invoices().await, [(123, "paid".to_owned())]);
}

#[tokio::test]
async fn another_subscription_does_not_pay_a_debt() {
    let stack = Stack::new(UnpaidRule::Suspend).await;
    let first = stack.subscribe("scale").await;
    stack.handle_events().await;
    fail_renewal(&stack).await;
    stack.advance(7 * DAY);
    stack.follow_up().await;
    stack.cancel(&first).await;
    stack.handle_events().await;
    stack
        .stripe
        .fake
        .decline_payments(&stack.customer, false)
        .unwrap();
    let second = stack.subscribe("team").await;
    stack.handle_events().await;
    let owing = stack.acme().await;
    assert_eq!(stack.subscription().await, Some(second));
    assert!(owing.suspended_at.is_some() && owing.unpaid.is_some());
    pay(&stack).await;
    let paid = stack.acme().await;
    assert_eq!((paid.suspended_at, paid.unpaid), (None, None));
    assert_eq!(paid.plan, p("team"));
}

#[tokio::test]
async fn of_two_plans_with_one_price_the_one_that_is_not_retired_is_given() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let price = stack.price("team").await;
    stack.add_plan("crew", &price).await;
    let team: PlanId = p("team");
    let retired = stack.at.store.retire_plan(&team, Some(p(NOW))).await;
    retired.unwrap();
    stack.subscribe("team").await;
    stack.handle_events().await;
    assert_eq!(stack.plan().await, "crew");
}

/// Two plans may have one price, of which the customer chose one.
#[tokio::test]
async fn of_two_plans_with_one_price_the_one_that_was_bought_is_given() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let price = stack.price("team").await;
    stack.add_plan("crew", &price).await;
    for plan in ["crew", "team"] {
        let bought = StartedCheckout {
            session: format!("cs_{plan}"),
            customer: p("acme"),
            plan: p(plan),
            created_at: stack.at.clock().now(),
        };
        let earlier = stack.at.store.open_checkout(&p("acme")).await.unwrap();
        let record = CheckoutRecord {
            started: &bought,
            stripe_customer: &stack.customer,
            earlier: earlier.as_deref(),
            idempotency: None,
        };
        let recorded = stack.at.store.record_checkout(&record).await;
        assert_eq!(recorded.unwrap(), RecordCheckoutOutcome::Recorded);
        let subscription = stack.subscribe("team").await;
        stack.handle_events().await;
        assert_eq!(stack.plan().await, plan);
        stack.cancel(&subscription).await;
        stack.handle_events().await;
        assert_eq!(stack.plan().await, "free");
    }
}

/// A renewal by bank debit is open, and was attempted, for days. The subscription says that it is in time.
#[tokio::test]
async fn a_renewal_whose_payment_is_on_its_way_is_no_debt() {
    let mut stack = Stack::new(UnpaidRule::Suspend).await;
    stack.subscribe("team").await;
    stack.handle_events().await;
    fail_renewal(&stack).await;
    let customer = stack.customer.clone();
    let active = move |path: &str, _: &str, body: &mut Value| {
        if path == "/v1/subscriptions" && body["data"][0]["customer"] == customer.as_str() {
            body["data"][0]["status"] = json!("active");
        }
    };
    stack.follower.payments.stripe = Some(stack.stripe.altered(active));
    let about = json!({ "id": "sub_1", "object": "subscription", "customer": stack.customer });
    let about = event("customer.subscription.updated", &about);
    assert_eq!(stack.handle(&about).await, EventOutcome::Followed);
    assert_eq!(stack.acme().await.unpaid, None);
}

/// A debt at an earlier Stripe customer ends with its link.
#[tokio::test]
async fn a_debt_does_not_pass_to_another_stripe_customer() {
    let mut stack = Stack::new(UnpaidRule::Suspend).await;
    let subscription = stack.subscribe("team").await;
    stack.handle_events().await;
    fail_renewal(&stack).await;
    stack.advance(7 * DAY);
    stack.follow_up().await;
    assert!(stack.acme().await.suspended_at.is_some());
    let earlier = stack.customer.clone();
    let other = stack.stripe.call("POST", "/v1/customers", "").await;
    let other = text(&other["id"]);
    stack
        .link(
            Some((&earlier, Some(&subscription))),
            Some((other.as_str(), None)),
        )
        .await;
    // It has an invoice whose payment is on its way.
    stack.customer = other;
    stack.add_item("other/1", None).await;
    let fake = &stack.stripe.fake;
    fake.decline_payments(&stack.customer, true).unwrap();
    let form = format!(
        "customer={}&pending_invoice_items_behavior=include",
        stack.customer
    );
    let invoice = stack.stripe.call("POST", "/v1/invoices", &form).await;
    let path = format!("/v1/invoices/{}/finalize", text(&invoice["id"]));
    stack.stripe.call("POST", &path, "auto_advance=true").await;
    stack.take_events();
    assert_eq!(stack.follow_up().await, 2);
    let relinked = stack.acme().await;
    assert_eq!((relinked.suspended_at, relinked.unpaid), (None, None));
}

#[tokio::test]
async fn a_debt_that_is_written_off_has_no_consequence_any_more() {
    for write_off in ["void", "mark_uncollectible"] {
        let stack = Stack::new(UnpaidRule::Suspend).await;
        let subscription = stack.subscribe("team").await;
        stack.handle_events().await;
        fail_renewal(&stack).await;
        stack.cancel(&subscription).await;
        stack.handle_events().await;
        stack.advance(7 * DAY);
        stack.follow_up().await;
        assert!(stack.acme().await.suspended_at.is_some());
        let path = format!("/v1/invoices?customer={}&status=open", stack.customer);
        let open = stack.stripe.call("GET", &path, "").await;
        let path = format!("/v1/invoices/{}/void", text(&open["data"][0]["id"]));
        stack.stripe.call("POST", &path, "").await;
        // The stand-in only voids; the other event leads to the same state.
        let kind = match write_off {
            "void" => "invoice.voided",
            _ => "invoice.marked_uncollectible",
        };
        let invoice = json!({ "id": "in_1", "object": "invoice", "customer": stack.customer });
        assert_eq!(
            stack.handle(&event(kind, &invoice)).await,
            EventOutcome::Followed
        );
        let freed = stack.acme().await;
        assert_eq!((freed.suspended_at, freed.unpaid), (None, None));
    }
}

#[tokio::test]
async fn the_last_charges_of_an_erased_customer_get_an_invoice() {
    let stack = Stack::new(UnpaidRule::Suspend).await;
    let subscription = stack.subscribe("team").await;
    stack.handle_events().await;
    fail_renewal(&stack).await;
    let now = stack.at.clock().now();
    let erased = stack.at.store.erase_customer(&p("acme"), now).await;
    erased.unwrap();
    stack
        .add_item("test/ci_acme_2026-11_0001", Some(&subscription))
        .await;
    stack.cancel(&subscription).await;
    stack.handle_events().await;
    // Further charges go to no subscription.
    assert_eq!(stack.subscription().await, None);
    assert_eq!(stack.own_invoices().await.len(), 1);
    stack.add_item("test/ci_acme_2026-11_0002", None).await;
    let acme = p("acme");
    let due = stack.at.clock().now();
    let scheduled = stack.at.store.schedule_invoice(&acme, &stack.customer, due);
    scheduled.await.unwrap();
    assert_eq!(stack.follow_up().await, 1);
    assert_eq!(stack.own_invoices().await.len(), 2);
    assert_eq!(stack.follow_up().await, 0);
}

#[tokio::test]
async fn the_items_of_a_customer_who_is_linked_anew_get_an_invoice() {
    for is_relinked in [true, false] {
        let stack = Stack::new(UnpaidRule::Nothing).await;
        stack.add_item("test/ci_acme_2026-11_0001", None).await;
        let before = Some((stack.customer.as_str(), None));
        let other = stack.stripe.call("POST", "/v1/customers", "").await;
        let other = text(&other["id"]);
        let after = is_relinked.then_some((other.as_str(), None));
        stack.link(before, after).await;
        // Of the invoice, and of the link.
        assert_eq!(stack.follow_up().await, 2);
        assert_eq!(stack.own_invoices().await, [(123, "draft".to_owned())]);
        assert_eq!(stack.follow_up().await, 0);
    }
}

/// A subscription that is not followed invoices pending items at its renewal, unless it ends before.
#[tokio::test]
async fn the_items_beside_a_subscription_that_is_not_followed_get_an_invoice_when_it_ends() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let other = stack.stripe.price(500).await;
    let form = format!("customer={}&items[0][price]={other}", stack.customer);
    let subscription = stack.stripe.call("POST", "/v1/subscriptions", &form).await;
    stack.add_item("test/ci_acme_2026-11_0001", None).await;
    let (acme, due) = (p("acme"), stack.at.clock().now());
    let scheduled = stack.at.store.schedule_invoice(&acme, &stack.customer, due);
    scheduled.await.unwrap();
    for _ in 0..2 {
        assert_eq!(stack.follow_up().await, 1);
        assert_eq!(stack.own_invoices().await, []);
    }
    stack.cancel(&text(&subscription["id"])).await;
    stack.handle_events().await;
    assert_eq!(stack.own_invoices().await, [(123, "draft".to_owned())]);
    assert_eq!(stack.follow_up().await, 0);
}

/// No event reports the end of a subscription whose Stripe customer is linked no longer.
#[tokio::test]
async fn the_items_of_an_earlier_subscription_get_an_invoice_whenever_it_ends() {
    for ends_before in [true, false] {
        let stack = Stack::new(UnpaidRule::Nothing).await;
        let subscription = stack.subscribe("team").await;
        stack.handle_events().await;
        stack
            .add_item("test/ci_acme_2026-11_0001", Some(&subscription))
            .await;
        if ends_before {
            stack.cancel(&subscription).await;
        }
        let before = Some((stack.customer.as_str(), Some(subscription.as_str())));
        let other = stack.stripe.call("POST", "/v1/customers", "").await;
        let other = text(&other["id"]);
        stack.link(before, Some((other.as_str(), None))).await;
        assert_eq!(stack.follow_up().await, 2);
        if !ends_before {
            assert_eq!(stack.own_invoices().await, []);
            assert_eq!(stack.follow_up().await, 1);
            stack.cancel(&subscription).await;
            let outcomes = stack.handle_events().await;
            assert!(outcomes.iter().all(|it| *it == EventOutcome::Foreign));
            assert_eq!(stack.follow_up().await, 1);
        }
        assert_eq!(stack.own_invoices().await, [(123, "draft".to_owned())]);
        assert_eq!(stack.follow_up().await, 0);
    }
}

#[tokio::test]
async fn an_invoice_of_a_deleted_stripe_customer_is_given_up() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    let due = stack.at.clock().now();
    let acme = p("acme");
    let scheduled = stack.at.store.schedule_invoice(&acme, &stack.customer, due);
    scheduled.await.unwrap();
    let path = format!("/v1/customers/{}", stack.customer);
    stack.stripe.call("DELETE", &path, "").await;
    assert_eq!(stack.follow_up().await, 1);
    assert_eq!(stack.follow_up().await, 0);
}

#[tokio::test]
async fn what_followed_from_an_outstanding_payment_ends_with_the_link() {
    for (rule, is_late) in [
        (UnpaidRule::Suspend, false),
        (UnpaidRule::Suspend, true),
        (UnpaidRule::Move(p("enterprise")), true),
    ] {
        let stack = Stack::new(rule).await;
        let subscription = stack.subscribe("team").await;
        stack.handle_events().await;
        fail_renewal(&stack).await;
        let before = Some((stack.customer.as_str(), Some(subscription.as_str())));
        stack.advance(7 * DAY);
        if is_late {
            assert_eq!(stack.follow_up().await, 1);
            let late = stack.acme().await;
            assert!(late.suspended_at.is_some() || late.plan == p("enterprise"));
        }
        stack.link(before, None).await;
        // Of the customer, and of the Stripe customer's items.
        assert_eq!(stack.follow_up().await, 2);
        let unlinked = stack.acme().await;
        assert_eq!((unlinked.suspended_at, unlinked.unpaid), (None, None));
        assert_eq!(unlinked.plan, p("team"));
        assert_eq!(stack.follow_up().await, 0);
    }
}

/// A dead letter of the rule on the partner bus has the event as it was there.
#[tokio::test]
async fn an_event_in_the_envelope_of_the_bus_is_handled() {
    let stack = Stack::new(UnpaidRule::Nothing).await;
    stack.subscribe("team").await;
    let events = stack.take_events();
    let created = events
        .iter()
        .find(|it| it.contains("\"customer.subscription.created\""));
    let detail: Value = serde_json::from_str(created.unwrap()).unwrap();
    let on_bus = json!({
        "version": "0", "id": "1", "detail-type": "customer.subscription.created",
        "source": "aws.partner/stripe.com/ed_1", "detail": detail,
    });
    assert_eq!(
        stack.handle(&on_bus.to_string()).await,
        EventOutcome::Followed
    );
    assert_eq!(stack.plan().await, "team");
}
