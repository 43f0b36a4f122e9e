//! The functions' binaries, run as Lambda runs them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::net::Ipv4Addr;

use http::Request;
use serde_json::{Value, json};
use stripe_fake::{Options, StripeFake};
use tokio::net::TcpListener;
use tollgate_domain::submission::{ChargeState, Recipient};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::template::Stack as Template;
use tollgate_local_aws::{CloudWatch, LambdaHost, Outcome};
use tollgate_runtime::env;
use tollgate_runtime::metrics::{BILLING_RUNS, SETTLED_CHARGES};
use tollgate_store::{CustomerChange, RecipientChange, UpdateCustomerOutcome};
use tollgate_testing::customers::add_customer;

mod common;

use common::{Stack, p};

#[tokio::test]
async fn the_schedules_event_runs_billing() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let binary = env!("CARGO_BIN_EXE_billing");
    let process = host.run(binary, "BillingFunction").unwrap();
    let event: Value =
        serde_json::from_str(include_str!("../../../events/billing/schedule.json")).unwrap();
    let Some(Outcome::Response(report)) = host.invoke(event).await else {
        panic!("no report");
    };
    assert_eq!(report["failed"], 0);
    assert_eq!(report["destination"], "ledger_only");
    let log = process.shut_down().unwrap();
    let cloudwatch = CloudWatch::default();
    cloudwatch.read(&log);
    assert_eq!(cloudwatch.values(BILLING_RUNS, &[]), [1], "{log}");
}

/// Creates a customer at the stand-in for Stripe, and returns its id.
async fn create_stripe_customer(stripe: &StripeFake) -> String {
    let request = Request::post("/v1/customers")
        .header("authorization", "Bearer sk_test_stripe_fake")
        .body("name=Acme".into());
    let created = stripe.send(request.unwrap()).await.unwrap();
    let created: Value = serde_json::from_slice(created.body()).unwrap();
    created["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_message_submits_a_charge_with_the_key_in_the_secret() {
    // The process has the system's clock, by which the charge has been due for long.
    let stack = Stack::at("2026-02-23T02:00:00Z");
    stack.calls("acme", "2026-02-22", "pro", 100_010).await;
    stack.run("2026-02-23T02:00:00Z").await;
    add_customer(&stack.at, "acme", "pro").await;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let clock = stack.at.clock();
    let stripe = StripeFake::new(Options::new(move || clock.now()));
    let served = stripe.clone();
    tokio::spawn(async move { stripe_fake::serve(listener, served).await });
    let change = CustomerChange {
        recipient: Some(RecipientChange {
            before: None,
            after: Some(Recipient {
                customer: create_stripe_customer(&stripe).await,
                subscription: None,
            }),
        }),
        ..CustomerChange::default()
    };
    let linked = stack.at.store.update_customer(&p("acme"), &change).await;
    assert!(matches!(linked.unwrap(), UpdateCustomerOutcome::Done(_)));

    stack
        .at
        .aws
        .set_secret("prod/stripe", "sk_test_stripe_fake\n");
    let host = LambdaHost::start(stack.at.aws.clone()).await.unwrap();
    let template = Template::built_in("test").unwrap();
    let variables = template.variables("ChargeWorkerFunction").unwrap();
    let changed = [(env::STRIPE_SECRET, "prod/stripe"), (env::STRIPE_URL, &url)];
    let changed = changed.map(|(var, value)| (var.name.to_owned(), value.to_owned()));
    let binary = env!("CARGO_BIN_EXE_charge-worker");
    let variables = variables.into_iter().chain(changed);
    let process = host.run_with(binary, variables).unwrap();
    let event = include_str!("../../../events/billing/charges.json");
    let response = host.invoke(serde_json::from_str(event).unwrap()).await;
    let Some(Outcome::Response(response)) = response else {
        panic!("{response:?}");
    };
    assert_eq!(response, json!({ "batchItemFailures": [] }));

    let items = stripe.invoice_items();
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(
        items[0]["metadata"]["tollgate_charge"],
        "test/ci_acme_2026-02_0001"
    );
    let ledger = stack.ledger("acme", "2026-02").await;
    let ChargeState::Settled { item, .. } = &ledger[0].state else {
        panic!("{ledger:?}");
    };
    assert_eq!(*item, items[0]["id"]);
    let log = process.shut_down().unwrap();
    assert!(!log.contains("sk_test_stripe_fake"), "{log}");
    let cloudwatch = CloudWatch::default();
    cloudwatch.read(&log);
    assert_eq!(cloudwatch.values(SETTLED_CHARGES, &[]), [1], "{log}");
}
