//! Limits: never exceeded, whatever the concurrency and the faults of the store.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tollgate_domain::plan::Overrides;
use tollgate_local_aws::Fault;
use tollgate_runtime::Entropy;

mod common;

use common::{NOW, Outcome::Allowed};
use common::{
    Outcome, Stack, acme, denied_by, event, key_in, limits, p, unavailable, with_headers,
};

/// Makes a call for each of the events, concurrently. Returns their outcomes.
async fn concurrently(
    stack: &Arc<Stack>,
    events: Vec<&'static str>,
) -> Vec<(&'static str, Outcome)> {
    let mut calls = JoinSet::new();
    for case in events {
        let stack = Arc::clone(stack);
        calls.spawn(async move { (case, Outcome::of(stack.authorize(&event(case)).await)) });
    }
    calls.join_all().await
}

/// Makes concurrent calls, and repeats those without a decision: on a busy machine, some time out.
async fn until_decided(stack: &Arc<Stack>, mut events: Vec<&'static str>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for _ in 0..20 {
        for (case, outcome) in concurrently(stack, std::mem::take(&mut events)).await {
            if outcome == unavailable() {
                events.push(case);
            } else {
                outcomes.push(outcome);
            }
        }
        if events.is_empty() {
            return outcomes;
        }
        // Longer than an open circuit breaker waits for its next probe.
        stack.at.time.advance(SignedDuration::from_secs(10));
    }
    panic!("{} calls were never decided", events.len());
}

/// Makes 200 concurrent calls with the key of `acme`.
async fn call_200_times(stack: &Arc<Stack>) -> Vec<Outcome> {
    until_decided(stack, vec!["api-key-header"; 200]).await
}

