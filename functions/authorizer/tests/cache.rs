//! The key cache: how rarely keys are read, how soon what was read is given up, and what it is good for
//! while the store does not answer.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use authorizer::{Request, handle};
use jiff::SignedDuration;
use serde_json::Value;
use tollgate_domain::key::{KeyFormat, Role};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_local_aws::{Call, Fault};
use tollgate_runtime::metrics::DECISIONS_BY_STALE_KEY;
use tollgate_store::KeyRef;

mod common;

use common::Outcome::Allowed;
use common::{Outcome, Stack, acme, event, key_in, p, unavailable, with_headers};

const DELAY: Duration = Duration::from_secs(5);

fn unauthorized() -> Outcome {
    Outcome::Refused("Unauthorized".to_owned())
}

/// The customer `acme` with the key of the event `api-key-header`, and how often it was read.
async fn stack() -> (Stack, Arc<AtomicUsize>) {
    let stack = Stack::with(DELAY, Catalog::shipped().unwrap());
    stack.add_customer("acme", "pro").await;
    let key = key_in(&event("api-key-header"));
    stack.add_key(&key, "key_1", acme(), |_| ()).await;
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    stack.at.aws.inject(move |call: &Call| {
        // A key and its customer are two reads; the key's is counted.
        let of_key = call.operation() == "GetItem" && !call.body.contains("CUSTOMER#");
        counted.fetch_add(usize::from(of_key), Ordering::Relaxed);
        Fault::None
    });
    (stack, reads)
}

/// Throttles all reads from now on, and counts them.
fn throttle_reads(stack: &Stack) -> Arc<AtomicUsize> {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    stack.at.aws.inject(move |call: &Call| {
        if call.operation() != "GetItem" {
            return Fault::None;
        }
        counted.fetch_add(1, Ordering::Relaxed);
        Fault::Throttled
    });
    reads
}

async fn revoke(stack: &Stack) {
    let now = stack.at.clock().now();
    let revoked = stack
        .at
        .store
        .revoke_key(&KeyRef::Id(p("key_1")), now)
        .await;
    assert!(revoked.unwrap());
}

fn pass(stack: &Stack, milliseconds: i64) {
    stack
        .at
        .time
        .advance(SignedDuration::from_millis(milliseconds));
}

/// Lets the reads that no call waits for come to an end.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_key_is_read_once_for_all_who_ask_at_the_same_time() {
    let (stack, reads) = stack().await;
    let stack = Arc::new(stack);
    let calls = (0..50).map(|_| {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move { stack.call().await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), Allowed);
    }
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    pass(&stack, 2_999);
    assert_eq!(stack.call().await, Allowed);
    settle().await;
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_revoked_key_works_for_the_delay_and_no_longer() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    pass(&stack, 2_999);
    assert_eq!(stack.call().await, Allowed);
    pass(&stack, 2_001);
    assert_eq!(stack.call().await, unauthorized());
}

/// What happens while a read is under way may be missed by it.
#[tokio::test]
async fn the_delay_counts_from_before_the_read() {
    let (stack, _) = stack().await;
    let time = stack.at.time.clone();
    stack.at.aws.inject(move |_| {
        time.advance(SignedDuration::from_secs(1));
        Fault::None
    });
    // The key, the customer, the hour and the month: four seconds.
    assert_eq!(stack.call().await, Allowed);
    stack.at.aws.heal();
    revoke(&stack).await;
    pass(&stack, 999);
    assert_eq!(stack.call().await, Allowed);
    pass(&stack, 1);
    assert_eq!(stack.call().await, unauthorized());
}

