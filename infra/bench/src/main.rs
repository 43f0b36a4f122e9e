//! Benchmarks. `cargo run --release -p bench -- authorizer` compares the authorizer's release binary with a
//! minimal function and with authorizers in other languages. `writer`, `metering` and `billing` measure the
//! usage-writer, the metering layer, and billing; `cost` computes what calls cost.

#![allow(
    clippy::float_arithmetic,
    reason = "measurements are neither money nor stored counts"
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool prints to its standard streams"
)]

mod affinity;
mod billing;
mod bus;
mod contender;
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
mod routing;
mod run;
mod runtime_api;
mod rush;
mod samples;
mod server;
mod shapes;
mod tables;
mod tools;
mod units;
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
use crate::routing::Rate;
use crate::tools::{ROOT, machine, target_dir};

type Error = Box<dyn std::error::Error>;

/// Cargo profile of deployed binaries.
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
    /// Measures the authorizer, a minimal function without an SDK, and authorizers in Node.js and Python.
    /// Prints tables, and writes docs/benchmarks.md and its plot.
    Authorizer(Args),
    /// Measures the usage-writer on in-memory engines. Prints tables.
    Writer {
        /// Also writes the figures to this file.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
    },
    /// Computes the cost of a million calls from the requests of the authorizer and the usage-writer, and from list prices.
    /// Prints tables, and writes docs/cost.md.
    Cost {
        /// Also writes the figures to this file.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
    },
    /// Measures nightly billing runs over very many customers, and the rate of the charge workers. Prints tables,
    /// and writes their part of docs/benchmarks.md.
    Billing {
        /// Customers in the largest run.
        #[arg(long, value_name = "NUMBER", default_value_t = billing::CUSTOMERS)]
        customers: usize,
        /// Seconds for which each rate is measured. Docs are written only for the defaults.
        #[arg(long, value_name = "NUMBER", default_value_t = billing::SECONDS)]
        seconds: u64,
        /// Also writes the figures to this file.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
    },
    /// Measures the metering layer, and whether responses wait for usage to be sent. Prints a table.
    Metering {
        /// Also writes the figures to this file.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct Args {
    /// Also writes the figures to this file.
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Takes few samples, and writes no docs.
    #[arg(long)]
    quick: bool,
    /// Cargo profile of the measured binaries. Docs are written only for release.
    #[arg(long, value_name = "NAME", default_value = RELEASE)]
    profile: String,
}

// A single thread serves the Runtime API and takes the times. DynamoDB has a thread of its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let measured = async {
        match &command {
            Command::Authorizer(args) => measure(args).await,
            Command::Writer { json } => measure_writer(json.as_deref()).await,
            Command::Cost { json } => measure_cost(json.as_deref()).await,
            Command::Metering { json } => measure_metering(json.as_deref()).await,
            Command::Billing {
                customers,
                seconds,
                json,
            } => measure_billing(*customers, *seconds, json.as_deref()).await,
        }
    };
    // An interrupted run drops its processes, which kills them.
    let result = tokio::select! {
        result = measured => result,
        interrupted = interrupted() => interrupted,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err("interrupted by a signal".into())
}

async fn measure(args: &Args) -> Result<(), Error> {
    let effort = if args.quick {
        Effort::quick()
    } else {
        Effort::full()
    };
    let rates: &[Rate] = if args.quick {
        &routing::QUICK
    } else {
        &routing::FULL
    };
    let results = run::authorizer(&effort, rates, &args.profile).await?;
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
        let path = docs.join("benchmarks.md");
        let (_, of_billing) = parts(&path)?;
        write(&path, &format!("{page}{of_billing}"))?;
        write(&docs.join("benchmarks.svg"), &plot::svg(&results))?;
    }
    Ok(())
}

async fn measure_writer(json: Option<&Path>) -> Result<(), Error> {
    let figures = writer::measure().await?;
    print!("{}", figures.tables());
    write_figures(json, &figures)
}

async fn measure_cost(json: Option<&Path>) -> Result<(), Error> {
    let prices = cost::Prices::listed()?;
    let dir = target_dir().await?.join("bench");
    let measured = cost::measure(&dir, RELEASE).await?;
    print!("{}", cost::tables(&measured, &prices).join("\n"));
    write_figures(json, &measured.figures(&prices))?;
    let page = Path::new(ROOT).join("docs/cost.md");
    write(&page, &cost::page(&measured, &prices))
}

async fn measure_metering(json: Option<&Path>) -> Result<(), Error> {
    let figures = metering::measure().await?;
    print!("{}", figures.table());
    write_figures(json, &figures)
}

async fn measure_billing(customers: usize, seconds: u64, json: Option<&Path>) -> Result<(), Error> {
    let results = billing::measure(customers, seconds).await?;
    print!("{}", billing::tables(&results).join("\n"));
    write_figures(json, &results)?;
    if (customers, seconds) == (billing::CUSTOMERS, billing::SECONDS) {
        let path = Path::new(ROOT).join("docs/benchmarks.md");
        let (of_authorizer, _) = parts(&path)?;
        let of_billing = billing::page(&results, &machine().await?);
        write(&path, &format!("{of_authorizer}\n{of_billing}"))?;
    }
    Ok(())
}

/// Returns the parts of docs/benchmarks.md: of the authorizer, and of billing with the empty line before it.
fn parts(path: &Path) -> Result<(String, String), Error> {
    let page = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let heading = format!("\n{}", billing::HEADING);
    Ok(match page.find(&heading) {
        Some(at) => (page[..at].to_owned(), page[at..].to_owned()),
        None => (page, String::new()),
    })
}

fn write_figures(path: Option<&Path>, figures: &impl Serialize) -> Result<(), Error> {
    let Some(path) = path else {
        return Ok(());
    };
    let json = serde_json::to_string_pretty(figures)?;
    write(path, &format!("{json}\n"))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text)
        .map_err(|error| format!("{} cannot be written: {error}", path.display()).into())
}