fn count(outcomes: &[Outcome], wanted: &Outcome) -> usize {
    outcomes.iter().filter(|one| *one == wanted).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_200_concurrent_calls_on_a_key_with_50_left_exactly_50_are_allowed() {
    let stack = Arc::new(Stack::with_acme("free", Overrides::default()).await);
    for _ in 0..50 {
        assert_eq!(stack.call().await, Allowed);
    }
    let outcomes = call_200_times(&stack).await;
    assert_eq!(count(&outcomes, &Allowed), 50);
    assert_eq!(count(&outcomes, &denied_by("hour")), 150);
    stack.shut_down().await;
    assert_eq!(stack.in_hour("key_1", "2026-11-22T10"), 100);
    assert_eq!(stack.in_month("2026-11"), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_denied_by_the_hour_spend_no_units_of_the_month() {
    let stack = Stack::with_acme("free", limits(Some(50), Some(80))).await;
    let stack = Arc::new(stack);
    let outcomes = call_200_times(&stack).await;
    assert_eq!(count(&outcomes, &Allowed), 50);
    assert_eq!(count(&outcomes, &denied_by("hour")), 150);
    stack.shut_down().await;
    assert_eq!(stack.in_month("2026-11"), 50);

    stack.at.time.set(p("2026-11-22T11:00:00Z"));
    let outcomes = call_200_times(&stack).await;
    assert_eq!(count(&outcomes, &Allowed), 30, "what is left of the month");
    stack.shut_down().await;
    assert_eq!(stack.in_month("2026-11"), 80);
    assert_eq!(stack.in_hour("key_1", "2026-11-22T11"), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_denied_by_the_month_spend_no_units_of_the_hour() {
    let stack = Stack::with_acme("free", limits(Some(100), Some(70))).await;
    let stack = Arc::new(stack);
    let outcomes = call_200_times(&stack).await;
    assert_eq!(count(&outcomes, &Allowed), 70);
    stack.shut_down().await;
    assert_eq!(stack.in_month("2026-11"), 70);
    assert_eq!(stack.in_hour("key_1", "2026-11-22T10"), 70);
    // The rest of the hour stays available to a key with a larger monthly quota.
    assert_eq!(stack.call().await, denied_by("month"));
    stack.shut_down().await;
    assert_eq!(stack.in_hour("key_1", "2026-11-22T10"), 70);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_keys_of_a_customer_share_the_month_but_not_the_hour() {
    let stack = Stack::with_acme("free", limits(Some(40), Some(60))).await;
    let second = key_in(&event("bearer"));
    stack
        .add_key(&second, "key_2", acme(), |key| {
            key.overrides = limits(Some(40), Some(60));
        })
        .await;
    let stack = Arc::new(stack);
    let events = ["api-key-header", "bearer"].repeat(100);
    let outcomes = until_decided(&stack, events).await;
    assert_eq!(count(&outcomes, &Allowed), 60);
    stack.shut_down().await;
    assert_eq!(stack.in_month("2026-11"), 60);
    let hours = ["key_1", "key_2"].map(|key| stack.in_hour(key, "2026-11-22T10"));
    assert!(hours.iter().all(|used| *used <= 40), "{hours:?}");
    assert_eq!(hours.iter().sum::<u64>(), 60);
}

/// Checks that `allowed` calls are allowed under these overrides of a plan's limits, and that the next
/// is denied by the limit of the window `then`.
async fn check_overrides(plan: &str, overrides: Overrides, allowed: usize, then: &str) {
    let stack = Stack::with_acme(plan, overrides).await;
    for n in 0..allowed {
        assert_eq!(stack.call().await, Allowed, "{plan} {overrides:?} {n}");
    }
    let next = stack.call().await;
    assert_eq!(next, denied_by(then), "{plan} {overrides:?}");
}

#[tokio::test]
async fn a_keys_own_limits_replace_those_of_the_plan() {
    let none = limits(None, None);
    check_overrides("free", none, 100, "hour").await;
    check_overrides("free", limits(Some(103), None), 103, "hour").await;
    check_overrides("free", limits(Some(3), None), 3, "hour").await;
    check_overrides("free", limits(None, Some(2)), 2, "month").await;
    check_overrides("pro", limits(Some(3), None), 3, "hour").await;
    check_overrides("pro", limits(None, Some(2)), 2, "month").await;
    check_overrides("enterprise", limits(Some(1), Some(9)), 1, "hour").await;
    check_overrides("enterprise", limits(None, Some(0)), 0, "month").await;
    check_overrides("enterprise", limits(Some(0), None), 0, "hour").await;
}

#[tokio::test]
async fn a_keys_own_quota_may_exceed_the_plans() {
    let stack = Stack::with_acme("free", limits(Some(2_000), Some(1_100))).await;
    for _ in 0..1_100 {
        assert_eq!(stack.call().await, Allowed);
    }
    assert_eq!(stack.call().await, denied_by("month"));
}

/// Makes a call of `acme` and returns the context in the response.
async fn context(stack: &Stack) -> Value {
    let response = stack.authorize(&event("api-key-header")).await;
    response.unwrap()["context"].clone()
}

/// Checks that a call is denied until one second before the end of `retryAfter`, and allowed at its end.
async fn check_wait(stack: &Stack, window: &str) {
    let denial = context(stack).await;
    assert_eq!(denial["window"], window);
    let wait = SignedDuration::from_secs(p(denial["retryAfter"].as_str().unwrap()));
    let second = SignedDuration::from_secs(1);
    stack.at.time.advance(wait - second);
    assert_eq!(stack.call().await, denied_by(window));
    stack.at.time.advance(second);
    let fresh = context(stack).await;
    assert!(fresh.get("window").is_none(), "still denied: {fresh}");
}

#[tokio::test]
async fn a_new_hour_starts_at_zero() {
    let stack = Stack::with_acme("free", limits(Some(2), None)).await;
    for now in [NOW, "2026-11-22T10:59:59.999Z"] {
        stack.at.time.set(p(now));
        assert_eq!(stack.call().await, Allowed, "{now}");
    }
    assert_eq!(stack.call().await, denied_by("hour"));
    stack.at.time.set(p("2026-11-22T11:00:00Z"));
    assert_eq!(context(&stack).await["rateLimitRemaining"], "1");
    stack.shut_down().await;
    assert_eq!(stack.in_hour("key_1", "2026-11-22T10"), 2);
    assert_eq!(stack.in_hour("key_1", "2026-11-22T11"), 1);
    assert_eq!(stack.in_month("2026-11"), 3, "the month continues");
}

#[tokio::test]
async fn a_new_month_starts_at_zero() {
    let stack = Stack::with_acme("free", limits(None, Some(2))).await;
    for now in [NOW, "2026-11-30T23:59:59.999Z"] {
        stack.at.time.set(p(now));
        assert_eq!(stack.call().await, Allowed, "{now}");
    }
    assert_eq!(stack.call().await, denied_by("month"));
    stack.at.time.set(p("2026-12-01T00:00:00Z"));
    assert_eq!(context(&stack).await["rateLimitRemaining"], "1");
    stack.shut_down().await;
    assert_eq!(stack.in_month("2026-11"), 2);
    assert_eq!(stack.in_month("2026-12"), 1);
}

#[tokio::test]
async fn calls_are_allowed_after_retry_after_and_not_before() {
    for now in [NOW, "2026-11-22T10:59:59.5Z", "2026-12-31T23:00:00Z"] {
        for (window, limits) in [
            ("hour", limits(Some(1), None)),
            ("month", limits(None, Some(1))),
        ] {
            let stack = Stack::with_acme("free", limits).await;
            stack.at.time.set(p(now));
            assert_eq!(stack.call().await, Allowed);
            check_wait(&stack, window).await;
        }
    }
}

/// Checks the outcome of a call while every write to a counter has this fault.
async fn check_uncountable(plan: &str, fault: Fault, expected: Outcome) {
    let stack = Stack::with_acme(plan, Overrides::default()).await;
    stack.fail("UpdateItem", fault);
    if expected == Allowed {
        let mut context = context(&stack).await;
        let names: Vec<String> = context.as_object_mut().unwrap().keys().cloned().collect();
        let caller = ["customerId", "keyId", "keyPrefix", "plan", "role"];
        assert_eq!(names, caller, "{plan} {fault:?}");
    } else {
        assert_eq!(stack.call().await, expected, "{plan} {fault:?}");
    }
    // The customer can still read its usage.
    advance_to_probe(&stack);
    let usage = with_resource("/api/usage/current");
    assert_eq!(Outcome::of(stack.authorize(&usage).await), Allowed);
    stack.at.aws.heal();
    assert_eq!(stack.call().await, Allowed, "{plan} {fault:?}");
}

/// Advances the clock to the next probe of the store by an open circuit breaker.
fn advance_to_probe(stack: &Stack) {
    stack.at.time.advance(SignedDuration::from_millis(500));
}

fn with_resource(resource: &str) -> Value {
    let mut event = event("api-key-header");
    event["resource"] = resource.into();
    event
}

#[tokio::test(start_paused = true)]
async fn while_counters_cannot_be_written_the_plans_fail_mode_decides() {
    for fault in [
        Fault::RequestLost,
        Fault::ResponseLost,
        Fault::Throttled,
        Fault::Conflict,
    ] {
        check_uncountable("free", fault, unavailable()).await;
        check_uncountable("pro", fault, Allowed).await;
        check_uncountable("enterprise", fault, Allowed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_uncached_keys_cannot_be_read_no_call_is_allowed() {
    for fault in [Fault::RequestLost, Fault::Throttled] {
        for plan in ["free", "pro", "enterprise"] {
            let stack = Stack::with_acme(plan, Overrides::default()).await;
            stack.fail("GetItem", fault);
            assert_eq!(stack.call().await, unavailable(), "{plan} {fault:?}");
            assert_eq!(stack.counters(), [], "{plan} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_uncached_customers_cannot_be_read_no_call_is_allowed() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    stack.at.aws.inject(|call| {
        let customer = call.operation() == "GetItem" && call.body.contains("CUSTOMER#");
        if customer {
            Fault::RequestLost
        } else {
            Fault::None
        }
    });
    assert_eq!(stack.call().await, unavailable());
    advance_to_probe(&stack);
    let unknown = with_headers(
        event("no-key"),
        &[("x-api-key", key_in(&event("bearer")).expose())],
    );
    let response = stack.authorize(&unknown).await;
    assert_eq!(response, Err("Unauthorized".to_owned()));
}

/// Checks that a decision is made in time while an operation of the store does not respond.
async fn check_in_time(plan: &str, operation: &'static str, expected: Outcome) {
    let stack = Stack::with_acme(plan, Overrides::default()).await;
    stack.fail(operation, Fault::NoResponse);
    let started = Instant::now();
    assert_eq!(stack.call().await, expected, "{plan} {operation}");
    let waited = started.elapsed();
    assert!(
        waited < Duration::from_secs(1),
        "{plan} {operation}: {waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_decision_takes_less_than_a_second_if_the_store_does_not_respond() {
    check_in_time("free", "GetItem", unavailable()).await;
    check_in_time("pro", "GetItem", unavailable()).await;
    check_in_time("free", "UpdateItem", unavailable()).await;
    check_in_time("pro", "UpdateItem", Allowed).await;
    check_in_time("enterprise", "UpdateItem", Allowed).await;
}

/// Makes random bursts of calls in three hours, with random faults of the writes to counters, and checks
/// the limits. Returns the outcomes.
async fn three_hours_with_faults(seed: u64) -> Vec<Outcome> {
    const PER_HOUR: u64 = 7;
    const PER_MONTH: u64 = 16;
    let entropy = Entropy::seeded(seed);
    let stack = Stack::with_acme("free", limits(Some(PER_HOUR), Some(PER_MONTH))).await;
    let faults = entropy.clone();
    stack.at.aws.inject(move |call| {
        if call.operation() != "UpdateItem" {
            return Fault::None;
        }
        match faults.below(10) {
            0 | 1 => Fault::ResponseLost,
            2 => Fault::RequestLost,
            3 => Fault::Throttled,
            _ => Fault::None,
        }
    });
    let stack = Arc::new(stack);
    let mut all = Vec::new();
    let mut in_month = 0;
    for hour in ["2026-11-22T10", "2026-11-22T11", "2026-11-22T12"] {
        stack.at.time.set(p(&format!("{hour}:30:00Z")));
        let mut in_hour = 0;
        for _ in 0..6 {
            // Longer than an open circuit breaker waits for its next probe.
            stack.at.time.advance(SignedDuration::from_secs(10));
            let times = 1 + entropy.below(8);
            let events = vec!["api-key-header"; usize::try_from(times).unwrap()];
            let outcomes = concurrently(&stack, events).await;
            let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
            in_hour += u64::try_from(count(&outcomes, &Allowed)).unwrap();
            all.extend(outcomes);
        }
        assert!(in_hour <= PER_HOUR, "seed {seed}: {in_hour} in {hour}");
        let counted = stack.in_hour("key_1", hour);
        assert!(
            (in_hour..=PER_HOUR).contains(&counted),
            "seed {seed}: {counted} counted, {in_hour} admitted"
        );
        in_month += in_hour;
    }
    assert!(in_month <= PER_MONTH, "seed {seed}: {in_month} in all");
    let counted = stack.in_month("2026-11");
    assert!(
        (in_month..=PER_MONTH).contains(&counted),
        "seed {seed}: {counted} counted, {in_month} admitted"
    );
    all
}

#[tokio::test(start_paused = true)]
async fn no_limit_is_exceeded_whatever_the_faults() {
    let mut all = Vec::new();
    for seed in 0..40 {
        all.extend(three_hours_with_faults(seed).await);
    }
    // Otherwise no limit was reached, or no fault mattered.
    for seen in [
        Allowed,
        denied_by("hour"),
        denied_by("month"),
        unavailable(),
    ] {
        assert!(all.contains(&seen), "never {seen:?}");
    }
}
