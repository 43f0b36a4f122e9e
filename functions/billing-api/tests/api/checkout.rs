//! `POST /api/billing/checkout`.

use jiff::SignedDuration;
use serde_json::{Value, json};
use stripe_fake::{Completion, Fault as StripeFault};
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
async fn a_customer_on_the_plan_or_with_a_subscription_is_a_conflict() {
    let stack = Stack::new().await;
    add_customer(&stack.at, "bolt", "team").await;
    let response = stack.checkout("bolt", "team").await;
    let detail = response.problem(409, "conflict", Some("plan"));
    assert!(detail.contains("on the plan team already"), "{detail}");
    assert_eq!(stack.stripe.requests(), [""; 0]);

    let id = stack.link("acme").await;
    let subscription = stack.stripe.subscribe(&id, &stack.price).await;
    let before = stored(&stack.at);
    let detail = stack.checkout("acme", "team").await;
    let detail = detail.conflict();
    assert!(detail.contains("billing portal"), "{detail}");
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.sessions().await.len(), 0);
    // Once it has ended, the customer can subscribe again.
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    stack.stripe.call("DELETE", &path, "").await;
    stack.checkout("acme", "team").await.json(201);
}

/// Every difference between a plan and its Stripe price.
#[tokio::test]
async fn a_price_that_is_not_the_plans_fee_is_the_operators_to_correct() {
    let stack = Stack::new().await;
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
    assert_eq!(stored(&stack.at), before);
    assert_eq!(stack.sessions().await.len(), 0);
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
