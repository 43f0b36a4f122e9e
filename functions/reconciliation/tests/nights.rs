//! Nights: what is compared, what is taken for a difference, and what is left of it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::ToSpan;
use reconciliation::{App, Report, handle, run};
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::{ApiKey, KeyRecord, Owner};
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Fault};
use tollgate_runtime::metrics::{
    CALLS_UNADMITTED, CALLS_UNMETERED, CUSTOMERS_SILENT, RECONCILIATION_RUNS,
};
use tollgate_store::{KeyChange, KeyRef, ReconciliationSummary};

#[path = "../../../shared/web/tests/common/admitted.rs"]
mod admitted;
#[path = "../../../shared/web/tests/common/stored.rs"]
mod stored;

use admitted::{admit, authorizer, make_calls};
use stored::{add_customer, add_key, add_usage, calls, p};

/// Half past three of the night after [`DAY`].
const NIGHT: &str = "2026-11-22T03:30:00Z";
const DAY: &str = "2026-11-21";

struct Stack {
    at: Fixture,
    app: App,
    cloudwatch: CloudWatch,
    /// By id.
    keys: Mutex<HashMap<String, Arc<ApiKey>>>,
}

impl Stack {
    fn new() -> Self {
        let at = Fixture::at(NIGHT);
        let cloudwatch = CloudWatch::default();
        let app = App {
            store: at.store.clone(),
            clock: at.clock(),
            metrics: cloudwatch.metrics("test", at.clock()),
        };
        Self {
            at,
            app,
            cloudwatch,
            keys: Mutex::default(),
        }
    }

    /// A customer with a key that is called as they are.
    async fn customer(&self, id: &str) {
        add_customer(&self.at, id, "pro").await;
        self.key(id, &format!("key_{id}")).await;
    }

    async fn key(&self, customer: &str, id: &str) {
        let key = add_key(&self.at, Owner::Customer(p(customer)), id).await;
        self.keys
            .lock()
            .unwrap()
            .insert(id.to_owned(), Arc::new(key));
    }

    /// Asks an instance at `time` to let calls in; returns how many it does.
    async fn call(&self, instance: &authorizer::App, key: &str, time: &str, calls: u64) -> u64 {
        self.at.time.set(p(time));
        let key = self.secret(key);
        let let_in = make_calls(instance, &key, calls).await;
        self.at.time.set(p(NIGHT));
        let_in
    }

    /// Has calls let in at `time`, by an instance that ends then.
    async fn admit(&self, key: &str, time: &str, calls: u64) {
        self.at.time.set(p(time));
        admit(&self.at, &self.secret(key), calls).await;
        self.at.time.set(p(NIGHT));
    }

    fn secret(&self, key: &str) -> Arc<ApiKey> {
        Arc::clone(&self.keys.lock().unwrap()[key])
    }

    async fn meter(&self, customer: &str, day: &str, number: u64) {
        add_usage(&self.at, customer, day, calls("pro", number)).await;
    }

    /// What is listed of that day.
    async fn listed(&self, day: &str) -> Vec<(CustomerId, LedgerComparison)> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.at.store.differences(p(day), after.as_deref()).await;
            let page = page.unwrap();
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    fn counted(&self) -> [u64; 3] {
        let metrics = [CALLS_UNMETERED, CALLS_UNADMITTED, CUSTOMERS_SILENT];
        metrics.map(|metric| self.cloudwatch.sum(metric, &[]))
    }
}

fn off(customer: &str, admitted: u64, metered: u64) -> (CustomerId, LedgerComparison) {
    (p(customer), LedgerComparison { admitted, metered })
}

#[tokio::test]
async fn the_ledgers_of_yesterday_are_compared_customer_by_customer() {
    let stack = Stack::new();
    for customer in ["even", "lossy", "silent", "twice", "idle"] {
        stack.customer(customer).await;
    }
    // Two keys, and hours from the first to the last; what is around them is of other days.
    stack.key("even", "key_even_2").await;
    stack.admit("key_even", "2026-11-21T00:00:00Z", 500).await;
    stack.admit("key_even_2", "2026-11-21T23:00:00Z", 500).await;
    stack.admit("key_even", "2026-11-20T23:00:00Z", 7_000).await;
    stack.admit("key_even", "2026-11-22T00:00:00Z", 7_000).await;
    stack.meter("even", DAY, 991).await;
    stack.meter("even", "2026-11-22", 7_000).await;
    stack
        .admit("key_lossy", "2026-11-21T10:00:00Z", 1_000)
        .await;
    stack.meter("lossy", DAY, 900).await;
    stack.admit("key_silent", "2026-11-21T10:00:00Z", 1).await;
    stack
        .admit("key_twice", "2026-11-21T10:00:00Z", 1_000)
        .await;
    stack.meter("twice", DAY, 2_000).await;
    let report = handle(&stack.app).await.unwrap();
    let expected = Report {
        day: p(DAY),
        customers: 4,
        admitted: 3_001,
        metered: 3_891,
        differences: 3,
    };
    assert_eq!(report, expected);
    let differences = [
        off("lossy", 1_000, 900),
        off("silent", 1, 0),
        off("twice", 1_000, 2_000),
    ];
    assert_eq!(stack.listed(DAY).await, differences);
    assert_eq!(stack.counted(), [101, 1_000, 1]);
    let (found, at) = stack.at.store.reconciled(p(DAY)).await.unwrap().unwrap();
    let total = LedgerComparison {
        admitted: 3_001,
        metered: 3_891,
    };
    let reconciled = ReconciliationSummary {
        customers: 4,
        total,
        off: 3,
    };
    assert_eq!((found, at), (reconciled, p(NIGHT)));
}

