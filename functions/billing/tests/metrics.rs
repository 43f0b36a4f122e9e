//! What the metrics say of a night.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use billing::{Mode, run};
use tollgate_local_aws::Fault;
use tollgate_runtime::metrics::{CENTS_CHARGED, CHARGES_FAILED, CHARGES_CREATED, BILLING_RUNS};

mod common;

use common::{NIGHT, Stack};

/// Nights run, charges made and failed, and cents charged so far.
fn counted(stack: &Stack) -> [u64; 4] {
    [BILLING_RUNS, CHARGES_CREATED, CHARGES_FAILED, CENTS_CHARGED]
        .map(|metric| stack.cloudwatch.sum(metric, &[]))
}

#[tokio::test(start_paused = true)]
async fn nights_and_charges_are_counted() {
    let stack = Stack::new();
    for customer in ["acme", "globex"] {
        stack.calls(customer, "2026-11-22", "pro", 100_100).await;
    }
    run(&stack.app, Mode::DryRun).await.unwrap();
    assert_eq!(counted(&stack), [0, 0, 0, 0]);
    assert!(stack.cloudwatch.values(CHARGES_CREATED, &[]).is_empty());

    stack.fail("globex", Fault::RequestLost);
    stack.try_night(NIGHT).await.unwrap_err();
    assert_eq!(counted(&stack), [1, 1, 1, 10]);
    stack.at.aws.heal();
    run(&stack.app, Mode::Charge).await.unwrap();
    assert_eq!(counted(&stack), [1, 2, 1, 20]);
    stack.night(NIGHT).await;
    assert_eq!(counted(&stack), [2, 2, 1, 20]);
}

/// The list of customers cannot be read: the night was not run, and the alarm must see that.
#[tokio::test(start_paused = true)]
async fn a_night_that_ends_early_does_not_count_as_run() {
    let stack = Stack::new();
    stack.at.aws.inject(|_| Fault::RequestLost);
    stack.try_night(NIGHT).await.unwrap_err();
    assert_eq!(counted(&stack), [0, 0, 0, 0]);
    // Zeros are written all the same: the alarm on failures then has data.
    assert_eq!(stack.cloudwatch.values(CHARGES_FAILED, &[]), [0]);
}
