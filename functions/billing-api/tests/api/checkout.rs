//! `POST /api/billing/checkout`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use serde_json::{Value, json};
use stripe_fake::{Completion, Fault as StripeFault};
use tokio::task::JoinSet;
use tollgate_local_aws::Fault;
use tollgate_runtime::metrics::CHECKOUTS_STARTED;
use tollgate_store::{CustomerChange, StartedCheckout};
use tollgate_testing::customers::add_customer;
use tollgate_testing::event::{Event, text};
use tollgate_testing::p;
use tollgate_testing::stored::stored;

use crate::stack::{FEE, NOW, ORIGIN, Stack, body};

#[tokio::test]
async fn a_checkout_is_started_and_stored_before_it_is_returned() {
    let stack = Stack::new().await;
    let shown = stack.checkout("acme", "team").await.json(201);
    let session = &stack.sessions().await[0];
    let expected = json!({
        "id": session["id"],
        "plan": "team",
        "status": "open",
        "url": session["url"],
        "expires_at": "2026-11-23T10:00:00Z",
    });
    assert_eq!(shown, expected);
    let recipient = stack.recipient("acme").await.unwrap();
    assert_eq!(session["customer"], recipient.customer);
    assert_eq!(session["client_reference_id"], "acme");
    let metadata = json!({ "tollgate_customer": "acme", "tollgate_plan": "team" });
    assert_eq!(session["metadata"], metadata);
    assert_eq!(session["cancel_url"], format!("{ORIGIN}/billing"));
    let stored = stack.store().checkout(text(&shown, "id")).await.unwrap();
    let expected = StartedCheckout {
        session: text(&shown, "id").to_owned(),
        customer: p("acme"),
        plan: p("team"),
        created_at: p(NOW),
    };
    assert_eq!(stored, Some(expected));

    // The customer subscribes with it.
    let id = text(&shown, "id");
    stack
        .stripe
        .fake
        .complete_checkout(id, Completion::Paid, None)
        .unwrap();
    let subscription = stack.get("subscription", &[]).await.json(200);
    let id = text(&subscription["subscription"], "id");
    let subscription = stack.stripe.fake.object(id).unwrap();
    assert_eq!(subscription["metadata"], metadata);
    let item = &subscription["items"]["data"][0];
    assert_eq!(item["price"]["id"], stack.price);
}

#[tokio::test]
async fn an_admin_starts_a_checkout_for_a_customer() {
    let stack = Stack::new().await;
    add_customer(&stack.at, "bolt", "free").await;
    let change = |event: Event| event.param("customer", "bolt");
    let shown = stack.call("customer-checkout", change).await.json(201);
    let stored = stack.store().checkout(text(&shown, "id")).await.unwrap();
    assert_eq!(stored.unwrap().customer, p("bolt"));
    assert_eq!(stack.sessions().await[0]["client_reference_id"], "bolt");
    // One idempotency key for two customers is a mistake.
    let once = |event: Event| event.header("Idempotency-Key", "once");
    let first = stack.call("customer-checkout", once).await;
    first.json(201);
    let change = |event: Event| once(event).param("customer", "bolt");
    stack
        .call("customer-checkout", change)
        .await
        .unprocessable(None);
}

#[tokio::test]
async fn only_pages_of_the_allowed_origins_are_returned_to() {
    let stack = Stack::new().await;
    let before = stored(&stack.at);
    for field in ["success_url", "cancel_url"] {
        for url in [
            "https://app.example.attacker.example/",
            "/billing",
            "http://app.example/",
        ] {
            let mut body = body("team");
            body[field] = url.into();
            let response = stack.call("checkout", |event| event.body(&body)).await;
            let detail = response.unprocessable(Some(field));
            assert!(
                detail.ends_with("The operator allows: https://app.example."),
                "{detail}"
            );
        }
    }
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.stripe.requests(), [""; 0]);
}

