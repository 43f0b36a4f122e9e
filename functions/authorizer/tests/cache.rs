//! The key cache: reads of keys, the TTL, and stale keys while the store is unavailable.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use authorizer::{Request, handle};
use jiff::SignedDuration;
use serde_json::Value;
use tollgate_domain::key::{KeyFormat, KeyKind};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_local_aws::{Call, Fault};
use tollgate_runtime::metrics::DECISIONS_BY_STALE_KEY;
use tollgate_store::KeyRef;

mod common;

use common::Outcome::Allowed;
use common::{Outcome, Stack, acme, event, key_in, p, unavailable, with_headers};

const TTL: Duration = Duration::from_secs(5);

fn unauthorized() -> Outcome {
    Outcome::Error("Unauthorized".to_owned())
}

/// Creates a stack with the customer `acme` and the key of the event `api-key-header`, and a count of
/// the reads of keys.
async fn stack() -> (Stack, Arc<AtomicUsize>) {
    let stack = Stack::with(TTL, Catalog::shipped().unwrap());
    stack.add_customer("acme", "pro").await;
    let key = key_in(&event("api-key-header"));
    stack.add_key(&key, "key_1", acme(), |_| ()).await;
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    stack.at.aws.inject(move |call: &Call| {
        // The reads of customers are not counted.
        let is_key = call.operation() == "GetItem" && !call.body.contains("CUSTOMER#");
        counted.fetch_add(usize::from(is_key), Ordering::Relaxed);
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
        // The reads of customers are not counted.
        let is_key = !call.body.contains("CUSTOMER#");
        counted.fetch_add(usize::from(is_key), Ordering::Relaxed);
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

fn advance_ms(stack: &Stack, milliseconds: i64) {
    stack
        .at
        .time
        .advance(SignedDuration::from_millis(milliseconds));
}

/// Runs the refreshes, which no call waits for, to their end.
async fn run_refreshes() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn concurrent_calls_share_one_read() {
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
    advance_ms(&stack, 2_999);
    assert_eq!(stack.call().await, Allowed);
    run_refreshes().await;
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_revoked_key_works_until_the_end_of_the_ttl() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    advance_ms(&stack, 2_999);
    assert_eq!(stack.call().await, Allowed);
    advance_ms(&stack, 2_001);
    assert_eq!(stack.call().await, unauthorized());
}

/// A revocation during a read may be missed by it.
#[tokio::test]
async fn the_ttl_counts_from_before_the_read() {
    let (stack, _) = stack().await;
    stack.app.warm_up().await;
    let time = stack.at.time.clone();
    stack.at.aws.inject(move |_| {
        time.advance(SignedDuration::from_secs(1));
        Fault::None
    });
    // The key, the customer, the hour and the month: four seconds.
    assert_eq!(stack.call().await, Allowed);
    stack.at.aws.heal();
    revoke(&stack).await;
    advance_ms(&stack, 999);
    assert_eq!(stack.call().await, Allowed);
    advance_ms(&stack, 1);
    assert_eq!(stack.call().await, unauthorized());
}

#[tokio::test]
async fn a_key_in_constant_use_is_refreshed_before_the_end_of_its_ttl() {
    let (stack, reads) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    let before = reads.load(Ordering::Relaxed);
    advance_ms(&stack, 3_000);
    // This call uses the cached key, and starts the refresh.
    assert_eq!(stack.call().await, Allowed);
    run_refreshes().await;
    assert_eq!(reads.load(Ordering::Relaxed), before + 1);
    assert_eq!(stack.call().await, unauthorized());
    assert_eq!(reads.load(Ordering::Relaxed), before + 1);
}

/// A key is of one customer for ever, who is known when it is read again.
#[tokio::test(start_paused = true)]
async fn a_key_that_was_found_before_is_read_together_with_its_customer() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    advance_ms(&stack, 6_000);
    let customers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&customers);
    stack.at.aws.inject(move |call: &Call| {
        let is_customer = call.body.contains("CUSTOMER#");
        counted.fetch_add(usize::from(is_customer), Ordering::Relaxed);
        match call.body.contains("KEY#") {
            true => Fault::NoResponse,
            false => Fault::None,
        }
    });
    // The key is not read in time.
    stack.call().await;
    assert_ne!(customers.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_refresh_is_abandoned() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    let reads = throttle_reads(&stack);
    advance_ms(&stack, 3_000);
    assert_eq!(stack.call().await, Allowed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tries = reads.load(Ordering::Relaxed);
    assert!(tries > 1, "it is retried");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(reads.load(Ordering::Relaxed), tries);
}

/// A refresh without a response, such as one during which the instance was frozen, delays no call.
#[tokio::test(start_paused = true)]
async fn a_lost_refresh_is_started_again() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    stack.fail("GetItem", Fault::NoResponse);
    advance_ms(&stack, 3_000);
    assert_eq!(stack.call().await, Allowed);
    stack.at.aws.heal();
    advance_ms(&stack, 1_500);
    assert_eq!(stack.call().await, Allowed);
    run_refreshes().await;
    revoke(&stack).await;
    // The TTL counts from the second refresh, which started 1.5 s after the first.
    advance_ms(&stack, 2_900);
    assert_eq!(stack.call().await, Allowed);
    advance_ms(&stack, 2_100);
    assert_eq!(stack.call().await, unauthorized());
}

/// The instance may have been frozen during the read, which then has lost its connection.
#[tokio::test(start_paused = true)]
async fn later_calls_do_not_wait_for_a_read_without_a_response() {
    let (stack, _) = stack().await;
    let stack = Arc::new(stack);
    stack.fail("GetItem", Fault::NoResponse);
    let first = Arc::clone(&stack);
    let first = tokio::spawn(async move { first.call().await });
    run_refreshes().await;
    stack.at.aws.heal();
    advance_ms(&stack, 1_000);
    assert_eq!(stack.call().await, Allowed);
    assert!(!first.is_finished());
    first.abort();
}

#[tokio::test]
async fn with_a_ttl_of_zero_each_call_reads_its_key() {
    let (stack, reads) = stack().await;
    let stack = stack.with_settings(|settings| settings.key_cache = Duration::ZERO);
    for calls in 1..=3 {
        assert_eq!(stack.call().await, Allowed);
        run_refreshes().await;
        assert_eq!(reads.load(Ordering::Relaxed), calls);
    }
    revoke(&stack).await;
    assert_eq!(stack.call().await, unauthorized());
}

#[tokio::test]
async fn a_clock_set_back_ends_the_ttl() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    advance_ms(&stack, -1);
    assert_eq!(stack.call().await, unauthorized());
}

/// The wall clock may stand still while the monotonic clock advances.
#[tokio::test(start_paused = true)]
async fn the_ttl_also_ends_by_the_monotonic_clock() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    tokio::time::advance(TTL).await;
    assert_eq!(stack.call().await, unauthorized());
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_not_cached() {
    let (stack, _) = stack().await;
    stack.fail("GetItem", Fault::Throttled);
    assert_eq!(stack.call().await, unavailable());
    stack.at.aws.heal();
    assert_eq!(stack.call().await, Allowed);
}

/// A failing store must not get more requests.
#[tokio::test(start_paused = true)]
async fn a_failed_refresh_is_not_retried_by_the_next_call() {
    let (stack, _) = stack().await;
    assert_eq!(stack.call().await, Allowed);
    let reads = throttle_reads(&stack);
    advance_ms(&stack, 3_000);
    assert_eq!(stack.call().await, Allowed);
    // Long enough for all retries.
    tokio::time::sleep(Duration::from_millis(999)).await;
    let of_one_read = reads.load(Ordering::Relaxed);
    for _ in 0..10 {
        assert_eq!(stack.call().await, Allowed);
    }
    run_refreshes().await;
    assert_eq!(reads.load(Ordering::Relaxed), of_one_read);
    advance_ms(&stack, 1_000);
    assert_eq!(stack.call().await, Allowed);
    run_refreshes().await;
    assert!(reads.load(Ordering::Relaxed) > of_one_read);
}

/// Creates a stack whose store fails after the key of `acme`, on this plan, was cached and, if
/// `is_revoked`, then revoked.
async fn in_outage(plan: &str, fault: Fault, is_revoked: bool) -> Stack {
    let stack = Stack::with(TTL, Catalog::shipped().unwrap());
    let stack = stack.and_acme(plan, Overrides::default()).await;
    assert_eq!(stack.call().await, Allowed);
    if is_revoked {
        revoke(&stack).await;
    }
    stack.at.aws.inject(move |_| fault);
    stack
}

/// Faults that count as an outage of the store.
const OUTAGES: [Fault; 2] = [Fault::RequestLost, Fault::NoResponse];

#[tokio::test(start_paused = true)]
async fn in_an_outage_a_stale_key_works_on_plans_that_fail_open() {
    for fault in OUTAGES {
        let stack = in_outage("pro", fault, false).await;
        let by_stale_key = || stack.cloudwatch.sum(DECISIONS_BY_STALE_KEY, &[]);
        for second in 0..905 {
            assert_eq!(stack.call().await, Allowed, "{fault:?} {second}");
            advance_ms(&stack, 1_000);
        }
        assert_eq!(stack.call().await, unavailable(), "{fault:?}");
        // The first five seconds are within the TTL.
        stack.metrics.write();
        assert_eq!(by_stale_key(), 900, "{fault:?}");
        stack.at.aws.heal();
        advance_ms(&stack, 8_000);
        assert_eq!(stack.call().await, Allowed);
        stack.metrics.write();
        assert_eq!(by_stale_key(), 900, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_a_stale_key_does_not_work_on_plans_that_fail_closed() {
    for fault in OUTAGES {
        let stack = in_outage("free", fault, false).await;
        advance_ms(&stack, 5_000);
        for _ in 0..5 {
            assert_eq!(stack.call().await, unavailable(), "{fault:?}");
            advance_ms(&stack, 1_000);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_an_instance_with_an_empty_cache_allows_no_call() {
    let stack = in_outage("pro", Fault::RequestLost, false).await;
    let fresh = stack.instance();
    for _ in 0..5 {
        let event = event("api-key-header").to_string();
        let request = Request::from_json(&event).unwrap();
        let error = handle(&fresh, &request).await.unwrap_err();
        assert_eq!(error.to_string(), "Unavailable");
    }
}

#[tokio::test(start_paused = true)]
async fn stale_keys_can_be_disabled() {
    let stack = Stack::with(TTL, Catalog::shipped().unwrap());
    let stack = stack.with_settings(|settings| settings.stale_keys = Duration::ZERO);
    let stack = stack.and_acme("pro", Overrides::default()).await;
    assert_eq!(stack.call().await, Allowed);
    stack.at.aws.inject(|_| Fault::RequestLost);
    advance_ms(&stack, 4_999);
    assert_eq!(stack.call().await, Allowed);
    advance_ms(&stack, 1);
    assert_eq!(stack.call().await, unavailable());
}

/// One hot item is throttled, and requests for others succeed.
#[tokio::test(start_paused = true)]
async fn a_throttled_read_is_no_reason_to_use_a_stale_key() {
    let stack = in_outage("pro", Fault::None, true).await;
    stack.fail("GetItem", Fault::Throttled);
    advance_ms(&stack, 5_000);
    for _ in 0..5 {
        assert_eq!(stack.call().await, unavailable());
        advance_ms(&stack, 1_000);
    }
    stack.at.aws.heal();
    assert_eq!(stack.call().await, unauthorized());
}

#[tokio::test(start_paused = true)]
async fn a_revocation_takes_effect_as_soon_as_the_store_responds() {
    let stack = in_outage("pro", Fault::RequestLost, true).await;
    for _ in 0..60 {
        assert_eq!(stack.call().await, Allowed);
        advance_ms(&stack, 1_000);
    }
    stack.at.aws.heal();
    advance_ms(&stack, 8_000);
    // Whichever key's read succeeds first.
    assert_eq!(
        Outcome::of(stack.authorize(&unknown_key(0)).await),
        unauthorized()
    );
    assert_eq!(stack.call().await, unauthorized());
}

#[tokio::test(start_paused = true)]
async fn a_key_read_as_revoked_stays_unauthorized_in_an_outage() {
    let stack = Stack::with(TTL, Catalog::shipped().unwrap());
    let stack = stack.and_acme("pro", Overrides::default()).await;
    assert_eq!(stack.call().await, Allowed);
    revoke(&stack).await;
    advance_ms(&stack, 5_000);
    assert_eq!(stack.call().await, unauthorized());
    stack.at.aws.inject(|_| Fault::RequestLost);
    for _ in 0..60 {
        assert_eq!(stack.call().await, unauthorized());
        assert_eq!(
            Outcome::of(stack.authorize(&unknown_key(0)).await),
            unavailable()
        );
        advance_ms(&stack, 1_000);
    }
}

/// Returns an event with a well-formed key that does not exist.
fn unknown_key(number: u64) -> Value {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    let format = KeyFormat::new("tg", "live").unwrap();
    let key = format.generate(
        KeyKind::Customer,
        &mut StdRng::seed_from_u64(1_000_000 + number),
    );
    with_headers(event("no-key"), &[("x-api-key", key.expose())])
}

/// The clock is paused, because 3,000 calls may take longer than the TTL.
#[tokio::test(start_paused = true)]
async fn unknown_keys_are_cached_and_evict_no_existing_key() {
    let (stack, reads) = stack().await;
    let seen = Mutex::new(0);
    let read = || {
        let now = reads.load(Ordering::Relaxed);
        now - std::mem::replace(&mut *seen.lock().unwrap(), now)
    };
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(read(), 1);
    for _ in 0..2 {
        assert_eq!(
            Outcome::of(stack.authorize(&unknown_key(0)).await),
            unauthorized()
        );
    }
    assert_eq!(read(), 1);
    for number in 1..=3_000 {
        assert_eq!(
            Outcome::of(stack.authorize(&unknown_key(number)).await),
            unauthorized()
        );
    }
    assert_eq!(read(), 3_000);
    assert_eq!(stack.call().await, Allowed);
    assert_eq!(read(), 0);
    // The number of cached keys is bounded, and the first was evicted.
    assert_eq!(
        Outcome::of(stack.authorize(&unknown_key(0)).await),
        unauthorized()
    );
    assert_eq!(read(), 1);
}
