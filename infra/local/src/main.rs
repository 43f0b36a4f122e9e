//! Command line of the local stack: `cargo run` serves it, `cargo run -- demo` runs the demo.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program prints to its standard streams"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tollgate_domain::customer::Customer;
use tollgate_local::local_stack::{self, AdminKey, Options, Running};
use tollgate_local::soak::{self, lag, outage};
use tollgate_local::{crash, demo, local_stack::StartError};
use tollgate_runtime::{Chain, env};
use tollgate_store::{SeedOutcome, StoreError};

/// Tollgate on one machine: API keys, quotas, metering and billing for an HTTP API, without an AWS
/// account, container or service.
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
    /// Starts the local stack and serves until SIGINT or SIGTERM (the default).
    Serve(Box<ServeArgs>),
    /// Runs a demo of all features over HTTP on a free port and an empty store, and checks each step.
    Demo,
    /// Runs mixed traffic while keys are revoked, expire and change plans, and checks that each change
    /// takes effect in time; or traffic while the store is down; or calls at steady rates, and the time until they are
    /// counted.
    Soak(SoakArgs),
    /// Kills the program at random times under load, restarts it on the same data, and checks that every
    /// call with a 200 response is metered exactly once.
    Crash(CrashArgs),
}

#[derive(Args)]
struct SoakArgs {
    /// Duration of the test in minutes.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Instead, takes the store down for this many minutes, and checks that plans fail open or closed as
    /// configured, that no limit is exceeded, and that admitted calls equal metered calls afterwards.
    #[arg(long, conflicts_with = "minutes")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=outage::LONGEST_MINUTES))]
    outage_minutes: Option<u64>,
    /// Instead, makes 1, 100 and 1,000 calls a second, each for this many seconds, and measures the time from each call to
    /// its count.
    #[arg(long, conflicts_with_all = ["minutes", "outage_minutes"])]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600))]
    lag_seconds: Option<u64>,
    /// File to write the results to, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct CrashArgs {
    /// Number of kills.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// File to write the results to, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct ServeArgs {
    /// Port on 127.0.0.1; 0 picks a free one.
    #[arg(long, env = "TOLLGATE_PORT", default_value_t = 9000)]
    port: u16,
    /// Port of the stand-in for Stripe on 127.0.0.1; 0 picks a free one. By default the port after that of
    /// Tollgate, or a free one if that is 0.
    #[arg(long, env = "TOLLGATE_STRIPE_PORT")]
    stripe_port: Option<u16>,
    /// Directory for the state.
    #[arg(long, value_name = "DIR", default_value = ".tollgate")]
    data: PathBuf,
    /// Keeps the state in memory only; it is lost when the process ends.
    #[arg(long, conflicts_with = "data")]
    in_memory: bool,
    /// Admin key. Without one, a key is created at the first start and shown once.
    #[arg(long, env = "TOLLGATE_ADMIN_KEY", hide_env_values = true)]
    admin_key: Option<String>,
    #[command(flatten)]
    stack: StackArgs,
}

/// Template parameters that apply to the local stack, named as the functions' environment variables.
#[derive(Args)]
struct StackArgs {
    /// Plans as a JSON list, for a state without plans. Later, plans are changed under `/admin/plans`.
    #[arg(long, env = "TOLLGATE_PLANS", value_name = "JSON")]
    plans: Option<String>,
    /// First segment of new keys.
    #[arg(long, env = env::KEY_BRAND.name, value_name = "BRAND")]
    key_brand: Option<String>,
    /// Second segment of new customer keys.
    #[arg(long, env = env::KEY_ENV.name, value_name = "ENV")]
    key_env: Option<String>,
    /// Origin whose pages may call the API, or `*` for all origins.
    #[arg(long, env = env::CORS_ORIGINS.name, value_name = "ORIGIN")]
    cors_origins: Option<String>,
    /// Origins to whose pages Stripe's pages may lead back, separated by commas. By default this program's.
    #[arg(long, env = env::RETURN_ORIGINS.name, value_name = "ORIGINS")]
    return_origins: Option<String>,
    /// Page on which a customer whose monthly quota is used up can subscribe.
    #[arg(long, env = env::UPGRADE_URL.name, value_name = "URL")]
    upgrade_url: Option<String>,
    /// Plan of a customer whose subscription has ended.
    #[arg(long, env = env::PLAN_AFTER_CANCELLATION.name, value_name = "PLAN")]
    plan_after_cancellation: Option<String>,
    /// Consequence of an outstanding payment: `nothing`, `suspend`, or `plan:` and the id of a plan.
    #[arg(long, env = env::ON_UNPAID.name, value_name = "CONSEQUENCE")]
    on_unpaid: Option<String>,
    /// Days after which an outstanding payment has a consequence.
    #[arg(long, env = env::UNPAID_GRACE_DAYS.name, value_name = "DAYS")]
    unpaid_grace_days: Option<String>,
}

