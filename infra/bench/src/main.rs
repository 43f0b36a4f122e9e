//! `cargo run --release -p bench -- authorizer`: measures the authorizer's release binary beside a
//! floor and its peers. `writer` and `metering` measure the usage-writer and the metering layer.

#![allow(
    clippy::float_arithmetic,
    reason = "measurements are not money or counts that are kept"
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks on its standard streams"
)]

mod bus;
mod contender;
mod core;
mod cost;
mod dynamodb;
mod effort;
mod figures;
mod handler;
mod latency;
mod metering;
mod page;
mod peers;
mod plot;
mod report;
mod run;
mod runtime_api;
mod rush;
mod samples;
mod server;
mod shapes;
mod tables;
mod tools;
mod writer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tollgate_runtime::Chain;

use crate::effort::Effort;
use crate::figures::Figures;
use crate::report::{contenders_table, traffic_table};
use crate::tools::{ROOT, machine};

type Failure = Box<dyn std::error::Error>;

/// The profile that is deployed.
const RELEASE: &str = "release";

/// Measures release binaries of Tollgate's functions on this machine.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The authorizer, beside a floor without an SDK and authorizers in Node.js and Python. Prints
    /// tables, and writes docs/benchmarks.md, its plot and docs/cost.md.
    Authorizer(Args),
    /// The usage-writer, on engines in memory. Prints a table.
    Writer {
        /// Writes the figures to this file as well.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
    },
    /// The metering layer, and whether a caller waits for what follows an answer. Prints a table.
    Metering {
        /// Writes the figures to this file as well.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct Args {
    /// Writes the figures to this file as well.
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Measures little, and writes no docs.
    #[arg(long)]
    quick: bool,
    /// The Cargo profile of the binaries that are measured. No docs are written of any but release.
    #[arg(long, value_name = "NAME", default_value = RELEASE)]
    profile: String,
}

// One thread, which hands out events and takes the time; DynamoDB has another.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let measured = async {
        match &command {
            Command::Authorizer(args) => measure(args).await,
            Command::Writer { json } => measure_writer(json.as_deref()).await,
            Command::Metering { json } => measure_metering(json.as_deref()).await,
        }
    };
    // Ending a run drops its processes, which ends them.
    let ended = tokio::select! {
        ended = measured => ended,
        stopped = told_to_stop() => stopped,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn told_to_stop() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err("told to stop".into())
}

async fn measure(args: &Args) -> Result<(), Failure> {
    let effort = if args.quick {
        Effort::quick()
    } else {
        Effort::full()
    };
    let results = run::authorizer(&effort, &args.profile).await?;
    let figures = Figures::of(&results);
    let tables = [
        figures.table(),
        contenders_table(&results),
        traffic_table(&results),
    ];
    print!("{}", tables.join("\n"));
    write_figures(args.json.as_deref(), &figures)?;
    if !args.quick && args.profile == RELEASE {
        let docs = Path::new(ROOT).join("docs");
        let page = page::page(&results, &figures, &effort, &machine().await?);
        write(&docs.join("benchmarks.md"), &page)?;
        write(&docs.join("benchmarks.svg"), &plot::svg(&results))?;
        let prices = cost::Prices::listed()?;
        write(&docs.join("cost.md"), &cost::page(&results, &prices))?;
    }
    Ok(())
}

async fn measure_writer(json: Option<&Path>) -> Result<(), Failure> {
    let figures = writer::measure().await?;
    print!("{}", figures.table());
    write_figures(json, &figures)
}

async fn measure_metering(json: Option<&Path>) -> Result<(), Failure> {
    let figures = metering::measure().await?;
    print!("{}", figures.table());
    write_figures(json, &figures)
}

fn write_figures(path: Option<&Path>, figures: &impl Serialize) -> Result<(), Failure> {
    let Some(path) = path else {
        return Ok(());
    };
    let json = serde_json::to_string_pretty(figures)?;
    write(path, &format!("{json}\n"))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| format!("{} cannot be written: {error}", path.display()).into())
}
