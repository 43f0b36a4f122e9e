//! Quota leases: the writes that they save, and the accounting of units whatever the faults.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use authorizer::{App, Request, handle};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tollgate_domain::key::KeyRecord;
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_local_aws::{Call, Fault};
use tollgate_store::schema::COUNTERS;
use tollgate_testing::faults::fail_in_turn;
use tollgate_testing::stored::{items, raw};

mod common;

use common::Outcome::Allowed;
use common::{
    NOW, Outcome, Stack, acme, denied_by, event, key_in, limits, p, unavailable, with_headers,
};

/// Creates a stack whose plan `strict` reserves units one by one, 20 in an hour and 12 in a month.
async fn strict(overrides: Overrides) -> Stack {
    let plans = r#"[{"id":"strict","name":"","requests_per_hour":20,"max_lease":1,
        "month":{"kind":"blocked","included":12},"fail_mode":"closed"}]"#;
    let stack = Stack::with(Duration::ZERO, Catalog::from_json(plans).unwrap());
    stack.and_acme("strict", overrides).await
}

/// Makes a call of `acme` to this instance.
async fn call_on(app: &App) -> Outcome {
    call_with(app, "api-key-header").await
}

/// Makes the call of this case to this instance.
async fn call_with(app: &App, case: &str) -> Outcome {
    let event = event(case).to_string();
    let request = Request::from_json(&event).unwrap();
    let response = handle(app, &request).await;
    let response = response.map(|response| serde_json::to_value(response).unwrap());
    Outcome::of(response.map_err(|error| error.to_string()))
}

/// Returns a count of the writes from now on.
fn writes(stack: &Stack) -> Arc<AtomicUsize> {
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    stack.at.aws.inject(move |call: &Call| {
        let is_write = call.operation() == "UpdateItem";
        counted.fetch_add(usize::from(is_write), Ordering::Relaxed);
        Fault::None
    });
    writes
}

/// Injects these faults into the next writes, in order, and none into later ones.
fn write_faults<const N: usize>(stack: &Stack, faults: [Fault; N]) {
    fail_in_turn(&stack.at.aws, "UpdateItem", faults);
}

fn advance_ms(stack: &Stack, milliseconds: i64) {
    let passing = SignedDuration::from_millis(milliseconds);
    stack.at.time.advance(passing);
}

/// Returns the units of the initial hour reserved for `key_1`.
fn in_this_hour(stack: &Stack) -> u64 {
    stack.in_hour("key_1", "2026-11-22T10")
}

#[tokio::test]
async fn a_key_in_constant_use_costs_about_one_write_per_second_and_counter() {
    let stack = Stack::with_acme("enterprise", Overrides::default()).await;
    let writes = writes(&stack);
    for _ in 0..5_000 {
        assert_eq!(stack.call().await, Allowed);
        advance_ms(&stack, 2);
    }
    let in_ten_seconds = writes.load(Ordering::Relaxed);
    assert!(in_ten_seconds <= 40, "{in_ten_seconds}");
    stack.shut_down().await;
    assert_eq!(in_this_hour(&stack), 5_000);
    assert_eq!(stack.in_month("2026-11"), 5_000);
}

#[tokio::test]
async fn a_key_in_rare_use_reserves_as_many_units_as_it_has_spent_up_to_eight() {
    let stack = Stack::with_acme("enterprise", Overrides::default()).await;
    let mut reserved = Vec::new();
    for _ in 0..20 {
        assert_eq!(stack.call().await, Allowed);
        reserved.push(in_this_hour(&stack));
        advance_ms(&stack, 60_000);
    }
    let twice = [1, 2, 4, 4, 8, 8, 8, 8];
    let by_eight = [&[16; 8][..], &[24; 4]].concat();
    assert_eq!(reserved, [&twice[..], &by_eight].concat());
}

