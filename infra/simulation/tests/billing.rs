//! A short run of billing's simulation, and checks of the simulation itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use simulation::billing;
use simulation::seeds::run_until_failed;

#[test]
fn each_cent_is_charged_once_under_injected_faults() {
    let failed = run_until_failed(72, |seed, _| billing::run(seed)).unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Returns the log lines of a seed that report the submission of charges.
fn outcomes(seed: u64) -> Vec<String> {
    let lines = billing::replay(seed).unwrap().lines.into_iter();
    lines.filter(|line| line.contains(" ci_c")).collect()
}

/// Without this, a failed seed could not be replayed.
#[test]
fn every_run_of_a_seed_is_the_same() {
    for seed in 0..2 {
        let lines = || outcomes(seed);
        assert_eq!(lines(), lines(), "seed {seed}");
    }
}

/// Without this, cents could be charged once because no fault occurs.
#[test]
fn charges_are_retried_looked_for_and_failed() {
    let lines: Vec<String> = (0..12)
        .flat_map(|seed| billing::replay(seed).unwrap().lines)
        .collect();
    let count = |outcome: &str| lines.iter().filter(|line| line.ends_with(outcome)).count();
    assert!(count(": Ok(Settled)") >= 50);
    assert!(count(": Ok(Later)") >= 10);
    assert!(count(": Ok(Failed)") >= 5);
    assert!(lines.iter().any(|line| line.contains("Late { seconds")));
}
