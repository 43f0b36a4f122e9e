//! Calls counted at the same time: as many pass as the limits leave, whoever comes first.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tollgate_domain::decision::Counted;
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::plan::Limits;
use tollgate_local_aws::fixture::Fixture;

mod common;

use common::{NOW, count, fixture, p, used};

/// One key of the customer `acme`.
#[derive(Debug, Clone)]
struct Caller {
    key: KeyId,
    limits: Limits,
    /// Calls it makes.
    calls: u64,
}

fn caller(key: &str, calls: u64, per_hour: u64, per_month: Option<u64>) -> Caller {
    Caller {
        key: p(key),
        limits: Limits {
            per_hour,
            per_month,
        },
        calls,
    }
}

/// All calls of all callers at once, each in a task of its own: how many of each outcome each
/// caller saw.
async fn storm(at: &Fixture, callers: &[Caller]) -> BTreeMap<KeyId, Outcomes> {
    let mut tasks = JoinSet::new();
    let most = callers.iter().map(|caller| caller.calls).max();
    for round in 0..most.unwrap_or(0) {
        for caller in callers.iter().filter(|caller| round < caller.calls) {
            let (store, key, limits) = (at.store.clone(), caller.key.clone(), caller.limits);
            tasks.spawn(async move {
                let acme: CustomerId = p("acme");
                let counted = store.count_call(&key, &acme, limits, p(NOW)).await;
                (key, counted)
            });
        }
    }
    let mut outcomes: BTreeMap<KeyId, Outcomes> = BTreeMap::new();
    for outcome in tasks.join_all().await {
        let (key, counted) = outcome;
        let of_key = outcomes.entry(key).or_default();
        match counted {
            Ok(Counted::Both { in_hour, in_month }) => {
                of_key.admitted += 1;
                of_key.in_hour.push(in_hour);
                of_key.in_month.push(in_month);
            }
            Ok(Counted::HourFull) => of_key.hour_full += 1,
            Ok(Counted::MonthFull) => of_key.month_full += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    outcomes
}

#[derive(Debug, Default)]
struct Outcomes {
    admitted: u64,
    hour_full: u64,
    month_full: u64,
    /// What the admitted calls were told.
    in_hour: Vec<u64>,
    in_month: Vec<u64>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_month_with_50_calls_left_admits_50_of_200() {
    let at = fixture();
    let outcomes = storm(&at, &[caller("key_0001", 200, 1_000, Some(50))]).await;
    let mut outcomes = outcomes.into_values();
    let one = outcomes.next().unwrap_or_default();
    assert_eq!((one.admitted, one.hour_full, one.month_full), (50, 0, 150));
    assert_eq!(
        (used(&at, "HOUR#"), used(&at, "MONTH#")),
        (Some(50), Some(50))
    );
    let admitted = at.store.admitted(&p("acme"), p("2026-11")).await;
    assert_eq!(admitted.unwrap(), 50);
    // Each was told a count of its own.
    let mut in_month = one.in_month;
    in_month.sort_unstable();
    assert_eq!(in_month, Vec::from_iter(1..=50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_hour_with_50_calls_left_admits_50_of_200() {
    for per_month in [None, Some(1_000)] {
        let at = fixture();
        let outcomes = storm(&at, &[caller("key_0001", 200, 50, per_month)]).await;
        let one = outcomes.into_values().next().unwrap_or_default();
        assert_eq!((one.admitted, one.hour_full, one.month_full), (50, 150, 0));
        assert_eq!(
            (used(&at, "HOUR#"), used(&at, "MONTH#")),
            (Some(50), Some(50))
        );
        for mut told in [one.in_hour, one.in_month] {
            told.sort_unstable();
            assert_eq!(told, Vec::from_iter(1..=50));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_keys_of_a_customer_share_its_month_and_not_their_hours() {
    let at = fixture();
    let hours = [("key_0001", 10), ("key_0002", 10), ("key_0003", 50)];
    let callers = hours.map(|(key, per_hour)| caller(key, 60, per_hour, Some(35)));
    let outcomes = storm(&at, &callers).await;
    let admitted: u64 = outcomes.values().map(|one| one.admitted).sum();
    assert_eq!((admitted, used(&at, "MONTH#")), (35, Some(35)));
    for (key, one) in &outcomes {
        assert_eq!(
            used(&at, &format!("HOUR#{key}#")),
            Some(one.admitted),
            "{key}"
        );
    }
}

/// Whatever the limits and what was counted before: as many are admitted as both windows leave,
/// the counters hold exactly those, and a call refused by one window is not counted in the other.
#[test]
fn of_any_number_of_calls_as_many_pass_as_the_limits_leave() {
    let callers = prop::collection::vec((0_u64..30, 0_u64..40), 1..4);
    let cases = (callers, prop::option::of(0_u64..60), 0_u64..5);
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let checked = TestRunner::new(config).run(&cases, |(callers, per_month, before)| {
        let threads = Builder::new_multi_thread()
            .worker_threads(4)
            .enable_time()
            .build();
        threads.unwrap().block_on(async {
            let at = fixture();
            for _ in 0..before {
                count(&at, 5, None).await;
            }
            let callers: Vec<Caller> = callers
                .iter()
                .zip(1..)
                .map(|((calls, per_hour), n)| {
                    caller(&format!("key_{n:04}"), *calls, *per_hour, per_month)
                })
                .collect();
            let outcomes = storm(&at, &callers).await;

            let before_of = |caller: &Caller| {
                if caller.key == p("key_0001") {
                    before
                } else {
                    0
                }
            };
            let hours: u64 = callers
                .iter()
                .map(|caller| {
                    let left = caller.limits.per_hour.saturating_sub(before_of(caller));
                    caller.calls.min(left)
                })
                .sum();
            let month = per_month.map_or(u64::MAX, |limit| limit.saturating_sub(before));
            let admitted: u64 = outcomes.values().map(|one| one.admitted).sum();
            prop_assert_eq!(admitted, hours.min(month));
            prop_assert_eq!(used(&at, "MONTH#").unwrap_or(0), before + admitted);
            for caller in &callers {
                let admitted = outcomes.get(&caller.key).map_or(0, |one| one.admitted);
                let in_hour = used(&at, &format!("HOUR#{}#", caller.key));
                prop_assert_eq!(in_hour.unwrap_or(0), before_of(caller) + admitted);
            }
            Ok(())
        })
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}

#[tokio::test]
async fn a_new_hour_and_a_new_month_begin_at_zero() {
    let at = fixture();
    let limits = Limits {
        per_hour: 1,
        per_month: Some(2),
    };
    let (key, acme) = (p("key_0001"), p("acme"));
    let check = async |now: &str, expected| {
        let counted = at.store.count_call(&key, &acme, limits, p(now)).await;
        assert_eq!(counted.unwrap(), expected, "{now}");
    };
    let both = |in_hour, in_month| Counted::Both { in_hour, in_month };
    check("2026-11-30T21:00:00Z", both(1, 1)).await;
    check("2026-11-30T21:59:59.999Z", Counted::HourFull).await;
    check("2026-11-30T22:00:00Z", both(1, 2)).await;
    check("2026-11-30T23:59:59.999Z", Counted::MonthFull).await;
    check("2026-12-01T00:00:00Z", both(1, 1)).await;
    let admitted = async |month| at.store.admitted(&acme, p(month)).await.unwrap();
    assert_eq!(admitted("2026-11").await, 2);
    assert_eq!(admitted("2026-12").await, 1);
    assert_eq!(admitted("2027-01").await, 0);
}

#[tokio::test]
async fn customers_and_keys_are_counted_apart() {
    let at = fixture();
    let limits = Limits {
        per_hour: 1,
        per_month: Some(1),
    };
    let pairs = [("key_1", "acme"), ("key_10", "acme-2"), ("key_11", "acm")];
    for (key, customer) in pairs {
        let (key, customer) = (p(key), p(customer));
        let counted = at.store.count_call(&key, &customer, limits, p(NOW)).await;
        let both = Counted::Both {
            in_hour: 1,
            in_month: 1,
        };
        assert_eq!(counted.unwrap(), both, "{key}");
    }
}
