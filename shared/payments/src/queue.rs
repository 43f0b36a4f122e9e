//! Queues of messages to functions.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use aws_types::SdkConfig;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::CustomerId;

/// SQS's bound on the messages of one request.
const BATCH: usize = 10;

/// SQS's bound on the delay of a message, in seconds.
pub const MAX_DELAY_S: i32 = 900;

/// A queue of SQS. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

/// Message to the charge worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChargeMessage {
    /// Id of the charge to submit.
    pub charge: String,
}

/// Message to the worker of Stripe's events: a customer whose state at Stripe is to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowUpMessage {
    /// Customer.
    pub follow_up: CustomerId,
    /// Stripe customer whose pending items are to be invoiced; absent to follow the customer's subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripe_customer: Option<String>,
}

/// Error: not all messages were sent.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A message cannot be represented.
    #[error("a message cannot be represented")]
    Message(#[from] serde_json::Error),
    /// SQS did not accept the request.
    #[error("SQS did not accept a request")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// SQS did not accept some messages of a request.
    #[error("SQS did not accept {0} messages")]
    Messages(usize),
}

impl Queue {
    /// Returns the queue with this URL.
    #[must_use]
    pub fn new(sdk: &SdkConfig, url: &str) -> Self {
        Self {
            client: Client::new(sdk),
            url: url.to_owned(),
        }
    }

    /// Sends messages as JSON.
    ///
    /// # Errors
    /// When SQS does not accept them all. Some may have been sent.
    pub async fn send<T: Serialize>(&self, messages: &[T]) -> Result<(), QueueError> {
        self.send_after(messages, 0).await
    }

    /// Sends messages as JSON, to be delivered after this many seconds, of which SQS allows [`MAX_DELAY_S`].
    ///
    /// # Errors
    /// When SQS does not accept them all. Some may have been sent.
    pub async fn send_after<T: Serialize>(
        &self,
        messages: &[T],
        delay_s: i32,
    ) -> Result<(), QueueError> {
        let texts = messages.iter().map(serde_json::to_string);
        self.send_texts(texts.collect::<Result<_, _>>()?, delay_s)
            .await
    }

    /// Sends messages, to be delivered after this many seconds.
    ///
    /// # Errors
    /// When SQS does not accept them all. Some may have been sent.
    pub(crate) async fn send_texts(
        &self,
        messages: Vec<String>,
        delay_s: i32,
    ) -> Result<(), QueueError> {
        for batch in messages.chunks(BATCH) {
            let mut items = Vec::with_capacity(batch.len());
            for (id, message) in batch.iter().enumerate() {
                let item = SendMessageBatchRequestEntry::builder()
                    .id(id.to_string())
                    .message_body(message)
                    .set_delay_seconds((delay_s > 0).then_some(delay_s))
                    .build()
                    .map_err(|error| QueueError::Request(error.into()))?;
                items.push(item);
            }
            let sent = self
                .client
                .send_message_batch()
                .queue_url(&self.url)
                .set_entries(Some(items))
                .send()
                .await
                .map_err(|error| QueueError::Request(error.into()))?;
            match sent.failed().len() {
                0 => {}
                failed => return Err(QueueError::Messages(failed)),
            }
        }
        Ok(())
    }
}
