//! Quota counters: as much is reserved as a limit leaves and nothing beyond it, each write counts
//! once, and an item stays small however many instances there are.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

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
use tollgate_store::{Calls, LeaseShare, ReserveOutcome, Store, Units};

mod common;

use common::{
    counter, delete, edit, everything, fixture, hour_share, items, p, put, release, reserve,
    reserved, spent, used_and_spent,
};

use ReserveOutcome::Exhausted;

/// The root of a counter has room for so many shares.
const ROOM: usize = 20;

/// Nothing more can be reserved, and the tables stay as they are.
async fn is_exhausted(at: &Fixture, share: &mut LeaseShare, limit: u64) {
    let before = everything(at);
    assert_eq!(reserve(at, share, 1, Some(limit), 0).await, Exhausted);
    assert!(everything(at) == before, "something was written");
}

/// The units of all counters.
async fn units(at: &Fixture) -> Units {
    let keys = [p("key_0001")].into();
    let in_day = at.store.admitted_calls(&keys, p("2026-11-22")).await;
    let mut units = Units {
        spent: in_day.unwrap(),
        ..Units::default()
    };
    for counter in items(at, COUNTERS) {
        let number = |name: &str| counter[name]["N"].as_str().map_or(0, p::<u64>);
        units.reserved += number("used");
        units.reserved -= number("unreserved");
        units.uncounted += number("uncounted");
    }
    units
}

/// How often each share is named in the counters' items.
fn shares(at: &Fixture) -> Vec<usize> {
    let is_share = |name: &&String| name.len() == 8 && name.starts_with('i');
    let shares = |item: &Value| item.as_object().unwrap().keys().filter(is_share).count();
    items(at, COUNTERS).iter().map(shares).collect()
}

/// The size of an item by DynamoDB's rules: names and values in bytes, numbers two digits to a byte.
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>)
fn size(item: &Value) -> usize {
    let sizes = item.as_object().unwrap().iter().map(|(name, value)| {
        let text = |kind: &str| value[kind].as_str().map(str::len);
        let value = text("S").or_else(|| text("N").map(|digits| digits.div_ceil(2) + 1));
        name.len() + value.unwrap()
    });
    sizes.sum()
}

fn crowd(at: &Fixture, instances: usize) -> Vec<LeaseShare> {
    (0..instances).map(|_| hour_share(at)).collect()
}

/// What happens to the writes from now on, one after the other; nothing to those after them.
fn write_faults<const N: usize>(at: &Fixture, faults: [Fault; N]) {
    let mut faults = faults.into_iter();
    at.aws.inject(move |call| match call.operation() {
        "UpdateItem" => faults.next().unwrap_or(Fault::None),
        _ => Fault::None,
    });
}

/// A store with a retry quota of its own, for tests that use up much of it. The SDK keeps one quota
/// for each service and region of the process.
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
    // Close to the limit, one is enough.
    let mut other = hour_share(&at);
    for used in [6, 7, 8] {
        let outcome = reserve(&at, &mut other, 5, Some(8), 0).await;
        assert_eq!(outcome, reserved(1, used));
    }
    for share in [&mut one, &mut other] {
        is_exhausted(&at, share, 8).await;
        // A limit that was lowered below what it had let through.
        is_exhausted(&at, share, 3).await;
    }
    let mut newcomer = hour_share(&at);
    is_exhausted(&at, &mut newcomer, 8).await;
    assert_eq!(
        reserve(&at, &mut newcomer, 9, None, 0).await,
        reserved(9, 17)
    );
}

#[tokio::test]
async fn a_small_limit_is_reserved_by_ones() {
    let at = fixture();
    let mut share = hour_share(&at);
    for used in 1..=3 {
        let outcome = reserve(&at, &mut share, 10, Some(3), 0).await;
        assert_eq!(outcome, reserved(1, used));
    }
    is_exhausted(&at, &mut share, 3).await;
}

#[tokio::test]
async fn whether_there_is_room_is_found_out_without_a_write() {
    let at = fixture();
    let mut share = hour_share(&at);
    let before = everything(&at);
    assert!(at.store.has_room(&share, 1).await.unwrap());
    assert!(!at.store.has_room(&share, 0).await.unwrap());
    assert!(everything(&at) == before);
    reserve(&at, &mut share, 2, Some(2), 0).await;
    assert!(!at.store.has_room(&hour_share(&at), 2).await.unwrap());
    assert!(at.store.has_room(&hour_share(&at), 3).await.unwrap());
}

#[tokio::test]
async fn what_is_released_is_released_once() {
    let at = fixture();
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 10, Some(50), 1).await;
    release(&at, &mut share, 7, 3).await;
    assert_eq!(used_and_spent(&at), (3, 3));
    assert!(share.is_settled(spent(3)));
    let before = everything(&at);
    at.store.settle(&mut share, spent(3)).await.unwrap();
    assert!(everything(&at) == before);
    // The share that follows goes on counting calls.
    assert_eq!(
        reserve(&at, &mut share, 2, Some(50), 5).await,
        reserved(2, 5)
    );
    assert_eq!(used_and_spent(&at), (5, 5));
}