#[tokio::test]
async fn the_units_left_are_released_once() {
    let stack = Stack::with_acme("enterprise", Overrides::default()).await;
    for _ in 0..70 {
        stack.call().await;
    }
    assert_eq!(in_this_hour(&stack), 85, "1 + 4 + 16 + 64");
    stack.shut_down().await;
    stack.shut_down().await;
    assert_eq!((in_this_hour(&stack), stack.in_month("2026-11")), (70, 70));
    let counter = stack.at.store.month_counter(&p("acme"), p("2026-11")).await;
    assert_eq!(counter.unwrap().spent, 70);
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(in_this_hour(&stack), 71);
}

#[tokio::test(start_paused = true)]
async fn units_are_released_once_whatever_the_faults() {
    for fault in [Fault::ResponseLost, Fault::RequestLost, Fault::Throttled] {
        let stack = Stack::with_acme("enterprise", Overrides::default()).await;
        for _ in 0..70 {
            stack.call().await;
        }
        assert_eq!(in_this_hour(&stack), 85, "{fault:?}");
        write_faults(&stack, [fault, fault]);
        stack.shut_down().await;
        let left = [in_this_hour(&stack), stack.in_month("2026-11")];
        assert_eq!(left, [70, 70], "{fault:?}");
        assert_eq!(stack.admitted("key_1").await, 70, "{fault:?}");
    }
}

