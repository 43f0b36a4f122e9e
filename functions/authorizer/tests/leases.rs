//! Units taken in advance: what they save, and what is left of them whatever happens.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use authorizer::{App, Request, handle};
use jiff::SignedDuration;
use serde_json::Value;
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_local_aws::{Call, Fault};

mod common;

use common::Outcome::Allowed;
use common::{
    NOW, Outcome, Stack, acme, denied_by, event, key_in, limits, p, unavailable, with_headers,
};

/// A stack whose plan `strict` counts each call by itself, 20 in an hour and 12 in a month.
async fn strict(overrides: Overrides) -> Stack {
    let plans = r#"[{"id":"strict","name":"","requests_per_hour":20,"max_lease":1,
        "month":{"kind":"blocked","included":12},"fail_mode":"closed"}]"#;
    let stack = Stack::with(Duration::ZERO, Catalog::from_json(plans).unwrap());
    stack.and_acme("strict", overrides).await
}

/// A call of `acme` that this instance decides.
async fn call_of(app: &App) -> Outcome {
    let event = event("api-key-header").to_string();
    let request = Request::from_json(&event).unwrap();
    let answer = handle(app, &request).await;
    let answer = answer.map(|answer| serde_json::to_value(answer).unwrap());
    Outcome::of(answer.map_err(|refused| refused.to_string()))
}

/// Counts the writes from now on.
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

/// The fate of the writes from now on, one after the other; none of those after them fails.
fn write_faults<const N: usize>(stack: &Stack, faults: [Fault; N]) {
    let mut faults = faults.into_iter();
    stack
        .at
        .aws
        .inject(move |call: &Call| match call.operation() {
            "UpdateItem" => faults.next().unwrap_or(Fault::None),
            _ => Fault::None,
        });
}

fn pass(stack: &Stack, milliseconds: i64) {
    let passing = SignedDuration::from_millis(milliseconds);
    stack.at.time.advance(passing);
}

/// `units` of the hour of `key_1` that are taken now.
fn in_this_hour(stack: &Stack) -> u64 {
    stack.in_hour("key_1", "2026-11-22T10")
}

#[tokio::test]
async fn a_key_in_constant_use_costs_about_a_write_a_second_for_each_counter() {
    let stack = Stack::with_acme("enterprise", Overrides::default()).await;
    let writes = writes(&stack);
    for _ in 0..5_000 {
        assert_eq!(stack.call().await, Allowed);
        pass(&stack, 2);
    }
    let in_ten_seconds = writes.load(Ordering::Relaxed);
    assert!(in_ten_seconds <= 40, "{in_ten_seconds}");
    stack.end().await;
    assert_eq!(in_this_hour(&stack), 5_000);
    assert_eq!(stack.in_month("2026-11"), 5_000);
}

#[tokio::test]
async fn a_key_in_rare_use_takes_no_more_than_it_spends() {
    let stack = Stack::with_acme("enterprise", Overrides::default()).await;
    for calls in 1..=5 {
        assert_eq!(stack.call().await, Allowed);
        assert_eq!(in_this_hour(&stack), calls);
        pass(&stack, 60_000);
    }
}

#[tokio::test]
async fn the_units_left_are_released_once() {
    let stack = Stack::with_acme("enterprise", Overrides::default()).await;
    for _ in 0..70 {
        stack.call().await;
    }
    assert_eq!(in_this_hour(&stack), 85, "1 + 4 + 16 + 64");
    stack.end().await;
    stack.end().await;
    assert_eq!((in_this_hour(&stack), stack.in_month("2026-11")), (70, 70));
    let units = stack.at.store.month_units(&p("acme"), p("2026-11")).await;
    assert_eq!(units.unwrap().spent, 70);
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(in_this_hour(&stack), 71);
}

#[tokio::test(start_paused = true)]
async fn units_are_released_once_whatever_is_lost() {
    for fault in [Fault::AnswerLost, Fault::RequestLost, Fault::Throttled] {
        let stack = Stack::with_acme("enterprise", Overrides::default()).await;
        for _ in 0..70 {
            stack.call().await;
        }
        assert_eq!(in_this_hour(&stack), 85, "{fault:?}");
        write_faults(&stack, [fault, fault]);
        stack.end().await;
        let left = [in_this_hour(&stack), stack.in_month("2026-11")];
        assert_eq!(left, [70, 70], "{fault:?}");
        assert_eq!(stack.admitted("key_1").await, 70, "{fault:?}");
    }
}

