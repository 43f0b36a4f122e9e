//! Calls of DynamoDB at an endpoint: the embedded engine, served over HTTP by another thread.

#![expect(clippy::unwrap_used, reason = "a test whose setup fails has failed")]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout};
use tollgate_domain::customer::Customer;
use tollgate_local_aws::{Fault, LambdaHost, LocalAws, Rule};
use tollgate_runtime::clock::ManualClock;
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::{CreateOutcome, CustomerChange, Store, UpdateCustomerOutcome};

fn clock() -> Clock {
    ManualClock::at("2026-11-22T10:00:00Z".parse().unwrap()).clock()
}

fn rule() -> Rule {
    Rule::new(json!({})).unwrap()
}

fn at(endpoint: &str) -> LocalAws {
    LocalAws::with_dynamodb_at(endpoint, "local", rule(), clock(), Entropy::seeded(1)).unwrap()
}

/// Services whose DynamoDB is that of other services, which run until the test process ends.
fn served() -> LocalAws {
    let (started, url) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let aws = LocalAws::in_memory(rule(), clock(), Entropy::seeded(1)).unwrap();
            let host = LambdaHost::start(aws).await.unwrap();
            started.send(host.url()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let aws = at(&url.recv().unwrap());
    aws.create_tables("test").unwrap();
    aws
}

fn store(aws: &LocalAws) -> Store {
    Store::new(&aws.sdk_config(), "test", clock(), Entropy::seeded(1))
}

fn acme() -> Customer {
    Customer {
        name: "Acme Ltd".into(),
        ..Customer::new(
            "acme".parse().unwrap(),
            "pro".parse().unwrap(),
            clock().now(),
        )
    }
}

#[tokio::test(start_paused = true)]
async fn faults_apply_to_calls_of_an_endpoint() {
    for (fault, is_created) in [
        (Fault::None, true),
        (Fault::RequestLost, false),
        (Fault::ResponseLost, true),
        (Fault::Throttled, false),
        (Fault::Conflict, false),
    ] {
        let aws = served();
        let store = store(&aws);
        aws.inject(move |_| fault);
        let created = store.create_customer(&acme(), None).await;
        assert_eq!(created.is_ok(), fault == Fault::None, "{fault:?}");
        aws.heal();
        let stored = store.customer(&acme().id).await.unwrap();
        assert_eq!(stored.is_some(), is_created, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_does_not_advance_during_a_call_of_an_endpoint() {
    let store = store(&served());
    let started = Instant::now();
    let all = async {
        let created = store.create_customer(&acme(), None).await.unwrap();
        assert_eq!(created, CreateOutcome::New);
        let change = CustomerChange::default();
        let changed = store.update_customer(&acme().id, &change).await.unwrap();
        assert_eq!(changed, UpdateCustomerOutcome::Done(acme()));
    };
    timeout(Duration::from_millis(1), all).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[test]
fn an_unreachable_endpoint_is_an_error() {
    let (status, body) = at("http://127.0.0.1:1").call("DynamoDB_20120810.ListTables", "{}");
    assert_eq!(status, 500);
    assert!(body.contains("Connection refused"), "{body}");
    let invalid = LocalAws::with_dynamodb_at("::", "local", rule(), clock(), Entropy::seeded(1));
    assert_eq!(
        invalid.unwrap_err().to_string(),
        ":: is not a valid endpoint URL"
    );
}
