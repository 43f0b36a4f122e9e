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
use serde_json::json;
use simulation::seeds::run_all;
use simulation::{Unable, limiter, services};
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
    let Subject::Limiter(runs) = Cli::parse().subject;
    match limits(&runs) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulation: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whether all limits held.
fn limits(runs: &Runs) -> Result<bool, Failed> {
    let (seeds, violations) = match runs.seed {
        Some(seed) => {
            let told = limiter::replay(seed, &services()?)?;
            for line in &told.lines {
                println!("{line}");
            }
            for what in &told.violations {
                println!("violation: {what}");
            }
            (1, usize::from(!told.violations.is_empty()))
        }
        None => {
            let progress = |done: u64| {
                if done.is_multiple_of(5_000) {
                    eprintln!("{done} seeds");
                }
            };
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
    if let Some(path) = &runs.json {
        let figures = json!({ "seeds": seeds, "violations": violations });
        std::fs::write(path, format!("{figures:#}\n"))
            .map_err(|error| Failed::Figures(path.clone(), error))?;
    }
    Ok(violations == 0)
}
