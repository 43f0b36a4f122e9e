//! Metrics of decisions.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use serde_json::Value;
use tollgate_domain::key::KeyRecord;
use tollgate_domain::plan::Overrides;
use tollgate_local_aws::Fault;
use tollgate_runtime::metrics::{
    ADMITTED_CALLS, DECISION_LATENCY, DECISIONS, DECISIONS_WITHOUT_STORE, RESERVED_LEASES,
};
use tollgate_store::{CustomerChange, KeyChange, KeyRef};

mod common;

use common::{NOW, Stack, acme, event, key_in, p};

/// Checks that a call adds one to each metric that applies to this outcome and reason, and that the
/// metric's documentation has both.
async fn check(stack: &Stack, event: &Value, outcome: &str, reason: &str) {
    let counted = || {
        let latencies = stack.cloudwatch.values(DECISION_LATENCY, &[]).len();
        [
            stack.cloudwatch.sum(DECISIONS, &[outcome, reason]),
            u64::try_from(latencies).unwrap(),
            stack.cloudwatch.sum(ADMITTED_CALLS, &[]),
            stack.cloudwatch.sum(DECISIONS_WITHOUT_STORE, &[]),
        ]
    };
    let before = counted();
    let _ = stack.authorize(event).await;
    stack.metrics.write();
    let admitted = outcome == "allowed" && reason != "uncounted";
    let without_store = reason == "store_unavailable";
    let steps = [1, 1, u64::from(admitted), u64::from(without_store)];
    for value in [outcome, reason] {
        let is_documented = DECISIONS.doc.contains(&format!("`{value}`"));
        assert!(is_documented, "{value}");
    }
    let expected: Vec<u64> = before.iter().zip(steps).map(|(n, step)| n + step).collect();
    assert_eq!(counted(), *expected, "{outcome} {reason}");
}

fn with_resource(resource: &str) -> Value {
    let mut event = event("api-key-header");
    event["resource"] = resource.into();
    event
}

#[tokio::test(start_paused = true)]
async fn each_decision_is_counted_by_its_outcome_and_reason() {
    let call = event("api-key-header");
    let overrides = |hour, month| Overrides {
        requests_per_hour: hour,
        monthly_quota: month,
    };
    let stack = Stack::with_acme("free", overrides(Some(1), None)).await;
    check(&stack, &call, "allowed", "within_limits").await;
    assert_eq!(stack.cloudwatch.sum(RESERVED_LEASES, &[]), 2);
    check(&stack, &call, "denied", "rate_limited").await;
    assert_eq!(stack.cloudwatch.sum(RESERVED_LEASES, &[]), 2);
    let usage = with_resource("/api/usage/current");
    check(&stack, &usage, "allowed", "uncounted").await;
    check(&stack, &event("no-key"), "unauthorized", "missing_key").await;
    check(
        &stack,
        &event("malformed-key"),
        "unauthorized",
        "malformed_key",
    )
    .await;
    check(&stack, &event("bearer"), "unauthorized", "unknown_key").await;
    // The instance considers the hour exhausted for a second.
    stack.at.time.advance(jiff::SignedDuration::from_secs(1));
    stack.fail("UpdateItem", Fault::RequestLost);
    check(&stack, &call, "unavailable", "store_unavailable").await;
    stack.fail("GetItem", Fault::RequestLost);
    check(&stack, &call, "unavailable", "store_unavailable").await;

    let stack = Stack::with_acme("pro", overrides(None, Some(0))).await;
    check(&stack, &call, "denied", "quota_exceeded").await;
    assert_eq!(stack.cloudwatch.sum(RESERVED_LEASES, &[]), 0);
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    stack.fail("UpdateItem", Fault::RequestLost);
    check(&stack, &call, "allowed", "store_unavailable").await;
    stack.at.aws.heal();
    let stack = Stack::with_acme("gone", Overrides::default()).await;
    check(&stack, &call, "denied", "no_plan").await;

    let stack = Stack::empty();
    stack.add_customer("acme", "free").await;
    let expire = |key: &mut KeyRecord| key.expires_at = Some(p(NOW));
    stack.add_key(&key_in(&call), "key_1", acme(), expire).await;
    check(&stack, &call, "unauthorized", "expired_key").await;
    let stack = Stack::with_acme("free", Overrides::default()).await;
    let key = KeyRef::Id(p("key_1"));
    stack.at.store.revoke_key(&key, p(NOW)).await.unwrap();
    check(&stack, &call, "unauthorized", "revoked_key").await;

    let since = Some(Some(p(NOW)));
    let stack = Stack::with_acme("free", Overrides::default()).await;
    let change = CustomerChange {
        suspended_at: since,
        ..CustomerChange::default()
    };
    let store = &stack.at.store;
    store.update_customer(&p("acme"), &change).await.unwrap();
    check(&stack, &call, "denied", "customer_suspended").await;
    check(&stack, &usage, "allowed", "uncounted").await;
    let change = KeyChange {
        suspended_at: since,
        ..KeyChange::default()
    };
    store.update_key(&key, &change).await.unwrap();
    check(&stack, &call, "unauthorized", "suspended_key").await;
}

/// A log line per decision would cost more than the decision.
#[tokio::test]
async fn decisions_in_quick_succession_are_written_in_one_line() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let written = || {
        stack
            .cloudwatch
            .values(DECISIONS, &["allowed", "within_limits"])
    };
    for _ in 0..50 {
        stack.call().await;
    }
    assert_eq!(written(), [1]);
    stack.at.time.advance(jiff::SignedDuration::from_secs(10));
    stack.call().await;
    assert_eq!(written(), [1, 50]);
}