/// The instance that the reservation was made for has gone on without its answer.
#[tokio::test(start_paused = true)]
async fn what_was_reserved_unanswered_is_found_by_the_next() {
    let stack = Stack::with_acme("free", Overrides::default()).await;
    write_faults(&stack, [Fault::NoAnswer; 6]);
    assert_eq!(stack.call().await, unavailable());
    stack.at.aws.heal();
    pass(&stack, 500);
    assert_eq!(in_this_hour(&stack), 1);
    let writes = writes(&stack);
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(in_this_hour(&stack), 1, "the unit was there already");
    assert_eq!(stack.in_month("2026-11"), 1);
    assert_eq!(writes.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_crash_loses_no_more_than_a_block() {
    let stack = Stack::with_acme("free", limits(Some(90), None)).await;
    for _ in 0..20 {
        assert_eq!(stack.call().await, Allowed);
    }
    let taken = in_this_hour(&stack);
    assert!((20..=25).contains(&taken), "{taken}");
    let survivor = stack.instance();
    for n in taken..90 {
        assert_eq!(call_of(&survivor).await, Allowed, "{n}");
    }
    assert_eq!(call_of(&survivor).await, denied_by("hour"));
    assert_eq!(in_this_hour(&stack), 90);
}

#[tokio::test]
async fn instances_share_a_limit_to_the_last_call() {
    let stack = Stack::with_acme("free", Overrides::default()).await;
    let instances: Vec<App> = (0..7).map(|_| stack.instance()).collect();
    let mut admitted = 0;
    let mut refusing = 0;
    for turn in 0.. {
        let instance = &instances[turn % instances.len()];
        match call_of(instance).await {
            Allowed => {
                admitted += 1;
                refusing = 0;
            }
            refused => {
                assert_eq!(refused, denied_by("hour"));
                refusing += 1;
            }
        }
        assert!(in_this_hour(&stack) <= 100);
        if refusing == instances.len() {
            break;
        }
    }
    assert_eq!(admitted, 100, "what one has, it spends when it is asked");
}

#[tokio::test]
async fn a_strict_plan_lets_in_exactly_its_limit_before_it_refuses() {
    for (overrides, passing, by) in [
        (limits(None, None), 12, "month"),
        (limits(Some(5), None), 5, "hour"),
    ] {
        let stack = strict(overrides).await;
        let instances: Vec<App> = (0..5).map(|_| stack.instance()).collect();
        for n in 0..passing {
            assert_eq!(call_of(&instances[n % 5]).await, Allowed, "{n}");
        }
        assert_eq!(call_of(&instances[passing % 5]).await, denied_by(by));
        // The hour that refused has cost the month nothing.
        assert_eq!(
            stack.in_month("2026-11"),
            u64::try_from(passing.min(12)).unwrap()
        );
    }
}

#[tokio::test]
async fn both_counters_are_asked_side_by_side() {
    let stack = Stack::with_acme("free", Overrides::default()).await;
    write_faults(&stack, [Fault::NoAnswer]);
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
    let taken = in_this_hour(&stack);
    assert!(taken > 20, "nothing is left over");
    stack.at.time.set(p("2026-11-22T11:00:00Z"));
    for n in 0..300 {
        assert_eq!(stack.call().await, Allowed, "{n}");
    }
    assert_eq!(stack.call().await, denied_by("hour"));
    assert_eq!(stack.in_hour("key_1", "2026-11-22T11"), 300);
    assert_eq!(in_this_hour(&stack), taken);
    // A clock that is set back finds what is left there, and no more.
    stack.at.time.set(p(NOW));
    for n in 20..taken {
        assert_eq!(stack.call().await, Allowed, "{n}");
        assert_eq!(in_this_hour(&stack), taken);
    }
}

#[tokio::test]
async fn a_lower_limit_holds_for_units_taken_under_a_higher_one() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let second = key_in(&event("bearer"));
    let capped = |quota| move |key: &mut tollgate_domain::key::KeyRecord| key.overrides = quota;
    stack
        .add_key(&second, "key_2", acme(), capped(limits(None, Some(40))))
        .await;
    for _ in 0..50 {
        assert_eq!(stack.call().await, Allowed);
    }
    let taken = stack.in_month("2026-11");
    assert!(taken > 50, "nothing is left over");
    let second = Outcome::of(stack.ask(&event("bearer")).await);
    assert_eq!(second, denied_by("month"));
    assert_eq!(stack.call().await, Allowed, "the first key is not capped");
}

#[tokio::test]
async fn a_full_window_is_asked_about_once_a_second() {
    let stack = Stack::with_acme("free", limits(Some(1), None)).await;
    assert_eq!(stack.call().await, Allowed);
    let writes = writes(&stack);
    for _ in 0..100 {
        assert_eq!(stack.call().await, denied_by("hour"));
    }
    assert_eq!(writes.load(Ordering::Relaxed), 0);
    pass(&stack, 1_000);
    for _ in 0..100 {
        assert_eq!(stack.call().await, denied_by("hour"));
    }
    assert!(writes.load(Ordering::Relaxed) <= 2);
}

#[tokio::test]
async fn what_another_instance_releases_is_used() {
    let stack = Stack::with_acme("free", limits(Some(40), None)).await;
    let other = stack.instance();
    for _ in 0..4 {
        assert_eq!(call_of(&other).await, Allowed);
    }
    let mut admitted = 4;
    while stack.call().await == Allowed {
        admitted += 1;
    }
    let held = 40 - admitted;
    assert!(held > 0, "the other holds nothing");
    other.end().await;
    pass(&stack, 1_000);
    for _ in 0..held {
        assert_eq!(stack.call().await, Allowed);
    }
    assert_eq!(stack.call().await, denied_by("hour"));
}

/// A call with another key of `acme`.
async fn call_with_new_key(stack: &Stack, id: &str) -> Value {
    let format = tollgate_domain::key::KeyFormat::new("tg", "live").unwrap();
    let entropy = &stack.at.entropy;
    let key = entropy.with(|rng| format.generate(tollgate_domain::key::Role::Customer, rng));
    stack.add_key(&key, id, acme(), |_| ()).await;
    with_headers(event("no-key"), &[("x-api-key", key.expose())])
}

/// An instance decides calls of thousands of keys in an hour, most of them once.
#[tokio::test]
async fn counters_that_hold_nothing_are_dropped_and_the_others_kept() {
    let stack = Stack::with_acme("enterprise", Overrides::default()).await;
    for _ in 0..20 {
        stack.call().await;
    }
    let taken = in_this_hour(&stack);
    assert_eq!(taken, 21, "one unit is left");
    for n in 0..1_100 {
        let call = call_with_new_key(&stack, &format!("key_{}", n + 100)).await;
        assert_eq!(Outcome::of(stack.ask(&call).await), Allowed);
    }
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(in_this_hour(&stack), taken, "the unit that was left");
}

/// A store that gives no answer is not asked by every call, whether for keys or for units.
#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_left_alone() {
    let stack = day_stack("pro", limits(Some(100_000), None)).await;
    assert_eq!(stack.call().await, Allowed);
    let asked = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&asked);
    stack.at.aws.inject(move |_| {
        *counted.lock().unwrap() += 1;
        Fault::NoAnswer
    });
    let began = tokio::time::Instant::now();
    for _ in 0..600 {
        assert_eq!(stack.call().await, Allowed);
        pass(&stack, 100);
    }
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    let asked = *asked.lock().unwrap();
    assert!(asked < 20, "{asked}");
    stack.at.aws.heal();
    pass(&stack, 8_000);
    stack.call().await;
    let before = in_this_hour(&stack);
    for _ in 0..before * 2 + 10 {
        assert_eq!(stack.call().await, Allowed);
    }
    assert!(in_this_hour(&stack) > before, "calls are counted again");
}