/// Error of the `serve` command.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the local stack did not start")]
    Start(#[from] StartError),
    #[error("signals cannot be handled")]
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
            Err(error) => fail(&error),
        },
        Some(Command::Soak(args)) => match soak(args).await {
            Ok(code) => code,
            Err(error) => fail(&error),
        },
        Some(Command::Crash(args)) => match crash(args).await {
            Ok(code) => code,
            Err(error) => fail(&error),
        },
        Some(Command::Serve(args)) => serve(*args).await,
        None => serve(cli.serve).await,
    }
}

async fn soak(args: SoakArgs) -> Result<ExitCode, soak::SoakError> {
    if let Some(minutes) = args.outage_minutes {
        let down = Duration::from_secs(60 * minutes);
        let report = outage::run(down, outage::AROUND).await?;
        return Ok(print_results(
            &report.to_json(),
            &report.violations,
            args.json,
        )?);
    }
    if let Some(seconds) = args.lag_seconds {
        let report = lag::run(Duration::from_secs(seconds)).await?;
        return Ok(print_results(
            &report.to_json(),
            &report.violations,
            args.json,
        )?);
    }
    let duration = Duration::from_secs(60 * args.minutes);
    let report = soak::run(duration).await?;
    Ok(print_results(
        &report.to_json(),
        &report.violations,
        args.json,
    )?)
}

async fn crash(args: CrashArgs) -> Result<ExitCode, crash::CrashError> {
    let report = crash::run(args.times).await?;
    let code = print_results(&report.to_json(), &report.violations, args.json)?;
    println!(
        "not metered: {} calls that were in progress at a kill and got no response, because their usage \
         records had not reached the bus",
        report.in_flight_not_metered
    );
    Ok(code)
}

/// Prints the results of a test run. Returns failure if there are violations.
fn print_results(
    results: &Value,
    violations: &[String],
    json: Option<PathBuf>,
) -> std::io::Result<ExitCode> {
    println!("{results:#}");
    for violation in violations {
        println!("violation: {violation}");
    }
    if let Some(path) = json {
        std::fs::write(path, format!("{results:#}\n"))?;
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
    let storage = match &data {
        Some(dir) => format!("state in {}", dir.display()),
        None => "state in memory".to_owned(),
    };
    let running = local_stack::start(Options {
        port: args.port,
        stripe_port: args.stripe_port.unwrap_or(match args.port {
            0 => 0,
            port => port.checked_add(1).unwrap_or_default(),
        }),
        data,
        admin_key: args.admin_key,
        parameters: parameters(args.stack),
        template: None,
    })
    .await?;
    greet(&running, &storage);
    warn_of_plans(&running).await.map_err(StartError::from)?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome.map_err(ServeError::Signals)?,
        _ = terminate.recv() => {}
    }
    println!("stopping");
    running.stop().await.map_err(ServeError::Server)
}

/// Prints a warning if the given plans were not stored, and for each customer whose plan does not exist.
async fn warn_of_plans(running: &Running) -> Result<(), StoreError> {
    if running.seed == SeedOutcome::Differs {
        eprintln!(
            "warning: the state has other plans than the given ones, which change nothing. Plans are \
             changed by POST /admin/plans and POST /admin/plans/{{plan}}/versions."
        );
    }
    let mut after: Option<String> = None;
    loop {
        let page = running.customers_without_plan(after.as_deref()).await?;
        for Customer { id, plan, .. } in page.items {
            eprintln!(
                "warning: customer {id} is on plan {plan}, which does not exist: their calls are denied, \
                 and months with calls on it are not billed. Create the plan, or move the customer to \
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
        ("ReturnOrigins", stack.return_origins),
        ("UpgradeUrl", stack.upgrade_url),
        ("PlanAfterCancellation", stack.plan_after_cancellation),
        ("OnUnpaid", stack.on_unpaid),
        ("UnpaidGraceDays", stack.unpaid_grace_days),
    ];
    let given = given.into_iter();
    given
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// Prints the URL, the admin key, and commands to try.
fn greet(running: &Running, storage: &str) {
    let url = &running.url;
    println!("Tollgate listens on {url} ({storage})");
    println!("a stand-in for Stripe listens on {}", running.stripe_url);
    let key = match &running.admin {
        AdminKey::Created(key) => {
            println!("admin key, shown this once: {key}");
            key.as_str()
        }
        AdminKey::Given(key) => {
            if std::env::var("TOLLGATE_ADMIN_KEY").is_ok_and(|variable| variable == *key) {
                println!("admin key: the one in TOLLGATE_ADMIN_KEY");
            } else {
                println!("admin key: the one given by --admin-key");
                println!("for the commands below: export TOLLGATE_ADMIN_KEY=<that key>");
            }
            "$TOLLGATE_ADMIN_KEY"
        }
        AdminKey::Existing(prefix) => {
            println!("admin key: {prefix}…, shown at the first start");
            println!("for the commands below: export TOLLGATE_ADMIN_KEY=<that key>");
            "$TOLLGATE_ADMIN_KEY"
        }
    };
    println!();
    println!(
        "# create a customer; create a key and make a call with it; show what a billing run would charge"
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
        "POST {url}/_local/clock, /_local/drain, /_local/nightly and /_local/publish set the clock, deliver usage, bill and \
         publish events"
    );
}