/// The first call's decision was made without a response to its reservation.
#[tokio::test(start_paused = true)]
async fn a_reservation_without_a_response_is_found_by_the_next() {
    let stack = Stack::with_acme("free", Overrides::default()).await;
    write_faults(&stack, [Fault::NoResponse; 6]);
    assert_eq!(stack.call().await, unavailable());
    stack.at.aws.heal();
    advance_ms(&stack, 500);
    assert_eq!(in_this_hour(&stack), 1);
    let writes = writes(&stack);
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(in_this_hour(&stack), 1, "the unit was reserved already");
    assert_eq!(stack.in_month("2026-11"), 1);
    assert_eq!(writes.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_crash_loses_no_more_than_the_lease() {
    let stack = Stack::with_acme("free", limits(Some(90), None)).await;
    for _ in 0..20 {
        assert_eq!(stack.call().await, Allowed);
    }
    let reserved = in_this_hour(&stack);
    assert!((20..=25).contains(&reserved), "{reserved}");
    let survivor = stack.instance();
    for n in reserved..90 {
        assert_eq!(call_on(&survivor).await, Allowed, "{n}");
    }
    assert_eq!(call_on(&survivor).await, denied_by("hour"));
    assert_eq!(in_this_hour(&stack), 90);
}

#[tokio::test]
async fn instances_share_a_limit_to_the_last_unit() {
    let stack = Stack::with_acme("free", Overrides::default()).await;
    let instances: Vec<App> = (0..7).map(|_| stack.instance()).collect();
    let mut admitted = 0;
    let mut denials = 0;
    for turn in 0.. {
        let instance = &instances[turn % instances.len()];
        match call_on(instance).await {
            Allowed => {
                admitted += 1;
                denials = 0;
            }
            denied => {
                assert_eq!(denied, denied_by("hour"));
                denials += 1;
            }
        }
        assert!(in_this_hour(&stack) <= 100);
        if denials == instances.len() {
            break;
        }
    }
    assert_eq!(admitted, 100, "each instance spends all units of its lease");
}

#[tokio::test]
async fn a_strict_plan_allows_exactly_its_limit_before_the_first_denial() {
    for (overrides, allowed, by) in [
        (limits(None, None), 12, "month"),
        (limits(Some(5), None), 5, "hour"),
    ] {
        let stack = strict(overrides).await;
        let instances: Vec<App> = (0..5).map(|_| stack.instance()).collect();
        for n in 0..allowed {
            assert_eq!(call_on(&instances[n % 5]).await, Allowed, "{n}");
        }
        assert_eq!(call_on(&instances[allowed % 5]).await, denied_by(by));
        // A denial by the hour spends no unit of the month.
        assert_eq!(
            stack.in_month("2026-11"),
            u64::try_from(allowed.min(12)).unwrap()
        );
    }
}

/// Another instance would find the month exhausted meanwhile.
#[tokio::test]
async fn a_strict_plan_reserves_no_unit_of_the_month_for_a_call_that_the_hour_denies() {
    let stack = strict(limits(Some(2), None)).await;
    let second = key_in(&event("bearer"));
    stack.add_key(&second, "key_2", acme(), |_| ()).await;
    for (case, calls) in [("api-key-header", 2), ("bearer", 10)] {
        for _ in 0..calls {
            assert_eq!(call_with(&stack.app, case).await, Allowed);
        }
    }
    assert_eq!(
        call_with(&stack.app, "bearer").await,
        denied_by("month"),
        "the month is exhausted"
    );
    // An instance that has ended has released a unit of the month.
    let month = json!({
        "Key": { "pk": { "S": "MONTH#acme#2026-11" } },
        "UpdateExpression": "SET used = used - :one",
        "ExpressionAttributeValues": { ":one": { "N": "1" } },
    });
    raw(&stack.at, "UpdateItem", COUNTERS, month);
    advance_ms(&stack, 1_000);
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    stack.at.aws.inject(move |call: &Call| {
        let is_of_month = call.body.contains("MONTH#");
        let is_write = call.operation() == "UpdateItem" && is_of_month;
        counted.fetch_add(usize::from(is_write), Ordering::Relaxed);
        Fault::None
    });
    assert_eq!(stack.call().await, denied_by("hour"));
    assert_eq!(writes.load(Ordering::Relaxed), 0);
    assert_eq!(call_with(&stack.instance(), "bearer").await, Allowed);
}

#[tokio::test]
async fn units_of_both_counters_are_reserved_concurrently() {
    let stack = Stack::with_acme("free", Overrides::default()).await;
    write_faults(&stack, [Fault::NoResponse]);
    let stack = Arc::new(stack);
    let calling = Arc::clone(&stack);
    let call = tokio::spawn(async move { calling.call().await });
    while in_this_hour(&stack) == 0 || stack.in_month("2026-11") == 0 {
        tokio::task::yield_now().await;
    }
    call.abort();
}

#[tokio::test]
async fn the_units_of_an_hour_are_not_spent_in_the_next() {
    let stack = Stack::with_acme("enterprise", limits(Some(300), None)).await;
    for _ in 0..20 {
        stack.call().await;
    }
    let reserved = in_this_hour(&stack);
    assert!(reserved > 20, "no unit is left");
    stack.at.time.set(p("2026-11-22T11:00:00Z"));
    for n in 0..300 {
        assert_eq!(stack.call().await, Allowed, "{n}");
    }
    assert_eq!(stack.call().await, denied_by("hour"));
    assert_eq!(stack.in_hour("key_1", "2026-11-22T11"), 300);
    assert_eq!(in_this_hour(&stack), reserved);
    // After the clock is set back, the units left of that hour are spent, and no more.
    stack.at.time.set(p(NOW));
    for n in 20..reserved {
        assert_eq!(stack.call().await, Allowed, "{n}");
        assert_eq!(in_this_hour(&stack), reserved);
    }
}

#[tokio::test]
async fn units_reserved_under_a_higher_limit_are_not_spent_under_a_lower_one() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let second = key_in(&event("bearer"));
    let capped = |quota| move |key: &mut KeyRecord| key.overrides = quota;
    stack
        .add_key(&second, "key_2", acme(), capped(limits(None, Some(40))))
        .await;
    for _ in 0..50 {
        assert_eq!(stack.call().await, Allowed);
    }
    let reserved = stack.in_month("2026-11");
    assert!(reserved > 50, "no unit is left");
    let second = Outcome::of(stack.authorize(&event("bearer")).await);
    assert_eq!(second, denied_by("month"));
    assert_eq!(stack.call().await, Allowed, "the first key is not capped");
}

#[tokio::test]
async fn an_exhausted_window_costs_one_request_a_second() {
    let stack = Stack::with_acme("free", limits(Some(1), None)).await;
    assert_eq!(stack.call().await, Allowed);
    let writes = writes(&stack);
    for seconds in 1..=3 {
        for _ in 0..100 {
            assert_eq!(stack.call().await, denied_by("hour"));
        }
        assert_eq!(writes.load(Ordering::Relaxed), seconds);
        advance_ms(&stack, 1_000);
    }
}

/// An instance reserves the last unit of a counter's root. It is denied only after no branch has units left.
#[tokio::test]
async fn units_of_branches_are_used_before_the_first_denial() {
    let plans = r#"[{"id":"strict","name":"","requests_per_hour":10000,"max_lease":1,
        "month":{"kind":"blocked","included":10000},"fail_mode":"closed"}]"#;
    let stack = Stack::with(Duration::ZERO, Catalog::from_json(plans).unwrap());
    let stack = stack.and_acme("strict", Overrides::default()).await;
    let at_root = stack.instance();
    let mut admitted = 1;
    assert_eq!(call_on(&at_root).await, Allowed);
    for _ in 0..24 {
        assert_eq!(call_on(&stack.instance()).await, Allowed);
        admitted += 1;
    }
    let mut counters = items(&stack.at, COUNTERS).into_iter();
    let root = counters.find(|item| item["pk"]["S"] == "MONTH#acme#2026-11");
    let used: u64 = p(root.unwrap()["used"]["N"].as_str().unwrap());
    assert!(used > admitted, "the branches have no units");
    // A key whose quota has room for one unit at the root.
    let limit = used + 1;
    let capped = |key: &mut KeyRecord| key.overrides = limits(None, Some(limit));
    let second = key_in(&event("bearer"));
    stack.add_key(&second, "key_2", acme(), capped).await;
    while call_with(&at_root, "bearer").await == Allowed {
        admitted += 1;
    }
    assert_eq!(admitted, limit);
}

