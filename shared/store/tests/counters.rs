//! Quota counters: a limit can be reserved completely and never exceeded, each write counts once, and items
//! stay small with many instances.

#![allow(clippy::unwrap_used, reason = "a failed set-up or read fails the test")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_types::region::Region;
use jiff::SignedDuration;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tollgate_domain::window::Hour;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{Call, Fault};
use tollgate_runtime::Entropy;
use tollgate_store::schema::COUNTERS;
use tollgate_store::{AdmittedCalls, CounterTotals, LeaseShare, ReserveOutcome, Store};
use tollgate_testing::faults::fail_in_turn;
use tollgate_testing::p;
use tollgate_testing::stored::{items, stored};

mod common;

use common::{
    counter, delete, edit, fixture, hour_share, put, release, reserve, reserved, spent,
    used_and_spent,
};

use ReserveOutcome::Exhausted;

/// Number of shares for which the root of a counter has room.
const ROOM: usize = 20;

/// Checks that nothing can be reserved, and that the try changes nothing.
async fn is_exhausted(at: &Fixture, share: &mut LeaseShare, limit: u64) {
    let before = stored(at);
    assert_eq!(reserve(at, share, 1, Some(limit), 0).await, Exhausted);
    assert!(stored(at) == before, "something was written");
}

/// Returns the totals of all counters.
async fn totals(at: &Fixture) -> CounterTotals {
    let keys = [p("key_0001")].into();
    let in_day = at.store.admitted_calls(&keys, p("2026-11-22")).await;
    let mut totals = CounterTotals {
        spent: in_day.unwrap(),
        ..CounterTotals::default()
    };
    for counter in items(at, COUNTERS) {
        let number = |name: &str| counter[name]["N"].as_str().map_or(0, p::<u64>);
        totals.reserved += number("used");
        totals.reserved -= number("unreserved");
        totals.uncounted += number("uncounted");
    }
    totals
}

/// Returns the number of shares in each item of the counters.
fn shares(at: &Fixture) -> Vec<usize> {
    let is_share = |name: &&String| name.len() == 8 && name.starts_with('i');
    let shares = |item: &Value| item.as_object().unwrap().keys().filter(is_share).count();
    items(at, COUNTERS).iter().map(shares).collect()
}

/// Returns the size of an item by DynamoDB's rules: names and values in bytes, numbers with two digits per
/// byte.
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>)
fn size(item: &Value) -> usize {
    let sizes = item.as_object().unwrap().iter().map(|(name, value)| {
        let text = |kind: &str| value[kind].as_str().map(str::len);
        let value = text("S").or_else(|| text("N").map(|digits| digits.div_ceil(2) + 1));
        name.len() + value.unwrap()
    });
    sizes.sum()
}

fn new_shares(at: &Fixture, instances: usize) -> Vec<LeaseShare> {
    (0..instances).map(|_| hour_share(at)).collect()
}

/// Injects these faults into the next writes, one after another, and none into later ones.
fn write_faults<const N: usize>(at: &Fixture, faults: [Fault; N]) {
    fail_in_turn(&at.aws, "UpdateItem", faults);
}

/// Returns the fixture with a store in another region, for tests that use up much of the SDK's retry quota,
/// of which there is one per service and region in a process.
fn with_own_retry_quota(at: Fixture, region: &'static str) -> Fixture {
    let sdk = at.aws.sdk_config().into_builder();
    let sdk = sdk.region(Region::from_static(region)).build();
    let store = Store::new(&sdk, "test", at.clock(), at.entropy.clone());
    Fixture { store, ..at }
}

#[tokio::test]
async fn nothing_is_reserved_beyond_a_limit() {
    let at = fixture();
    let mut one = hour_share(&at);
    is_exhausted(&at, &mut one, 0).await;
    assert_eq!(reserve(&at, &mut one, 5, Some(8), 0).await, reserved(5, 5));
    // Close to the limit, one unit is reserved at a time.
    let mut other = hour_share(&at);
    for used in [6, 7, 8] {
        let outcome = reserve(&at, &mut other, 5, Some(8), 0).await;
        assert_eq!(outcome, reserved(1, used));
    }
    for share in [&mut one, &mut other] {
        is_exhausted(&at, share, 8).await;
        // A limit that was lowered below the reserved units.
        is_exhausted(&at, share, 3).await;
    }
    let mut new_share = hour_share(&at);
    is_exhausted(&at, &mut new_share, 8).await;
    assert_eq!(
        reserve(&at, &mut new_share, 9, None, 0).await,
        reserved(9, 17)
    );
}

#[tokio::test]
async fn a_small_limit_is_reserved_one_by_one() {
    let at = fixture();
    let mut share = hour_share(&at);
    for used in 1..=3 {
        let outcome = reserve(&at, &mut share, 10, Some(3), 0).await;
        assert_eq!(outcome, reserved(1, used));
    }
    is_exhausted(&at, &mut share, 3).await;
}

#[tokio::test]
async fn has_room_writes_nothing() {
    let at = fixture();
    let mut share = hour_share(&at);
    let before = stored(&at);
    assert!(at.store.has_room(&share, 1).await.unwrap());
    assert!(!at.store.has_room(&share, 0).await.unwrap());
    assert!(stored(&at) == before);
    reserve(&at, &mut share, 2, Some(2), 0).await;
    assert!(!at.store.has_room(&hour_share(&at), 2).await.unwrap());
    assert!(at.store.has_room(&hour_share(&at), 3).await.unwrap());
}

#[tokio::test]
async fn a_release_takes_effect_once() {
    let at = fixture();
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 10, Some(50), 1).await;
    release(&at, &mut share, 7, 3).await;
    assert_eq!(used_and_spent(&at), (3, 3));
    assert!(share.is_settled(spent(3)));
    let before = stored(&at);
    at.store.settle(&mut share, spent(3)).await.unwrap();
    assert!(stored(&at) == before);
    // The next share continues the count of calls.
    assert_eq!(
        reserve(&at, &mut share, 2, Some(50), 5).await,
        reserved(2, 5)
    );
    assert_eq!(used_and_spent(&at), (5, 5));
}

