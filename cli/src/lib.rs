//! The command-line tool `tollgate`. Data goes to standard output, everything else to standard error.

#![allow(
    clippy::print_stderr,
    reason = "a command-line tool reports on standard error"
)]

mod client;
mod command;
mod context;
mod export;
mod failure;
mod logged;
mod output;
mod problem;
mod profile;
mod progress;
mod proof;
mod report;
mod secret;
mod text;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use command::{billing, customers, events, keys, plans, quarantine, usage, webhooks};
use command::{bootstrap, documentation, login, replay};

use crate::client::Client;
use crate::context::Context;
use crate::failure::{EXIT_STATUS, Failure};
use crate::output::Output;

/// Operates a Tollgate deployment over its admin API.
#[derive(Parser)]
#[command(name = "tollgate", version, after_help = EXIT_STATUS)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Profile of the deployment. By default, TOLLGATE_URL and TOLLGATE_KEY if they are set, or the profile `default`.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "TOLLGATE_PROFILE",
        hide_env_values = true
    )]
    profile: Option<String>,
    /// Prints the JSON of the API: a document, or for lists a line for each item.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stores URL and key of a deployment in a profile, after checking them.
    ///
    /// The key is read from the terminal, without echo; from TOLLGATE_KEY, if that is set; or from standard input. It is
    /// stored in `$XDG_CONFIG_HOME/tollgate`, by default `~/.config/tollgate`, in a file that only you can read.
    Login(login::Login),
    /// Deletes a profile.
    Logout,
    /// Creates a first admin key with AWS credentials, and logs in with it.
    ///
    /// Credentials and region are those of the AWS SDKs: environment variables, or files in ~/.aws.
    Bootstrap(bootstrap::Bootstrap),
    /// Creates admin keys, which give access to the admin API, with AWS credentials.
    #[command(subcommand)]
    AdminKey(bootstrap::AdminKey),
    /// Prints the completions of a shell.
    #[command(hide = true)]
    Completions(documentation::Completions),
    /// Prints the manual page of the program, or of a command.
    #[command(hide = true)]
    Man(documentation::Man),
    #[command(flatten)]
    OverApi(OverApi),
}

/// Commands that need a profile.
#[derive(Subcommand)]
enum OverApi {
    /// Manages the API keys of customers.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Manages customers.
    #[command(subcommand)]
    Customers(customers::Customers),
    /// Manages plans and their versions.
    #[command(subcommand)]
    Plans(plans::Plans),
    /// Shows counted usage, and reports usage events.
    #[command(subcommand)]
    Usage(usage::Usage),
    /// Counts the usage events in the logs of metered functions that could not be put on the bus.
    ///
    /// Usage that the event bus did not accept while an instance lived is in the log of the metered function, as
    /// `unsent_usage`. Each usage event counts once, however often it is replayed, so that after a failure the command can
    /// be repeated. This command does not read CloudWatch Logs itself: pipe into it what the AWS CLI prints.
    Replay(replay::Replay),
    /// Manages usage that failed validation.
    #[command(subcommand)]
    Quarantine(quarantine::Quarantine),
    /// Runs billing, and shows charges and their proofs.
    #[command(subcommand)]
    Billing(billing::Billing),
    /// Exports usage records as CSV or Parquet, resumably.
    ///
    /// The output appears when it is complete. An export that was interrupted continues when the same command is run again:
    /// until then, its files are beside the output, with `.part` and `.state` after the name. In CSV, a text that begins
    /// with = + - or @ gets an apostrophe before it, so that no spreadsheet takes it for a formula. Adjustments are no
    /// records: see tollgate usage adjustments. Usage of customers that do not exist is exported only by their id.
    Export(export::Export),
    /// Lists events, oldest first.
    Events(events::Events),
    /// Manages webhooks.
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
}

/// Runs the command of the process's arguments. A failure prints one sentence on standard error.
pub async fn run() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    match command.run(&global).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe => ExitCode::SUCCESS,
        Err(failure) => {
            note(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

impl Command {
    async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut output = Output::new(global.json);
        let profile = global.profile.as_deref();
        match self {
            Command::Login(login) => login.run(profile).await,
            Command::Logout => login::logout(profile),
            Command::Bootstrap(bootstrap) => bootstrap.run(profile).await,
            Command::AdminKey(command) => {
                command.run(&mut output).await?;
                output.flush()
            }
            Command::Completions(completions) => completions.run(),
            Command::Man(man) => man.run(),
            Command::OverApi(command) => {
                let client = Client::new(&profile::find(profile)?)?;
                let mut context = Context { client, output };
                let outcome = command.run(&mut context).await;
                // What was printed before a failure is not lost.
                context.output.flush()?;
                outcome
            }
        }
    }
}

impl OverApi {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            OverApi::Keys(command) => command.run(context).await,
            OverApi::Customers(command) => command.run(context).await,
            OverApi::Plans(command) => command.run(context).await,
            OverApi::Usage(command) => command.run(context).await,
            OverApi::Replay(command) => command.run(context).await,
            OverApi::Quarantine(command) => command.run(context).await,
            OverApi::Billing(command) => command.run(context).await,
            OverApi::Export(command) => command.run(context).await,
            OverApi::Events(command) => command.run(context).await,
            OverApi::Webhooks(command) => command.run(context).await,
        }
    }
}

/// Prints a line for the user, apart from the data.
fn note(text: impl std::fmt::Display) {
    eprintln!("tollgate: {text}");
}
