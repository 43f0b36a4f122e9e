//! The cache of plans: when they are read, which version decides, and what applies while the store is
//! unavailable.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use tollgate_domain::key::Owner;
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_domain::plan_book::{Pin, Pins, PlanVersion, PlanVersions};
use tollgate_local_aws::{Call, Fault};
use tollgate_store::{CustomerChange, PinChange, PlanOutcome, UpdateCustomerOutcome};
use tollgate_testing::customers::add_key;

mod common;

use common::Outcome::Allowed;
use common::{NOW, Outcome, Stack, denied_by, event, key_in, p, unavailable, with_headers};

/// Creates a stack whose key cache lasts a minute, with the customer `acme` on `plan`.
async fn stack(plan: &str) -> Stack {
    let stack = Stack::with(Duration::from_secs(60), Catalog::shipped().unwrap());
    stack.and_acme(plan, Overrides::default()).await
}

/// Returns a version of `free`, with this number of calls in a month and as many in an hour.
fn free(number: u64, takes_effect: &str, calls: u64) -> PlanVersion {
    let json = format!(
        r#"[{{"id":"free","name":"Free","requests_per_hour":{calls},"fail_mode":"closed",
            "month":{{"kind":"blocked","included":{calls}}}}}]"#
    );
    PlanVersion {
        number,
        takes_effect: p(takes_effect),
        created_at: p(NOW),
        plan: Catalog::from_json(&json)
            .unwrap()
            .iter()
            .next()
            .unwrap()
            .clone(),
    }
}

/// Counts the reads of the plans from now on.
fn count_reads(stack: &Stack) -> Arc<AtomicUsize> {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    stack.at.aws.inject(move |call: &Call| {
        let is_read = call.operation() == "Query" && call.body.contains("PLANS");
        counted.fetch_add(usize::from(is_read), Ordering::Relaxed);
        Fault::None
    });
    reads
}

#[tokio::test]
async fn the_plans_are_read_once_in_45_minutes() {
    let stack = stack("pro").await;
    let reads = count_reads(&stack);
    let minutes = |minutes| stack.at.time.advance(SignedDuration::from_mins(minutes));
    let called = async |expected: usize| {
        assert_eq!(stack.call().await, Allowed);
        assert_eq!(reads.load(Ordering::Relaxed), expected);
    };
    stack.app.warm_up().await;
    called(1).await;
    minutes(44);
    called(1).await;
    minutes(1);
    called(2).await;
    called(2).await;
}

