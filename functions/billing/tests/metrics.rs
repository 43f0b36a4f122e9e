//! Metrics of billing runs.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use tollgate_billing::Mode;
use tollgate_local_aws::Fault;
use tollgate_runtime::metrics::{
    BILLING_RUNS, CHARGED_CENTS, CREATED_CHARGES, FAILED_BILLING_PERIODS,
};

mod common;

use common::{NOW, Stack, run_whole};

/// Returns the sums so far of finished runs, created charges, failed billing periods and charged cents.
fn counted(stack: &Stack) -> [u64; 4] {
    [
        BILLING_RUNS,
        CREATED_CHARGES,
        FAILED_BILLING_PERIODS,
        CHARGED_CENTS,
    ]
    .map(|metric| stack.cloudwatch.sum(metric, &[]))
}

#[tokio::test(start_paused = true)]
async fn runs_and_charges_are_counted() {
    let stack = Stack::new();
    for customer in ["acme", "globex"] {
        stack.calls(customer, "2026-11-22", "pro", 100_100).await;
    }
    run_whole(&stack.app.billing, Mode::DryRun).await.unwrap();
    assert_eq!(counted(&stack), [0, 0, 0, 0]);
    assert!(stack.cloudwatch.values(CREATED_CHARGES, &[]).is_empty());

    stack.fail("globex", Fault::RequestLost);
    stack.try_run(NOW).await.unwrap_err();
    assert_eq!(counted(&stack), [1, 1, 1, 10]);
    stack.at.aws.heal();
    run_whole(&stack.app.billing, Mode::Charge).await.unwrap();
    assert_eq!(counted(&stack), [1, 2, 1, 20]);
    stack.run(NOW).await;
    assert_eq!(counted(&stack), [2, 2, 1, 20]);
}

/// A run that cannot read the list of customers has not finished, so the alarm on missed runs must be raised.
#[tokio::test(start_paused = true)]
async fn a_run_that_ends_early_is_not_counted() {
    let stack = Stack::new();
    stack.at.aws.inject(|_| Fault::RequestLost);
    stack.try_run(NOW).await.unwrap_err();
    assert_eq!(counted(&stack), [0, 0, 0, 0]);
    // Zeros are still written, so that the alarm on failures has data.
    assert_eq!(stack.cloudwatch.values(FAILED_BILLING_PERIODS, &[]), [0]);
}
