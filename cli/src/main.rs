//! `tollgate`: the command-line tool for operators of a deployed stack.
//!
//! Data goes to standard output, everything else to standard error. A failure prints one sentence, and the
//! exit status is not 0.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool writes to its standard streams"
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
    /// Manages admin keys, which give access to the admin API.
    #[command(subcommand)]
    AdminKey(AdminKey),
}

#[derive(Subcommand)]
enum AdminKey {
    /// Creates an admin key, and prints it once.
    Create(admin_key::Create),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Command::AdminKey(AdminKey::Create(create)) = Cli::parse().command;
    match admin_key::create(create).await {
        Ok(key) => {
            eprintln!("tollgate: admin key {}, shown only once:", key.prefix());
            println!("{}", key.expose());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tollgate: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}
