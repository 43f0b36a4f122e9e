//! A shorter run of metering's simulation, and what it rests on.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use simulation::seeds::run_all;
use simulation::{metering, services};

#[test]
fn every_record_is_counted_once_whatever_happens() {
    let deviations = run_all(150, metering::run, |_| ()).unwrap();
    assert!(deviations.is_empty(), "{deviations:#?}");
}

fn lines(seed: u64) -> Vec<String> {
    let told = metering::replay(seed, &services().unwrap()).unwrap();
    let lines = told.lines.into_iter();
    lines.filter(|line| line.contains(" writer ")).collect()
}

/// A seed that fails can be looked at.
#[test]
fn a_seed_tells_the_same_story_each_time() {
    for seed in 0..5 {
        assert_eq!(lines(seed), lines(seed), "seed {seed}");
    }
}

/// Otherwise nothing much is put to the test.
#[test]
fn runs_see_writers_end_and_messages_come_back() {
    let all: Vec<String> = (0..25).flat_map(lines).collect();
    let ended = all.iter().filter(|line| line.contains(" ended with "));
    assert!(ended.count() >= 20);
    let is_return = |line: &&String| line.contains(" returns ") && !line.ends_with("{}");
    assert!(all.iter().filter(is_return).count() >= 5);
}
