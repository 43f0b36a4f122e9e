//! Payments of a function, from its environment.

use std::sync::Arc;
use std::time::Duration;

use tollgate_runtime::config::{self, InvalidConfig};
use tollgate_runtime::{Init, env};
use tollgate_store::Store;
use tollgate_stripe::{
    BaseUrl, CONNECT_TIMEOUT, Config, HttpsTransport, Retries, Roots, StripeClient, Timeouts,
    TokioTiming, Transport,
};

use crate::secret::NamedSecret;
use crate::{Payments, RateLimited};

/// Number of invocations of the charge worker at a time, and of the worker of events: the maximum concurrency of
/// their queues, which is at least two (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html>). A test compares it with the
/// template.
pub const WORKERS: u32 = 2;

/// Time that calls of Stripe may take, and their rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A caller waits at the gateway: two attempts within eight seconds.
    Caller,
    /// A queue of charges waits: all attempts of the client, at the worker's share of the rate that the environment
    /// sets.
    Queue,
    /// A queue of Stripe's events waits, at a third of that.
    Events,
}

impl Payments {
    /// Builds the payments of a new instance. Without the name of a secret, there is no Stripe.
    ///
    /// # Errors
    /// When the environment lacks a variable, or has an invalid one.
    pub fn build(init: &Init, patience: Patience) -> Result<Self, InvalidConfig> {
        let secret = init.env.get(env::STRIPE_SECRET)?;
        let stripe = if secret.is_empty() {
            None
        } else {
            let secret = NamedSecret::new(init.sdk.clone(), secret);
            Some(stripe(init, patience, secret)?)
        };
        Ok(Self {
            stack: init.env.get(env::TABLE_PREFIX)?.to_owned(),
            store: Store::build(init)?,
            stripe,
            clock: init.clock.clone(),
            metrics: init.metrics.clone(),
        })
    }
}

fn stripe(
    init: &Init,
    patience: Patience,
    secret: NamedSecret,
) -> Result<StripeClient, InvalidConfig> {
    let base_url: Result<BaseUrl, _> = init.env.get(env::STRIPE_URL)?.parse();
    let base_url = base_url.map_err(|_| InvalidConfig::StripeUrl)?;
    let entropy = init.entropy.clone();
    let timing = Arc::new(TokioTiming::new(move || entropy.below(u64::MAX)));
    // A stand-in needs no certificates, and a machine that runs one may have none.
    let roots = match base_url.is_https() {
        true => Roots::System,
        false => Roots::Pem(Vec::new()),
    };
    let transport = HttpsTransport::new(roots, CONNECT_TIMEOUT);
    let mut config = Config {
        base_url,
        ..Config::default()
    };
    let transport: Arc<dyn Transport> = match patience {
        Patience::Caller => {
            config.timeouts = Timeouts {
                attempt: Duration::from_secs(6),
                total: Duration::from_secs(8),
            };
            config.retries = Retries {
                attempts: 2,
                max_retry_after: Duration::from_secs(1),
                ..Retries::default()
            };
            Arc::new(transport)
        }
        Patience::Queue | Patience::Events => {
            let interval = Duration::from_secs(WORKERS.into()) / config::stripe_rate(&init.env)?;
            let interval = match patience {
                Patience::Events => 3 * interval,
                _ => interval,
            };
            let timing = Arc::<TokioTiming<_>>::clone(&timing);
            Arc::new(RateLimited::new(transport, timing, interval))
        }
    };
    Ok(StripeClient::new(
        transport,
        Arc::new(secret),
        timing,
        config,
    ))
}