/// A call was reported in advance, and then was not allowed.
#[tokio::test]
async fn a_call_reported_in_advance_is_taken_back() {
    let at = fixture();
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 1, Some(5), 1).await;
    assert_eq!(used_and_spent(&at), (1, 1));
    assert!(!share.is_settled(spent(0)));
    release(&at, &mut share, 1, 0).await;
    assert_eq!(used_and_spent(&at), (0, 0));
}

#[tokio::test]
async fn calls_without_a_unit_are_reported_and_count_towards_no_limit() {
    let at = fixture();
    let calls = |spent, uncounted| AdmittedCalls { spent, uncounted };
    let mut share = hour_share(&at);
    // Before anything was reserved, with a reservation, and at the end.
    at.store.settle(&mut share, calls(0, 4)).await.unwrap();
    let outcome = at.store.reserve(&mut share, 5, Some(6), calls(1, 10), 0);
    assert_eq!(outcome.await.unwrap(), reserved(5, 5));
    share.release(1, calls(4, 30));
    at.store.settle(&mut share, calls(4, 30)).await.unwrap();
    let expected = CounterTotals {
        reserved: 4,
        spent: 34,
        uncounted: 30,
    };
    assert_eq!(totals(&at).await, expected);
    assert_eq!(expected.admitted(), 64);
    let again = stored(&at);
    at.store.settle(&mut share, calls(4, 30)).await.unwrap();
    assert!(stored(&at) == again);
}

/// The totals include those of branches.
#[tokio::test]
async fn the_counter_of_a_month_includes_all_instances() {
    let at = fixture();
    let (customer, month) = (p("acme"), p("2026-11"));
    for instance in 1..=ROOM as u64 + 5 {
        let mut share = at.store.month_share(&customer, month);
        let calls = AdmittedCalls {
            spent: 1,
            uncounted: 2,
        };
        let reserving = at.store.reserve(&mut share, 2, None, calls, 0);
        reserving.await.unwrap();
        let totals = at.store.month_counter(&customer, month).await.unwrap();
        let expected = CounterTotals {
            reserved: 2 * instance,
            spent: instance,
            uncounted: 2 * instance,
        };
        assert_eq!(totals, expected);
    }
    assert!(
        items(&at, COUNTERS).len() > 1,
        "some shares are in a branch"
    );
}

/// For any fault of the first try.
#[tokio::test(start_paused = true)]
async fn each_write_takes_effect_once() {
    let faults = [
        Fault::ResponseLost,
        Fault::RequestLost,
        Fault::Throttled,
        Fault::Conflict,
    ];
    for fault in faults {
        // At the root, and at a branch.
        for rivals in [0, ROOM] {
            let at = with_own_retry_quota(fixture(), "each-write-once");
            for mut rival in new_shares(&at, rivals) {
                reserve(&at, &mut rival, 1, Some(10_000), 1).await;
            }
            let others = u64::try_from(rivals).unwrap();
            let mut share = hour_share(&at);
            let check = async |reserved, calls| {
                let totals = totals(&at).await;
                let expected = (others + reserved, others + calls);
                assert_eq!(
                    (totals.reserved, totals.spent),
                    expected,
                    "{fault:?} {rivals}"
                );
            };
            for times in 1..=2 {
                write_faults(&at, [fault, Fault::None, fault, Fault::None, fault]);
                let calls = times * 10 - 4;
                reserve(&at, &mut share, 10, Some(10_000), calls).await;
                check(times * 10, calls).await;
            }
            write_faults(&at, [fault]);
            release(&at, &mut share, 3, 17).await;
            check(17, 17).await;
        }
    }
}

/// The responses for the last units of a limit are lost.
#[tokio::test(start_paused = true)]
async fn the_last_unit_of_a_limit_is_reserved_despite_a_lost_response() {
    let at = fixture();
    let mut share = hour_share(&at);
    for used in [1, 2] {
        write_faults(&at, [Fault::ResponseLost]);
        let outcome = reserve(&at, &mut share, 1, Some(2), used).await;
        assert_eq!(outcome, reserved(1, used));
    }
    assert_eq!(reserve(&at, &mut share, 1, Some(2), 3).await, Exhausted);
}

/// The responses to all tries are lost, and the caller gives up.
#[tokio::test(start_paused = true)]
async fn an_unconfirmed_reservation_is_found_or_released_later() {
    let reserve_unconfirmed = async |at: &Fixture, share: &mut LeaseShare| {
        write_faults(at, [Fault::ResponseLost; 9]);
        let error = at.store.reserve(share, 10, Some(100), spent(1), 0).await;
        let error = error.unwrap_err();
        assert!(error.is_transient() && error.is_outage(), "{error:?}");
        at.aws.heal();
    };
    for before in [0, 5] {
        let at = with_own_retry_quota(fixture(), "unconfirmed");
        let mut share = hour_share(&at);
        if before > 0 {
            reserve(&at, &mut share, before, Some(100), 1).await;
        }
        reserve_unconfirmed(&at, &mut share).await;
        assert_eq!(used_and_spent(&at), (before + 10, 1));
        // Other instances have reserved units meanwhile.
        reserve(&at, &mut hour_share(&at), 40, Some(100), 0).await;
        let outcome = reserve(&at, &mut share, 30, Some(100), 1).await;
        assert_eq!(outcome, reserved(10, before + 50));

        reserve_unconfirmed(&at, &mut share).await;
        release(&at, &mut share, before + 9, 1).await;
        assert_eq!(used_and_spent(&at), (41, 1));
    }

    // A share none of whose writes was confirmed.
    let at = with_own_retry_quota(fixture(), "never-confirmed");
    let mut share = hour_share(&at);
    reserve_unconfirmed(&at, &mut share).await;
    assert!(!share.is_settled(spent(0)));
    release(&at, &mut share, 0, 0).await;
    assert_eq!(used_and_spent(&at), (0, 0));
    assert!(share.is_settled(spent(0)));
}

