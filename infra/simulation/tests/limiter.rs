//! A shorter run of the limiter's simulation, and what it rests on.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::time::Duration;

use simulation::limiter::{Rush, Rushed, rush};
use simulation::seeds::run_all;
use simulation::{limiter, services};

#[test]
fn limits_hold_whatever_happens() {
    let violations = run_all(250, limiter::run, |_| ()).unwrap();
    assert!(violations.is_empty(), "{violations:#?}");
}

/// By DynamoDB's capacity, with limits that do not matter, that are just enough, and that are not.
#[test]
fn five_hundred_instances_start_on_one_key_at_once() {
    for limits in [
        [Some(100_000), None],
        [Some(600), Some(550)],
        [Some(500), Some(1_000)],
        [Some(300), Some(100_000)],
    ] {
        let rushed = rushed(1, limits);
        let limit = limits.into_iter().flatten().min().unwrap();
        assert_eq!(rushed.counted, limit.min(500), "{limits:?} {rushed:?}");
    }
}

/// And go on, past the end of the limit.
#[test]
fn five_hundred_instances_come_to_the_end_of_a_limit() {
    let rushed = rushed(6, [Some(2_000), Some(1_900)]);
    // But for what instances hold that have no more to serve.
    assert!((1_850..=1_900).contains(&rushed.counted), "{rushed:?}");
}

/// All of them decide in time, and nobody is let in without being counted.
fn rushed(rounds: usize, limits: [Option<u64>; 2]) -> Rushed {
    let [requests_per_hour, monthly_quota] = limits;
    let of = Rush {
        instances: 500,
        rounds,
        within: Duration::from_millis(200),
        requests_per_hour,
        monthly_quota,
    };
    let rushed = rush(of, &services().unwrap()).unwrap();
    assert_eq!(rushed.calls, 500 * u64::try_from(rounds).unwrap());
    assert_eq!(rushed.uncounted, 0, "{limits:?} {rushed:?}");
    assert_eq!(rushed.undecided, 0, "{limits:?} {rushed:?}");
    let slowest = rushed.slowest;
    assert!(slowest < Duration::from_secs(1), "{limits:?} {rushed:?}");
    let largest = rushed.asked.largest_item;
    assert!(largest < 1_300, "{limits:?} {rushed:?}");
    rushed
}

/// What became of each call, and when.
fn outcomes(seed: u64) -> Vec<String> {
    let told = limiter::replay(seed, &services().unwrap()).unwrap();
    let lines = told.lines.into_iter();
    lines.filter(|line| line.contains(" instance ")).collect()
}

/// A seed that fails can be looked at.
#[test]
fn a_seed_tells_the_same_story_each_time() {
    for seed in 0..10 {
        assert_eq!(outcomes(seed), outcomes(seed), "seed {seed}");
    }
}

/// Otherwise nothing much is put to the test.
#[test]
fn runs_see_everything_that_a_call_can_come_to() {
    let all: Vec<String> = (0..25).flat_map(outcomes).collect();
    for outcome in [
        "Admitted",
        "LetThrough",
        "Refused(Hour)",
        "Refused(Month)",
        "Unauthorized",
        "Unavailable",
    ] {
        let seen = all.iter().filter(|line| line.ends_with(outcome)).count();
        assert!(seen >= 5, "{outcome}: {seen}");
    }
}