#[tokio::test]
async fn a_key_that_is_asked_for_often_is_read_before_anyone_has_to_wait() {
    let (stack, reads) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    let before = reads.load(Ordering::Relaxed);
    pass(&stack, 3_000);
    // It goes by what it knows, and reads for those who come next.
    assert_eq!(stack.call().await, Allowed);
    settle().await;
    assert_eq!(reads.load(Ordering::Relaxed), before + 1);
    assert_eq!(stack.call().await, unauthorized());
    assert_eq!(reads.load(Ordering::Relaxed), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_ahead_that_is_throttled_is_given_up() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    let reads = throttle_reads(&stack);
    pass(&stack, 3_000);
    assert_eq!(stack.call().await, Allowed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tries = reads.load(Ordering::Relaxed);
    assert!(tries > 1, "it is tried again");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(reads.load(Ordering::Relaxed), tries);
}

/// A read ahead that never ends, as when the instance was frozen during it, holds nobody up.
#[tokio::test(start_paused = true)]
async fn a_read_ahead_that_is_lost_is_begun_again() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    stack.fail("GetItem", Fault::NoAnswer);
    pass(&stack, 3_000);
    assert_eq!(stack.call().await, Allowed);
    stack.at.aws.heal();
    pass(&stack, 1_500);
    assert_eq!(stack.call().await, Allowed);
    settle().await;
    revoke(&stack).await;
    // Of the read that was begun again a second and a half later.
    pass(&stack, 2_900);
    assert_eq!(stack.call().await, Allowed);
    pass(&stack, 2_100);
    assert_eq!(stack.call().await, unauthorized());
}

/// It may have been under way while the instance was frozen, and have lost its connection.
#[tokio::test(start_paused = true)]
async fn a_read_without_an_answer_is_not_waited_for_by_those_who_come_later() {
    let (stack, _) = stack().await;
    let stack = Arc::new(stack);
    stack.fail("GetItem", Fault::NoAnswer);
    let first = Arc::clone(&stack);
    let first = tokio::spawn(async move { first.call().await });
    settle().await;
    stack.at.aws.heal();
    pass(&stack, 1_000);
    assert_eq!(stack.call().await, Allowed);
    assert!(!first.is_finished());
    first.abort();
}

#[tokio::test]
async fn with_no_delay_a_key_is_read_once_at_every_call() {
    let (stack, reads) = stack().await;
    let stack = stack.with_settings(|settings| settings.key_cache = Duration::ZERO);
    for calls in 1..=3 {
        assert_eq!(stack.call().await, Allowed);
        settle().await;
        assert_eq!(reads.load(Ordering::Relaxed), calls);
    }
    revoke(&stack).await;
    assert_eq!(stack.call().await, unauthorized());
}

/// A clock that was set back does not make what was read any younger.
#[tokio::test]
async fn a_clock_that_is_set_back_ends_the_delay() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    pass(&stack, -1);
    assert_eq!(stack.call().await, unauthorized());
}

/// The machine's clock may stand still while the process's goes on.
#[tokio::test(start_paused = true)]
async fn the_delay_ends_by_the_process_clock_as_well() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    tokio::time::advance(DELAY).await;
    assert_eq!(stack.call().await, unauthorized());
}

#[tokio::test(start_paused = true)]
async fn a_read_that_failed_is_not_remembered() {
    let (stack, _) = stack().await;
    stack.fail("GetItem", Fault::Throttled);
    assert_eq!(stack.call().await, unavailable());
    stack.at.aws.heal();
    assert_eq!(stack.call().await, Allowed);
}

/// The store has enough to do when it fails.
#[tokio::test(start_paused = true)]
async fn a_read_ahead_that_failed_is_not_begun_again_at_once() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    let reads = throttle_reads(&stack);
    pass(&stack, 3_000);
    assert_eq!(stack.call().await, Allowed);
    // With all its repetitions.
    tokio::time::sleep(Duration::from_millis(999)).await;
    let of_one_read = reads.load(Ordering::Relaxed);
    for _ in 0..10 {
        assert_eq!(stack.call().await, Allowed);
    }
    settle().await;
    assert_eq!(reads.load(Ordering::Relaxed), of_one_read);
    pass(&stack, 1_000);
    assert_eq!(stack.call().await, Allowed);
    settle().await;
    assert!(reads.load(Ordering::Relaxed) > of_one_read);
}

/// The customer `acme` on this plan, whose key was read just before the store failed, and was revoked
/// then if that is so.
async fn in_outage(plan: &str, fault: Fault, is_revoked: bool) -> Stack {
    let stack = Stack::with(DELAY, Catalog::shipped().unwrap());
    let stack = stack.and_acme(plan, Overrides::default()).await;
    assert_eq!(stack.call().await, Allowed);
    if is_revoked {
        revoke(&stack).await;
    }
    stack.at.aws.inject(move |_| fault);
    stack
}