/// The instance shuts down while its first write is in transit.
#[tokio::test(start_paused = true)]
async fn a_first_write_that_arrives_after_the_release_has_no_effect() {
    let at = with_own_retry_quota(fixture(), "after-the-release");
    let sent = record(&at, Fault::RequestLost);
    let mut share = hour_share(&at);
    let lost = at.store.reserve(&mut share, 5, Some(9), spent(1), 0).await;
    lost.unwrap_err();
    at.aws.heal();
    share.release(0, spent(0));
    at.store.settle(&mut share, spent(0)).await.unwrap();
    assert!(share.is_settled(spent(0)));
    redeliver(&at, &sent);
    assert_eq!(used_and_spent(&at), (0, 0));
}

/// The next operation completes the release, and does not release the units twice.
#[tokio::test(start_paused = true)]
async fn an_unconfirmed_release_is_completed() {
    for fault in [Fault::ResponseLost, Fault::RequestLost] {
        for then_reserves in [false, true] {
            let at = with_own_retry_quota(fixture(), "release-completed");
            let mut share = hour_share(&at);
            reserve(&at, &mut share, 10, Some(12), 1).await;
            write_faults(&at, [fault; 9]);
            share.release(7, spent(3));
            at.store.settle(&mut share, spent(3)).await.unwrap_err();
            assert!(!share.is_settled(spent(3)));
            at.aws.heal();
            if then_reserves {
                let outcome = reserve(&at, &mut share, 1, Some(12), 4).await;
                assert_eq!(outcome, reserved(1, 4), "{fault:?}");
            } else {
                at.store.settle(&mut share, spent(3)).await.unwrap();
            }
            let calls = 3 + u64::from(then_reserves);
            assert_eq!(used_and_spent(&at), (calls, calls), "{fault:?}");
        }
    }
}

/// Advances the clock, and has other instances reserve units, which removes the shares that have expired.
async fn expire_shares(at: &Fixture, seconds: i64) {
    at.time.advance(SignedDuration::from_secs(seconds));
    for mut other in new_shares(at, ROOM) {
        reserve(at, &mut other, 1, None, 1).await;
    }
}

/// The response is lost, and the tombstone is removed before the retry.
#[tokio::test]
async fn a_release_whose_tombstone_is_removed_reports_nothing_twice() {
    let at = with_own_retry_quota(fixture(), "release-tombstone");
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 10, None, 1).await;
    write_faults(&at, [Fault::ResponseLost; 9]);
    share.release(7, spent(3));
    at.store.settle(&mut share, spent(3)).await.unwrap_err();
    at.aws.heal();
    expire_shares(&at, 100).await;
    let before = stored(&at);
    at.store.settle(&mut share, spent(3)).await.unwrap();
    assert!(share.is_settled(spent(3)));
    assert!(stored(&at) == before);
}

/// The share expired before the release, of which no try has taken effect.
#[tokio::test]
async fn a_release_of_an_expired_share_reports_its_calls() {
    let at = fixture();
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 1, None, 0).await;
    expire_shares(&at, 61).await;
    let before = totals(&at).await;
    share.release(0, spent(1));
    at.store.settle(&mut share, spent(1)).await.unwrap();
    let after = totals(&at).await;
    assert_eq!(after.reserved, before.reserved);
    assert_eq!(after.spent, before.spent + 1);
}

/// Injects the fault into all calls from now on, and returns them.
fn record(at: &Fixture, fault: Fault) -> Arc<Mutex<Vec<Call>>> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent);
    at.aws.inject(move |call| {
        seen.lock().unwrap().push(call.clone());
        fault
    });
    sent
}

/// Delivers the calls again, and checks that none has an effect.
fn redeliver(at: &Fixture, sent: &Mutex<Vec<Call>>) {
    let before = stored(at);
    for call in sent.lock().unwrap().iter() {
        let (status, response) = at.aws.call(&call.target, &call.body);
        let is_read = call.operation() == "BatchGetItem";
        assert!(is_read || status == 400, "{} {response}", call.body);
        assert!(stored(at) == before, "{}", call.body);
    }
}

#[tokio::test]
async fn a_write_that_arrives_again_later_changes_nothing() {
    let at = fixture();
    let sent = record(&at, Fault::None);
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 10, Some(5_000), 1).await;
    reserve(&at, &mut share, 10, Some(5_000), 11).await;
    release(&at, &mut share, 9, 11).await;
    reserve(&at, &mut share, 10, Some(5_000), 12).await;
    for mut other in new_shares(&at, ROOM + 5) {
        reserve(&at, &mut other, 10, Some(5_000), 1).await;
    }
    at.aws.heal();
    assert!(sent.lock().unwrap().len() > ROOM + 9);
    for hours in [0, 1, 100] {
        at.time.advance(SignedDuration::from_hours(hours));
        redeliver(&at, &sent);
    }
}

/// A share is removed after it expired, and its first write arrives again.
#[tokio::test]
async fn a_first_write_that_arrives_after_its_share_was_removed_changes_nothing() {
    // Removed by another instance that needs the room, or by its own release.
    for removed_by_release in [false, true] {
        let at = fixture();
        let sent = record(&at, Fault::None);
        let mut shares = new_shares(&at, ROOM);
        for share in &mut shares {
            reserve(&at, share, 1, None, 1).await;
        }
        at.aws.heal();
        at.time.advance(SignedDuration::from_secs(91));
        if removed_by_release {
            for share in &mut shares {
                release(&at, share, 0, 1).await;
            }
            assert_eq!(self::shares(&at), [0]);
        } else {
            reserve(&at, &mut hour_share(&at), 1, None, 1).await;
            assert_eq!(self::shares(&at), [1]);
        }
        redeliver(&at, &sent);
    }
}

