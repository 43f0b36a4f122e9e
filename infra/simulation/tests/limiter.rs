//! A short run of the limiter's simulation, and checks of the simulation itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::time::Duration;

use simulation::limiter::{Rush, RushOutcome, rush};
use simulation::seeds::run_until_failed;
use simulation::{limiter, services};

#[test]
fn limits_hold_under_injected_faults() {
    let failed = run_until_failed(250, limiter::run).unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Runs within DynamoDB's write capacity, with limits that are not reached, just reached, and exceeded.
#[test]
fn a_rush_of_five_hundred_cold_starts_is_decided_within_limits() {
    for limits in [
        [Some(100_000), None],
        [Some(600), Some(550)],
        [Some(500), Some(1_000)],
        [Some(300), Some(100_000)],
    ] {
        let outcome = check_rush(1, limits);
        let limit = limits.into_iter().flatten().min().unwrap();
        assert_eq!(outcome.counted, limit.min(500), "{limits:?} {outcome:?}");
    }
}

#[test]
fn five_hundred_instances_use_a_limit_up() {
    let outcome = check_rush(6, [Some(2_000), Some(1_900)]);
    // A few units stay leased by instances that get no more calls.
    assert!((1_850..=1_900).contains(&outcome.counted), "{outcome:?}");
}

/// Simulates a rush, and checks that every call is decided in time, and none is allowed uncounted.
fn check_rush(rounds: usize, limits: [Option<u64>; 2]) -> RushOutcome {
    let [requests_per_hour, monthly_quota] = limits;
    let parameters = Rush {
        instances: 500,
        rounds,
        within: Duration::from_millis(200),
        requests_per_hour,
        monthly_quota,
    };
    let outcome = rush(parameters, &services().unwrap()).unwrap();
    assert_eq!(outcome.calls, 500 * u64::try_from(rounds).unwrap());
    assert_eq!(outcome.uncounted, 0, "{limits:?} {outcome:?}");
    assert_eq!(outcome.undecided, 0, "{limits:?} {outcome:?}");
    let slowest = outcome.slowest;
    assert!(slowest < Duration::from_secs(1), "{limits:?} {outcome:?}");
    let largest = outcome.consumed.largest_item_bytes;
    assert!(largest < 1_300, "{limits:?} {outcome:?}");
    outcome
}

/// Returns the log lines of a seed that report the outcomes of calls.
fn outcomes(seed: u64) -> Vec<String> {
    let replay = limiter::replay(seed, &services().unwrap()).unwrap();
    let lines = replay.lines.into_iter();
    lines.filter(|line| line.contains(" instance ")).collect()
}

/// Without this, a failed seed could not be replayed.
#[test]
fn every_run_of_a_seed_is_the_same() {
    for seed in 0..10 {
        assert_eq!(outcomes(seed), outcomes(seed), "seed {seed}");
    }
}

/// Without this, invariants could hold because the outcomes that break them never occur.
#[test]
fn all_outcomes_of_a_call_occur() {
    let all: Vec<String> = (0..25).flat_map(outcomes).collect();
    for outcome in [
        "AllowedCounted",
        "AllowedUncounted",
        "Denied(Hour)",
        "Denied(Month)",
        "Unauthorized",
        "Unavailable",
    ] {
        let seen = all.iter().filter(|line| line.ends_with(outcome)).count();
        assert!(seen >= 5, "{outcome}: {seen}");
    }
}
