//! `simulation`: seeded runs, many of them or one again.
//!
//! The result goes to standard output, progress to standard error. The exit code is 0 if everything
//! was as the models say.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks on its standard streams"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
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
fn tell(lines: &[String], wrong: &[String]) {
    for line in lines {
        println!("{line}");
    }
    for what in wrong {
        println!("violation: {what}");
    }
}

fn write(runs: &Runs, figures: &Value) -> Result<(), Failed> {
    let Some(path) = &runs.json else {
        return Ok(());
    };
    std::fs::write(path, format!("{figures:#}\n"))
        .map_err(|error| Failed::Figures(path.clone(), error))
}

/// Whether all limits held.
fn limits(runs: &Runs) -> Result<bool, Failed> {
    let (seeds, violations) = match runs.seed {
        Some(seed) => {
            let told = limiter::replay(seed, &services()?)?;
            tell(&told.lines, &told.violations);
            (1, usize::from(!told.violations.is_empty()))
        }
        None => {
            let violations = run_all(runs.seeds, limiter::run, progress)?;
            for violation in violations.iter().take(TOLD) {
                for what in &violation.what {
                    println!("seed {}: {what}", violation.seed);
                }
            }
            (runs.seeds, violations.len())
        }
    };
    println!("{seeds} seeds, {violations} with violations");
    write(runs, &json!({ "seeds": seeds, "violations": violations }))?;
    Ok(violations == 0)
}

/// Whether everything was counted once.
fn usage(runs: &Runs) -> Result<bool, Failed> {
    let (seeds, deviations) = match runs.seed {
        Some(seed) => {
            let told = metering::replay(seed, &services()?)?;
            tell(&told.lines, &told.deviation.mismatches);
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
    write(runs, &figures)?;
    Ok(lost == 0 && doubled == 0 && mismatches == 0)
}