/// A call that was reported in advance, and then was not allowed.
#[tokio::test]
async fn what_was_reported_in_advance_is_taken_back() {
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
    let calls = |spent, uncounted| Calls { spent, uncounted };
    let mut share = hour_share(&at);
    // Before anything was reserved, with a reservation, and at the end.
    at.store.settle(&mut share, calls(0, 4)).await.unwrap();
    let outcome = at.store.reserve(&mut share, 5, Some(6), calls(1, 10), 0);
    assert_eq!(outcome.await.unwrap(), reserved(5, 5));
    share.release(1, calls(4, 30));
    at.store.settle(&mut share, calls(4, 30)).await.unwrap();
    let expected = Units {
        reserved: 4,
        spent: 34,
        uncounted: 30,
    };
    assert_eq!(units(&at).await, expected);
    assert_eq!(expected.admitted(), 64);
    let again = everything(&at);
    at.store.settle(&mut share, calls(4, 30)).await.unwrap();
    assert!(everything(&at) == again);
}

/// What branches know of is read with what the root knows of.
#[tokio::test]
async fn the_units_of_a_month_are_those_of_all_instances() {
    let at = fixture();
    let (customer, month) = (p("acme"), p("2026-11"));
    for instance in 1..=ROOM as u64 + 5 {
        let mut share = at.store.month_share(&customer, month);
        let calls = Calls {
            spent: 1,
            uncounted: 2,
        };
        let reserving = at.store.reserve(&mut share, 2, None, calls, 0);
        reserving.await.unwrap();
        let units = at.store.month_units(&customer, month).await.unwrap();
        let expected = Units {
            reserved: 2 * instance,
            spent: instance,
            uncounted: 2 * instance,
        };
        assert_eq!(units, expected);
    }
    assert!(items(&at, COUNTERS).len() > 1, "some are in a branch");
}