#[tokio::test]
async fn a_plan_that_cannot_be_bought_is_rejected_with_those_that_can() {
    let stack = Stack::new().await;
    stack.add_plan("old", FEE, Some(&stack.price)).await;
    let retired = stack.store().retire_plan(&p("old"), Some(p(NOW))).await;
    assert!(retired.unwrap());
    let before = stored(&stack.at);
    for (plan, reason) in [
        ("platinum", "There is no plan platinum."),
        ("old", "The plan old is retired"),
        ("pro", "The plan pro cannot be bought by checkout."),
    ] {
        let response = stack.checkout("acme", plan).await;
        let detail = response.unprocessable(Some("plan"));
        assert!(detail.starts_with(reason), "{detail}");
        assert_eq!(response.body["plans"], json!(["team"]));
    }
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.stripe.requests(), [""; 0]);
}

#[tokio::test]
async fn a_customer_with_a_subscription_is_a_conflict() {
    let stack = Stack::new().await;
    stack
        .add_plan("other", 100, Some(&stack.stripe.price(100).await))
        .await;
    let id = stack.link("acme").await;
    let subscription = stack.stripe.subscribe(&id, &stack.price).await;
    let before = stored(&stack.at);
    let response = stack.checkout("acme", "team").await;
    let detail = response.problem(409, "conflict", Some("plan"));
    assert!(
        detail.contains("subscription to the plan team already"),
        "{detail}"
    );
    let response = stack.checkout("acme", "other").await;
    let detail = response.conflict();
    assert!(detail.contains("billing portal"), "{detail}");
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.sessions().await.len(), 0);
    // Once it has ended, the customer can subscribe again.
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    stack.stripe.call("DELETE", &path, "").await;
    stack.checkout("acme", "team").await.json(201);
}

/// An admin has moved the customer to the plan, or its subscription has ended: it may still pay for it, even if the
/// plan takes no new customers.
#[tokio::test]
async fn a_customer_on_the_plan_without_a_subscription_can_pay_for_it() {
    let stack = Stack::new().await;
    add_customer(&stack.at, "bolt", "team").await;
    stack.checkout("bolt", "team").await.json(201);
    let retired = stack.store().retire_plan(&p("team"), Some(p(NOW))).await;
    assert!(retired.unwrap());
    let shown = stack.checkout("bolt", "team").await.json(201);
    stack.pay(text(&shown, "id")).unwrap();
    let response = stack.checkout("bolt", "team").await;
    response.problem(409, "conflict", Some("plan"));
    let response = stack.checkout("acme", "team").await;
    response.unprocessable(Some("plan"));
}

/// The first page is no longer payable when the second is returned.
#[tokio::test]
async fn of_two_pages_one_can_be_paid() {
    let stack = Stack::new().await;
    let first = stack.checkout_once("acme", "first").await.json(201);
    let second = stack.checkout("acme", "team").await.json(201);
    assert_eq!(stack.payable().await, [text(&second, "id")]);
    stack.pay(text(&first, "id")).unwrap_err();
    // A repetition of the first request shows that.
    let again = stack.checkout_once("acme", "first").await.json(200);
    assert_eq!(
        (&again["status"], &again["url"]),
        (&json!("expired"), &Value::Null)
    );
    stack.pay(text(&second, "id")).unwrap();
    let response = stack.checkout("acme", "team").await;
    response.problem(409, "conflict", Some("plan"));
    // Of another customer's pages, none is expired.
    add_customer(&stack.at, "bolt", "free").await;
    let of_bolt = stack.checkout("bolt", "team").await.json(201);
    add_customer(&stack.at, "cole", "free").await;
    stack.checkout("cole", "team").await.json(201);
    assert!(
        stack
            .payable()
            .await
            .contains(&text(&of_bolt, "id").to_owned())
    );
}

