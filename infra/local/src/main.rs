//! `cargo run`: the whole product on this machine. `cargo run -- demo`: its story, told and checked.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks on its standard streams"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tollgate_domain::customer::Customer;
use tollgate_local::product::{self, AdminKey, Options, Running};
use tollgate_local::soak::{self, outage};
use tollgate_local::{crash, demo, product::StartError};
use tollgate_runtime::{Chain, env};
use tollgate_store::StoreError;

/// Tollgate on one machine: gates, meters and bills an HTTP API, with no account, container or
/// service.
#[derive(Parser)]
#[command(
    name = "tollgate-local",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Starts the product and serves until it is told to stop (the default).
    Serve(ServeArgs),
    /// Plays the whole story over HTTP on a free port and an empty store, and checks each step.
    Demo,
    /// Makes mixed traffic while keys are revoked, expire and change plans, and checks that no
    /// change takes effect later than it may; or traffic while the store is down.
    Soak(SoakArgs),
    /// Kills the program at random moments under load, starts it again on the same data, and checks
    /// that every call answered 200 is metered exactly once.
    Crash(CrashArgs),
}

#[derive(Args)]
struct SoakArgs {
    /// How long.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Instead, lets the store be down for so long, and checks that what plans promise of that time
    /// is kept, that no limit is exceeded, and that afterwards admitted calls are metered ones.
    #[arg(long, conflicts_with = "minutes")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=outage::LONGEST_MINUTES))]
    outage_minutes: Option<u64>,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct CrashArgs {
    /// How often.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct ServeArgs {
    /// Port on 127.0.0.1; 0 picks a free one.
    #[arg(long, env = "TOLLGATE_PORT", default_value_t = 9000)]
    port: u16,
    /// Directory that keeps the state.
    #[arg(long, value_name = "DIR", default_value = ".tollgate")]
    data: PathBuf,
    /// Keeps the state in memory: the end of the process is the end of it.
    #[arg(long, conflicts_with = "data")]
    in_memory: bool,
    /// The admin key; without one, a key is made at the first start and shown once.
    #[arg(long, env = "TOLLGATE_ADMIN_KEY", hide_env_values = true)]
    admin_key: Option<String>,
    #[command(flatten)]
    stack: StackArgs,
}

/// The template's parameters that matter here, under the names of the functions' variables.
#[derive(Args)]
struct StackArgs {
    /// The plans on offer as a JSON list.
    #[arg(long, env = env::PLANS.name, value_name = "JSON")]
    plans: Option<String>,
    /// First segment of new keys.
    #[arg(long, env = env::KEY_BRAND.name, value_name = "BRAND")]
    key_brand: Option<String>,
    /// Second segment of new customer keys.
    #[arg(long, env = env::KEY_ENV.name, value_name = "ENV")]
    key_env: Option<String>,
    /// The origin whose pages may call, or `*` for all.
    #[arg(long, env = env::CORS_ORIGINS.name, value_name = "ORIGIN")]
    cors_origins: Option<String>,
}

/// Why serving ended badly.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the product did not start")]
    Start(#[from] StartError),
    #[error("the signals that stop it cannot be watched")]
    Signals(#[source] std::io::Error),
    #[error("the server failed")]
    Server(#[source] std::io::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    match cli.command {
        Some(Command::Demo) => match demo::run().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => fail(&failed),
        },
        Some(Command::Soak(args)) => match soak(args).await {
            Ok(code) => code,
            Err(error) => fail(&error),
        },
        Some(Command::Crash(args)) => match crash(args).await {
            Ok(code) => code,
            Err(error) => fail(&error),
        },
        Some(Command::Serve(args)) => serve(args).await,
        None => serve(cli.serve).await,
    }
}

async fn soak(args: SoakArgs) -> Result<ExitCode, soak::Failed> {
    if let Some(minutes) = args.outage_minutes {
        let down = Duration::from_secs(60 * minutes);
        let report = outage::run(down, outage::AROUND).await?;
        return Ok(tell(&report.to_json(), &report.violations, args.json)?);
    }
    let lasts = Duration::from_secs(60 * args.minutes);
    let report = soak::run(lasts).await?;
    Ok(tell(&report.to_json(), &report.violations, args.json)?)
}

async fn crash(args: CrashArgs) -> Result<ExitCode, crash::Failed> {
    let report = crash::run(args.times).await?;
    let code = tell(&report.to_json(), &report.violations, args.json)?;
    println!(
        "not metered: {} calls that were under way at a kill and answered to nobody, because their \
         records had not come to the bus",
        report.in_flight_not_metered
    );
    Ok(code)
}

/// Prints what a run found, and fails it if there is anything that should not have happened.
fn tell(
    figures: &Value,
    violations: &[String],
    json: Option<PathBuf>,
) -> std::io::Result<ExitCode> {
    println!("{figures:#}");
    for violation in violations {
        println!("violation: {violation}");
    }
    if let Some(path) = json {
        std::fs::write(path, format!("{figures:#}\n"))?;
    }
    Ok(if violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn serve(args: ServeArgs) -> ExitCode {
    match try_serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("tollgate: {}", Chain(error));
    ExitCode::FAILURE
}

async fn try_serve(args: ServeArgs) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let data = (!args.in_memory).then_some(args.data);
    let place = match &data {
        Some(dir) => format!("state in {}", dir.display()),
        None => "state in memory".to_owned(),
    };
    let running = product::start(Options {
        port: args.port,
        data,
        admin_key: args.admin_key,
        parameters: parameters(args.stack),
        template: None,
    })
    .await?;
    greet(&running, &place);
    warn_of_missing_plans(&running)
        .await
        .map_err(StartError::from)?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome.map_err(ServeError::Signals)?,
        _ = terminate.recv() => {}
    }
    println!("stopping");
    running.stop().await.map_err(ServeError::Server)
}

/// Names the customers whose plan is not in the catalogue, and says what to do.
async fn warn_of_missing_plans(running: &Running) -> Result<(), StoreError> {
    let mut after: Option<String> = None;
    loop {
        let page = running.customers_without_plan(after.as_deref()).await?;
        for Customer { id, plan, .. } in page.items {
            eprintln!(
                "warning: customer {id} is on plan {plan}, which is not in the catalogue: their calls \
                 are refused, and months with calls on it are not billed. Put it back, or give them \
                 another plan."
            );
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn parameters(stack: StackArgs) -> Vec<(&'static str, String)> {
    let given = [
        ("Plans", stack.plans),
        ("KeyBrand", stack.key_brand),
        ("KeyEnv", stack.key_env),
        ("CorsOrigins", stack.cors_origins),
    ];
    let given = given.into_iter();
    given
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// Says where everything is, with commands that work when pasted.
fn greet(running: &Running, place: &str) {
    let url = &running.url;
    println!("Tollgate listens on {url} ({place})");
    let key = match &running.admin {
        AdminKey::Made(key) => {
            println!("admin key, shown this once: {key}");
            key.as_str()
        }
        AdminKey::Given(key) => {
            if std::env::var("TOLLGATE_ADMIN_KEY").is_ok_and(|of_shell| of_shell == *key) {
                println!("admin key: the one in TOLLGATE_ADMIN_KEY");
            } else {
                println!("admin key: the one given by --admin-key");
                println!("for the commands below: export TOLLGATE_ADMIN_KEY=<that key>");
            }
            "$TOLLGATE_ADMIN_KEY"
        }
        AdminKey::Earlier(prefix) => {
            println!("admin key: {prefix}…, shown at the first start");
            println!("for the commands below: export TOLLGATE_ADMIN_KEY=<that key>");
            "$TOLLGATE_ADMIN_KEY"
        }
    };
    println!();
    println!(
        "# a customer, then a key for them and a call with it, then what a night would charge"
    );
    println!(
        "curl -s {url}/admin/customers -H \"x-api-key: {key}\" -d '{{\"id\":\"acme\",\"plan\":\"free\"}}'"
    );
    println!(
        "curl -si {url}/api/secure/ping -H \"x-api-key: $(curl -s {url}/admin/api-keys \
         -H \"x-api-key: {key}\" -d '{{\"customer_id\":\"acme\"}}' \
         | sed 's/.*\"key\":\"\\([^\"]*\\)\".*/\\1/')\""
    );
    println!("curl -s {url}/admin/billing/run -H \"x-api-key: {key}\" -d '{{\"dry_run\":true}}'");
    println!();
    println!(
        "POST {url}/_local/clock, /_local/drain and /_local/nightly move time, deliver usage and bill"
    );
}
