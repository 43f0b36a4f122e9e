//! Reception of Stripe's webhooks: a signature is checked, and the event is queued.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Clock, Init, Metrics, env, metrics};
use tollgate_stripe::webhook::{EndpointSecret, SignatureError, TOLERANCE, verify_signature};
use tollgate_stripe::{Event, InvalidEvent};

use crate::follow::EVENT_TYPES;
use crate::queue::{Queue, QueueError};
use crate::secret::{NamedSecret, SecretError};

pub use tollgate_stripe::webhook::SIGNATURE_HEADER;

/// Least time between two reads of the secrets: requests with a wrong signature, which anyone can send, cost no
/// more reads than that.
const READ_INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// Secrets of the endpoint that Stripe sends webhooks to. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct EndpointSecrets {
    named: NamedSecret,
    read: Arc<Mutex<LastRead>>,
}

/// The last reading of the secrets.
#[derive(Debug, Clone, Default)]
enum LastRead {
    #[default]
    None,
    Read(Read),
    Failed(Timestamp),
}

#[derive(Debug, Clone)]
struct Read {
    secrets: Arc<[EndpointSecret]>,
    at: Timestamp,
}

/// Receiver of webhooks. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// Secrets of the endpoint; `None` if there is no endpoint at Stripe.
    pub secrets: Option<EndpointSecrets>,
    /// Queue of the events.
    pub queue: Queue,
    /// Clock that signatures are compared with.
    pub clock: Clock,
    /// Metrics of rejected requests.
    pub metrics: Metrics,
}

/// Outcome of receiving a webhook that Stripe signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// The event is in the queue.
    Queued,
    /// Events of this type change nothing.
    Ignored,
}

/// Error: a webhook was not received.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// There is no signing secret.
    #[error("no signing secret of webhooks is configured")]
    NotConfigured,
    /// The signature is not one of Stripe's over this body, or is not recent.
    #[error("the signature is not valid")]
    Signature(#[from] SignatureError),
    /// The secrets cannot be read.
    #[error("the signing secret cannot be read")]
    Secret(#[from] SecretError),
    /// The secrets could not be read within the last minute.
    #[error("the signing secret could not be read a moment ago")]
    NotRead,
    /// The text of the secret is not a list of signing secrets.
    #[error("the text of the secret is not whsec_… once or several times, separated by spaces")]
    Malformed,
    /// The signed body is not an event.
    #[error("the body is not an event")]
    Event(#[from] InvalidEvent),
    /// The event was not queued, or perhaps it was.
    #[error("the event was not queued")]
    Queue(#[from] QueueError),
}

impl Webhooks {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks a variable.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let name = init.env.get(env::STRIPE_WEBHOOK_SECRET)?;
        let named = || NamedSecret::new(init.sdk.clone(), name);
        Ok(Self {
            secrets: (!name.is_empty()).then(|| EndpointSecrets::new(named())),
            queue: Queue::new(&init.sdk, init.env.get(env::STRIPE_EVENT_QUEUE)?),
            clock: init.clock.clone(),
            metrics: init.metrics.clone(),
        })
    }

    /// Receives a webhook: the raw body, and the value of [`SIGNATURE_HEADER`]. Stripe sends it again unless this
    /// succeeds.
    ///
    /// # Errors
    /// When Stripe did not sign it, or it cannot be queued.
    pub async fn receive(&self, body: &str, signature: &str) -> Result<Reception, WebhookError> {
        let secrets = self.secrets.as_ref().ok_or(WebhookError::NotConfigured)?;
        let now = self.clock.now();
        let verified = secrets.verify(body.as_bytes(), signature, now).await;
        if let Err(WebhookError::Signature(_)) = &verified {
            self.metrics.record(metrics::REJECTED_WEBHOOKS, &[], 1);
        }
        verified?;
        let event = Event::parse(body.as_bytes())?;
        if !EVENT_TYPES.contains(&event.kind.as_str()) {
            return Ok(Reception::Ignored);
        }
        // Not the whole body, which has personal data, and of which only ids are used.
        self.queue.send_texts(vec![event.ids()], 0).await?;
        Ok(Reception::Queued)
    }
}

impl EndpointSecrets {
    /// Returns the secrets in the text of this secret: one, or several separated by white space while one replaces
    /// another.
    #[must_use]
    pub fn new(named: NamedSecret) -> Self {
        Self {
            named,
            read: Arc::default(),
        }
    }

    /// Checks that a body was signed by Stripe, with one of the secrets, within five minutes of `now`. Secrets
    /// that do not match are read again, at most once a minute.
    ///
    /// # Errors
    /// When it was not, or the secrets cannot be read.
    pub async fn verify(
        &self,
        body: &[u8],
        header: &str,
        now: Timestamp,
    ) -> Result<(), WebhookError> {
        let verify = |read: &Read| verify_signature(body, header, &read.secrets, now, TOLERANCE);
        let is_recent = |at: Timestamp| now.duration_since(at) < READ_INTERVAL;
        let mut last = self.read.lock().await;
        match &*last {
            LastRead::Read(known) => match verify(known) {
                Err(SignatureError::NoMatch) if !is_recent(known.at) => {}
                verified => return Ok(verified?),
            },
            LastRead::Failed(at) if is_recent(*at) => return Err(WebhookError::NotRead),
            LastRead::Failed(_) | LastRead::None => {}
        }
        *last = LastRead::Failed(now);
        let fresh = self.read(now).await?;
        let verified = verify(&fresh);
        *last = LastRead::Read(fresh);
        Ok(verified?)
    }

    async fn read(&self, at: Timestamp) -> Result<Read, WebhookError> {
        let text = self.named.read().await?;
        let secrets: Result<Arc<[EndpointSecret]>, _> = text
            .expose()
            .split_ascii_whitespace()
            .map(EndpointSecret::parse)
            .collect();
        match secrets {
            Ok(secrets) if !secrets.is_empty() => Ok(Read { secrets, at }),
            _ => Err(WebhookError::Malformed),
        }
    }
}