/// Sets the clock to so many hours after an instant.
fn set_hour(stack: &Stack, hours: i64, text: &str) {
    let hour: jiff::Timestamp = p(text);
    stack.at.time.set(hour + SignedDuration::from_hours(hours));
}

async fn day_stack(plan: &str, overrides: Overrides) -> Stack {
    let stack = Stack::with(Duration::from_secs(5), Catalog::shipped().unwrap());
    stack.and_acme(plan, overrides).await
}

#[tokio::test]
async fn a_burst_in_each_of_several_hours_is_reported_to_the_call() {
    for (plan, calls, hours) in [("pro", 100, 24), ("enterprise", 50, 8), ("pro", 1, 24)] {
        let stack = day_stack(plan, Overrides::default()).await;
        for hour in 0..hours {
            set_hour(&stack, i64::try_from(hour).unwrap(), "2026-11-22T00:00:10Z");
            for _ in 0..calls {
                assert_eq!(stack.call().await, Allowed);
            }
            // All of the hours before, whatever becomes of this one.
            let admitted = stack.admitted("key_1").await;
            let before = hour * calls;
            assert!(
                (before..=before + calls).contains(&admitted),
                "{hour}: {admitted}"
            );
        }
        stack.end().await;
        assert_eq!(stack.admitted("key_1").await, calls * hours, "{plan}");
        let month = stack.at.store.month_units(&p("acme"), p("2026-11")).await;
        let month = month.unwrap();
        assert_eq!(
            (month.reserved, month.spent),
            (calls * hours, calls * hours)
        );
    }
}

