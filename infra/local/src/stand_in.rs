//! The stand-in for Stripe of the local stack, and delivery of its events to the webhook endpoint.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use http::header::CONTENT_TYPE;
use stripe_fake::{NewEndpoint, Options, StripeFake, Webhook};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tollgate_runtime::Clock;

use crate::gateway::Gateway;
use crate::start_error::StartError;

/// Name of the secret with the stand-in's key.
pub(crate) const SECRET: &str = "stripe";

/// Name of the secret with which the stand-in signs events.
pub(crate) const WEBHOOK_SECRET: &str = "stripe-webhook";

/// Route of the webhook endpoint.
const ENDPOINT: &str = "/webhooks/stripe";
/// Interval at which events are looked for.
const POLL: Duration = Duration::from_millis(100);

/// A stand-in for Stripe on a port of its own.
pub(crate) struct StandIn {
    pub(crate) fake: StripeFake,
    /// Address of its API and of its pages.
    pub(crate) url: String,
    /// Secret key of its test mode.
    pub(crate) key: String,
    /// Secret that signs its events.
    pub(crate) webhook_secret: String,
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
    // Nobody outside can reach this product's endpoint, so that the secret need not be one.
    let webhook_secret = "whsec_local_stripe_fake".to_owned();
    let endpoint = NewEndpoint {
        id: Some("we_local".to_owned()),
        url: ENDPOINT.to_owned(),
        secrets: vec![webhook_secret.clone()],
        ..NewEndpoint::default()
    };
    let options = Options {
        url: url.clone(),
        // It is there before the journal is repeated, so that events whose delivery a stop has prevented are
        // delivered, and all others again.
        endpoints: vec![endpoint],
        ..Options::new(move || clock.now())
    };
    let key = options.test_key.clone();
    let fake = match data {
        Some(dir) => StripeFake::open(options, &dir.join("stripe.jsonl")).await?,
        None => StripeFake::new(options),
    };
    let served = fake.clone();
    let server =
        tokio::spawn(async move { match stripe_fake::serve_api(listener, served).await {} });
    Ok(StandIn {
        fake,
        url,
        key,
        webhook_secret,
        server,
    })
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Delivery of the stand-in's events to the webhook endpoint, through the gateway.
pub(crate) struct Delivery {
    fake: StripeFake,
    gateway: Arc<Gateway>,
    /// Locked while events are delivered, so that [`deliver`](Self::deliver) does not miss some that are in flight.
    delivering: Mutex<()>,
}

impl Delivery {
    pub(crate) fn new(fake: StripeFake, gateway: Arc<Gateway>) -> Self {
        Self {
            fake,
            gateway,
            delivering: Mutex::default(),
        }
    }

    /// Delivers events as they come. Does not return.
    pub(crate) async fn run(&self) -> Infallible {
        loop {
            tokio::time::sleep(POLL).await;
            self.deliver().await;
        }
    }

    /// Delivers the events that are due.
    pub(crate) async fn deliver(&self) {
        let _delivering = self.delivering.lock().await;
        self.fake.deliver(|webhook| self.post(webhook)).await;
    }

    async fn post(&self, webhook: Webhook) -> bool {
        let request = Request::post(&webhook.url)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .header("stripe-signature", webhook.signature)
            .body(Body::from(webhook.body));
        match request {
            Ok(request) => self.gateway.handle(request).await.status().is_success(),
            Err(_) => false,
        }
    }
}