/// While the clock was ahead, plans may have been read that are older than they seem.
#[tokio::test]
async fn the_plans_are_read_again_if_the_clock_was_set_back() {
    let stack = stack("pro").await;
    let reads = count_reads(&stack);
    stack.app.warm_up().await;
    stack.at.time.advance(SignedDuration::from_secs(-1));
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_version_decides_from_its_month_on_and_not_before() {
    let stack = stack("free").await;
    let added = stack
        .at
        .store
        .add_plan_version(&free(2, "2026-12", 2))
        .await;
    assert_eq!(added.unwrap(), PlanOutcome::Written);
    stack.at.time.set(p("2026-11-30T23:59:59Z"));
    for _ in 0..3 {
        assert_eq!(stack.call().await, Allowed);
    }
    stack.at.time.set(p("2026-12-01T00:00:00Z"));
    for _ in 0..2 {
        assert_eq!(stack.call().await, Allowed);
    }
    assert_ne!(stack.call().await, Allowed);
}

/// A version is created an hour before it takes effect, at the latest, and known after 45 minutes.
#[tokio::test]
async fn an_instance_knows_a_version_before_it_takes_effect() {
    let stack = stack("free").await;
    stack.at.time.set(p("2026-11-30T22:59:58Z"));
    assert_eq!(stack.call().await, Allowed);
    stack.at.time.set(p("2026-11-30T22:59:59Z"));
    let plans = stack.at.store.plans().await.unwrap();
    let plan = plans.get(&p("free")).unwrap();
    let version = free(2, "2026-12", 0);
    let version = plan.next(version.plan, p("2026-12"), 1, stack.at.clock().now());
    let added = stack.at.store.add_plan_version(&version.unwrap()).await;
    assert_eq!(added.unwrap(), PlanOutcome::Written);
    // Calls keep the instance busy, so that nothing else makes it read.
    while stack.at.clock().now() < p("2026-12-01T00:00:00Z") {
        assert_eq!(stack.call().await, Allowed);
        stack.at.time.advance(SignedDuration::from_mins(1));
    }
    assert_ne!(stack.call().await, Allowed);
}

#[tokio::test]
async fn a_pinned_customer_stays_on_its_version() {
    let stack = stack("free").await;
    let added = stack
        .at
        .store
        .add_plan_version(&free(2, "2026-12", 0))
        .await;
    assert_eq!(added.unwrap(), PlanOutcome::Written);
    let mut after = Pins::default();
    let pin = Pin {
        plan: p("free"),
        version: Some(1),
        from: p("2026-12"),
    };
    after.set(pin, p(NOW)).unwrap();
    let change = CustomerChange {
        pins: Some(PinChange {
            before: Pins::default(),
            after,
        }),
        ..CustomerChange::default()
    };
    let pinned = stack.at.store.update_customer(&p("acme"), &change).await;
    assert!(matches!(pinned.unwrap(), UpdateCustomerOutcome::Done(_)));
    stack.add_customer("bolt", "free").await;
    let other = key_in(&event("bearer"));
    let owner = Owner::Customer(p("bolt"));
    stack.add_key(&other, "key_2", owner, |_| ()).await;

    stack.at.time.set(p("2026-12-15T00:00:00Z"));
    assert_eq!(stack.call().await, Allowed);
    let following = Outcome::of(stack.authorize(&event("bearer")).await);
    assert_eq!(following, denied_by("month"));
}

/// The plan was created after the others were read, and a customer moved to it.
#[tokio::test]
async fn a_new_plan_applies_at_once() {
    let stack = stack("pro").await;
    stack.app.warm_up().await;
    stack.at.time.advance(SignedDuration::from_secs(1));
    let json = r#"[{"id":"team","name":"","requests_per_hour":1,"fail_mode":"open",
                    "month":{"kind":"unlimited"}}]"#;
    let team = Catalog::from_json(json).unwrap();
    let team = PlanVersions::new(team.iter().next().unwrap().clone(), p(NOW));
    let created = stack.at.store.create_plan(&team).await.unwrap();
    assert_eq!(created, PlanOutcome::Written);
    let change = CustomerChange {
        plan: Some(p("team")),
        ..CustomerChange::default()
    };
    let moved = stack.at.store.update_customer(&p("acme"), &change).await;
    assert!(matches!(moved.unwrap(), UpdateCustomerOutcome::Done(_)));
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(stack.call().await, denied_by("hour"));
}

/// A read that began after that of the customer shows that the plan does not exist.
#[tokio::test]
async fn calls_on_a_plan_that_does_not_exist_do_not_each_read_the_plans() {
    let stack = Stack::with(Duration::from_secs(60), Catalog::shipped().unwrap());
    stack.app.warm_up().await;
    let stack = stack.and_acme("gone", Overrides::default()).await;
    let reads = count_reads(&stack);
    // On a clock that stands still, the first read does not show that it began later.
    for expected in [1, 2, 2, 2] {
        stack.at.time.advance(SignedDuration::from_secs(1));
        let response = stack.authorize(&event("api-key-header")).await.unwrap();
        let effect = &response["policyDocument"]["Statement"][0]["Effect"];
        assert_eq!(effect, "Deny");
        assert_eq!(reads.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_plans_cannot_be_read_the_last_ones_apply() {
    let stack = stack("pro").await;
    assert_eq!(stack.call().await, Allowed);
    stack.at.time.advance(SignedDuration::from_mins(50));
    stack.fail("Query", Fault::RequestLost);
    assert_eq!(stack.call().await, Allowed);
}

/// A new instance that cannot read the plans cannot know whether they fail open.
#[tokio::test(start_paused = true)]
async fn without_any_plans_calls_are_rejected_until_they_can_be_read() {
    let stack = stack("pro").await;
    stack.fail("Query", Fault::RequestLost);
    assert_eq!(stack.call().await, unavailable());
    stack.at.aws.heal();
    stack.at.time.advance(SignedDuration::from_secs(10));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(stack.call().await, Allowed);
}

#[tokio::test]
async fn calls_with_an_admin_key_do_not_need_the_plans() {
    let stack = Stack::with(Duration::from_secs(60), Catalog::shipped().unwrap());
    let key = add_key(&stack.at, Owner::Admin, "key_admin").await;
    stack.fail("Query", Fault::Throttled);
    let event = with_headers(event("api-key-header"), &[("x-api-key", key.expose())]);
    assert_eq!(Outcome::of(stack.authorize(&event).await), Allowed);
}