/// Shares were removed by an instance whose clock was ahead, or this instance's clock was set back.
#[tokio::test]
async fn a_share_can_be_inserted_by_a_clock_behind_the_last_removal() {
    for hours in [1, 100] {
        let behind = SignedDuration::from_hours(hours);
        let at = fixture();
        for mut share in new_shares(&at, ROOM) {
            reserve(&at, &mut share, 1, None, 1).await;
        }
        at.time.advance(SignedDuration::from_secs(61));
        reserve(&at, &mut hour_share(&at), 1, None, 1).await;
        assert_eq!(self::shares(&at), [1], "the other shares were removed");
        at.time.advance(-behind);
        let sent = record(&at, Fault::None);
        let mut shares = [(), (), ()].map(|()| hour_share(&at));
        for (share, used) in shares.iter_mut().zip(22..) {
            let outcome = reserve(&at, share, 1, None, 1).await;
            assert_eq!(outcome, reserved(1, used));
        }
        at.aws.heal();
        // With the shares stored, and after they have ended, with a tombstone and without.
        let [first, second, _] = &mut shares;
        redeliver(&at, &sent);
        release(&at, first, 0, 1).await;
        at.time.advance(SignedDuration::from_secs(91));
        release(&at, second, 0, 1).await;
        redeliver(&at, &sent);
        for later in [SignedDuration::from_secs(91), behind] {
            at.time.advance(later);
            expire_shares(&at, 0).await;
            // Only the time of the last removal keeps the writes from taking effect.
            let roots = items(&at, COUNTERS).into_iter();
            let mut roots = roots.filter(|item| item.get("shares_removed_at").is_some());
            let mut root = roots.next().unwrap();
            root["shares"] = json!({ "N": "0" });
            put(&at, COUNTERS, &root);
            redeliver(&at, &sent);
        }
    }
}

/// A share ends without a tombstone by a clock that was set back.
#[tokio::test]
async fn the_time_of_the_last_removal_never_decreases() {
    let at = fixture();
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 2, None, 0).await;
    at.time.advance(SignedDuration::from_secs(120));
    let sent = record(&at, Fault::None);
    for mut other in new_shares(&at, ROOM - 1) {
        reserve(&at, &mut other, 1, None, 1).await;
    }
    at.aws.heal();
    at.time.advance(SignedDuration::from_secs(80));
    reserve(&at, &mut hour_share(&at), 1, None, 1).await;
    assert_eq!(shares(&at), [2], "the other shares were removed");
    at.time.advance(SignedDuration::from_secs(-100));
    release(&at, &mut share, 2, 0).await;
    assert_eq!(used_and_spent(&at), (20, 20));
    redeliver(&at, &sent);
}

/// The item was deleted by TTL, or by a person.
#[tokio::test]
async fn a_deleted_counter_is_created_again() {
    let at = fixture();
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 10, Some(50), 1).await;
    delete(&at, COUNTERS, "HOUR#");
    let before = stored(&at);
    release(&at, &mut share, 9, 1).await;
    assert!(stored(&at) == before);
    reserve(&at, &mut share, 10, Some(50), 1).await;
    delete(&at, COUNTERS, "HOUR#");
    let outcome = reserve(&at, &mut share, 10, Some(50), 11).await;
    assert_eq!(outcome, reserved(10, 10));
}

/// The share of an instance that reserved one unit expires after a minute, and that of an instance with more
/// units is kept for a day.
#[tokio::test]
async fn expired_shares_make_room() {
    let at = fixture();
    let mut leased = hour_share(&at);
    reserve(&at, &mut leased, 10, None, 0).await;
    for _ in 0..100 {
        at.time.advance(SignedDuration::from_secs(7));
        reserve(&at, &mut hour_share(&at), 1, None, 1).await;
    }
    assert_eq!(items(&at, COUNTERS).len(), 1, "no branch is needed");
    assert!(shares(&at)[0] <= ROOM);
    release(&at, &mut leased, 10, 0).await;
    assert_eq!(used_and_spent(&at), (100, 100));
}

/// An expired share is used again before another instance removes it.
#[tokio::test]
async fn an_expired_share_that_is_used_again_is_not_removed() {
    let at = fixture();
    let mut shares = new_shares(&at, ROOM);
    for share in &mut shares {
        reserve(&at, share, 1, None, 1).await;
    }
    at.time.advance(SignedDuration::from_secs(61));
    // Between the new instance's read and its next write.
    let (rival, mut writes) = (at.clone(), 0);
    at.aws.inject(move |call| {
        writes += usize::from(call.operation() == "UpdateItem");
        if writes == 2 {
            edit(&rival, COUNTERS, "HOUR#", |counter| {
                let shares = counter.as_object_mut().unwrap().iter_mut();
                let mut shares = shares.filter(|(name, _)| name.len() == 8);
                let (_, revived) = shares.next().unwrap();
                *revived = json!({ "S": "9999999999 3 3" });
            });
        }
        Fault::None
    });
    let outcome = reserve(&at, &mut hour_share(&at), 1, None, 1).await;
    assert!(matches!(outcome, ReserveOutcome::Reserved { .. }));
    assert_eq!(
        self::shares(&at),
        [2],
        "the share that is used again, and the new one"
    );
}

#[tokio::test]
async fn an_instance_whose_share_was_removed_continues_and_releases_nothing() {
    let at = fixture();
    let mut slow = hour_share(&at);
    assert_eq!(
        reserve(&at, &mut slow, 1, Some(900), 0).await,
        reserved(1, 1)
    );
    expire_shares(&at, 61).await;
    let before = stored(&at);
    release(&at, &mut slow, 1, 0).await;
    assert!(stored(&at) == before);

    let mut slow = hour_share(&at);
    at.time.advance(SignedDuration::from_secs(61));
    reserve(&at, &mut slow, 1, None, 1).await;
    expire_shares(&at, 61).await;
    let before = totals(&at).await;
    reserve(&at, &mut slow, 1, None, 2).await;
    let after = totals(&at).await;
    assert_eq!(after.reserved, before.reserved + 1);
    assert_eq!(after.spent, before.spent + 1, "reported once");
}

