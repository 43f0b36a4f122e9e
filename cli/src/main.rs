//! `tollgate`: the command-line tool for operators of a deployment.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tollgate_cli::run().await
}
