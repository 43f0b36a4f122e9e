//! `simulation`: seeded runs, many of them or one again, and instances that begin all at once.
//!
//! The result goes to standard output, progress to standard error. The exit code is 0 if everything
//! was as the models say.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks on its standard streams"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use simulation::limiter::{Rush, Rushed, Wrong, rush};
use simulation::metering::Deviation;
use simulation::seeds::run_all;
use simulation::{Unable, limiter, metering, services};
use tollgate_runtime::Chain;

/// Runs the product's own code with everything that can go wrong, and holds it against a model.
#[derive(Parser)]
#[command(name = "simulation")]
struct Cli {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// The authorizer's limits: never exceeded, and used up.
    Limiter(Runs),
    /// Usage from the call to the tallies: nothing lost, and nothing counted twice.
    Metering(Runs),
    /// Instances that begin on one key at once: how long decisions take, and what they ask of DynamoDB.
    Rush(AtOnce),
}

#[derive(Args)]
struct AtOnce {
    #[arg(long, default_value_t = 500)]
    instances: usize,
    /// Calls of each.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// The time within which each has made a call, in milliseconds.
    #[arg(long, default_value_t = 200)]
    within_ms: u64,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Runs {
    /// How many seeds to run, from 0.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Replays this seed alone, and prints what happens in it.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("a run could not be made")]
    Run(#[from] Unable),
    #[error("the figures cannot be written to {0}")]
    Figures(PathBuf, #[source] std::io::Error),
}

/// How many violations are told in words.
const TOLD: usize = 5;

fn main() -> ExitCode {
    let ended = match Cli::parse().subject {
        Subject::Limiter(runs) => limits(&runs),
        Subject::Metering(runs) => usage(&runs),
        Subject::Rush(rush) => at_once(&rush),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulation: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn progress(done: u64) {
    if done.is_multiple_of(5_000) {
        eprintln!("{done} seeds");
    }
}

/// Prints what happened in a run, and what should not have.
fn tell<'a>(lines: &[String], wrong: impl Iterator<Item = &'a String>) {
    for line in lines {
        println!("{line}");
    }
    for what in wrong {
        println!("violation: {what}");
    }
}

fn write(path: Option<&Path>, figures: &Value) -> Result<(), Failed> {
    let Some(path) = path else {
        return Ok(());
    };
    std::fs::write(path, format!("{figures:#}\n"))
        .map_err(|error| Failed::Figures(path.to_owned(), error))
}

/// Whether all limits held.
fn limits(runs: &Runs) -> Result<bool, Failed> {
    let (seeds, wrongs) = match runs.seed {
        Some(seed) => {
            let told = limiter::replay(seed, &services()?)?;
            tell(&told.lines, told.wrong.words());
            (1, vec![told.wrong])
        }
        None => {
            let violations = run_all(runs.seeds, limiter::run, progress)?;
            for violation in violations.iter().take(TOLD) {
                for what in violation.what.words() {
                    println!("seed {}: {what}", violation.seed);
                }
            }
            let wrongs = violations.into_iter().map(|violation| violation.what);
            (runs.seeds, wrongs.collect())
        }
    };
    let sum =
        |of: fn(&Wrong) -> &[String]| wrongs.iter().map(|wrong| of(wrong).len()).sum::<usize>();
    let violations = sum(|wrong| &wrong.violations);
    let mismatches = sum(|wrong| &wrong.ledger);
    println!("{seeds} seeds: {violations} violations, {mismatches} ledger mismatches");
    let figures = json!({
        "seeds": seeds, "violations": violations, "ledger_mismatches": mismatches,
    });
    write(runs.json.as_deref(), &figures)?;
    Ok(violations == 0 && mismatches == 0)
}

/// Whether everything was counted once.
fn usage(runs: &Runs) -> Result<bool, Failed> {
    let (seeds, deviations) = match runs.seed {
        Some(seed) => {
            let told = metering::replay(seed, &services()?)?;
            tell(&told.lines, told.deviation.mismatches.iter());
            (1, vec![told.deviation])
        }
        None => {
            let violations = run_all(runs.seeds, metering::run, progress)?;
            for violation in violations.iter().take(TOLD) {
                for what in &violation.what.mismatches {
                    println!("seed {}: {what}", violation.seed);
                }
            }
            let deviations = violations.into_iter().map(|violation| violation.what);
            (runs.seeds, deviations.collect())
        }
    };
    let sum = |of: fn(&Deviation) -> u64| deviations.iter().map(of).sum::<u64>();
    let (lost, doubled) = (sum(|d| d.lost), sum(|d| d.doubled));
    let mismatches: usize = deviations.iter().map(|d| d.mismatches.len()).sum();
    println!("{seeds} seeds: {lost} records lost, {doubled} doubled, {mismatches} mismatches");
    let figures = json!({
        "seeds": seeds, "lost": lost, "doubled": doubled, "mismatches": mismatches,
    });
    write(runs.json.as_deref(), &figures)?;
    Ok(lost == 0 && doubled == 0 && mismatches == 0)
}

/// Limits of an hour and of a month: two counters, neither of which is exceeded.
const RUSHED_LIMITS: [Option<u64>; 2] = [Some(10_000), Some(100_000)];

/// Whether every call was decided and counted.
fn at_once(of: &AtOnce) -> Result<bool, Failed> {
    let [requests_per_hour, monthly_quota] = RUSHED_LIMITS;
    let rushing = Rush {
        instances: of.instances,
        rounds: of.rounds,
        within: Duration::from_millis(of.within_ms),
        requests_per_hour,
        monthly_quota,
    };
    let Rushed {
        calls,
        counted,
        uncounted,
        undecided,
        slowest,
        asked,
    } = rush(rushing, &services()?)?;
    println!(
        "{calls} calls: {counted} counted, {uncounted} uncounted, {undecided} undecided; the slowest took {} ms",
        slowest.as_millis()
    );
    println!(
        "{} writes, {} of them throttled, and {} other requests; the largest item had {} bytes",
        asked.writes + asked.throttled,
        asked.throttled,
        asked.reads,
        asked.largest_item,
    );
    let figures = json!({
        "calls": calls, "counted": counted, "uncounted": uncounted, "undecided": undecided,
        "slowest_ms": u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX),
        "requests": asked.writes + asked.throttled + asked.reads,
        "write_units": asked.units, "largest_item_bytes": asked.largest_item,
    });
    write(of.json.as_deref(), &figures)?;
    Ok(counted == calls)
}
