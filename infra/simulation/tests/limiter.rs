//! A short run of the limiter's simulation, and checks of the simulation itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::time::Duration;

use simulation::limiter::{
    HANDLER_TIME, MonthKind, Purpose, Routing, RoutingOutcome, Rush, RushOutcome, routing, rush,
};
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

const ROUND_TRIP: Duration = Duration::from_millis(4);

/// Simulates routed traffic with cold starts, across the end of an hour and a month, and checks that every call is
/// counted, that the purposes of all requests are known, and that decisions wait for nothing else.
fn check_routing(keys: usize, keys_per_customer: usize, month: MonthKind) -> RoutingOutcome {
    let parameters = Routing {
        start: "2026-11-30T23:59:30Z".parse().unwrap(),
        per_second: 50,
        keys,
        keys_per_customer,
        month,
        max_lease: 1_000,
        key_cache: Duration::from_secs(5),
        round_trip: ROUND_TRIP,
        cold_start: Duration::from_millis(200),
        idle_timeout: Duration::from_secs(10),
        warm_up: Duration::from_secs(20),
        steady: Duration::from_secs(20),
        seed: 3,
    };
    let outcome = routing(parameters, &services().unwrap()).unwrap();
    let RoutingOutcome { whole, steady, .. } = &outcome;
    assert!(outcome.is_counted(), "{outcome:?}");
    for period in [whole, steady] {
        for purpose in [Purpose::OtherRead, Purpose::OtherWrite] {
            assert_eq!(period.requests.of(purpose).requests, 0, "{purpose:?}");
        }
        let fastest = period.latency(0);
        assert!(fastest >= HANDLER_TIME, "{fastest:?}");
    }
    // Ten calls arrive before the first instance has started. Those that are not needed later end.
    assert!(whole.most_instances >= 5, "{}", whole.most_instances);
    assert!(steady.most_instances < whole.most_instances);
    assert!(whole.latency(100) > Duration::from_millis(200));
    outcome
}

#[test]
fn routed_calls_are_counted_and_their_requests_are_known() {
    let many = check_routing(1_000, 1, MonthKind::Blocked).steady.requests;
    let count = |purpose| many.of(purpose).requests;
    // Requests of a call on either side of the period's bounds are not all in it.
    let are_equal = |one, other| count(one).abs_diff(count(other)) <= 5;
    assert!(are_equal(Purpose::Key, Purpose::Customer), "{many:?}");
    // The hour ended before the period, and a month has the calls of one key.
    assert!(
        are_equal(Purpose::HourLease, Purpose::MonthLease),
        "{many:?}"
    );

    let shared = check_routing(1_000, 10, MonthKind::Overage).steady.requests;
    assert!(shared.of(Purpose::MonthLease).requests < count(Purpose::MonthLease));

    let one = check_routing(1, 1, MonthKind::Blocked).steady.requests;
    assert!(one.writes().requests * 10 < many.writes().requests);
}

/// Without this, figures could not be compared.
#[test]
fn every_run_of_routed_traffic_is_the_same() {
    let run = || check_routing(100, 1, MonthKind::Blocked);
    let (first, second) = (run(), run());
    assert_eq!(
        (first.whole, first.steady, first.end),
        (second.whole, second.steady, second.end)
    );
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
