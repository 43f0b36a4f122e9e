//! Events of thresholds: once for each customer, month and plan, and never in the way of a decision.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_local_aws::Fault;
use tollgate_store::schema::EVENTS;
use tollgate_store::{CustomerChange, UpdateCustomerOutcome};
use tollgate_testing::stored::{items, text};

mod common;

use common::Outcome::Allowed;
use common::{NOW, Stack, denied_by, limits, p};

/// Returns a stack whose customer `acme` is on this plan: `blocked` and `charged` include ten calls, `larger` twenty,
/// and `unlimited` has no limit.
async fn stack(plan: &str, overrides: Overrides) -> Stack {
    let plan_of = |id: &str, month: Value| {
        json!({
            "id": id, "name": "", "requests_per_hour": 1_000, "month": month, "fail_mode": "open",
            "max_lease": 1,
        })
    };
    let prices = json!([{ "from": "2026-01-01", "micro_usd_per_call": 1 }]);
    let plans = json!([
        plan_of("blocked", json!({ "kind": "blocked", "included": 10 })),
        plan_of("larger", json!({ "kind": "blocked", "included": 20 })),
        plan_of(
            "charged",
            json!({ "kind": "overage", "included": 10, "prices": prices })
        ),
        plan_of("unlimited", json!({ "kind": "unlimited" })),
    ]);
    let plans = Catalog::from_json(&plans.to_string()).unwrap();
    let stack = Stack::with(Duration::ZERO, plans);
    stack.and_acme(plan, overrides).await
}

/// Makes this number of calls, which are allowed.
async fn call(stack: &Stack, times: usize) {
    for _ in 0..times {
        assert_eq!(stack.call().await, Allowed);
    }
}

/// Returns the percentages in the stored events, in ascending order.
fn announced(stack: &Stack) -> Vec<u64> {
    let data = |item: &Value| serde_json::from_str::<Value>(&text(item, "data")).unwrap();
    let events = items(&stack.at, EVENTS);
    let percent = |item| data(item)["threshold_percent"].as_u64().unwrap();
    let mut announced: Vec<u64> = events.iter().map(percent).collect();
    announced.sort_unstable();
    announced
}

/// Counts the attempts to store an event from now on, and answers them with this fault.
fn attempts(stack: &Stack, fault: Fault) -> Arc<AtomicUsize> {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    stack.at.aws.inject(move |call| {
        if call.operation() != "PutItem" {
            return Fault::None;
        }
        counted.fetch_add(1, Ordering::Relaxed);
        fault
    });
    attempts
}

#[tokio::test]
async fn a_customer_is_announced_at_80_percent_and_at_the_last_call() {
    let stack = stack("blocked", Overrides::default()).await;
    call(&stack, 7).await;
    assert_eq!(announced(&stack), [0; 0]);
    call(&stack, 1).await;
    assert_eq!(announced(&stack), [80]);
    let stored = items(&stack.at, EVENTS);
    assert_eq!(text(&stored[0], "kind"), "quota.threshold");
    assert_eq!(text(&stored[0], "customer"), "acme");
    assert_eq!(text(&stored[0], "occurred_at"), "2026-11-22T10:40:00.000Z");
    let data: Value = serde_json::from_str(&text(&stored[0], "data")).unwrap();
    let expected = json!({
        "month": "2026-11", "plan": "blocked", "included": 10, "threshold_percent": 80, "calls": 8,
    });
    assert_eq!(data, expected);
    call(&stack, 1).await;
    assert_eq!(announced(&stack), [80]);
    call(&stack, 1).await;
    assert_eq!(announced(&stack), [80, 100]);
    let stored = items(&stack.at, EVENTS);
    assert_eq!(stack.call().await, denied_by("month"));
    assert_eq!(items(&stack.at, EVENTS), stored);
}

#[tokio::test]
async fn an_instance_stores_each_event_once_and_others_change_nothing() {
    let mut stack = stack("charged", Overrides::default()).await;
    let attempts = attempts(&stack, Fault::None);
    call(&stack, 30).await;
    assert_eq!(announced(&stack), [80, 100]);
    assert_eq!(attempts.load(Ordering::Relaxed), 2);
    let stored = items(&stack.at, EVENTS);
    stack.app = stack.instance();
    call(&stack, 5).await;
    assert_eq!(items(&stack.at, EVENTS), stored);
    assert_eq!(attempts.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_not_stored_changes_no_decision_and_is_tried_again() {
    for fault in [
        Fault::RequestLost,
        Fault::NoResponse,
        Fault::Throttled,
        Fault::Invalid,
    ] {
        let stack = stack("blocked", Overrides::default()).await;
        let attempts = attempts(&stack, fault);
        // Not each call waits, and the circuit breaker stays closed: all calls are counted.
        call(&stack, 10).await;
        assert_eq!(stack.call().await, denied_by("month"), "{fault:?}");
        assert_eq!(attempts.load(Ordering::Relaxed), 1, "{fault:?}");
        stack.at.aws.heal();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(stack.call().await, denied_by("month"), "{fault:?}");
        assert_eq!(announced(&stack), [80, 100], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_response_was_lost_is_stored_once() {
    let stack = stack("blocked", Overrides::default()).await;
    let _ = attempts(&stack, Fault::ResponseLost);
    call(&stack, 8).await;
    let stored = items(&stack.at, EVENTS);
    assert_eq!(announced(&stack), [80]);
    stack.at.aws.heal();
    tokio::time::advance(Duration::from_secs(6)).await;
    stack.at.time.advance(jiff::SignedDuration::from_secs(6));
    call(&stack, 1).await;
    assert_eq!(items(&stack.at, EVENTS), stored);
}

#[tokio::test]
async fn a_plan_without_included_calls_and_a_lower_quota_of_a_key_have_no_thresholds() {
    let unlimited = stack("unlimited", Overrides::default()).await;
    call(&unlimited, 30).await;
    assert_eq!(announced(&unlimited), [0; 0]);
    let capped = stack("blocked", limits(None, Some(5))).await;
    call(&capped, 5).await;
    assert_eq!(capped.call().await, denied_by("month"));
    assert_eq!(announced(&capped), [0; 0]);
}

#[tokio::test]
async fn each_month_and_a_larger_plan_have_thresholds_of_their_own() {
    let stack = stack("blocked", Overrides::default()).await;
    call(&stack, 10).await;
    assert_eq!(announced(&stack), [80, 100]);
    let larger = CustomerChange {
        plan: Some(p("larger")),
        ..CustomerChange::default()
    };
    let changed = stack.at.store.update_customer(&p("acme"), &larger).await;
    assert!(matches!(changed.unwrap(), UpdateCustomerOutcome::Done(_)));
    call(&stack, 5).await;
    assert_eq!(announced(&stack), [80, 100]);
    call(&stack, 1).await;
    assert_eq!(announced(&stack), [80, 80, 100]);
    stack.at.time.set(p("2026-12-01T00:00:00Z"));
    call(&stack, 16).await;
    assert_eq!(announced(&stack), [80, 80, 80, 100]);
    assert!(NOW < "2026-12");
}