#[tokio::test]
async fn of_concurrent_checkouts_one_page_can_be_paid() {
    let stack = Arc::new(Stack::new().await);
    stack.link("acme").await;
    let mut running = JoinSet::new();
    for _ in 0..8 {
        let stack = Arc::clone(&stack);
        running.spawn(async move { stack.checkout("acme", "team").await.json(201) });
    }
    let returned: Vec<String> = running
        .join_all()
        .await
        .iter()
        .map(|it| text(it, "id").to_owned())
        .collect();
    let mut payable = stack.payable().await;
    payable.retain(|session| returned.contains(session));
    assert_eq!(payable.len(), 1);
    let open = stack.store().open_checkout(&p("acme")).await.unwrap();
    assert_eq!(open.as_ref(), Some(&payable[0]));
}

/// One request stores its session while another, which began before, creates its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_stored_meanwhile_is_expired() {
    let stack = Arc::new(Stack::new().await);
    stack.link("acme").await;
    for customer_pays in [false, true] {
        let (rival, runtime) = (Arc::clone(&stack), tokio::runtime::Handle::current());
        let is_begun = AtomicBool::new(false);
        let (started, rivals) = tokio::sync::oneshot::channel();
        let started = Mutex::new(Some(started));
        let created = move |path: &str, _: &str, _: &mut Value| {
            if path == "/v1/checkout/sessions" && !is_begun.swap(true, Ordering::Relaxed) {
                let (rival, runtime) = (Arc::clone(&rival), runtime.clone());
                let started = started.lock().unwrap().take();
                let thread = std::thread::spawn(move || {
                    runtime.block_on(async {
                        let shown = rival.checkout("acme", "team").await.json(201);
                        if customer_pays {
                            rival.pay(text(&shown, "id")).unwrap();
                        }
                        started.unwrap().send(shown).unwrap();
                    });
                });
                thread.join().unwrap();
            }
        };
        let client = stack.stripe.altered(created);
        let mut app = stack.app.clone();
        app.payments.stripe = Some(client);
        let function = billing_api::routes(app);
        let event = Event::load("billing-api/checkout").manager("acme", "free");
        let response = tollgate_testing::response::call(&function, &event).await;
        let of_rival = rivals.await.unwrap();
        match customer_pays {
            false => {
                let shown = response.json(201);
                assert_ne!(shown["id"], of_rival["id"]);
                assert_eq!(stack.payable().await, [text(&shown, "id")]);
            }
            true => {
                let detail = response.conflict();
                assert!(detail.contains("billing portal"), "{detail}");
            }
        }
    }
}

/// The customer pays on the earlier page after it was found to have no subscription.
#[tokio::test]
async fn a_page_that_is_paid_meanwhile_is_a_conflict() {
    let mut stack = Stack::new().await;
    let first = stack.checkout("acme", "team").await.json(201);
    let (fake, session) = (stack.stripe.fake.clone(), text(&first, "id").to_owned());
    let client = stack.stripe.altered(move |path, _, _| {
        if path == "/v1/subscriptions" {
            let paid = fake.complete_checkout(&session, Completion::Paid, None);
            paid.unwrap();
        }
    });
    let unaltered = stack.stripe.client.clone();
    stack.call_stripe_by(client);
    let before = stored(&stack.at);
    let response = stack.checkout("acme", "team").await;
    let detail = response.conflict();
    assert!(detail.contains("billing portal"), "{detail}");
    assert_eq!(stored(&stack.at), before);
    // The subscription ends, and the customer subscribes again.
    stack.call_stripe_by(unaltered);
    let session = stack.stripe.fake.object(text(&first, "id")).unwrap();
    let path = format!("/v1/subscriptions/{}", text(&session, "subscription"));
    stack.stripe.call("DELETE", &path, "").await;
    stack.checkout("acme", "team").await.json(201);
}