/// Each of 500 instances reserves a unit, each item stays small, and shrinks again after the releases.
#[tokio::test]
async fn a_counter_has_room_for_five_hundred_instances() {
    let at = fixture();
    let mut instances = new_shares(&at, 500);
    for share in &mut instances {
        let outcome = reserve(&at, share, 1, Some(100_000), 1).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { units: 1, .. }));
    }
    let expected = CounterTotals {
        reserved: 500,
        spent: 500,
        uncounted: 0,
    };
    assert_eq!(totals(&at).await, expected);
    let sizes = || items(&at, COUNTERS).iter().map(size).max().unwrap();
    assert!(sizes() < 2_048, "{}", sizes());
    let of_root = items(&at, COUNTERS)
        .iter()
        .filter(|item| item["used"].is_object())
        .map(size)
        .max();
    assert!(of_root < Some(1_024), "{of_root:?}");
    at.time.advance(SignedDuration::from_secs(120));
    for share in &mut instances {
        release(&at, share, 0, 1).await;
    }
    assert_eq!(totals(&at).await, expected);
    assert_eq!(shares(&at).iter().sum::<usize>(), 0);
    assert!(sizes() < 400, "{}", sizes());
}

#[tokio::test]
async fn with_thirty_instances_and_large_numbers_each_item_fits_in_a_write_unit() {
    let at = fixture();
    let mut instances = new_shares(&at, 30);
    for calls in 0..3 {
        for share in &mut instances {
            reserve(&at, share, 9_999_999, None, calls * 9_999_999).await;
        }
    }
    for item in items(&at, COUNTERS) {
        assert!(size(&item) < 1_024, "{} {item}", size(&item));
    }
}

/// Unreserved units of branches are returned when the root has none left.
#[tokio::test]
async fn a_limit_is_used_up_to_the_last_unit_despite_grants_to_branches() {
    for limit in [25, 60, 300, 2_000] {
        let at = fixture();
        let instances = new_shares(&at, 60).into_iter();
        let mut instances: Vec<(LeaseShare, u64)> = instances.map(|share| (share, 0)).collect();
        let mut units = 0;
        let mut exhausted = BTreeSet::new();
        while exhausted.len() < instances.len() {
            for (n, (share, reserved)) in instances.iter_mut().enumerate() {
                // An instance reserves more when it has spent all its units.
                match reserve(&at, share, 3, Some(limit), *reserved).await {
                    ReserveOutcome::Reserved { units: more, .. } => {
                        *reserved += more;
                        units += more;
                    }
                    Exhausted => {
                        assert_eq!(
                            units, limit,
                            "nothing is left when the first instance gets none"
                        );
                        exhausted.insert(n);
                    }
                }
            }
        }
        assert_eq!(totals(&at).await.reserved, limit);
        // A unit that is released to a branch can be reserved by an instance of another item.
        let has_units = |(_, reserved): &&mut (LeaseShare, u64)| *reserved > 0;
        let (share, reserved) = instances.iter_mut().rfind(has_units).unwrap();
        release(&at, share, 1, *reserved - 1).await;
        let mut new_share = hour_share(&at);
        let outcome = reserve(&at, &mut new_share, 5, Some(limit), 0).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { units: 1, .. }));
        is_exhausted(&at, &mut hour_share(&at), limit).await;
    }
}

/// The units of a branch were granted under a higher limit than that of this call.
#[tokio::test]
async fn a_lower_limit_applies_to_branches_too() {
    let at = fixture();
    let mut instances = new_shares(&at, ROOM + 10);
    for share in &mut instances {
        reserve(&at, share, 1, None, 1).await;
    }
    let reserved = totals(&at).await.reserved;
    for share in instances.iter_mut().chain(&mut new_shares(&at, 40)) {
        is_exhausted(&at, share, reserved).await;
    }
}

/// Returns a counter of the writes from now on.
fn count_writes(at: &Fixture) -> Arc<AtomicUsize> {
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    at.aws.inject(move |call| {
        let is_write = call.operation() == "UpdateItem";
        counted.fetch_add(usize::from(is_write), Ordering::Relaxed);
        Fault::None
    });
    writes
}

/// Some shares of an item have expired, and it is full even without them.
#[tokio::test]
async fn a_share_is_inserted_where_too_few_shares_have_expired() {
    // At the root, which a report has filled beyond its room.
    let at = fixture();
    for mut share in new_shares(&at, ROOM) {
        reserve(&at, &mut share, 2, None, 1).await;
    }
    let calls = AdmittedCalls {
        spent: 0,
        uncounted: 1,
    };
    at.store.settle(&mut hour_share(&at), calls).await.unwrap();
    at.time.advance(SignedDuration::from_secs(61));
    let writes = count_writes(&at);
    reserve(&at, &mut hour_share(&at), 1, None, 1).await;
    assert!(writes.load(Ordering::Relaxed) <= 4, "{writes:?}");

    // At branches.
    let at = fixture();
    let mut instances = new_shares(&at, 400);
    for share in &mut instances {
        reserve(&at, share, 2, None, 1).await;
    }
    for share in instances.iter_mut().step_by(13) {
        release(&at, share, 1, 2).await;
    }
    at.time.advance(SignedDuration::from_secs(91));
    let writes = count_writes(&at);
    for mut new_share in new_shares(&at, 50) {
        reserve(&at, &mut new_share, 1, None, 1).await;
        assert!(writes.swap(0, Ordering::Relaxed) <= 6);
    }
}

/// Another instance removes the expired shares first.
#[tokio::test]
async fn a_share_is_inserted_after_another_instance_made_room() {
    let at = fixture();
    for mut share in new_shares(&at, ROOM) {
        reserve(&at, &mut share, 1, None, 1).await;
    }
    at.time.advance(SignedDuration::from_secs(61));
    let (rival, mut writes) = (at.clone(), 0);
    at.aws.inject(move |call| {
        writes += usize::from(call.operation() == "UpdateItem");
        if writes == 2 {
            edit(&rival, COUNTERS, "HOUR#", |counter| {
                let counter = counter.as_object_mut().unwrap();
                counter.retain(|name, _| name.len() != 8);
                counter.insert("shares".into(), json!({ "N": "0" }));
            });
        }
        Fault::None
    });
    reserve(&at, &mut hour_share(&at), 1, None, 1).await;
    at.aws.heal();
    let writes = count_writes(&at);
    reserve(&at, &mut hour_share(&at), 1, None, 1).await;
    assert_eq!(writes.load(Ordering::Relaxed), 1);
    assert_eq!(shares(&at), [2]);
}