#[tokio::test]
async fn units_released_by_another_instance_are_used() {
    let stack = Stack::with_acme("free", limits(Some(40), None)).await;
    let other = stack.instance();
    for _ in 0..4 {
        assert_eq!(call_on(&other).await, Allowed);
    }
    let mut admitted = 4;
    while stack.call().await == Allowed {
        admitted += 1;
    }
    let left = 40 - admitted;
    assert!(left > 0, "the other instance has no units left");
    other.shut_down().await;
    advance_ms(&stack, 1_000);
    for _ in 0..left {
        assert_eq!(stack.call().await, Allowed);
    }
    assert_eq!(stack.call().await, denied_by("hour"));
}

/// Creates another key of `acme` and returns the event of a call with it.
async fn event_with_new_key(stack: &Stack, id: &str) -> Value {
    let format = tollgate_domain::key::KeyFormat::new("tg", "live").unwrap();
    let entropy = &stack.at.entropy;
    let key = entropy.with(|rng| format.generate(tollgate_domain::key::KeyKind::Customer, rng));
    stack.add_key(&key, id, acme(), |_| ()).await;
    with_headers(event("no-key"), &[("x-api-key", key.expose())])
}

/// An instance may decide calls of thousands of keys in an hour, one call for most of them.
#[tokio::test]
async fn settled_counters_are_dropped_and_those_with_units_left_are_kept() {
    let stack = Stack::with_acme("enterprise", Overrides::default()).await;
    for _ in 0..20 {
        stack.call().await;
    }
    let reserved = in_this_hour(&stack);
    assert_eq!(reserved, 21, "one unit is left");
    for n in 0..1_100 {
        let call = event_with_new_key(&stack, &format!("key_{}", n + 100)).await;
        assert_eq!(Outcome::of(stack.authorize(&call).await), Allowed);
    }
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(in_this_hour(&stack), reserved, "the unit that was left");
}