/// Stripe does not expire the earlier session although it is open, or does not say what it did.
#[tokio::test(start_paused = true)]
async fn no_session_is_created_while_an_earlier_one_may_be_paid() {
    let stack = Stack::new().await;
    let first = stack.checkout("acme", "team").await.json(201);
    let path = format!("/v1/checkout/sessions/{}/expire", text(&first, "id"));
    let before = stored(&stack.at);
    stack
        .stripe
        .fail("POST", &path, 4, StripeFault::RequestLost);
    let response = stack.checkout("acme", "team").await;
    let detail = response.conflict();
    assert!(detail.contains("Try again"), "{detail}");
    stack.stripe.fail(
        "POST",
        &path,
        4,
        StripeFault::RateLimited {
            retry_after: Some(60),
        },
    );
    let response = stack.checkout("acme", "team").await;
    response.problem(503, "temporarily-unavailable", None);
    stack.stripe.fake.clear_faults();
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.payable().await, [text(&first, "id")]);
    // It took effect, and the responses were lost.
    stack
        .stripe
        .fail("POST", &path, 4, StripeFault::ResponseLost);
    let second = stack.checkout("acme", "team").await.json(201);
    assert_eq!(stack.payable().await, [text(&second, "id")]);
}

/// A request that is repeated while it is executed does not end its own session.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_expire_the_session_of_its_repetition() {
    let stack = Arc::new(Stack::new().await);
    stack.link("acme").await;
    let mut running = JoinSet::new();
    for _ in 0..4 {
        let stack = Arc::clone(&stack);
        running.spawn(async move { stack.checkout_once("acme", "once").await });
    }
    let responses = running.join_all().await;
    let ids: BTreeSet<String> = responses
        .iter()
        .map(|response| text(&response.body, "id").to_owned())
        .collect();
    let ids: Vec<String> = ids.into_iter().collect();
    assert_eq!(stack.payable().await, ids);
    assert_eq!(ids.len(), 1);

    // One repetition has read the last session before the other stores it.
    let stack = Arc::new(Stack::new().await);
    stack.link("acme").await;
    let (repetition, runtime) = (Arc::clone(&stack), tokio::runtime::Handle::current());
    let is_begun = AtomicBool::new(false);
    let client = stack.stripe.altered(move |path, _, _| {
        if path == "/v1/subscriptions" && !is_begun.swap(true, Ordering::Relaxed) {
            let (repetition, runtime) = (Arc::clone(&repetition), runtime.clone());
            let thread = std::thread::spawn(move || {
                let stored = runtime.block_on(repetition.checkout_once("acme", "once"));
                stored.json(201);
            });
            thread.join().unwrap();
        }
    });
    let mut app = stack.app.clone();
    app.payments.stripe = Some(client);
    let event = Event::load("billing-api/checkout").manager("acme", "free");
    let event = event.header("Idempotency-Key", "once");
    let response = tollgate_testing::response::call(&billing_api::routes(app), &event).await;
    let shown = response.json(200);
    assert_eq!(shown["status"], "open");
    assert_eq!(stack.payable().await, [text(&shown, "id")]);
}

