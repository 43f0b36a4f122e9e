//! Reconciliation runs: the comparison of the ledgers, and the discrepancies that are stored.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use reconciliation::{App, ReconciliationReport, handle, run};
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::{KeyRecord, Owner};
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Fault};
use tollgate_runtime::Init;
use tollgate_runtime::metrics::{
    RECONCILIATION_RUNS, SILENT_CUSTOMERS, UNADMITTED_CALLS, UNMETERED_CALLS,
};
use tollgate_store::{KeyChange, KeyRef, ReconciliationSummary};
use tollgate_testing::admitted::admit;
use tollgate_testing::customers::{add_customer, add_key, add_key_with};
use tollgate_testing::faults::fail_operation;
use tollgate_testing::init::init;
use tollgate_testing::p;
use tollgate_testing::usage::{add_usage, calls};

/// Time of the runs: 03:30 on the day after [`DAY`].
const NOW: &str = "2026-11-22T03:30:00Z";
const DAY: &str = "2026-11-21";

struct Stack {
    at: Fixture,
    app: App,
    cloudwatch: CloudWatch,
}

impl Stack {
    fn new() -> Self {
        let at = Fixture::at(NOW);
        let cloudwatch = CloudWatch::default();
        let init = Init {
            metrics: cloudwatch.metrics("test", at.clock()),
            ..init(&at, "ReconciliationFunction")
        };
        let app = App::build(&init).unwrap();
        Self {
            at,
            app,
            cloudwatch,
        }
    }

    /// Adds a customer `<id>` with a key `key_<id>`.
    async fn customer(&self, id: &str) {
        add_customer(&self.at, id, "pro").await;
        self.key(id, &format!("key_{id}")).await;
    }

    async fn key(&self, customer: &str, id: &str) {
        add_key(&self.at, Owner::Customer(p(customer)), id).await;
    }

    /// Makes admitted calls at `time` on a new instance, which is then shut down.
    async fn admit(&self, key: &str, time: &str, calls: u64) {
        self.at.time.set(p(time));
        admit(&self.at, key, calls).await;
        self.at.time.set(p(NOW));
    }

    async fn meter(&self, customer: &str, day: &str, number: u64) {
        add_usage(&self.at, customer, day, calls("pro", number)).await;
    }

    /// Lists the discrepancies of a day.
    async fn listed(&self, day: &str) -> Vec<(CustomerId, LedgerComparison)> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self
                .at
                .store
                .list_discrepancies(p(day), after.as_deref())
                .await;
            let page = page.unwrap();
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    fn metric_sums(&self) -> [u64; 3] {
        let metrics = [UNMETERED_CALLS, UNADMITTED_CALLS, SILENT_CUSTOMERS];
        metrics.map(|metric| self.cloudwatch.sum(metric, &[]))
    }
}

fn discrepancy(customer: &str, admitted: u64, metered: u64) -> (CustomerId, LedgerComparison) {
    (p(customer), LedgerComparison { admitted, metered })
}

#[tokio::test]
async fn the_ledgers_of_yesterday_are_compared_customer_by_customer() {
    let stack = Stack::new();
    for customer in ["even", "lossy", "silent", "twice", "idle"] {
        stack.customer(customer).await;
    }
    // Two keys, in the first and the last hour of the day. The hours before and after are of other days.
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
    let expected = ReconciliationReport {
        day: p(DAY),
        customers: 4,
        admitted: 3_001,
        metered: 3_891,
        discrepancies: 3,
    };
    assert_eq!(report, expected);
    let discrepancies = [
        discrepancy("lossy", 1_000, 900),
        discrepancy("silent", 1, 0),
        discrepancy("twice", 1_000, 2_000),
    ];
    assert_eq!(stack.listed(DAY).await, discrepancies);
    assert_eq!(stack.metric_sums(), [101, 1_000, 1]);
    let (found, at) = stack.at.store.reconciled(p(DAY)).await.unwrap().unwrap();
    let total = LedgerComparison {
        admitted: 3_001,
        metered: 3_891,
    };
    let reconciled = ReconciliationSummary {
        customers: 4,
        total,
        discrepancies: 3,
    };
    assert_eq!((found, at), (reconciled, p(NOW)));
}

#[tokio::test]
async fn a_repeated_run_replaces_the_result_of_the_first() {
    let stack = Stack::new();
    stack.customer("acme").await;
    stack.customer("globex").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    stack.admit("key_globex", "2026-11-21T10:00:00Z", 100).await;
    handle(&stack.app).await.unwrap();
    assert_eq!(
        stack.listed(DAY).await,
        [discrepancy("acme", 100, 0), discrepancy("globex", 100, 0)]
    );
    // Usage comes late.
    stack.meter("acme", DAY, 100).await;
    let report = run(&stack.app, p(DAY)).await.unwrap();
    assert_eq!(report.discrepancies, 1);
    assert_eq!(stack.listed(DAY).await, [discrepancy("globex", 100, 0)]);
    assert_eq!(stack.listed("2026-11-20").await, []);
}

/// Manual runs and unfinished runs are not counted.
#[tokio::test(start_paused = true)]
async fn a_finished_nightly_run_is_counted_in_a_metric() {
    let stack = Stack::new();
    stack.customer("acme").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    let finished = || stack.cloudwatch.values(RECONCILIATION_RUNS, &[]);
    run(&stack.app, p(DAY)).await.unwrap();
    fail_operation(&stack.at.aws, "BatchGetItem", Fault::RequestLost);
    handle(&stack.app).await.unwrap_err();
    assert_eq!(finished(), [0; 0]);
    stack.at.aws.heal();
    handle(&stack.app).await.unwrap();
    assert_eq!(finished(), [1]);
}

#[tokio::test]
async fn expired_keys_count_for_the_days_on_which_they_were_used() {
    let stack = Stack::new();
    stack.customer("acme").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    let expiry = KeyChange {
        expires_at: Some(Some(p("2026-11-21T12:00:00Z"))),
        ..KeyChange::default()
    };
    let key = KeyRef::Id(p("key_acme"));
    stack.at.store.update_key(&key, &expiry).await.unwrap();
    assert_eq!(handle(&stack.app).await.unwrap().admitted, 100);
}

#[tokio::test]
async fn customers_on_several_pages_are_all_compared() {
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
async fn a_failed_run_has_no_summary_and_no_metrics() {
    let stack = Stack::new();
    stack.customer("acme").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    fail_operation(&stack.at.aws, "BatchGetItem", Fault::RequestLost);
    handle(&stack.app).await.unwrap_err();
    assert_eq!(stack.at.store.reconciled(p(DAY)).await.unwrap(), None);
    assert_eq!(stack.metric_sums(), [0; 3]);
    stack.at.aws.heal();
    assert_eq!(handle(&stack.app).await.unwrap().discrepancies, 1);
}

#[tokio::test]
async fn hourly_counters_that_a_key_shares_with_its_successors_count_once() {
    let stack = Stack::new();
    stack.customer("acme").await;
    for id in ["key_acme_2", "key_acme_3"] {
        let change = |key: &mut KeyRecord| key.hour_counter_id = Some(p("key_acme"));
        add_key_with(&stack.at, Owner::Customer(p("acme")), id, change).await;
    }
    stack.key("acme", "key_other").await;
    stack.admit("key_acme", "2026-11-21T10:00:00Z", 100).await;
    stack.admit("key_other", "2026-11-21T10:00:00Z", 20).await;
    assert_eq!(handle(&stack.app).await.unwrap().admitted, 120);
}