/// What an instance lets in is what it says, to the call, when it has ended: nothing is lost with the
/// hours that it leaves behind, and nothing is said that was refused.
#[tokio::test]
async fn bursts_in_many_hours_are_no_difference() {
    let stack = Stack::new();
    for customer in ["bursts", "mixed"] {
        stack.customer(customer).await;
    }
    add_customer(&stack.at, "refused", "free").await;
    stack.key("refused", "key_refused").await;
    let instance = authorizer(&stack.at);
    let mut begins: jiff::Timestamp = p("2026-11-21T00:00:10Z");
    for hour in 0..24 {
        let time = begins.to_string();
        let let_in = stack.call(&instance, "key_bursts", &time, 100).await;
        assert_eq!(let_in, 100);
        let let_in = stack
            .call(&instance, "key_mixed", &time, 1 + hour % 3)
            .await;
        assert_eq!(let_in, 1 + hour % 3);
        // A hundred an hour, and a thousand a month.
        let let_in = stack.call(&instance, "key_refused", &time, 105).await;
        assert_eq!(let_in, if hour < 10 { 100 } else { 0 });
        begins += 1.hour();
    }
    instance.end().await;
    stack.meter("bursts", DAY, 2_400).await;
    stack.meter("mixed", DAY, 48).await;
    stack.meter("refused", DAY, 1_000).await;
    let report = handle(&stack.app).await.unwrap();
    assert_eq!(stack.listed(DAY).await, []);
    let expected = Report {
        day: p(DAY),
        customers: 3,
        admitted: 3_448,
        metered: 3_448,
        differences: 0,
    };
    assert_eq!(report, expected);
}

#[tokio::test]
async fn a_further_run_begins_anew() {
    let stack = Stack::new();
    stack.customer("acme").await;
    stack.customer("globex").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    stack.admit("key_globex", "2026-11-21T10:00:00Z", 100).await;
    handle(&stack.app).await.unwrap();
    assert_eq!(
        stack.listed(DAY).await,
        [off("acme", 100, 0), off("globex", 100, 0)]
    );
    // Usage has come late.
    stack.meter("acme", DAY, 100).await;
    let report = run(&stack.app, p(DAY)).await.unwrap();
    assert_eq!(report.differences, 1);
    assert_eq!(stack.listed(DAY).await, [off("globex", 100, 0)]);
    assert_eq!(stack.listed("2026-11-20").await, []);
}

/// Of a run by hand, or one that did not come to its end, nothing is said.
#[tokio::test(start_paused = true)]
async fn a_night_that_compared_everyone_leaves_word_of_it() {
    let stack = Stack::new();
    stack.customer("acme").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    let nights = || stack.cloudwatch.values(RECONCILIATION_RUNS, &[]);
    run(&stack.app, p(DAY)).await.unwrap();
    stack.at.aws.inject(|call| match call.operation() {
        "BatchGetItem" => Fault::RequestLost,
        _ => Fault::None,
    });
    handle(&stack.app).await.unwrap_err();
    assert_eq!(nights(), [0; 0]);
    stack.at.aws.heal();
    handle(&stack.app).await.unwrap();
    assert_eq!(nights(), [1]);
}

#[tokio::test]
async fn keys_that_ended_count_for_the_days_on_which_they_were_used() {
    let stack = Stack::new();
    stack.customer("acme").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    let revoked = KeyChange {
        expires_at: Some(Some(p("2026-11-21T12:00:00Z"))),
        ..KeyChange::default()
    };
    let key = KeyRef::Id(p("key_acme"));
    stack.at.store.update_key(&key, &revoked).await.unwrap();
    assert_eq!(handle(&stack.app).await.unwrap().admitted, 100);
}

#[tokio::test]
async fn more_customers_than_a_page_has_keys_are_all_compared() {
    let stack = Stack::new();
    for n in 0..70 {
        let customer = format!("c-{n:02}");
        stack.customer(&customer).await;
        stack.key(&customer, &format!("key_{customer}_2")).await;
        for key in [format!("key_{customer}"), format!("key_{customer}_2")] {
            stack.admit(&key, "2026-11-21T10:00:00Z", 20).await;
        }
    }
    let report = handle(&stack.app).await.unwrap();
    assert_eq!((report.customers, report.admitted), (70, 70 * 40));
    let listed = stack.listed(DAY).await;
    assert_eq!(listed.len(), 70);
    assert!(listed.iter().all(|(_, compared)| compared.admitted == 40));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_has_no_summary_and_raises_nothing() {
    let stack = Stack::new();
    stack.customer("acme").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    stack.at.aws.inject(|call| match call.operation() {
        "BatchGetItem" => Fault::RequestLost,
        _ => Fault::None,
    });
    handle(&stack.app).await.unwrap_err();
    assert_eq!(stack.at.store.reconciled(p(DAY)).await.unwrap(), None);
    assert_eq!(stack.counted(), [0; 3]);
    stack.at.aws.heal();
    assert_eq!(handle(&stack.app).await.unwrap().differences, 1);
}

#[tokio::test]
async fn the_hours_that_a_key_shares_with_its_successors_count_once() {
    let stack = Stack::new();
    stack.customer("acme").await;
    for id in ["key_acme_2", "key_acme_3"] {
        let change = |key: &mut KeyRecord| key.hour_of = Some(p("key_acme"));
        stored::add_key_with(&stack.at, Owner::Customer(p("acme")), id, change).await;
    }
    stack.key("acme", "key_other").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    stack.admit("key_other", "2026-11-21T10:00:00Z", 20).await;
    assert_eq!(handle(&stack.app).await.unwrap().admitted, 120);
}