/// Every difference between a plan and its Stripe price.
#[tokio::test]
async fn a_price_that_is_not_the_plans_fee_is_the_operators_to_correct() {
    let mut stack = Stack::new().await;
    let price = async |form: &str| {
        let form = format!("product_data[name]=Plan&{form}");
        let price = stack.stripe.call("POST", "/v1/prices", &form).await;
        text(&price, "id").to_owned()
    };
    let monthly = "recurring[interval]=month";
    let inactive = price(&format!("currency=usd&unit_amount={FEE}&{monthly}")).await;
    let path = format!("/v1/prices/{inactive}");
    stack.stripe.call("POST", &path, "active=false").await;
    let defective = [
        ("inactive", inactive),
        (
            "euros",
            price(&format!("currency=eur&unit_amount={FEE}&{monthly}")).await,
        ),
        (
            "less",
            price(&format!("currency=usd&unit_amount=4899&{monthly}")).await,
        ),
        (
            "parts",
            price(&format!(
                "currency=usd&unit_amount_decimal=4900.5&{monthly}"
            ))
            .await,
        ),
        (
            "yearly",
            price(&format!(
                "currency=usd&unit_amount={FEE}&recurring[interval]=year"
            ))
            .await,
        ),
        (
            "quarterly",
            price(&format!(
                "currency=usd&unit_amount={FEE}&{monthly}&recurring[interval_count]=3"
            ))
            .await,
        ),
        (
            "once",
            price(&format!("currency=usd&unit_amount={FEE}")).await,
        ),
        ("missing", "price_missing".to_owned()),
    ];
    for (plan, price) in &defective {
        stack.add_plan(plan, FEE, Some(price)).await;
    }
    let before = stored(&stack.at);
    for (plan, price) in &defective {
        let response = stack.checkout("acme", plan).await;
        response.problem(500, "plan-misconfigured", None);
        assert!(!response.text.contains(price.as_str()), "{}", response.text);
    }
    // Of the same amount, but for something else.
    for (member, value) in [
        ("/billing_scheme", "tiered"),
        ("/recurring/usage_type", "metered"),
    ] {
        let alter = move |path: &str, _: &str, body: &mut Value| {
            if path.starts_with("/v1/prices/") {
                *body.pointer_mut(member).unwrap() = value.into();
            }
        };
        let client = stack.stripe.altered(alter);
        stack.call_stripe_by(client);
        let response = stack.checkout("acme", "team").await;
        response.problem(500, "plan-misconfigured", None);
    }
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.sessions().await.len(), 0);
}

/// A price may have amounts in other currencies.
#[tokio::test]
async fn a_checkout_is_paid_in_the_currency_of_the_fee() {
    let mut stack = Stack::new().await;
    let form = Arc::new(Mutex::new(String::new()));
    let sent = Arc::clone(&form);
    let client = stack.stripe.altered(move |path, form, _| {
        if path == "/v1/checkout/sessions" {
            form.clone_into(&mut sent.lock().unwrap());
        }
    });
    stack.call_stripe_by(client);
    stack.checkout("acme", "team").await.json(201);
    let form = form.lock().unwrap().clone();
    assert!(form.contains("&currency=usd&"), "{form}");
    let session = stack.sessions().await.remove(0);
    assert_eq!(session["adaptive_pricing"], json!({ "enabled": false }));
}

/// The amount is compared with the version that applies to the customer now.
#[tokio::test]
async fn the_plans_version_of_this_month_is_bought() {
    let stack = Stack::new().await;
    let plans = stack.store().plans().await.unwrap();
    let team = plans.get(&p("team")).unwrap();
    let mut dearer = team.latest().plan.clone();
    dearer.monthly_fee_cents.0 = 5_900;
    dearer.stripe_price = Some(stack.stripe.price(5_900).await);
    let next = team.next(dearer.clone(), p("2026-12"), 1, p(NOW)).unwrap();
    stack.store().add_plan_version(&next).await.unwrap();
    let bought = async || {
        stack.checkout("acme", "team").await.json(201);
        let sessions = stack.sessions().await;
        let path = format!(
            "/v1/checkout/sessions/{}/line_items",
            text(&sessions[0], "id")
        );
        let items = stack.stripe.call("GET", &path, "").await;
        text(&items["data"][0]["price"], "id").to_owned()
    };
    assert_eq!(bought().await, stack.price);
    stack.at.time.set(p("2026-12-01T00:00:00Z"));
    assert_eq!(Some(bought().await), dearer.stripe_price);
}

