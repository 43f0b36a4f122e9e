//! A short run of metering's simulation, and checks of the simulation itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use simulation::seeds::run_until_failed;
use simulation::{metering, services};

#[test]
fn every_record_is_counted_once_under_injected_faults() {
    let failed = run_until_failed(150, metering::run).unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Returns the log lines of a seed that report batches of writers.
fn lines(seed: u64) -> Vec<String> {
    let replay = metering::replay(seed, &services().unwrap()).unwrap();
    let lines = replay.lines.into_iter();
    lines.filter(|line| line.contains(" writer ")).collect()
}

/// Without this, a failed seed could not be replayed.
#[test]
fn every_run_of_a_seed_is_the_same() {
    for seed in 0..5 {
        assert_eq!(lines(seed), lines(seed), "seed {seed}");
    }
}

/// Without this, records could be counted once because no fault occurs.
#[test]
fn writers_crash_and_return_messages() {
    let all: Vec<String> = (0..25).flat_map(lines).collect();
    let crashed = all.iter().filter(|line| line.contains(" crashed with "));
    assert!(crashed.count() >= 20);
    let has_failures = |line: &&String| line.contains(", failed ") && !line.ends_with("{}");
    assert!(all.iter().filter(has_failures).count() >= 5);
}