/// The root is exhausted under a limit. Before the branches are read, one is granted units under a higher
/// limit: those are returned, and cannot be reserved under the lower one.
#[tokio::test]
async fn units_granted_under_a_higher_limit_meanwhile_are_not_reserved_under_a_lower_one() {
    let at = fixture();
    for mut share in new_shares(&at, ROOM + 1) {
        reserve(&at, &mut share, 1, None, 1).await;
    }
    let limit = counter(&at)["used"]["N"].as_str().map_or(0, p::<u64>);
    // The branch's own units are used up.
    while let ReserveOutcome::Reserved { .. } =
        reserve(&at, &mut hour_share(&at), 1, Some(limit), 1).await
    {}
    let (rival, mut reads) = (at.clone(), 0);
    at.aws.inject(move |call| {
        reads += usize::from(call.operation() == "BatchGetItem");
        if call.operation() == "BatchGetItem" && reads == 1 {
            let root = counter(&rival);
            let mut names = root.as_object().unwrap().keys();
            let branch = names.find(|name| name.starts_with('b')).unwrap();
            let number = format!("#{}", &branch[1..]);
            for mut item in items(&rival, COUNTERS) {
                let more = |number: &Value| {
                    let number = number["N"].as_str().map_or(0, p::<u64>);
                    json!({ "N": (number + 16).to_string() })
                };
                let top = json!({ "N": (limit + 16).to_string() });
                let attributes = item.as_object_mut().unwrap();
                let pk = attributes["pk"]["S"].as_str().unwrap();
                if pk.ends_with(&number) {
                    attributes["granted"] = more(&attributes["granted"]);
                    attributes["unreserved"] = more(&attributes["unreserved"]);
                    attributes["top"] = top;
                } else if attributes.contains_key("used") {
                    attributes[branch] = more(&attributes[branch]);
                    attributes["used"] = top;
                }
                put(&rival, COUNTERS, &item);
            }
        }
        Fault::None
    });
    let outcome = reserve(&at, &mut hour_share(&at), 1, Some(limit), 1).await;
    assert_eq!(outcome, Exhausted);
}

/// There are only calls of an outage, and the responses to their report are lost.
#[tokio::test(start_paused = true)]
async fn a_report_without_a_reservation_is_completed() {
    let at = with_own_retry_quota(fixture(), "report-completed");
    let calls = AdmittedCalls {
        spent: 0,
        uncounted: 9,
    };
    let mut share = hour_share(&at);
    write_faults(&at, [Fault::ResponseLost; 9]);
    at.store.settle(&mut share, calls).await.unwrap_err();
    at.aws.heal();
    share.release(0, calls);
    at.store.settle(&mut share, calls).await.unwrap();
    assert!(share.is_settled(calls));
    assert_eq!(totals(&at).await.uncounted, 9);
}

/// Reserves each of these numbers of units `times` times, each with a share of its own and all concurrently.
/// Returns the shares with their reserved units.
async fn reserve_concurrently(
    at: &Fixture,
    times: u64,
    wanted: &[u64],
    limit: Option<u64>,
) -> Vec<Leased> {
    let mut tasks = JoinSet::new();
    for units in wanted.iter().copied() {
        let mut share = hour_share(at);
        let at = at.clone();
        tasks.spawn(async move {
            let mut leased = 0;
            for _ in 0..times {
                let reserving = at.store.reserve(&mut share, units, limit, spent(0), leased);
                match reserving.await.unwrap() {
                    ReserveOutcome::Reserved { units, .. } => leased += units,
                    Exhausted => break,
                }
            }
            Leased {
                share,
                units: leased,
            }
        });
    }
    tasks.join_all().await
}

