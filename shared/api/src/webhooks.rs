//! Webhooks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::WebhookId;
use tollgate_domain::webhook;
use utoipa::ToSchema;

use crate::events::EventKindSchema;
use crate::schema;

/// Request to create a webhook.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Address to which events are sent.
    #[schema(value_type = schema::WebhookUrl)]
    pub url: String,
    /// Types of the events that are sent; all if absent.
    #[serde(default)]
    #[schema(value_type = Option<Vec<EventKindSchema>>, min_items = 1)]
    pub types: Option<Vec<String>>,
}

/// A webhook.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Webhook {
    /// Id.
    #[schema(value_type = schema::WebhookId)]
    pub id: WebhookId,
    /// Address to which events are sent.
    #[schema(value_type = schema::WebhookUrl)]
    pub url: String,
    /// Types of the events that are sent; `null` for all.
    #[schema(value_type = Option<Vec<EventKindSchema>>, required)]
    pub types: Option<Vec<&'static str>>,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Time at which the target responded with 410. Nothing is sent to it since.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub disabled_at: Option<Timestamp>,
    /// The last delivery that was given up.
    #[schema(required)]
    pub last_failure: Option<DeliveryFailure>,
}

/// A delivery that was given up.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeliveryFailure {
    /// Number of the event.
    pub event: u64,
    /// Time of the last attempt.
    #[schema(value_type = schema::Timestamp)]
    pub at: Timestamp,
    /// Reason of its failure.
    #[schema(examples("the target responded with status 500"))]
    pub reason: String,
}

/// A webhook with its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub struct CreatedWebhook {
    /// Secret with which messages are signed, for the library that verifies them.
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]+=*$")]
    pub secret: String,
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
}

impl Webhook {
    /// Represents a webhook.
    #[must_use]
    pub fn new(webhook: webhook::Webhook) -> Self {
        let kinds = webhook.kinds.iter().map(|kind| kind.as_str());
        Self {
            types: (!webhook.kinds.is_empty()).then(|| kinds.collect()),
            id: webhook.id,
            url: webhook.url.as_str().to_owned(),
            created_at: webhook.created_at,
            disabled_at: webhook.disabled_at,
            last_failure: webhook.failure.map(|failure| DeliveryFailure {
                event: failure.event,
                at: failure.at,
                reason: failure.reason,
            }),
        }
    }
}

/// All webhooks.
#[derive(Debug, Serialize, ToSchema)]
pub struct Webhooks {
    /// The webhooks.
    pub data: Vec<Webhook>,
}
