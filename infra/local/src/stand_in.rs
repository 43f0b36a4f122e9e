//! The stand-in for Stripe of the local stack.

use std::net::Ipv4Addr;
use std::path::Path;

use stripe_fake::{Options, StripeFake};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tollgate_runtime::Clock;

use crate::start_error::StartError;

/// Name of the secret with the stand-in's key.
pub(crate) const SECRET: &str = "stripe";

/// A stand-in for Stripe on a port of its own.
pub(crate) struct StandIn {
    pub(crate) fake: StripeFake,
    /// Address of its API and of its pages.
    pub(crate) url: String,
    /// Secret key of its test mode.
    pub(crate) key: String,
    server: JoinHandle<()>,
}

/// Starts a stand-in on a port of 127.0.0.1; 0 picks a free one. It follows the clock, and keeps its state in the
/// data directory if there is one.
///
/// # Errors
/// When the port or the data directory cannot be used.
pub(crate) async fn start(
    port: u16,
    data: Option<&Path>,
    clock: Clock,
) -> Result<StandIn, StartError> {
    let unusable = |error| StartError::StripePort(port, error);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(unusable)?;
    let url = format!("http://{}", listener.local_addr().map_err(unusable)?);
    let options = Options {
        url: url.clone(),
        ..Options::new(move || clock.now())
    };
    let key = options.test_key.clone();
    let fake = match data {
        Some(dir) => StripeFake::open(options, &dir.join("stripe.jsonl")).await?,
        None => StripeFake::new(options),
    };
    let served = fake.clone();
    let server = tokio::spawn(async move { match stripe_fake::serve(listener, served).await {} });
    Ok(StandIn {
        fake,
        url,
        key,
        server,
    })
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}
