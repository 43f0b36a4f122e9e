//! Command line of the stand-in.

#![allow(
    clippy::print_stdout,
    reason = "a command-line program prints to its standard streams"
)]

use std::error::Error;
use std::net::Ipv4Addr;

use clap::Parser;
use jiff::Timestamp;
use stripe_fake::{NewEndpoint, Options, StripeFake, serve};
use tokio::net::TcpListener;

/// Stand-in for Stripe's API on 127.0.0.1, until it is stopped.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Port; 0 picks a free one.
    #[arg(long, default_value_t = 12111)]
    port: u16,
    /// Seed of the identifiers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Secret key of test mode.
    #[arg(long, default_value = "sk_test_stripe_fake")]
    key: String,
    /// URL to which events are sent; it must be http.
    #[arg(long)]
    webhook_url: Option<String>,
    /// Secret with which events are signed.
    #[arg(long, requires = "webhook_url")]
    webhook_secret: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, cli.port)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let fake = StripeFake::new(Options {
        seed: cli.seed,
        test_key: cli.key,
        url: url.clone(),
        ..Options::new(Timestamp::now)
    });
    if let Some(url) = cli.webhook_url {
        fake.register_endpoint(NewEndpoint {
            url,
            secrets: cli.webhook_secret.into_iter().collect(),
            ..NewEndpoint::default()
        });
    }
    println!("stripe-fake listens on {url}");
    tokio::select! {
        never = serve(listener, fake) => match never {},
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
    }
}