/// Each write once, whatever happens to the first try.
#[tokio::test(start_paused = true)]
async fn each_write_takes_effect_once() {
    let faults = [
        Fault::AnswerLost,
        Fault::RequestLost,
        Fault::Throttled,
        Fault::Conflict,
    ];
    for fault in faults {
        // At the root, and at a branch.
        for rivals in [0, ROOM] {
            let at = with_own_retry_quota(fixture(), "each-write-once");
            for mut rival in crowd(&at, rivals) {
                reserve(&at, &mut rival, 1, Some(10_000), 1).await;
            }
            let others = u64::try_from(rivals).unwrap();
            let mut share = hour_share(&at);
            let check = async |reserved, calls| {
                let units = units(&at).await;
                let expected = (others + reserved, others + calls);
                assert_eq!(
                    (units.reserved, units.spent),
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

/// The last units of a limit, of which the answer is lost.
#[tokio::test(start_paused = true)]
async fn the_last_unit_of_a_limit_is_reserved_though_the_answer_was_lost() {
    let at = fixture();
    let mut share = hour_share(&at);
    for used in [1, 2] {
        write_faults(&at, [Fault::AnswerLost]);
        let outcome = reserve(&at, &mut share, 1, Some(2), used).await;
        assert_eq!(outcome, reserved(1, used));
    }
    assert_eq!(reserve(&at, &mut share, 1, Some(2), 3).await, Exhausted);
}

/// All tries go unanswered, and whoever asked has turned to something else.
#[tokio::test(start_paused = true)]
async fn what_was_reserved_unanswered_is_found_or_released_later() {
    let unanswered = async |at: &Fixture, share: &mut LeaseShare| {
        write_faults(at, [Fault::AnswerLost; 9]);
        let error = at.store.reserve(share, 10, Some(100), spent(1), 0).await;
        let error = error.unwrap_err();
        assert!(error.is_transient() && error.is_outage(), "{error:?}");
        at.aws.heal();
    };
    for before in [0, 5] {
        let at = with_own_retry_quota(fixture(), "unanswered");
        let mut share = hour_share(&at);
        if before > 0 {
            reserve(&at, &mut share, before, Some(100), 1).await;
        }
        unanswered(&at, &mut share).await;
        assert_eq!(used_and_spent(&at), (before + 10, 1));
        // Others have gone on meanwhile.
        reserve(&at, &mut hour_share(&at), 40, Some(100), 0).await;
        let outcome = reserve(&at, &mut share, 30, Some(100), 1).await;
        assert_eq!(outcome, reserved(10, before + 50));

        unanswered(&at, &mut share).await;
        release(&at, &mut share, before + 9, 1).await;
        assert_eq!(used_and_spent(&at), (41, 1));
    }

    // A share that has never had an answer.
    let at = with_own_retry_quota(fixture(), "never-answered");
    let mut share = hour_share(&at);
    unanswered(&at, &mut share).await;
    assert!(!share.is_settled(spent(0)));
    release(&at, &mut share, 0, 0).await;
    assert_eq!(used_and_spent(&at), (0, 0));
    assert!(share.is_settled(spent(0)));
}

/// The instance ends while its first write is under way, and that arrives after the end.
#[tokio::test(start_paused = true)]
async fn a_first_write_that_arrives_after_the_end_has_no_effect() {
    let at = with_own_retry_quota(fixture(), "after-the-end");
    let sent = record(&at, Fault::RequestLost);
    let mut share = hour_share(&at);
    let lost = at.store.reserve(&mut share, 5, Some(9), spent(1), 0).await;
    lost.unwrap_err();
    at.aws.heal();
    share.release(0, spent(0));
    at.store.settle(&mut share, spent(0)).await.unwrap();
    assert!(share.is_settled(spent(0)));
    arrive_again(&at, &sent);
    assert_eq!(used_and_spent(&at), (0, 0));
}

/// A release of which no answer came is completed by the next operation, and its units are not
/// released twice.
#[tokio::test(start_paused = true)]
async fn a_release_that_was_not_answered_is_completed() {
    for took_effect in [Fault::AnswerLost, Fault::RequestLost] {
        for then_reserves in [false, true] {
            let at = with_own_retry_quota(fixture(), "release-completed");
            let mut share = hour_share(&at);
            reserve(&at, &mut share, 10, Some(12), 1).await;
            write_faults(&at, [took_effect; 9]);
            share.release(7, spent(3));
            at.store.settle(&mut share, spent(3)).await.unwrap_err();
            assert!(!share.is_settled(spent(3)));
            at.aws.heal();
            if then_reserves {
                let outcome = reserve(&at, &mut share, 1, Some(12), 4).await;
                assert_eq!(outcome, reserved(1, 4), "{took_effect:?}");
            } else {
                at.store.settle(&mut share, spent(3)).await.unwrap();
            }
            let calls = 3 + u64::from(then_reserves);
            assert_eq!(used_and_spent(&at), (calls, calls), "{took_effect:?}");
        }
    }
}

/// The share is removed as the others come, at whose time it has expired.
async fn outlive(at: &Fixture, seconds: i64) {
    at.time.advance(SignedDuration::from_secs(seconds));
    for mut other in crowd(at, ROOM) {
        reserve(at, &mut other, 1, None, 1).await;
    }
}

/// The answer is lost, and when it is asked for again, all that the write has left is gone.
#[tokio::test]
async fn a_release_whose_trace_is_gone_reports_nothing_twice() {
    let at = with_own_retry_quota(fixture(), "release-trace");
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 10, None, 1).await;
    write_faults(&at, [Fault::AnswerLost; 9]);
    share.release(7, spent(3));
    at.store.settle(&mut share, spent(3)).await.unwrap_err();
    at.aws.heal();
    outlive(&at, 100).await;
    let before = everything(&at);
    at.store.settle(&mut share, spent(3)).await.unwrap();
    assert!(share.is_settled(spent(3)));
    assert!(everything(&at) == before);
}

/// It expired before the release, of which no try has taken effect.
#[tokio::test]
async fn a_release_by_a_share_that_was_removed_for_dead_is_reported() {
    let at = fixture();
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 1, None, 0).await;
    outlive(&at, 61).await;
    let before = units(&at).await;
    share.release(0, spent(1));
    at.store.settle(&mut share, spent(1)).await.unwrap();
    let after = units(&at).await;
    assert_eq!(after.reserved, before.reserved);
    assert_eq!(after.spent, before.spent + 1);
}

/// Notes the calls from now on, which meet with this.
fn record(at: &Fixture, fault: Fault) -> Arc<Mutex<Vec<Call>>> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent);
    at.aws.inject(move |call| {
        seen.lock().unwrap().push(call.clone());
        fault
    });
    sent
}

/// The network delivers once more what was sent, and none of it has an effect.
fn arrive_again(at: &Fixture, sent: &Mutex<Vec<Call>>) {
    let before = everything(at);
    for call in sent.lock().unwrap().iter() {
        let (status, answer) = at.aws.answer(&call.target, &call.body);
        let is_read = call.operation() == "BatchGetItem";
        assert!(is_read || status == 400, "{} {answer}", call.body);
        assert!(everything(at) == before, "{}", call.body);
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
    for mut other in crowd(&at, ROOM + 5) {
        reserve(&at, &mut other, 10, Some(5_000), 1).await;
    }
    at.aws.heal();
    assert!(sent.lock().unwrap().len() > ROOM + 9);
    for hours in [0, 1, 100] {
        at.time.advance(SignedDuration::from_hours(hours));
        arrive_again(&at, &sent);
    }
}

/// A share is removed when its time is over, and the first write of it arrives once more.
#[tokio::test]
async fn a_first_write_that_arrives_after_its_share_was_removed_changes_nothing() {
    // By another instance that needs its room, and by its own as it ends.
    for removed_by_its_own in [false, true] {
        let at = fixture();
        let sent = record(&at, Fault::None);
        let mut shares = crowd(&at, ROOM);
        for share in &mut shares {
            reserve(&at, share, 1, None, 1).await;
        }
        at.aws.heal();
        at.time.advance(SignedDuration::from_secs(91));
        if removed_by_its_own {
            for share in &mut shares {
                release(&at, share, 0, 1).await;
            }
            assert_eq!(self::shares(&at), [0]);
        } else {
            reserve(&at, &mut hour_share(&at), 1, None, 1).await;
            assert_eq!(self::shares(&at), [1]);
        }
        arrive_again(&at, &sent);
    }
}

/// Shares were removed by a clock that was ahead, or this one was set back since.
#[tokio::test]
async fn a_counter_takes_in_who_is_behind_the_last_removal_of_shares() {
    for hours in [1, 100] {
        let behind = SignedDuration::from_hours(hours);
        let at = fixture();
        for mut share in crowd(&at, ROOM) {
            reserve(&at, &mut share, 1, None, 1).await;
        }
        at.time.advance(SignedDuration::from_secs(61));
        reserve(&at, &mut hour_share(&at), 1, None, 1).await;
        assert_eq!(self::shares(&at), [1], "the others were removed");
        at.time.advance(-behind);
        let sent = record(&at, Fault::None);
        let mut shares = [(), (), ()].map(|()| hour_share(&at));
        for (share, used) in shares.iter_mut().zip(22..) {
            let outcome = reserve(&at, share, 1, None, 1).await;
            assert_eq!(outcome, reserved(1, used));
        }
        at.aws.heal();
        // As they stand and as they have ended, whether or not another needs the room.
        let [first, second, _] = &mut shares;
        arrive_again(&at, &sent);
        release(&at, first, 0, 1).await;
        at.time.advance(SignedDuration::from_secs(91));
        release(&at, second, 0, 1).await;
        arrive_again(&at, &sent);
        for later in [SignedDuration::from_secs(91), behind] {
            at.time.advance(later);
            outlive(&at, 0).await;
            // Nothing but the removal keeps them out.
            let roots = items(&at, COUNTERS).into_iter();
            let mut roots = roots.filter(|item| item.get("swept").is_some());
            let mut root = roots.next().unwrap();
            root["shares"] = json!({ "N": "0" });
            put(&at, COUNTERS, &root);
            arrive_again(&at, &sent);
        }
    }
}

/// A share that ends without a trace by a clock that was set back.
#[tokio::test]
async fn what_keeps_late_writes_out_is_never_taken_back() {
    let at = fixture();
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 2, None, 0).await;
    at.time.advance(SignedDuration::from_secs(120));
    let sent = record(&at, Fault::None);
    for mut other in crowd(&at, ROOM - 1) {
        reserve(&at, &mut other, 1, None, 1).await;
    }
    at.aws.heal();
    at.time.advance(SignedDuration::from_secs(80));
    reserve(&at, &mut hour_share(&at), 1, None, 1).await;
    assert_eq!(shares(&at), [2], "the others were removed");
    at.time.advance(SignedDuration::from_secs(-100));
    release(&at, &mut share, 2, 0).await;
    assert_eq!(used_and_spent(&at), (20, 20));
    arrive_again(&at, &sent);
}

/// TTL, or a person, has deleted the item.
#[tokio::test]
async fn a_counter_that_has_gone_is_begun_again() {
    let at = fixture();
    let mut share = hour_share(&at);
    reserve(&at, &mut share, 10, Some(50), 1).await;
    delete(&at, COUNTERS, "HOUR#");
    let before = everything(&at);
    release(&at, &mut share, 9, 1).await;
    assert!(everything(&at) == before);
    reserve(&at, &mut share, 10, Some(50), 1).await;
    delete(&at, COUNTERS, "HOUR#");
    let outcome = reserve(&at, &mut share, 10, Some(50), 11).await;
    assert_eq!(outcome, reserved(10, 10));
}

/// An instance that reserved one unit and was not heard of since leaves no trace, and one that may have
/// something to release keeps its share for a day.
#[tokio::test]
async fn shares_of_the_dead_make_room() {
    let at = fixture();
    let mut in_blocks = hour_share(&at);
    reserve(&at, &mut in_blocks, 10, None, 0).await;
    for _ in 0..100 {
        at.time.advance(SignedDuration::from_secs(7));
        reserve(&at, &mut hour_share(&at), 1, None, 1).await;
    }
    assert_eq!(items(&at, COUNTERS).len(), 1, "nobody needs a branch");
    assert!(shares(&at)[0] <= ROOM);
    release(&at, &mut in_blocks, 10, 0).await;
    assert_eq!(used_and_spent(&at), (100, 100));
}

/// The share comes back to life as another is about to remove it.
#[tokio::test]
async fn who_makes_room_spares_a_share_that_is_used_again() {
    let at = fixture();
    let mut shares = crowd(&at, ROOM);
    for share in &mut shares {
        reserve(&at, share, 1, None, 1).await;
    }
    at.time.advance(SignedDuration::from_secs(61));
    // Between what the newcomer has seen, and its next write.
    let (meddled, mut writes) = (at.clone(), 0);
    at.aws.inject(move |call| {
        writes += usize::from(call.operation() == "UpdateItem");
        if writes == 2 {
            edit(&meddled, COUNTERS, "HOUR#", |counter| {
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
        "the one that lives, and the newcomer"
    );
}

#[tokio::test]
async fn who_was_removed_for_dead_goes_on_and_releases_nothing() {
    let at = fixture();
    let mut slow = hour_share(&at);
    assert_eq!(
        reserve(&at, &mut slow, 1, Some(900), 0).await,
        reserved(1, 1)
    );
    outlive(&at, 61).await;
    let before = everything(&at);
    release(&at, &mut slow, 1, 0).await;
    assert!(everything(&at) == before);

    let mut slow = hour_share(&at);
    at.time.advance(SignedDuration::from_secs(61));
    reserve(&at, &mut slow, 1, None, 1).await;
    outlive(&at, 61).await;
    let before = units(&at).await;
    reserve(&at, &mut slow, 1, None, 2).await;
    let after = units(&at).await;
    assert_eq!(after.reserved, before.reserved + 1);
    assert_eq!(after.spent, before.spent + 1, "reported once");
}

/// All of 500 instances that come at once have a unit, each item stays small, and it shrinks again as
/// they go.
#[tokio::test]
async fn a_counter_has_room_for_five_hundred_instances() {
    let at = fixture();
    let mut instances = crowd(&at, 500);
    for share in &mut instances {
        let outcome = reserve(&at, share, 1, Some(100_000), 1).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { units: 1, .. }));
    }
    let expected = Units {
        reserved: 500,
        spent: 500,
        uncounted: 0,
    };
    assert_eq!(units(&at).await, expected);
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
    assert_eq!(units(&at).await, expected);
    assert_eq!(shares(&at).iter().sum::<usize>(), 0);
    assert!(sizes() < 400, "{}", sizes());
}

#[tokio::test]
async fn thirty_instances_with_large_numbers_fit_into_a_write_unit_each() {
    let at = fixture();
    let mut instances = crowd(&at, 30);
    for calls in 0..3 {
        for share in &mut instances {
            reserve(&at, share, 9_999_999, None, calls * 9_999_999).await;
        }
    }
    for item in items(&at, COUNTERS) {
        assert!(size(&item) < 1_024, "{} {item}", size(&item));
    }
}

/// What branches were granted and have not used is found when the root has nothing more.
#[tokio::test]
async fn a_limit_is_used_up_to_the_last_unit_whatever_branches_hold() {
    for limit in [25, 60, 300, 2_000] {
        let at = fixture();
        let instances = crowd(&at, 60).into_iter();
        let mut instances: Vec<(LeaseShare, u64)> = instances.map(|share| (share, 0)).collect();
        let mut units = 0;
        let mut exhausted = BTreeSet::new();
        while exhausted.len() < instances.len() {
            for (n, (share, held)) in instances.iter_mut().enumerate() {
                // It asks when it has spent what it had.
                match reserve(&at, share, 3, Some(limit), *held).await {
                    ReserveOutcome::Reserved { units: some, .. } => {
                        *held += some;
                        units += some;
                    }
                    Exhausted => {
                        assert_eq!(units, limit, "nothing is left when the first is refused");
                        exhausted.insert(n);
                    }
                }
            }
        }
        assert_eq!(self::units(&at).await.reserved, limit);
        // A unit that goes back to a branch is found by an instance that is elsewhere.
        let holds = |(_, held): &&mut (LeaseShare, u64)| *held > 0;
        let (holder, held) = instances.iter_mut().rfind(holds).unwrap();
        release(&at, holder, 1, *held - 1).await;
        let mut newcomer = hour_share(&at);
        let outcome = reserve(&at, &mut newcomer, 5, Some(limit), 0).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { units: 1, .. }));
        is_exhausted(&at, &mut hour_share(&at), limit).await;
    }
}

/// Units of a branch were granted under a higher limit than that of this call.
#[tokio::test]
async fn a_lower_limit_holds_at_branches_too() {
    let at = fixture();
    let mut instances = crowd(&at, ROOM + 10);
    for share in &mut instances {
        reserve(&at, share, 1, None, 1).await;
    }
    let reserved = units(&at).await.reserved;
    for share in instances.iter_mut().chain(&mut crowd(&at, 40)) {
        is_exhausted(&at, share, reserved).await;
    }
}

/// Counts the writes from now on.
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

/// Some shares of an item have expired, and it is full without them.
#[tokio::test]
async fn a_newcomer_gets_in_where_too_few_shares_have_expired() {
    // At the root, where a report took the place of none.
    let at = fixture();
    for mut share in crowd(&at, ROOM) {
        reserve(&at, &mut share, 2, None, 1).await;
    }
    let calls = Calls {
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
    let mut instances = crowd(&at, 400);
    for share in &mut instances {
        reserve(&at, share, 2, None, 1).await;
    }
    for share in instances.iter_mut().step_by(13) {
        release(&at, share, 1, 2).await;
    }
    at.time.advance(SignedDuration::from_secs(91));
    let writes = count_writes(&at);
    for mut newcomer in crowd(&at, 50) {
        reserve(&at, &mut newcomer, 1, None, 1).await;
        assert!(writes.swap(0, Ordering::Relaxed) <= 6);
    }
}

/// Another instance makes the room first that a newcomer was about to make.
#[tokio::test]
async fn who_is_overtaken_in_making_room_gets_in() {
    let at = fixture();
    for mut share in crowd(&at, ROOM) {
        reserve(&at, &mut share, 1, None, 1).await;
    }
    at.time.advance(SignedDuration::from_secs(61));
    let (meddled, mut writes) = (at.clone(), 0);
    at.aws.inject(move |call| {
        writes += usize::from(call.operation() == "UpdateItem");
        if writes == 2 {
            edit(&meddled, COUNTERS, "HOUR#", |counter| {
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

/// The root is used up for a limit, and a branch is granted units under a higher one between that
/// refusal and the look at the branches: they go back, and serve nobody.
#[tokio::test]
async fn what_is_granted_under_a_higher_limit_meanwhile_serves_no_lower_one() {
    let at = fixture();
    for mut share in crowd(&at, ROOM + 1) {
        reserve(&at, &mut share, 1, None, 1).await;
    }
    let limit = counter(&at)["used"]["N"].as_str().map_or(0, p::<u64>);
    // What the branch has left of that is used up.
    while let ReserveOutcome::Reserved { .. } =
        reserve(&at, &mut hour_share(&at), 1, Some(limit), 1).await
    {}
    let (meddled, mut looks) = (at.clone(), 0);
    at.aws.inject(move |call| {
        looks += usize::from(call.operation() == "BatchGetItem");
        if call.operation() == "BatchGetItem" && looks == 1 {
            let root = counter(&meddled);
            let mut names = root.as_object().unwrap().keys();
            let branch = names.find(|name| name.starts_with('b')).unwrap();
            let number = format!("#{}", &branch[1..]);
            for mut item in items(&meddled, COUNTERS) {
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
                put(&meddled, COUNTERS, &item);
            }
        }
        Fault::None
    });
    let outcome = reserve(&at, &mut hour_share(&at), 1, Some(limit), 1).await;
    assert_eq!(outcome, Exhausted);
}

/// Calls of an outage are all that there is, and the answer to their report is lost.
#[tokio::test(start_paused = true)]
async fn a_report_without_a_reservation_is_completed() {
    let at = with_own_retry_quota(fixture(), "report-completed");
    let calls = Calls {
        spent: 0,
        uncounted: 9,
    };
    let mut share = hour_share(&at);
    write_faults(&at, [Fault::AnswerLost; 9]);
    at.store.settle(&mut share, calls).await.unwrap_err();
    at.aws.heal();
    share.release(0, calls);
    at.store.settle(&mut share, calls).await.unwrap();
    assert!(share.is_settled(calls));
    assert_eq!(units(&at).await.uncounted, 9);
}

/// Each share reserves so often so many units, all at once. What each came by in all.
async fn storm(at: &Fixture, times: u64, wanted: &[u64], limit: Option<u64>) -> Vec<Held> {
    let mut tasks = JoinSet::new();
    for units in wanted.iter().copied() {
        let mut share = hour_share(at);
        let at = at.clone();
        tasks.spawn(async move {
            let mut held = 0;
            for _ in 0..times {
                let reserving = at.store.reserve(&mut share, units, limit, spent(0), held);
                match reserving.await.unwrap() {
                    ReserveOutcome::Reserved { units, .. } => held += units,
                    Exhausted => break,
                }
            }
            Held { share, units: held }
        });
    }
    tasks.join_all().await
}

struct Held {
    share: LeaseShare,
    units: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_50_units_40_shares_reserve_50_one_by_one() {
    let at = fixture();
    let held = storm(&at, 5, &[1; 40], Some(50)).await;
    assert_eq!(held.iter().map(|one| one.units).sum::<u64>(), 50);
    assert_eq!(units(&at).await.reserved, 50);
}

/// Whatever the limit and the blocks: all of the limit is reserved if so much is wanted, none beyond
/// it, and what is released is there again.
#[test]
fn as_much_is_reserved_as_the_limit_leaves() {
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
            let mut held = storm(&at, times, &wanted, limit).await;
            let reserved: u64 = held.iter().map(|one| one.units).sum();
            prop_assert_eq!(units(&at).await.reserved, reserved);
            let most = wanted.iter().sum::<u64>() * times;
            prop_assert!(reserved <= limit.unwrap_or(most));
            // Close to the limit they reserve one at a time, and so less than they wanted.
            let fewest = u64::try_from(wanted.len()).unwrap() * times;
            prop_assert!(reserved >= fewest.min(limit.unwrap_or(fewest)));
            for one in &mut held {
                let calls = one.units / 2;
                release(&at, &mut one.share, one.units - calls, calls).await;
            }
            let calls: u64 = held.iter().map(|one| one.units / 2).sum();
            let expected = Units {
                reserved: calls,
                spent: calls,
                uncounted: 0,
            };
            prop_assert_eq!(units(&at).await, expected);
            Ok(())
        })
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}

/// Of all that instances hold and have spent, the counter knows, and none of it is beyond the limit.
#[tokio::test(start_paused = true)]
async fn a_counter_holds_what_was_reserved_and_never_more_than_the_limit() {
    const LIMIT: u64 = 60;
    for seed in 0..20 {
        let at = with_own_retry_quota(fixture(), "counters-hold");
        let drawn = Entropy::seeded(seed);
        at.aws.inject(move |_| match drawn.below(10) {
            0 => Fault::RequestLost,
            1 | 2 => Fault::AnswerLost,
            3 => Fault::Throttled,
            _ => Fault::None,
        });
        let choice = Entropy::seeded(seed + 1_000);
        let instances = if seed % 2 == 0 { 4 } else { 30 };
        let mut shares: Vec<(LeaseShare, u64)> = crowd(&at, instances)
            .into_iter()
            .map(|share| (share, 0))
            .collect();
        let mut exhausted = false;
        for _ in 0..100 {
            let instances = u64::try_from(instances).unwrap();
            let (share, held) = &mut shares[usize::try_from(choice.below(instances)).unwrap()];
            let units = 1 + choice.below(6);
            match at
                .store
                .reserve(share, units, Some(LIMIT), spent(0), *held)
                .await
            {
                Ok(ReserveOutcome::Reserved { units, used, .. }) => {
                    *held += units;
                    assert!(used <= LIMIT, "seed {seed}");
                }
                Ok(Exhausted) => exhausted = true,
                Err(error) => assert!(error.is_transient(), "seed {seed}: {error:?}"),
            }
            let held: u64 = shares.iter().map(|(_, held)| held).sum();
            let (used, _) = used_and_spent(&at);
            assert!(held <= used && used <= LIMIT, "seed {seed}");
        }
        assert!(exhausted, "seed {seed}");
        at.aws.heal();
        for (share, held) in &mut shares {
            release(&at, share, *held, 0).await;
        }
        assert_eq!(
            units(&at).await,
            Units::default(),
            "seed {seed}: nothing is stranded"
        );
    }
}

#[tokio::test]
async fn windows_customers_and_keys_are_counted_apart() {
    let at = fixture();
    let month = |customer: &str, month: &str| at.store.month_share(&p(customer), p(month));
    let hour =
        |key: &str, instant: &str| at.store.hour_share(&p(key), Hour::containing(p(instant)));
    let mut apart = [
        hour("key_1", "2026-11-30T22:59:59.999Z"),
        hour("key_1", "2026-11-30T23:00:00Z"),
        hour("key_10", "2026-11-30T23:00:00Z"),
        month("acme", "2026-11"),
        month("acme", "2026-12"),
        month("acme-2", "2026-11"),
        month("acm", "2026-11"),
    ];
    for share in &mut apart {
        assert_eq!(reserve(&at, share, 1, Some(1), 1).await, reserved(1, 1));
        assert_eq!(reserve(&at, share, 1, Some(1), 1).await, Exhausted);
    }
    let units = async |month| at.store.month_units(&p("acme"), p(month)).await.unwrap();
    let expected = Units {
        reserved: 1,
        spent: 1,
        uncounted: 0,
    };
    assert_eq!(units("2026-11").await, expected);
    assert_eq!(units("2027-01").await, Units::default());
}

/// What was granted ahead goes back to the root, for whoever has a limit that is otherwise used up.
#[tokio::test]
async fn what_is_granted_ahead_under_a_higher_limit_is_no_loss_to_a_lower_one() {
    let at = fixture();
    for mut share in crowd(&at, ROOM + 10) {
        reserve(&at, &mut share, 1, None, 1).await;
    }
    let limit = units(&at).await.reserved + 7;
    assert!(used_and_spent(&at).0 > limit, "more was granted");
    for mut share in crowd(&at, 7) {
        let outcome = reserve(&at, &mut share, 1, Some(limit), 1).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { units: 1, .. }));
    }
    is_exhausted(&at, &mut hour_share(&at), limit).await;
    assert_eq!(units(&at).await.reserved, limit);
}

/// The branch has given units back, and the answer, or the root's, is lost.
#[tokio::test(start_paused = true)]
async fn what_is_given_back_counts_once() {
    for lost in 2..4 {
        let at = with_own_retry_quota(fixture(), "given-back");
        for mut share in crowd(&at, ROOM + 1) {
            reserve(&at, &mut share, 1, None, 1).await;
        }
        let limit = units(&at).await.reserved + 1;
        // The first finds the root used up, the second gives back, and the third follows.
        let mut writes = 0;
        at.aws.inject(move |call| {
            writes += usize::from(call.operation() == "UpdateItem");
            if call.operation() == "UpdateItem" && writes >= lost && writes < lost + 9 {
                Fault::AnswerLost
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
        assert_eq!(units(&at).await.reserved, limit, "{lost}");
    }
}

/// Another instance sees that a branch has given units back, and follows at the root first.
#[tokio::test]
async fn what_another_has_followed_counts_once() {
    let at = fixture();
    for mut share in crowd(&at, ROOM + 1) {
        reserve(&at, &mut share, 1, None, 1).await;
    }
    let limit = units(&at).await.reserved + 2;
    let (rival, mut has_looked) = (at.clone(), false);
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
        let is_look = call.operation() == "BatchGetItem";
        if is_look && !has_looked {
            let mut branch = branch.clone();
            branch["unreserved"] = json!({ "N": "0" });
            branch["returned"] = json!({ "N": left.to_string() });
            put(&rival, COUNTERS, &branch);
        } else if has_looked && call.body.contains(&followed) && !is_followed {
            let mut root = root.clone();
            root["used"] = json!({ "N": (used - left).to_string() });
            root[&followed] = json!({ "N": left.to_string() });
            put(&rival, COUNTERS, &root);
            is_followed = true;
        }
        has_looked |= is_look;
        Fault::None
    });
    for mut share in crowd(&at, 2) {
        let outcome = reserve(&at, &mut share, 1, Some(limit), 1).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { units: 1, .. }));
    }
    is_exhausted(&at, &mut hour_share(&at), limit).await;
    assert_eq!(units(&at).await.reserved, limit);
}

/// An instance holds a unit of the root, and finds its share removed and the root crowded.
#[tokio::test]
async fn who_holds_units_of_the_root_stays_there() {
    let at = fixture();
    let mut holder = hour_share(&at);
    reserve(&at, &mut holder, 1, Some(1_000), 0).await;
    for mut share in crowd(&at, ROOM - 1) {
        reserve(&at, &mut share, 2, Some(1_000), 2).await;
    }
    at.time.advance(SignedDuration::from_secs(61));
    reserve(&at, &mut hour_share(&at), 2, Some(1_000), 2).await;
    assert_eq!(shares(&at), [ROOM], "in the place of the holder");
    let outcome = at.store.reserve(&mut holder, 1, Some(900), spent(0), 1);
    assert!(matches!(
        outcome.await,
        Ok(ReserveOutcome::Reserved { units: 1, .. })
    ));
    assert_eq!(shares(&at), [ROOM + 1]);
}

/// Writes of an outage were lost, and shares are removed before it is sent again: what was let through
/// is reported, however long ago the first of them was sent.
#[tokio::test(start_paused = true)]
async fn a_report_that_was_lost_is_reported_in_a_crowd_too() {
    let calls = Calls {
        spent: 0,
        uncounted: 9,
    };
    for later in [35, 61] {
        let at = with_own_retry_quota(fixture(), "report-in-a-crowd");
        for mut share in crowd(&at, ROOM - 1) {
            reserve(&at, &mut share, 1, None, 1).await;
        }
        at.time.advance(SignedDuration::from_secs(61 - later));
        let mut share = hour_share(&at);
        write_faults(&at, [Fault::RequestLost; 9]);
        at.store.settle(&mut share, calls).await.unwrap_err();
        at.aws.heal();
        at.time.advance(SignedDuration::from_secs(later));
        for mut newcomer in crowd(&at, 2) {
            reserve(&at, &mut newcomer, 1, None, 1).await;
        }
        at.store.settle(&mut share, calls).await.unwrap();
        assert_eq!(units(&at).await.uncounted, 9, "{later}");
    }
}

/// The branch changes between the look at it and its giving back: a unit is reserved; or what is left is
/// the same, after a further grant that is all reserved, or after a return and a release of as much.
#[tokio::test]
async fn what_changes_meanwhile_is_neither_given_back_nor_lost() {
    type Change = (&'static [(&'static str, i64)], &'static [(char, i64)], i64);
    let changes: [Change; 3] = [
        (&[("unreserved", -1)], &[], 1),
        (&[("granted", 2)], &[('u', 2), ('b', 2)], 2),
        (&[("returned", 15)], &[('u', -15), ('r', 15)], -15),
    ];
    for (of_branch, of_root, by_rival) in changes {
        let at = fixture();
        for mut share in crowd(&at, ROOM + 1) {
            reserve(&at, &mut share, 1, None, 1).await;
        }
        let limit = units(&at).await.reserved + 5;
        let (rival, mut has_looked, mut has_changed) = (at.clone(), false, false);
        at.aws.inject(move |call| {
            if has_looked && !has_changed && call.operation() == "UpdateItem" {
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
            has_looked |= call.operation() == "BatchGetItem";
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
        assert_eq!(units(&at).await.reserved, limit, "{of_branch:?}");
    }
}