struct Leased {
    share: LeaseShare,
    units: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn forty_shares_reserve_all_of_50_units_one_by_one() {
    let at = fixture();
    let leased = reserve_concurrently(&at, 5, &[1; 40], Some(50)).await;
    assert_eq!(leased.iter().map(|one| one.units).sum::<u64>(), 50);
    assert_eq!(totals(&at).await.reserved, 50);
}

/// For any limit and any numbers of units: all of the limit is reserved if as much is wanted, none beyond it,
/// and released units are available again.
#[test]
fn a_limit_is_reserved_completely_and_never_exceeded() {
    let wanted = prop_oneof![
        prop::collection::vec(1_u64..12, 1..8),
        prop::collection::vec(1_u64..4, 30..50),
    ];
    let cases = (wanted, prop::option::of(0_u64..80), 1_u64..6);
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let checked = TestRunner::new(config).run(&cases, |(wanted, limit, times)| {
        let threads = Builder::new_multi_thread()
            .worker_threads(4)
            .enable_time()
            .build();
        threads.unwrap().block_on(async {
            let at = fixture();
            let mut leased = reserve_concurrently(&at, times, &wanted, limit).await;
            let reserved: u64 = leased.iter().map(|one| one.units).sum();
            prop_assert_eq!(totals(&at).await.reserved, reserved);
            let most = wanted.iter().sum::<u64>() * times;
            prop_assert!(reserved <= limit.unwrap_or(most));
            // Close to the limit, shares reserve one unit at a time, and so fewer than wanted.
            let fewest = u64::try_from(wanted.len()).unwrap() * times;
            prop_assert!(reserved >= fewest.min(limit.unwrap_or(fewest)));
            for one in &mut leased {
                let calls = one.units / 2;
                release(&at, &mut one.share, one.units - calls, calls).await;
            }
            let calls: u64 = leased.iter().map(|one| one.units / 2).sum();
            let expected = CounterTotals {
                reserved: calls,
                spent: calls,
                uncounted: 0,
            };
            prop_assert_eq!(totals(&at).await, expected);
            Ok(())
        })
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}

/// With random faults, the counter includes all units that instances have reserved, and never exceeds the
/// limit.
#[tokio::test(start_paused = true)]
async fn a_counter_includes_all_reserved_units_and_never_exceeds_the_limit() {
    const LIMIT: u64 = 60;
    for seed in 0..20 {
        let at = with_own_retry_quota(fixture(), "random-faults");
        let drawn = Entropy::seeded(seed);
        at.aws.inject(move |_| match drawn.below(10) {
            0 => Fault::RequestLost,
            1 | 2 => Fault::ResponseLost,
            3 => Fault::Throttled,
            _ => Fault::None,
        });
        let choice = Entropy::seeded(seed + 1_000);
        let instances = if seed % 2 == 0 { 4 } else { 30 };
        let mut shares: Vec<(LeaseShare, u64)> = new_shares(&at, instances)
            .into_iter()
            .map(|share| (share, 0))
            .collect();
        let mut exhausted = false;
        for _ in 0..100 {
            let instances = u64::try_from(instances).unwrap();
            let (share, reserved) = &mut shares[usize::try_from(choice.below(instances)).unwrap()];
            let units = 1 + choice.below(6);
            match at
                .store
                .reserve(share, units, Some(LIMIT), spent(0), *reserved)
                .await
            {
                Ok(ReserveOutcome::Reserved { units, used, .. }) => {
                    *reserved += units;
                    assert!(used <= LIMIT, "seed {seed}");
                }
                Ok(Exhausted) => exhausted = true,
                Err(error) => assert!(error.is_transient(), "seed {seed}: {error:?}"),
            }
            let reserved: u64 = shares.iter().map(|(_, reserved)| reserved).sum();
            let (used, _) = used_and_spent(&at);
            assert!(reserved <= used && used <= LIMIT, "seed {seed}");
        }
        assert!(exhausted, "seed {seed}");
        at.aws.heal();
        for (share, reserved) in &mut shares {
            release(&at, share, *reserved, 0).await;
        }
        assert_eq!(
            totals(&at).await,
            CounterTotals::default(),
            "seed {seed}: all units are released"
        );
    }
}

#[tokio::test]
async fn windows_customers_and_keys_have_separate_counters() {
    let at = fixture();
    let month = |customer: &str, month: &str| at.store.month_share(&p(customer), p(month));
    let hour =
        |key: &str, instant: &str| at.store.hour_share(&p(key), Hour::containing(p(instant)));
    let mut separate = [
        hour("key_1", "2026-11-30T22:59:59.999Z"),
        hour("key_1", "2026-11-30T23:00:00Z"),
        hour("key_10", "2026-11-30T23:00:00Z"),
        month("acme", "2026-11"),
        month("acme", "2026-12"),
        month("acme-2", "2026-11"),
        month("acm", "2026-11"),
    ];
    for share in &mut separate {
        assert_eq!(reserve(&at, share, 1, Some(1), 1).await, reserved(1, 1));
        assert_eq!(reserve(&at, share, 1, Some(1), 1).await, Exhausted);
    }
    let totals = async |month| at.store.month_counter(&p("acme"), p(month)).await.unwrap();
    let expected = CounterTotals {
        reserved: 1,
        spent: 1,
        uncounted: 0,
    };
    assert_eq!(totals("2026-11").await, expected);
    assert_eq!(totals("2027-01").await, CounterTotals::default());
}

/// Unreserved units are returned to the root when a lower limit is otherwise used up.
#[tokio::test]
async fn units_granted_under_a_higher_limit_are_not_lost_to_a_lower_one() {
    let at = fixture();
    for mut share in new_shares(&at, ROOM + 10) {
        reserve(&at, &mut share, 1, None, 1).await;
    }
    let limit = totals(&at).await.reserved + 7;
    assert!(used_and_spent(&at).0 > limit, "more was granted");
    for mut share in new_shares(&at, 7) {
        let outcome = reserve(&at, &mut share, 1, Some(limit), 1).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { units: 1, .. }));
    }
    is_exhausted(&at, &mut hour_share(&at), limit).await;
    assert_eq!(totals(&at).await.reserved, limit);
}

/// A branch returns units, and the response to its write, or to the root's, is lost.
#[tokio::test(start_paused = true)]
async fn returned_units_count_once() {
    for lost in 2..4 {
        let at = with_own_retry_quota(fixture(), "returned-units");
        for mut share in new_shares(&at, ROOM + 1) {
            reserve(&at, &mut share, 1, None, 1).await;
        }
        let limit = totals(&at).await.reserved + 1;
        // The first write finds the root exhausted, the second returns units, and the third follows.
        let mut writes = 0;
        at.aws.inject(move |call| {
            writes += usize::from(call.operation() == "UpdateItem");
            if call.operation() == "UpdateItem" && writes >= lost && writes < lost + 9 {
                Fault::ResponseLost
            } else {
                Fault::None
            }
        });
        let mut share = hour_share(&at);
        let reserving = at.store.reserve(&mut share, 1, Some(limit), spent(1), 0);
        reserving.await.unwrap_err();
        at.aws.heal();
        let outcome = reserve(&at, &mut share, 1, Some(limit), 1).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { units: 1, .. }));
        is_exhausted(&at, &mut hour_share(&at), limit).await;
        assert_eq!(totals(&at).await.reserved, limit, "{lost}");
    }
}