/// With an open circuit breaker, few calls send requests for keys or for units.
#[tokio::test(start_paused = true)]
async fn few_requests_are_sent_to_a_store_that_does_not_respond() {
    let stack = cached_stack("pro", limits(Some(100_000), None)).await;
    assert_eq!(stack.call().await, Allowed);
    let requests = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&requests);
    stack.at.aws.inject(move |_| {
        *counted.lock().unwrap() += 1;
        Fault::NoResponse
    });
    let started = tokio::time::Instant::now();
    for _ in 0..600 {
        assert_eq!(stack.call().await, Allowed);
        advance_ms(&stack, 100);
    }
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    let requests = *requests.lock().unwrap();
    assert!(requests < 25, "{requests}");
    stack.at.aws.heal();
    advance_ms(&stack, 8_000);
    stack.call().await;
    let before = in_this_hour(&stack);
    for _ in 0..before * 2 + 10 {
        assert_eq!(stack.call().await, Allowed);
    }
    assert!(in_this_hour(&stack) > before, "calls are counted again");
}

/// Sets the clock to `hours` after the instant `text`.
fn set_hour(stack: &Stack, hours: i64, text: &str) {
    let hour: jiff::Timestamp = p(text);
    stack.at.time.set(hour + SignedDuration::from_hours(hours));
}

/// Creates a stack whose key cache has a TTL of 5 s, for tests with many calls.
async fn cached_stack(plan: &str, overrides: Overrides) -> Stack {
    let stack = Stack::with(Duration::from_secs(5), Catalog::shipped().unwrap());
    stack.and_acme(plan, overrides).await
}

#[tokio::test]
async fn bursts_in_several_hours_are_reported_exactly() {
    for (plan, calls, hours) in [("pro", 100, 24), ("enterprise", 50, 8), ("pro", 1, 24)] {
        let stack = cached_stack(plan, Overrides::default()).await;
        for hour in 0..hours {
            set_hour(&stack, i64::try_from(hour).unwrap(), "2026-11-22T00:00:10Z");
            for _ in 0..calls {
                assert_eq!(stack.call().await, Allowed);
            }
            // All calls of the hours before, and some or all of this one.
            let admitted = stack.admitted("key_1").await;
            let before = hour * calls;
            assert!(
                (before..=before + calls).contains(&admitted),
                "{hour}: {admitted}"
            );
        }
        stack.shut_down().await;
        assert_eq!(stack.admitted("key_1").await, calls * hours, "{plan}");
        let month = stack.at.store.month_counter(&p("acme"), p("2026-11")).await;
        let month = month.unwrap();
        assert_eq!(
            (month.reserved, month.spent),
            (calls * hours, calls * hours)
        );
    }
}