#[tokio::test]
async fn an_hour_that_is_over_is_reported_at_the_next_invocation_whatever_comes_of_it() {
    for case in ["no-key", "malformed-key", "admin-route", "bearer"] {
        let stack = day_stack("enterprise", Overrides::default()).await;
        for _ in 0..50 {
            assert_eq!(stack.call().await, Allowed);
        }
        assert_ne!(
            stack.admitted("key_1").await,
            50,
            "nothing is left to report"
        );
        set_hour(&stack, 1, "2026-11-22T10:00:03Z");
        if case == "bearer" {
            let other = key_in(&event(case));
            stack.add_key(&other, "key_2", acme(), |_| ()).await;
        }
        let _ = stack.ask(&event(case)).await;
        assert_eq!(stack.admitted("key_1").await, 50, "{case}");
        assert_eq!(in_this_hour(&stack), 50);
        stack.end().await;
        assert_eq!(stack.admitted("key_1").await, 50);
    }
}

/// However many counters it leaves.
#[tokio::test(start_paused = true)]
async fn an_hour_of_many_keys_is_reported_by_one_invocation() {
    let stack = day_stack("enterprise", Overrides::default()).await;
    let keys: Vec<String> = (101..=200).map(|n| format!("key_{n}")).collect();
    for id in &keys {
        let call = call_with_new_key(&stack, id).await;
        for _ in 0..3 {
            assert_eq!(Outcome::of(stack.ask(&call).await), Allowed);
        }
    }
    set_hour(&stack, 1, "2026-11-22T10:00:03Z");
    let _ = stack.ask(&event("no-key")).await;
    for id in &keys {
        assert_eq!(stack.admitted(id).await, 3, "{id}");
    }
}

/// Whatever happens to the writes that settle it.
#[tokio::test(start_paused = true)]
async fn an_hour_that_is_over_is_reported_once_whatever_is_lost() {
    for fault in [
        Fault::AnswerLost,
        Fault::RequestLost,
        Fault::Throttled,
        Fault::NoAnswer,
    ] {
        let stack = day_stack("enterprise", Overrides::default()).await;
        for _ in 0..50 {
            assert_eq!(stack.call().await, Allowed);
        }
        set_hour(&stack, 1, "2026-11-22T10:00:03Z");
        write_faults(&stack, [fault; 3]);
        stack.call().await;
        set_hour(&stack, 1, "2026-11-22T10:00:13Z");
        for _ in 0..2 {
            assert_eq!(stack.call().await, Allowed);
            pass(&stack, 1_000);
        }
        assert_eq!(in_this_hour(&stack), 50, "{fault:?}");
        stack.end().await;
        assert_eq!(in_this_hour(&stack), 50, "{fault:?}");
        let of_now = stack.in_hour("key_1", "2026-11-22T11");
        let admitted = stack.admitted("key_1").await;
        assert!((2..=3).contains(&of_now), "{fault:?}: {of_now}");
        assert_eq!(admitted, 53, "{fault:?}");
    }
}