/// Another instance sees that a branch has returned units, and follows at the root first.
#[tokio::test]
async fn a_return_that_another_instance_followed_counts_once() {
    let at = fixture();
    for mut share in new_shares(&at, ROOM + 1) {
        reserve(&at, &mut share, 1, None, 1).await;
    }
    let limit = totals(&at).await.reserved + 2;
    let (rival, mut has_read) = (at.clone(), false);
    let (branch, root) = {
        let mut counters = items(&at, COUNTERS);
        counters.sort_by_key(|item| item["pk"]["S"].as_str().map(str::len));
        let branch = counters.pop().unwrap();
        (branch, counters.pop().unwrap())
    };
    let number = |item: &Value, name: &str| item[name]["N"].as_str().map_or(0, p::<u64>);
    let (left, used) = (number(&branch, "unreserved"), number(&root, "used"));
    let name = root.as_object().unwrap().keys();
    let name = name.clone().find(|name| name.starts_with('b')).unwrap();
    let followed = format!("r{}", &name[1..]);
    let mut is_followed = false;
    at.aws.inject(move |call| {
        let is_read = call.operation() == "BatchGetItem";
        if is_read && !has_read {
            let mut branch = branch.clone();
            branch["unreserved"] = json!({ "N": "0" });
            branch["returned"] = json!({ "N": left.to_string() });
            put(&rival, COUNTERS, &branch);
        } else if has_read && call.body.contains(&followed) && !is_followed {
            let mut root = root.clone();
            root["used"] = json!({ "N": (used - left).to_string() });
            root[&followed] = json!({ "N": left.to_string() });
            put(&rival, COUNTERS, &root);
            is_followed = true;
        }
        has_read |= is_read;
        Fault::None
    });
    for mut share in new_shares(&at, 2) {
        let outcome = reserve(&at, &mut share, 1, Some(limit), 1).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { units: 1, .. }));
    }
    is_exhausted(&at, &mut hour_share(&at), limit).await;
    assert_eq!(totals(&at).await.reserved, limit);
}

/// An instance has a unit of the root, and finds its share removed and the root full.
#[tokio::test]
async fn an_instance_with_units_of_the_root_stays_there() {
    let at = fixture();
    let mut lessee = hour_share(&at);
    reserve(&at, &mut lessee, 1, Some(1_000), 0).await;
    for mut share in new_shares(&at, ROOM - 1) {
        reserve(&at, &mut share, 2, Some(1_000), 2).await;
    }
    at.time.advance(SignedDuration::from_secs(61));
    reserve(&at, &mut hour_share(&at), 2, Some(1_000), 2).await;
    assert_eq!(shares(&at), [ROOM], "instead of the removed share");
    let outcome = at.store.reserve(&mut lessee, 1, Some(900), spent(0), 1);
    assert!(matches!(
        outcome.await,
        Ok(ReserveOutcome::Reserved { units: 1, .. })
    ));
    assert_eq!(shares(&at), [ROOM + 1]);
}

/// The report of an outage's calls is lost, and shares are removed before it is sent again: the calls are
/// reported, however long ago the first try was.
#[tokio::test(start_paused = true)]
async fn a_lost_report_is_repeated_though_shares_were_removed() {
    let calls = AdmittedCalls {
        spent: 0,
        uncounted: 9,
    };
    for later in [35, 61] {
        let at = with_own_retry_quota(fixture(), "lost-report");
        for mut share in new_shares(&at, ROOM - 1) {
            reserve(&at, &mut share, 1, None, 1).await;
        }
        at.time.advance(SignedDuration::from_secs(61 - later));
        let mut share = hour_share(&at);
        write_faults(&at, [Fault::RequestLost; 9]);
        at.store.settle(&mut share, calls).await.unwrap_err();
        at.aws.heal();
        at.time.advance(SignedDuration::from_secs(later));
        for mut new_share in new_shares(&at, 2) {
            reserve(&at, &mut new_share, 1, None, 1).await;
        }
        at.store.settle(&mut share, calls).await.unwrap();
        assert_eq!(totals(&at).await.uncounted, 9, "{later}");
    }
}

/// A branch changes between the read and its return of units: a unit is reserved; or as many are left, after a
/// further grant that is reserved completely, or after a return and a release of as many.
#[tokio::test]
async fn units_of_a_branch_that_changed_are_neither_returned_nor_lost() {
    type Change = (&'static [(&'static str, i64)], &'static [(char, i64)], i64);
    let changes: [Change; 3] = [
        (&[("unreserved", -1)], &[], 1),
        (&[("granted", 2)], &[('u', 2), ('b', 2)], 2),
        (&[("returned", 15)], &[('u', -15), ('r', 15)], -15),
    ];
    for (of_branch, of_root, by_rival) in changes {
        let at = fixture();
        for mut share in new_shares(&at, ROOM + 1) {
            reserve(&at, &mut share, 1, None, 1).await;
        }
        let limit = totals(&at).await.reserved + 5;
        let (rival, mut has_read, mut has_changed) = (at.clone(), false, false);
        at.aws.inject(move |call| {
            if has_read && !has_changed && call.operation() == "UpdateItem" {
                let branch = items(&rival, COUNTERS)
                    .into_iter()
                    .find(|item| item["granted"]["N"].is_string())
                    .unwrap();
                let number = branch["pk"]["S"]
                    .as_str()
                    .unwrap()
                    .rsplit('#')
                    .next()
                    .unwrap();
                let add = |mut item: Value, name: &str, more: i64| {
                    let before = item[name]["N"].as_str().map_or(0, p::<i64>);
                    item[name] = json!({ "N": (before + more).to_string() });
                    item
                };
                let mut root = counter(&rival);
                for (kind, more) in of_root {
                    let name = match kind {
                        'u' => "used".to_owned(),
                        kind => format!("{kind}{number}"),
                    };
                    root = add(root, &name, *more);
                }
                put(&rival, COUNTERS, &root);
                let changed = of_branch
                    .iter()
                    .fold(branch.clone(), |branch, (name, more)| {
                        add(branch, name, *more)
                    });
                put(&rival, COUNTERS, &changed);
                has_changed = true;
            }
            has_read |= call.operation() == "BatchGetItem";
            Fault::None
        });
        let mut reserved = 0;
        while let ReserveOutcome::Reserved { units, .. } =
            reserve(&at, &mut hour_share(&at), 1, Some(limit), 1).await
        {
            reserved += units;
        }
        let reserved = i64::try_from(reserved).unwrap();
        assert_eq!(reserved + by_rival, 5, "{of_branch:?}");
        assert_eq!(totals(&at).await.reserved, limit, "{of_branch:?}");
    }
}
