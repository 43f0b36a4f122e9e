//! A shorter run of the limiter's simulation, and what it rests on.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use simulation::seeds::run_all;
use simulation::{limiter, services};

#[test]
fn limits_hold_whatever_happens() {
    let violations = run_all(250, limiter::run, |_| ()).unwrap();
    assert!(violations.is_empty(), "{violations:#?}");
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