#[tokio::test]
async fn an_ended_hour_is_reported_at_the_next_invocation_whatever_its_outcome() {
    for case in ["no-key", "malformed-key", "admin-route", "bearer"] {
        let stack = cached_stack("enterprise", Overrides::default()).await;
        for _ in 0..50 {
            assert_eq!(stack.call().await, Allowed);
        }
        assert_ne!(stack.admitted("key_1").await, 50, "no call is unreported");
        set_hour(&stack, 1, "2026-11-22T10:00:03Z");
        if case == "bearer" {
            let other = key_in(&event(case));
            stack.add_key(&other, "key_2", acme(), |_| ()).await;
        }
        let _ = stack.authorize(&event(case)).await;
        assert_eq!(stack.admitted("key_1").await, 50, "{case}");
        assert_eq!(in_this_hour(&stack), 50);
        stack.shut_down().await;
        assert_eq!(stack.admitted("key_1").await, 50);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ended_hour_of_many_keys_is_reported_by_one_invocation() {
    let stack = cached_stack("enterprise", Overrides::default()).await;
    let keys: Vec<String> = (101..=200).map(|n| format!("key_{n}")).collect();
    for id in &keys {
        let call = event_with_new_key(&stack, id).await;
        for _ in 0..3 {
            assert_eq!(Outcome::of(stack.authorize(&call).await), Allowed);
        }
    }
    set_hour(&stack, 1, "2026-11-22T10:00:03Z");
    let _ = stack.authorize(&event("no-key")).await;
    for id in &keys {
        assert_eq!(stack.admitted(id).await, 3, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ended_hour_is_reported_once_whatever_the_faults() {
    for fault in [
        Fault::ResponseLost,
        Fault::RequestLost,
        Fault::Throttled,
        Fault::NoResponse,
    ] {
        let stack = cached_stack("enterprise", Overrides::default()).await;
        for _ in 0..50 {
            assert_eq!(stack.call().await, Allowed);
        }
        set_hour(&stack, 1, "2026-11-22T10:00:03Z");
        write_faults(&stack, [fault; 3]);
        stack.call().await;
        set_hour(&stack, 1, "2026-11-22T10:00:13Z");
        // The first call may probe the store, and then nothing is settled for some seconds.
        for _ in 0..2 {
            assert_eq!(stack.call().await, Allowed);
            advance_ms(&stack, 6_000);
            tokio::time::advance(Duration::from_secs(6)).await;
        }
        assert_eq!(in_this_hour(&stack), 50, "{fault:?}");
        stack.shut_down().await;
        assert_eq!(in_this_hour(&stack), 50, "{fault:?}");
        let in_next_hour = stack.in_hour("key_1", "2026-11-22T11");
        let admitted = stack.admitted("key_1").await;
        assert!((2..=3).contains(&in_next_hour), "{fault:?}: {in_next_hour}");
        assert_eq!(admitted, 53, "{fault:?}");
    }
}

#[tokio::test]
async fn a_denied_call_is_not_an_admitted_call() {
    // The month was exhausted the day before.
    let stack = cached_stack("free", limits(None, Some(3))).await;
    stack.at.time.set(p("2026-11-21T10:00:00Z"));
    for _ in 0..3 {
        assert_eq!(stack.call().await, Allowed);
    }
    for hour in 0..5 {
        set_hour(&stack, hour, "2026-11-22T10:00:00Z");
        assert_eq!(stack.call().await, denied_by("month"));
        assert_eq!(stack.admitted("key_1").await, 0);
    }
    stack.shut_down().await;
    assert_eq!(stack.admitted("key_1").await, 0);

    // The hour is exhausted.
    let stack = cached_stack("free", limits(Some(5), Some(8))).await;
    for _ in 0..5 {
        assert_eq!(stack.call().await, Allowed);
    }
    for _ in 0..3 {
        advance_ms(&stack, 1_300);
        assert_eq!(stack.call().await, denied_by("hour"));
        let month = stack.at.store.month_counter(&p("acme"), p("2026-11")).await;
        let month = month.unwrap();
        assert_eq!((month.reserved, month.spent), (5, 5));
        assert_eq!(stack.admitted("key_1").await, 5);
    }
}

#[tokio::test]
async fn a_denial_by_both_windows_names_the_one_that_ends_later() {
    let plan = |max_lease: u64| {
        let plans = format!(
            r#"[{{"id":"small","name":"","requests_per_hour":3,"max_lease":{max_lease},
            "month":{{"kind":"blocked","included":3}},"fail_mode":"closed"}}]"#
        );
        Catalog::from_json(&plans).unwrap()
    };
    for max_lease in [1, 1_000] {
        let stack = Stack::with(Duration::ZERO, plan(max_lease));
        let stack = stack.and_acme("small", Overrides::default()).await;
        for _ in 0..3 {
            assert_eq!(stack.call().await, Allowed);
        }
        for _ in 0..3 {
            let response = stack.authorize(&event("api-key-header")).await.unwrap();
            let context = &response["context"];
            assert_eq!(context["window"], "month", "{max_lease}");
            assert_eq!(context["retryAfter"], "739200");
            let limits = r#""hour";r=0;t=1200, "month";r=0;t=739200"#;
            assert_eq!(context["rateLimit"], limits);
            advance_ms(&stack, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_allowed_in_an_outage_are_reported_after_it() {
    let stack = cached_stack("pro", Overrides::default()).await;
    for _ in 0..10 {
        assert_eq!(stack.call().await, Allowed);
    }
    stack.at.aws.inject(|_| Fault::RequestLost);
    for _ in 0..600 {
        assert_eq!(stack.call().await, Allowed);
        advance_ms(&stack, 1_000);
    }
    stack.at.aws.heal();
    advance_ms(&stack, 8_000);
    for _ in 0..10 {
        assert_eq!(stack.call().await, Allowed);
    }
    stack.shut_down().await;
    assert_eq!(stack.admitted("key_1").await, 620);
    let month = stack.at.store.month_counter(&p("acme"), p("2026-11")).await;
    let month = month.unwrap();
    assert_eq!(month.admitted(), 620);
    assert!(month.uncounted > 580, "{month:?}");
    assert_eq!(month.reserved, month.spent);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_counter_does_not_affect_other_customers() {
    let stack = cached_stack("pro", Overrides::default()).await;
    stack.add_customer("other", "free").await;
    let key = key_in(&event("bearer"));
    let owner = tollgate_domain::key::Owner::Customer(p("other"));
    stack.add_key(&key, "key_2", owner, |_| ()).await;
    stack.at.aws.inject(|call: &Call| {
        let is_hot = call.operation() == "UpdateItem" && call.body.contains("key_1");
        if is_hot {
            Fault::Throttled
        } else {
            Fault::None
        }
    });
    for _ in 0..20 {
        assert_eq!(stack.call().await, Allowed, "its plan fails open");
        assert_eq!(
            Outcome::of(stack.authorize(&event("bearer")).await),
            Allowed
        );
        advance_ms(&stack, 1_000);
    }
    assert_eq!(stack.in_hour("key_2", "2026-11-22T10"), 20);
    stack.at.aws.heal();
    stack.shut_down().await;
    assert_eq!(stack.admitted("key_1").await, 20);
    assert_eq!(stack.admitted("key_2").await, 20);
}

/// The month is exhausted, and the hour's status is unknown.
#[tokio::test(start_paused = true)]
async fn a_denial_by_one_window_is_final_if_the_other_ones_request_fails() {
    let stack = cached_stack("pro", limits(Some(1_000), Some(1))).await;
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(stack.call().await, denied_by("month"));
    advance_ms(&stack, 1_100);
    stack.fail("BatchGetItem", Fault::NoResponse);
    assert_eq!(stack.call().await, denied_by("month"));
    advance_ms(&stack, 1_100);
    stack.fail("BatchGetItem", Fault::Throttled);
    assert_eq!(stack.call().await, denied_by("month"));

    // Concurrent requests, by a new instance.
    let stack = cached_stack("pro", limits(Some(1_000), Some(1))).await;
    assert_eq!(stack.call().await, Allowed);
    let other = stack.instance();
    stack.at.aws.inject(|call| {
        if call.operation() == "UpdateItem" && call.body.contains("HOUR#") {
            Fault::NoResponse
        } else {
            Fault::None
        }
    });
    assert_eq!(call_on(&other).await, denied_by("month"));
}

/// The counter of an ended hour is throttled.
#[tokio::test(start_paused = true)]
async fn a_counter_that_cannot_be_settled_does_not_delay_every_call() {
    let stack = cached_stack("pro", Overrides::default()).await;
    set_hour(&stack, 13, "2026-11-22T10:00:00Z");
    for _ in 0..50 {
        assert_eq!(stack.call().await, Allowed);
    }
    set_hour(&stack, 14, "2026-11-22T10:00:03Z");
    stack.at.aws.inject(|call| {
        if call.operation() == "UpdateItem" && call.body.contains("2026-11-22T23") {
            Fault::Throttled
        } else {
            Fault::None
        }
    });
    let started = tokio::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(stack.call().await, Allowed);
    }
    let took = started.elapsed();
    assert!(took < Duration::from_millis(400), "{took:?}");
    stack.at.aws.heal();
    assert_ne!(stack.admitted("key_1").await, 50);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(stack.admitted("key_1").await, 50);
}
