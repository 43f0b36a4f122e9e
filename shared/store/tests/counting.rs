//! Units taken by many at the same time: as many are granted as the limit leaves, whoever comes
//! first, and the counter knows of each.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::{Account, Claimed, Units};

mod common;

use common::{claim, fixture, granted, hour_account, p, used_and_spent};

/// Each account claims so often so many units, all at once. What each came by in all.
async fn storm(at: &Fixture, claims: u64, wanted: &[u64], limit: Option<u64>) -> Vec<Held> {
    let mut tasks = JoinSet::new();
    for units in wanted.iter().copied() {
        let mut account = hour_account(at);
        let at = at.clone();
        tasks.spawn(async move {
            let mut held = 0;
            let mut told = Vec::new();
            for _ in 0..claims {
                match claim(&at, &mut account, units, limit, 0).await {
                    Claimed::Granted { units, used } => {
                        held += units;
                        told.push(used);
                    }
                    Claimed::Full => break,
                }
            }
            Held {
                account,
                units: held,
                told,
            }
        });
    }
    tasks.join_all().await
}

struct Held {
    account: Account,
    units: u64,
    /// The counts that it was told.
    told: Vec<u64>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_50_units_40_accounts_take_50_one_by_one() {
    let at = fixture();
    let held = storm(&at, 5, &[1; 40], Some(50)).await;
    assert_eq!(held.iter().map(|one| one.units).sum::<u64>(), 50);
    assert_eq!(used_and_spent(&at), (50, 0));
    // Each was told a count of its own.
    let mut told: Vec<u64> = held.into_iter().flat_map(|one| one.told).collect();
    told.sort_unstable();
    assert_eq!(told, Vec::from_iter(1..=50));
}

/// Whatever the limit and the blocks: all of the limit is granted if so much is wanted, none beyond
/// it, and what is given back is there again.
#[test]
fn as_much_is_granted_as_the_limit_leaves() {
    let wanted = prop::collection::vec(1_u64..12, 1..8);
    let cases = (wanted, prop::option::of(0_u64..80), 1_u64..6);
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let checked = TestRunner::new(config).run(&cases, |(wanted, limit, claims)| {
        let threads = Builder::new_multi_thread()
            .worker_threads(4)
            .enable_time()
            .build();
        threads.unwrap().block_on(async {
            let at = fixture();
            let mut held = storm(&at, claims, &wanted, limit).await;
            let granted: u64 = held.iter().map(|one| one.units).sum();
            prop_assert_eq!(used_and_spent(&at).0, granted);
            let most = wanted.iter().sum::<u64>() * claims;
            prop_assert!(granted <= limit.unwrap_or(most));
            // Close to the limit accounts take one at a time, and so less than they wanted.
            let fewest = u64::try_from(wanted.len()).unwrap() * claims;
            prop_assert!(granted >= fewest.min(limit.unwrap_or(fewest)));
            for one in &mut held {
                let spent = one.units / 2;
                let left = one.units - spent;
                at.store
                    .give_back(&mut one.account, left, spent)
                    .await
                    .unwrap();
            }
            let spent: u64 = held.iter().map(|one| one.units / 2).sum();
            prop_assert_eq!(used_and_spent(&at), (spent, spent));
            Ok(())
        })
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}

#[tokio::test]
async fn windows_customers_and_keys_are_counted_apart() {
    let at = fixture();
    let month = |customer: &str, month: &str| at.store.month_account(&p(customer), p(month));
    let hour = |key: &str, instant: &str| {
        let hour = tollgate_domain::window::Hour::containing(p(instant));
        at.store.hour_account(&p(key), hour)
    };
    let mut apart = [
        hour("key_1", "2026-11-30T22:59:59.999Z"),
        hour("key_1", "2026-11-30T23:00:00Z"),
        hour("key_10", "2026-11-30T23:00:00Z"),
        month("acme", "2026-11"),
        month("acme", "2026-12"),
        month("acme-2", "2026-11"),
        month("acm", "2026-11"),
    ];
    for account in &mut apart {
        assert_eq!(claim(&at, account, 1, Some(1), 1).await, granted(1, 1));
        assert_eq!(claim(&at, account, 1, Some(1), 1).await, Claimed::Full);
    }
    let units = async |month| at.store.month_units(&p("acme"), p(month)).await.unwrap();
    assert_eq!(units("2026-11").await, Units { taken: 1, spent: 1 });
    assert_eq!(units("2027-01").await, Units::default());
}