#[tokio::test]
async fn a_repeated_request_returns_the_same_session() {
    let stack = Stack::new().await;
    let first = stack.checkout_once("acme", "once").await.json(201);
    let before = stored(&stack.at);
    let again = stack.checkout_once("acme", "once").await.json(200);
    assert_eq!(again, first);
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.sessions().await.len(), 1);

    let other = |event: Event| {
        let event = event
            .manager("acme", "free")
            .header("Idempotency-Key", "once");
        event.body(&body("team"))
    };
    let reused = stack.call("checkout", other).await;
    let detail = reused.unprocessable(None);
    assert!(detail.contains("Idempotency-Key"), "{detail}");
    assert_eq!(stack.sessions().await.len(), 1);

    // As it is now: the customer has paid, and an admin has moved it to the plan.
    let id = text(&first, "id");
    let fake = &stack.stripe.fake;
    fake.complete_checkout(id, Completion::Paid, None).unwrap();
    let change = CustomerChange {
        plan: Some(p("team")),
        ..CustomerChange::default()
    };
    stack
        .store()
        .update_customer(&p("acme"), &change)
        .await
        .unwrap();
    let mut expected = first.clone();
    expected["status"] = "complete".into();
    expected["url"] = Value::Null;
    let again = stack.checkout_once("acme", "once").await.json(200);
    assert_eq!(again, expected);
}

#[tokio::test]
async fn a_session_that_has_expired_is_shown_as_such() {
    let stack = Stack::new().await;
    let first = stack.checkout_once("acme", "once").await.json(201);
    stack
        .at
        .time
        .advance(SignedDuration::from_secs(24 * 3_600 - 1));
    let again = stack.checkout_once("acme", "once").await.json(200);
    assert_eq!(again, first);
    stack.stripe.fake.advance(SignedDuration::from_secs(2));
    let again = stack.checkout_once("acme", "once").await.json(200);
    assert_eq!(
        (&again["status"], &again["url"]),
        (&json!("expired"), &Value::Null)
    );
    stack.at.time.advance(SignedDuration::from_secs(1));
    let next = stack.checkout_once("acme", "once").await.json(201);
    assert_ne!(next["id"], first["id"]);
}

#[tokio::test]
async fn requests_without_an_idempotency_key_start_sessions_of_their_own() {
    let stack = Stack::new().await;
    let first = stack.checkout("acme", "team").await.json(201);
    let second = stack.checkout("acme", "team").await.json(201);
    assert_ne!(first["id"], second["id"]);
    assert_eq!(stack.stripe_customers().await.len(), 1);
}

