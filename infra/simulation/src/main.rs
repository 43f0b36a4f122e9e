//! Command line of the simulations: runs many seeds, replays one, or simulates a rush of cold starts.
//!
//! Prints the result to standard output and progress to standard error. Exits with 0 if no run deviates from
//! its model.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool prints to its standard streams"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use simulation::limiter::{Rush, RushOutcome, rush};
use simulation::seeds::run_all;
use simulation::{SimulationError, billing, limiter, metering, services};
use tollgate_runtime::Chain;

/// Runs the product's own code with injected faults, and checks it against a model.
#[derive(Parser)]
#[command(name = "simulation")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks that the authorizer's limits are never exceeded, and are used up.
    Limiter(SeedArgs),
    /// Checks that no usage is lost or counted twice between the call and the aggregates.
    Metering(SeedArgs),
    /// Checks that each cent of overage becomes part of one invoice item.
    Billing(SeedArgs),
    /// Starts many instances at once on one key. Prints latencies and DynamoDB requests.
    Rush(RushArgs),
}

#[derive(Args)]
struct RushArgs {
    /// Number of instances.
    #[arg(long, default_value_t = 500)]
    instances: usize,
    /// Calls of each instance.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Time within which every instance is called once, in milliseconds.
    #[arg(long, default_value_t = 200)]
    within_ms: u64,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct SeedArgs {
    /// Number of seeds to run, from 0.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Replays only this seed, and prints its log.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("a simulation cannot be run")]
    Simulation(#[from] SimulationError),
    #[error("the figures cannot be written to {0}")]
    Figures(PathBuf, #[source] std::io::Error),
}

/// Greatest number of failed seeds whose messages are printed.
const MAX_PRINTED: usize = 5;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Limiter(args) => run_limiter(&args),
        Command::Metering(args) => run_metering(&args),
        Command::Billing(args) => run_billing(&args),
        Command::Rush(args) => run_rush(&args),
    };
    match result {
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

/// Prints the log of a replayed run, and its deviations from the model.
fn print_replay<'a>(lines: &[String], messages: impl Iterator<Item = &'a String>) {
    for line in lines {
        println!("{line}");
    }
    for message in messages {
        println!("violation: {message}");
    }
}

fn write(path: Option<&Path>, figures: &Value) -> Result<(), CliError> {
    let Some(path) = path else {
        return Ok(());
    };
    std::fs::write(path, format!("{figures:#}\n"))
        .map_err(|error| CliError::Figures(path.to_owned(), error))
}

/// Simulates the authorizer. Returns whether all limits and ledgers were right.
fn run_limiter(args: &SeedArgs) -> Result<bool, CliError> {
    let (seeds, deviations) = match args.seed {
        Some(seed) => {
            let replay = limiter::replay(seed, &services()?)?;
            print_replay(&replay.lines, replay.deviation.messages());
            (1, vec![replay.deviation])
        }
        None => {
            let failed = run_all(args.seeds, limiter::run, progress)?;
            for run in failed.iter().take(MAX_PRINTED) {
                for message in run.deviation.messages() {
                    println!("seed {}: {message}", run.seed);
                }
            }
            let deviations = failed.into_iter().map(|run| run.deviation);
            (args.seeds, deviations.collect())
        }
    };
    let sum = |of: fn(&limiter::Deviation) -> &[String]| {
        deviations.iter().map(|d| of(d).len()).sum::<usize>()
    };
    let violations = sum(|d| &d.violations);
    let mismatches = sum(|d| &d.ledger_mismatches);
    println!("{seeds} seeds: {violations} violations, {mismatches} ledger mismatches");
    let figures = json!({
        "seeds": seeds, "violations": violations, "ledger_mismatches": mismatches,
    });
    write(args.json.as_deref(), &figures)?;
    Ok(violations == 0 && mismatches == 0)
}

/// Simulates metering. Returns whether all usage was counted exactly once.
fn run_metering(args: &SeedArgs) -> Result<bool, CliError> {
    let (seeds, deviations) = match args.seed {
        Some(seed) => {
            let replay = metering::replay(seed, &services()?)?;
            print_replay(&replay.lines, replay.deviation.mismatches.iter());
            (1, vec![replay.deviation])
        }
        None => {
            let failed = run_all(args.seeds, metering::run, progress)?;
            for run in failed.iter().take(MAX_PRINTED) {
                for message in &run.deviation.mismatches {
                    println!("seed {}: {message}", run.seed);
                }
            }
            let deviations = failed.into_iter().map(|run| run.deviation);
            (args.seeds, deviations.collect())
        }
    };
    let sum = |of: fn(&metering::Deviation) -> u64| deviations.iter().map(of).sum::<u64>();
    let (lost, doubled) = (sum(|d| d.lost), sum(|d| d.doubled));
    let mismatches: usize = deviations.iter().map(|d| d.mismatches.len()).sum();
    println!("{seeds} seeds: {lost} records lost, {doubled} doubled, {mismatches} mismatches");
    let figures = json!({
        "seeds": seeds, "lost": lost, "doubled": doubled, "mismatches": mismatches,
    });
    write(args.json.as_deref(), &figures)?;
    Ok(lost == 0 && doubled == 0 && mismatches == 0)
}

/// Simulates billing. Returns whether each cent was charged exactly once.
fn run_billing(args: &SeedArgs) -> Result<bool, CliError> {
    let (seeds, deviations) = match args.seed {
        Some(seed) => {
            let replay = billing::replay(seed)?;
            print_replay(&replay.lines, replay.deviation.mismatches.iter());
            (1, vec![replay.deviation])
        }
        None => {
            let failed = run_all(args.seeds, |seed, _| billing::run(seed), progress)?;
            for run in failed.iter().take(MAX_PRINTED) {
                for message in &run.deviation.mismatches {
                    println!("seed {}: {message}", run.seed);
                }
            }
            let deviations = failed.into_iter().map(|run| run.deviation);
            (args.seeds, deviations.collect())
        }
    };
    let sum = |of: fn(&billing::Deviation) -> u64| deviations.iter().map(of).sum::<u64>();
    let (lost, doubled) = (sum(|d| d.lost), sum(|d| d.doubled));
    let mismatches: usize = deviations.iter().map(|d| d.mismatches.len()).sum();
    println!(
        "{seeds} seeds: {lost} cents lost, {doubled} charges doubled, {mismatches} mismatches"
    );
    let figures = json!({
        "seeds": seeds, "lost": lost, "doubled": doubled, "mismatches": mismatches,
    });
    write(args.json.as_deref(), &figures)?;
    Ok(lost == 0 && doubled == 0 && mismatches == 0)
}

/// Hourly limit and monthly quota of a rush, neither of which is reached.
const RUSH_LIMITS: [Option<u64>; 2] = [Some(10_000), Some(100_000)];

/// Simulates a rush of cold starts. Returns whether every call was allowed and counted.
fn run_rush(args: &RushArgs) -> Result<bool, CliError> {
    let [requests_per_hour, monthly_quota] = RUSH_LIMITS;
    let parameters = Rush {
        instances: args.instances,
        rounds: args.rounds,
        within: Duration::from_millis(args.within_ms),
        requests_per_hour,
        monthly_quota,
    };
    let RushOutcome {
        calls,
        counted,
        uncounted,
        undecided,
        slowest,
        consumed,
    } = rush(parameters, &services()?)?;
    println!(
        "{calls} calls: {counted} counted, {uncounted} uncounted, {undecided} undecided; slowest: {} ms",
        slowest.as_millis()
    );
    println!(
        "{} writes, {} of them throttled, and {} other requests; largest item: {} bytes",
        consumed.writes + consumed.throttled,
        consumed.throttled,
        consumed.reads,
        consumed.largest_item_bytes,
    );
    let figures = json!({
        "calls": calls, "counted": counted, "uncounted": uncounted, "undecided": undecided,
        "slowest_ms": u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX),
        "requests": consumed.writes + consumed.throttled + consumed.reads,
        "write_units": consumed.write_units, "largest_item_bytes": consumed.largest_item_bytes,
    });
    write(args.json.as_deref(), &figures)?;
    Ok(counted == calls)
}
