//! The webhook sender: makes the queued deliveries, and queues those that failed again.

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_api::events::Event;
use tollgate_domain::id::WebhookId;
use tollgate_domain::webhook::{DeliveryFailure, Webhook, retry_after};
use tollgate_payments::{MAX_DELAY_S, Queue, QueueError};
use tollgate_runtime::config::{self, InvalidConfig};
use tollgate_runtime::{Chain, Clock, Entropy, Init, Metrics, env, metrics, sqs};
use tollgate_store::{Store, StoreError};
use tollgate_stripe::outbound::{InvalidSigningSecret, SigningSecret, sign};

use crate::client::{DeliveryError, WebhookClient};

/// State of a sender instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The tables.
    pub store: Store,
    /// Client for the targets.
    pub client: WebhookClient,
    /// Queue to which deliveries go that are made again later.
    pub deliveries: Queue,
    /// Clock of attempts.
    pub clock: Clock,
    /// Jitter of retries.
    pub entropy: Entropy,
    /// Metrics of deliveries.
    pub metrics: Metrics,
}

/// Message of the queue: a delivery of one event to one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// Webhook.
    pub webhook: WebhookId,
    /// Number of the event.
    pub event: u64,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Time before which the attempt is not made. SQS delays a message by a quarter of an hour at most, so that it
    /// may pass the queue several times before.
    pub not_before: Option<Timestamp>,
}

impl Delivery {
    /// Returns the first attempt.
    #[must_use]
    pub fn first(webhook: WebhookId, event: u64) -> Self {
        Self {
            webhook,
            event,
            attempt: 1,
            not_before: None,
        }
    }
}

/// Error: a delivery was neither made nor queued again. SQS delivers its message again.
#[derive(Debug, thiserror::Error)]
enum SenderError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the delivery could not be queued")]
    Queue(#[from] QueueError),
    #[error("the secret of the webhook is invalid")]
    Secret(#[from] InvalidSigningSecret),
    #[error("the event cannot be represented")]
    Event(#[from] serde_json::Error),
}

impl Sender {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables or the queue, or has an invalid value.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        Ok(Self {
            store: Store::build(init)?,
            client: WebhookClient::new(config::webhook_reach(&init.env)?),
            deliveries: Queue::new(&init.sdk, init.env.get(env::WEBHOOK_QUEUE)?),
            clock: init.clock.clone(),
            entropy: init.entropy.clone(),
            metrics: init.metrics.clone(),
        })
    }

    /// Makes a delivery, if it is due and its webhook exists.
    async fn deliver(&self, delivery: &Delivery) -> Result<(), SenderError> {
        let now = self.clock.now();
        if delivery.not_before.is_some_and(|due| due > now) {
            return self.queue(delivery, now).await;
        }
        let Some(webhook) = self.store.webhook(&delivery.webhook).await? else {
            return Ok(());
        };
        // Disabled since the delivery was queued, perhaps.
        if webhook.disabled_at.is_some() {
            return Ok(());
        }
        let Some(event) = self.store.numbered_event(delivery.event).await? else {
            tracing::error!(
                event = delivery.event,
                "an event expired before it was delivered"
            );
            return Ok(());
        };
        let Some(secret) = self.store.webhook_secret(&delivery.webhook).await? else {
            return Ok(());
        };
        let secret = SigningSecret::parse(secret.expose())?;
        let event = Event::new(event);
        let body = Bytes::from(serde_json::to_vec(&event)?);
        let headers = sign(event.id.as_str(), now, &body, &[secret]);
        match self.client.post(&webhook.url, &headers, body).await {
            Ok(()) => {
                self.metrics.record(metrics::DELIVERED_EVENTS, &[], 1);
                Ok(())
            }
            Err(DeliveryError::Gone) => {
                tracing::warn!(webhook = %webhook.id, "the target of a webhook is gone");
                self.metrics.record(metrics::UNDELIVERED_EVENTS, &[], 1);
                Ok(self.store.disable_webhook(&webhook.id, now).await?)
            }
            Err(error) => self.failed(delivery, &webhook, &error).await,
        }
    }

    /// Queues a delivery that failed again, or gives it up after its last attempt.
    async fn failed(
        &self,
        delivery: &Delivery,
        webhook: &Webhook,
        error: &DeliveryError,
    ) -> Result<(), SenderError> {
        let now = self.clock.now();
        let (id, number, attempt) = (&webhook.id, delivery.event, delivery.attempt);
        if let Some(wait) = retry_after(attempt, self.entropy.below(101)) {
            tracing::info!(webhook = %id, event = number, attempt, error = %Chain(error), "a delivery failed");
            let next = Delivery {
                attempt: attempt + 1,
                not_before: Some(now.saturating_add(wait).unwrap_or(Timestamp::MAX)),
                ..delivery.clone()
            };
            return self.queue(&next, now).await;
        }
        tracing::error!(webhook = %id, event = number, error = %Chain(error), "a delivery was given up");
        let failure = DeliveryFailure {
            event: number,
            at: now,
            reason: error.to_string(),
        };
        self.store.record_delivery_failure(id, &failure).await?;
        self.metrics.record(metrics::UNDELIVERED_EVENTS, &[], 1);
        Ok(())
    }

    /// Queues a delivery until it is due, or for as long as SQS can delay it.
    async fn queue(&self, delivery: &Delivery, now: Timestamp) -> Result<(), SenderError> {
        let wait = delivery.not_before.map_or(0, |due| {
            // Rounded up, so that the message is not early.
            let wait_ms = due.duration_since(now).as_millis().max(0);
            i32::try_from(wait_ms.div_euclid(1_000) + 1).unwrap_or(MAX_DELAY_S)
        });
        let message = std::slice::from_ref(delivery);
        Ok(self
            .deliveries
            .send_after(message, wait.min(MAX_DELAY_S))
            .await?)
    }
}

/// Makes the deliveries of a batch, all at the same time, and reports those whose messages are to be delivered again.
pub async fn deliver(sender: &Sender, batch: SqsEvent) -> SqsBatchResponse {
    let response = sqs::handle_each(batch, usize::MAX, |message| {
        let sender = sender.clone();
        async move { deliver_message(&sender, &message).await }
    });
    let response = response.await;
    sender.metrics.write();
    response
}

/// Makes the delivery of a message. Returns whether the message has served its purpose.
async fn deliver_message(sender: &Sender, message: &SqsMessage) -> bool {
    let body = message.body.as_deref().unwrap_or_default();
    let Ok(delivery) = serde_json::from_str::<Delivery>(body) else {
        // Nothing of ours. The events are in the store, whatever the queue has.
        tracing::error!("a message is not a delivery");
        return true;
    };
    match sender.deliver(&delivery).await {
        Ok(()) => true,
        Err(error) => {
            let (webhook, event) = (&delivery.webhook, delivery.event);
            tracing::error!(%webhook, event, error = %Chain(&error), "a delivery was not made");
            false
        }
    }
}