/// The faults of a store that does not answer.
const OUTAGES: [Fault; 2] = [Fault::RequestLost, Fault::NoAnswer];

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_a_known_key_decides_on_plans_that_fail_open() {
    for fault in OUTAGES {
        let stack = in_outage("pro", fault, false).await;
        let by_stale_key = || stack.cloudwatch.sum(DECISIONS_BY_STALE_KEY, &[]);
        for second in 0..905 {
            assert_eq!(stack.call().await, Allowed, "{fault:?} {second}");
            pass(&stack, 1_000);
        }
        assert_eq!(stack.call().await, unavailable(), "{fault:?}");
        // Not in the five seconds in which it was known anyway.
        stack.metrics.write();
        assert_eq!(by_stale_key(), 900, "{fault:?}");
        stack.at.aws.heal();
        pass(&stack, 8_000);
        assert_eq!(stack.call().await, Allowed);
        stack.metrics.write();
        assert_eq!(by_stale_key(), 900, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_a_known_key_is_refused_on_plans_that_fail_closed() {
    for fault in OUTAGES {
        let stack = in_outage("free", fault, false).await;
        pass(&stack, 5_000);
        for _ in 0..5 {
            assert_eq!(stack.call().await, unavailable(), "{fault:?}");
            pass(&stack, 1_000);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_knows_no_key_refuses_all_while_the_store_is_down() {
    let stack = in_outage("pro", Fault::RequestLost, false).await;
    let fresh = stack.instance();
    for _ in 0..5 {
        let event = event("api-key-header").to_string();
        let request = Request::from_json(&event).unwrap();
        let refused = handle(&fresh, &request).await.unwrap_err();
        assert_eq!(refused.to_string(), "Unavailable");
    }
}

#[tokio::test(start_paused = true)]
async fn stale_keys_can_be_switched_off() {
    let stack = Stack::with(DELAY, Catalog::shipped().unwrap());
    let stack = stack.with_settings(|settings| settings.stale_keys = Duration::ZERO);
    let stack = stack.and_acme("pro", Overrides::default()).await;
    assert_eq!(stack.call().await, Allowed);
    stack.at.aws.inject(|_| Fault::RequestLost);
    pass(&stack, 4_999);
    assert_eq!(stack.call().await, Allowed);
    pass(&stack, 1);
    assert_eq!(stack.call().await, unavailable());
}

/// One item is in too great demand to be read, and the others are answered.
#[tokio::test(start_paused = true)]
async fn a_throttled_item_does_not_keep_its_key_alive() {
    let stack = in_outage("pro", Fault::None, true).await;
    stack.fail("GetItem", Fault::Throttled);
    pass(&stack, 5_000);
    for _ in 0..5 {
        assert_eq!(stack.call().await, unavailable());
        pass(&stack, 1_000);
    }
    stack.at.aws.heal();
    assert_eq!(stack.call().await, unauthorized());
}

#[tokio::test(start_paused = true)]
async fn a_revocation_takes_effect_as_soon_as_the_store_answers() {
    let stack = in_outage("pro", Fault::RequestLost, true).await;
    for _ in 0..60 {
        assert_eq!(stack.call().await, Allowed);
        pass(&stack, 1_000);
    }
    stack.at.aws.heal();
    pass(&stack, 8_000);
    // Whoever's item it is that answers first.
    assert_eq!(Outcome::of(stack.ask(&stranger(0)).await), unauthorized());
    assert_eq!(stack.call().await, unauthorized());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_known_to_be_no_good_does_not_come_back_in_an_outage() {
    let stack = Stack::with(DELAY, Catalog::shipped().unwrap());
    let stack = stack.and_acme("pro", Overrides::default()).await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    pass(&stack, 5_000);
    assert_eq!(stack.call().await, unauthorized());
    stack.at.aws.inject(|_| Fault::RequestLost);
    for _ in 0..60 {
        assert_eq!(stack.call().await, unauthorized());
        assert_eq!(Outcome::of(stack.ask(&stranger(0)).await), unavailable());
        pass(&stack, 1_000);
    }
}

/// An event with a key of the right form that nobody has.
fn stranger(number: u64) -> Value {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    let format = KeyFormat::new("tg", "live").unwrap();
    let key = format.generate(
        Role::Customer,
        &mut StdRng::seed_from_u64(1_000_000 + number),
    );
    with_headers(event("no-key"), &[("x-api-key", key.expose())])
}

/// However long it takes to ask three thousand times.
#[tokio::test(start_paused = true)]
async fn keys_that_do_not_exist_are_remembered_and_push_no_other_out() {
    let (stack, reads) = stack().await;
    let seen = Mutex::new(0);
    let read = || {
        let now = reads.load(Ordering::Relaxed);
        now - std::mem::replace(&mut *seen.lock().unwrap(), now)
    };
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(read(), 1);
    for _ in 0..2 {
        assert_eq!(Outcome::of(stack.ask(&stranger(0)).await), unauthorized());
    }
    assert_eq!(read(), 1);
    for number in 1..=3_000 {
        assert_eq!(
            Outcome::of(stack.ask(&stranger(number)).await),
            unauthorized()
        );
    }
    assert_eq!(read(), 3_000);
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(read(), 0);
    // Only so many are remembered, and the first is long forgotten.
    assert_eq!(Outcome::of(stack.ask(&stranger(0)).await), unauthorized());
    assert_eq!(read(), 1);
}
