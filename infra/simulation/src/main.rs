//! Command line of the simulations: runs many seeds, replays one, or simulates a rush of cold starts or routed traffic.
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

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use simulation::limiter::{
    HANDLER_TIME, MonthKind, Period, Purpose, Routing, Rush, RushOutcome, routing, rush,
};
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
    /// Simulates traffic with many keys, on as many instances as Lambda starts for it. Prints latencies and DynamoDB
    /// requests.
    Routing(RoutingArgs),
}

#[derive(Args)]
struct RoutingArgs {
    /// Calls that arrive in a second, on average.
    #[arg(long, default_value_t = 50)]
    per_second: u32,
    /// Number of keys. By Zipf's law, the n-th gets one n-th of the calls of the first.
    #[arg(long, default_value_t = 1_000)]
    keys: usize,
    /// Number of keys of each customer.
    #[arg(long, default_value_t = 1)]
    keys_per_customer: usize,
    /// Calls of a month on the plan of all customers.
    #[arg(long, value_enum, default_value_t = Month::Blocked)]
    month: Month,
    /// Seconds of the steady state.
    #[arg(long, default_value_t = 1_200)]
    seconds: u64,
    /// Seconds before the steady state.
    #[arg(long, default_value_t = 600)]
    warm_up_s: u64,
    /// UTC time at which the traffic starts.
    #[arg(long, default_value = "2026-11-22T10:20:00Z")]
    start: Timestamp,
    /// Seed of arrivals and keys.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// TTL of the key cache, in seconds.
    #[arg(long, default_value_t = 5)]
    key_cache_s: u64,
    /// Maximum units in one reservation under a limit.
    #[arg(long, default_value_t = 1_000)]
    max_lease: u64,
    /// Milliseconds of a request to DynamoDB.
    #[arg(long, default_value_t = 4)]
    round_trip_ms: u64,
    /// Milliseconds of a cold start.
    #[arg(long, default_value_t = 200)]
    cold_start_ms: u64,
    /// Seconds without a call after which an instance ends.
    #[arg(long, default_value_t = 300)]
    idle_timeout_s: u64,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Month {
    /// A quota that is not reached.
    Blocked,
    /// No limit: calls beyond the included ones are charged.
    Overage,
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
        Command::Routing(args) => run_routing(&args),
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

/// Simulates routed traffic. Returns whether every call was allowed and counted.
fn run_routing(args: &RoutingArgs) -> Result<bool, CliError> {
    let parameters = Routing {
        start: args.start,
        per_second: args.per_second,
        keys: args.keys,
        keys_per_customer: args.keys_per_customer,
        month: match args.month {
            Month::Blocked => MonthKind::Blocked,
            Month::Overage => MonthKind::Overage,
        },
        max_lease: args.max_lease,
        key_cache: Duration::from_secs(args.key_cache_s),
        round_trip: Duration::from_millis(args.round_trip_ms),
        cold_start: Duration::from_millis(args.cold_start_ms),
        idle_timeout: Duration::from_secs(args.idle_timeout_s),
        warm_up: Duration::from_secs(args.warm_up_s),
        steady: Duration::from_secs(args.seconds),
        seed: args.seed,
    };
    let outcome = routing(parameters, &services()?)?;
    let (whole, steady) = (&outcome.whole, &outcome.steady);
    println!(
        "{} calls: {} counted, {} in the counters",
        whole.calls, whole.counted, outcome.admitted
    );
    print_period("whole", whole, args.round_trip_ms);
    print_period("steady state", steady, args.round_trip_ms);
    println!(
        "end of all instances: {} writes",
        outcome.end.writes().requests
    );
    let figures = json!({
        "per_second": args.per_second, "keys": args.keys, "keys_per_customer": args.keys_per_customer,
        "seconds": args.seconds, "warm_up_s": args.warm_up_s, "idle_timeout_s": args.idle_timeout_s,
        "round_trip_ms": args.round_trip_ms, "cold_start_ms": args.cold_start_ms,
        "handler_ms": in_ms(HANDLER_TIME), "key_cache_s": args.key_cache_s, "max_lease": args.max_lease,
        "admitted": outcome.admitted,
        "whole": figures(whole, args.round_trip_ms),
        "steady": figures(steady, args.round_trip_ms),
        "writes_at_end": outcome.end.writes().requests,
        "write_units_at_end": outcome.end.writes().units,
    });
    write(args.json.as_deref(), &figures)?;
    Ok(outcome.is_counted())
}

fn print_period(name: &str, period: &Period, round_trip_ms: u64) {
    let requests = &period.requests;
    let (reads, writes) = (requests.reads(), requests.writes());
    println!(
        "{name}: {} calls; {} instances started, at most {} at once",
        period.calls, period.started, period.most_instances
    );
    println!(
        "  {} reads ({} units), {} writes ({} units); per 1,000 calls: {:.0} reads, {:.0} writes, {:.0} round trips",
        reads.requests,
        reads.units,
        writes.requests,
        writes.units,
        per_1000(reads.requests, period),
        per_1000(writes.requests, period),
        round_trips_per_1000(period, round_trip_ms),
    );
    let by_purpose: Vec<String> = by_purpose(period)
        .map(|(purpose, count)| format!("{} {:.0}", purpose.as_str(), per_1000(count, period)))
        .collect();
    println!("  requests per 1,000 calls: {}", by_purpose.join(", "));
    println!(
        "  decision: p50 {} ms, p90 {} ms, p99 {} ms",
        in_ms(period.latency(50)),
        in_ms(period.latency(90)),
        in_ms(period.latency(99)),
    );
}

fn figures(period: &Period, round_trip_ms: u64) -> Value {
    let requests = &period.requests;
    let (reads, writes) = (requests.reads(), requests.writes());
    let by_purpose: Map<String, Value> = by_purpose(period)
        .map(|(purpose, count)| (purpose.as_str().to_owned(), count.into()))
        .collect();
    json!({
        "calls": period.calls, "counted": period.counted,
        "instances_started": period.started, "most_instances": period.most_instances,
        "reads": reads.requests, "read_units": reads.units,
        "writes": writes.requests, "write_units": writes.units,
        "requests": by_purpose,
        "round_trips_per_1000": round_trips_per_1000(period, round_trip_ms),
        "busy_ms": in_ms(period.busy),
        "p50_ms": in_ms(period.latency(50)), "p90_ms": in_ms(period.latency(90)),
        "p99_ms": in_ms(period.latency(99)),
    })
}

fn by_purpose(period: &Period) -> impl Iterator<Item = (Purpose, u64)> {
    let counts = Purpose::ALL.map(|purpose| (purpose, period.requests.of(purpose).requests));
    counts.into_iter().filter(|(_, count)| *count > 0)
}

#[allow(
    clippy::float_arithmetic,
    reason = "measurements are neither money nor stored counts"
)]
fn per_1000(count: u64, period: &Period) -> f64 {
    count as f64 * 1e3 / period.calls.max(1) as f64
}

/// Returns the sequential requests to DynamoDB for which 1,000 decisions waited.
fn round_trips_per_1000(period: &Period, round_trip_ms: u64) -> f64 {
    per_1000(in_ms(period.waited) / round_trip_ms.max(1), period)
}

fn in_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
