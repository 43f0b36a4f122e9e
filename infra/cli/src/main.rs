//! `tollgate`: the command line for the admins of a deployed stack.
//!
//! Data goes to standard output, everything else to standard error; a failure is a sentence and a
//! non-zero exit.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks on its standard streams"
)]

mod admin_key;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tollgate_runtime::Chain;

/// Administers a deployed Tollgate stack, with the AWS credentials and region of the environment.
#[derive(Parser)]
#[command(name = "tollgate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Admin keys: those that open the admin API.
    #[command(subcommand)]
    AdminKey(AdminKey),
}

#[derive(Subcommand)]
enum AdminKey {
    /// Makes an admin key and prints it, this once.
    Create(admin_key::Create),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Command::AdminKey(AdminKey::Create(create)) = Cli::parse().command;
    match admin_key::create(create).await {
        Ok(key) => {
            eprintln!("tollgate: admin key {}, shown this once:", key.prefix());
            println!("{}", key.expose());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tollgate: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}