/// The session was created, and the response of Stripe lost, or the store failed before it was stored: the
/// repetition returns the session that nobody has seen.
#[tokio::test(start_paused = true)]
async fn a_repetition_after_a_lost_response_makes_no_second_session() {
    let stack = Stack::new().await;
    let sessions = "/v1/checkout/sessions";
    stack
        .stripe
        .fail("POST", sessions, 4, StripeFault::ResponseLost);
    let lost = stack.checkout_once("acme", "once").await;
    lost.problem(503, "temporarily-unavailable", None);
    let stored = stack.checkout_once("acme", "once").await.json(201);
    assert_eq!(stack.sessions().await.len(), 1);
    assert_eq!(stack.sessions().await[0]["id"], stored["id"]);

    let stack = Stack::new().await;
    stack
        .at
        .aws
        .inject(|call| match call.body.contains("STRIPE#CHECKOUT#") {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    let failed = stack.checkout_once("acme", "once").await;
    failed.problem(503, "temporarily-unavailable", None);
    assert!(!failed.text.contains("cs_test"), "{}", failed.text);
    stack.at.aws.heal();
    let stored = stack.checkout_once("acme", "once").await.json(201);
    assert_eq!(stack.sessions().await.len(), 1);
    assert_eq!(stack.sessions().await[0]["id"], stored["id"]);
}

/// The write took effect, and its response was lost at every try.
#[tokio::test(start_paused = true)]
async fn a_repetition_after_a_lost_write_returns_the_stored_session() {
    let stack = Stack::new().await;
    stack
        .at
        .aws
        .inject(|call| match call.body.contains("STRIPE#CHECKOUT#") {
            true => Fault::ResponseLost,
            false => Fault::None,
        });
    let failed = stack.checkout_once("acme", "once").await;
    failed.problem(503, "temporarily-unavailable", None);
    stack.at.aws.heal();
    stack.checkout_once("acme", "once").await.json(200);
    assert_eq!(stack.sessions().await.len(), 1);
}

#[tokio::test]
async fn an_erased_customer_starts_no_checkout() {
    let stack = Stack::new().await;
    stack
        .store()
        .erase_customer(&p("acme"), p(NOW))
        .await
        .unwrap();
    let before = stored(&stack.at);
    stack.checkout("acme", "team").await.conflict();
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.stripe.requests(), [""; 0]);
}

/// The customer is erased while Stripe creates the session.
#[tokio::test]
async fn a_session_of_a_customer_erased_meanwhile_is_not_returned() {
    let stack = Stack::new().await;
    stack.link("acme").await;
    let (aws, fault) = (stack.at.aws.clone(), Fault::None);
    aws.clone().inject(move |call| {
        if call.body.contains("STRIPE#CHECKOUT#") {
            let update = json!({
                "TableName": "test-registry",
                "Key": { "pk": { "S": "CUSTOMER#acme" } },
                "UpdateExpression": "SET erased_at = :now",
                "ExpressionAttributeValues": { ":now": { "S": "2026-11-22T10:00:00.000Z" } },
            });
            let (status, response) = aws.call("DynamoDB_20120810.UpdateItem", &update.to_string());
            assert_eq!(status, 200, "{response}");
        }
        fault
    });
    stack.checkout("acme", "team").await.conflict();
    stack.at.aws.heal();
    let session = stack.sessions().await[0].clone();
    let stored = stack.store().checkout(text(&session, "id")).await;
    assert_eq!(stored.unwrap(), None);
}

/// An admin links another Stripe customer while Stripe creates the session.
#[tokio::test]
async fn a_session_of_a_customer_relinked_meanwhile_is_not_returned() {
    let stack = Stack::new().await;
    stack.link("acme").await;
    let other = stack
        .stripe
        .call("POST", "/v1/customers", "name=Acme")
        .await;
    let (aws, other) = (stack.at.aws.clone(), text(&other, "id").to_owned());
    let linked = other.clone();
    aws.clone().inject(move |call| {
        if call.body.contains("STRIPE#CHECKOUT#") {
            let update = json!({
                "TableName": "test-registry",
                "Key": { "pk": { "S": "CUSTOMER#acme" } },
                "UpdateExpression": "SET stripe_customer = :id",
                "ExpressionAttributeValues": { ":id": { "S": linked } },
            });
            let (status, response) = aws.call("DynamoDB_20120810.UpdateItem", &update.to_string());
            assert_eq!(status, 200, "{response}");
        }
        Fault::None
    });
    let response = stack.checkout_once("acme", "once").await;
    response.problem(503, "temporarily-unavailable", None);
    stack.at.aws.heal();
    let session = stack.sessions().await.remove(0);
    let stored = stack.store().checkout(text(&session, "id")).await;
    assert_eq!(stored.unwrap(), None);
    assert_eq!(stack.store().open_checkout(&p("acme")).await.unwrap(), None);
    // The repetition is of the Stripe customer that is linked now.
    let shown = stack.checkout_once("acme", "once").await.json(201);
    let session = stack.stripe.fake.object(text(&shown, "id")).unwrap();
    assert_eq!(session["customer"], other);
}

/// Stripe has stored a failure of its own under the idempotency key, whether or not the request took effect.
#[tokio::test(start_paused = true)]
async fn a_stored_failure_of_stripes_blocks_no_checkout() {
    for executes in [false, true] {
        for path in ["/v1/customers", "/v1/customers/*", "/v1/checkout/sessions"] {
            let stack = Stack::new().await;
            let fault = StripeFault::StoredServerError { executes };
            stack.stripe.fail("POST", path, 1, fault);
            let response = stack.checkout_once("acme", "once").await;
            // Only the name is written under a key that no other request has.
            match path {
                "/v1/customers/*" => {
                    response.problem(503, "temporarily-unavailable", None);
                }
                _ => {
                    response.json(201);
                }
            }
            let status = if path == "/v1/customers/*" { 201 } else { 200 };
            let shown = stack.checkout_once("acme", "once").await.json(status);
            assert_eq!(shown["status"], "open", "{path}");
            let linked = stack.recipient("acme").await.unwrap();
            let session = stack.stripe.fake.object(text(&shown, "id")).unwrap();
            assert_eq!(session["customer"], linked.customer);
        }
    }
}

/// The idempotency item has expired, and Stripe remembers the key for longer: the first session, which it replays as
/// it was when it was created, is over.
#[tokio::test(start_paused = true)]
async fn a_repetition_after_a_day_starts_another_session() {
    for ended in ["by the time", "by a later checkout", "by nobody, unstored"] {
        let mut stack = Stack::new().await;
        let unstored = ended == "by nobody, unstored";
        if unstored {
            let is_session = |body: &str| body.contains("STRIPE#CHECKOUT#");
            stack
                .at
                .aws
                .inject(move |call| match is_session(&call.body) {
                    true => Fault::Throttled,
                    false => Fault::None,
                });
            let failed = stack.checkout_once("acme", "once").await;
            failed.problem(503, "temporarily-unavailable", None);
            stack.at.aws.heal();
        } else {
            stack.checkout_once("acme", "once").await.json(201);
        }
        if ended == "by a later checkout" {
            stack.checkout("acme", "team").await.json(201);
        }
        let first = stack.sessions().await.pop().unwrap();
        let keys = Arc::new(Mutex::new(Vec::new()));
        // The stand-in forgets a key after a day.
        let (seen, mut replay) = (Arc::clone(&keys), first.clone());
        if ended == "by a later checkout" {
            // Stripe's clock is ahead of ours.
            replay["expires_at"] = (first["expires_at"].as_i64().unwrap() + 600).into();
        }
        let client = stack.stripe.altered(move |path, form, body| {
            if path == "/v1/checkout/sessions" {
                let mut seen = seen.lock().unwrap();
                if seen.is_empty() {
                    *body = replay.clone();
                }
                seen.push(form.to_owned());
            }
        });
        stack.call_stripe_by(client);
        stack.at.time.advance(SignedDuration::from_hours(24));
        let shown = stack.checkout_once("acme", "once").await.json(201);
        assert_eq!(shown["status"], "open", "{ended}");
        assert_ne!(shown["id"], first["id"], "{ended}");
        let session = stack.stripe.fake.object(text(&shown, "id")).unwrap();
        assert_eq!(session["status"], "open", "{ended}");
        assert_eq!(keys.lock().unwrap().len(), 2, "{ended}");
        let open = stack.store().open_checkout(&p("acme")).await.unwrap();
        assert_eq!(open.as_deref(), Some(text(&shown, "id")));
    }
}

#[tokio::test]
async fn started_checkouts_are_counted_by_plan() {
    let stack = Stack::new().await;
    stack.checkout_once("acme", "once").await.json(201);
    stack.checkout_once("acme", "once").await.json(200);
    stack.checkout("acme", "team").await.json(201);
    stack
        .checkout("acme", "pro")
        .await
        .unprocessable(Some("plan"));
    let counted = stack.metrics().values(CHECKOUTS_STARTED, &["team"]);
    assert_eq!(counted, [1, 1]);
    assert!(!stack.lines().contains("acme"), "{}", stack.lines());
}