#[tokio::test]
async fn a_refused_call_is_in_no_ledger() {
    // The month was used up the day before.
    let stack = day_stack("free", limits(None, Some(3))).await;
    stack.at.time.set(p("2026-11-21T10:00:00Z"));
    for _ in 0..3 {
        assert_eq!(stack.call().await, Allowed);
    }
    for hour in 0..5 {
        set_hour(&stack, hour, "2026-11-22T10:00:00Z");
        assert_eq!(stack.call().await, denied_by("month"));
        assert_eq!(stack.admitted("key_1").await, 0);
    }
    stack.end().await;
    assert_eq!(stack.admitted("key_1").await, 0);

    // The hour is full.
    let stack = day_stack("free", limits(Some(5), Some(8))).await;
    for _ in 0..5 {
        assert_eq!(stack.call().await, Allowed);
    }
    for _ in 0..3 {
        pass(&stack, 1_300);
        assert_eq!(stack.call().await, denied_by("hour"));
        let month = stack.at.store.month_units(&p("acme"), p("2026-11")).await;
        let month = month.unwrap();
        assert_eq!((month.reserved, month.spent), (5, 5));
        assert_eq!(stack.admitted("key_1").await, 5);
    }
}

#[tokio::test]
async fn a_refusal_by_both_windows_names_the_one_that_ends_later() {
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
            let answer = stack.ask(&event("api-key-header")).await.unwrap();
            let context = &answer["context"];
            assert_eq!(context["window"], "month", "{max_lease}");
            assert_eq!(context["retryAfter"], "739200");
            let limits = r#""hour";r=0;t=1200, "month";r=0;t=739200"#;
            assert_eq!(context["rateLimit"], limits);
            pass(&stack, 0);
        }
    }
}

/// Calls that were let through are known once the store answers again.
#[tokio::test(start_paused = true)]
async fn calls_of_an_outage_are_reported_after_it() {
    let stack = day_stack("pro", Overrides::default()).await;
    for _ in 0..10 {
        assert_eq!(stack.call().await, Allowed);
    }
    stack.at.aws.inject(|_| Fault::RequestLost);
    for _ in 0..600 {
        assert_eq!(stack.call().await, Allowed);
        pass(&stack, 1_000);
    }
    stack.at.aws.heal();
    pass(&stack, 8_000);
    for _ in 0..10 {
        assert_eq!(stack.call().await, Allowed);
    }
    stack.end().await;
    assert_eq!(stack.admitted("key_1").await, 620);
    let month = stack.at.store.month_units(&p("acme"), p("2026-11")).await;
    let month = month.unwrap();
    assert_eq!(month.admitted(), 620);
    assert!(month.uncounted > 580, "{month:?}");
    assert_eq!(month.reserved, month.spent);
}

/// One customer's item is in greater demand than it has capacity for.
#[tokio::test(start_paused = true)]
async fn a_throttled_counter_is_no_concern_of_other_customers() {
    let stack = day_stack("pro", Overrides::default()).await;
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
        assert_eq!(Outcome::of(stack.ask(&event("bearer")).await), Allowed);
        pass(&stack, 1_000);
    }
    assert_eq!(stack.in_hour("key_2", "2026-11-22T10"), 20);
    stack.at.aws.heal();
    stack.end().await;
    assert_eq!(stack.admitted("key_1").await, 20);
    assert_eq!(stack.admitted("key_2").await, 20);
}

/// The month is used up, and nothing is known of the hour.
#[tokio::test(start_paused = true)]
async fn a_refusal_by_one_window_stands_if_the_other_gives_no_answer() {
    let stack = day_stack("pro", limits(Some(1_000), Some(1))).await;
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(stack.call().await, denied_by("month"));
    pass(&stack, 1_100);
    stack.fail("BatchGetItem", Fault::NoAnswer);
    assert_eq!(stack.call().await, denied_by("month"));
    pass(&stack, 1_100);
    stack.fail("BatchGetItem", Fault::Throttled);
    assert_eq!(stack.call().await, denied_by("month"));

    // Asked at the same time, by an instance that knows neither.
    let stack = day_stack("pro", limits(Some(1_000), Some(1))).await;
    assert_eq!(stack.call().await, Allowed);
    let other = stack.instance();
    stack.at.aws.inject(|call| {
        if call.operation() == "UpdateItem" && call.body.contains("HOUR#") {
            Fault::NoAnswer
        } else {
            Fault::None
        }
    });
    assert_eq!(call_of(&other).await, denied_by("month"));
}

/// The counter of an hour that is over is throttled.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_settled_does_not_delay_every_call() {
    let stack = day_stack("pro", Overrides::default()).await;
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
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(stack.call().await, Allowed);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(400), "{took:?}");
    stack.at.aws.heal();
    assert_ne!(stack.admitted("key_1").await, 50);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(stack.admitted("key_1").await, 50);
}
