//! Webhook endpoints, signatures and deliveries (<https://docs.stripe.com/webhooks>).

use std::collections::VecDeque;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::call::Call;
use crate::error::ApiError;
use crate::spec::SPEC;
use crate::state::{Metadata, State, update_metadata};
use crate::table::Row;

/// Webhook endpoint. Its secrets all sign, as while a secret is rolled.
pub(crate) struct Endpoint {
    pub(crate) id: String,
    created: i64,
    url: String,
    secrets: Vec<String>,
    enabled_events: Vec<String>,
    api_version: String,
    description: Option<String>,
    metadata: Metadata,
    is_deleted: bool,
}

/// Webhook endpoint to register.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEndpoint {
    /// URL to which events are sent.
    pub url: String,
    /// Types of events, such as `invoice.paid`; all if empty.
    #[serde(default)]
    pub enabled_events: Vec<String>,
    /// Secrets, such as `whsec_…`, with each of which events are signed; one is generated if empty.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// API version of the events; the pinned one if `None`.
    #[serde(default)]
    pub api_version: Option<String>,
    /// Id of the endpoint; drawn if `None`.
    #[serde(default)]
    pub id: Option<String>,
}

/// Event that is queued for an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    endpoint: String,
    event: String,
    pub(crate) due: i64,
    attempts: u32,
}

/// Event as it is sent to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Webhook {
    /// Id of the endpoint.
    pub endpoint: String,
    /// URL of the endpoint.
    pub url: String,
    /// Id of the event.
    pub event_id: String,
    /// Type of the event.
    pub event_type: String,
    /// Raw body, which is what is signed.
    pub body: String,
    /// Header `Stripe-Signature`.
    pub signature: String,
}

/// Order and number in which events are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeliveryMode {
    /// Times that each event is delivered, at least 1.
    pub copies: u32,
    /// Whether the events that are taken together are in random order.
    pub is_shuffled: bool,
}

impl Default for DeliveryMode {
    fn default() -> Self {
        Self {
            copies: 1,
            is_shuffled: false,
        }
    }
}

impl Row for Endpoint {
    const WHAT: &'static str = "webhook endpoint";

    fn id(&self) -> &str {
        &self.id
    }

    fn is_deleted(&self) -> bool {
        self.is_deleted
    }
}

impl Endpoint {
    /// Returns whether events of a type are sent to this endpoint.
    pub(crate) fn wants(&self, kind: &str) -> bool {
        let wants = |enabled: &String| enabled == "*" || enabled == kind;
        !self.is_deleted && self.enabled_events.iter().any(wants)
    }
}

impl Delivery {
    pub(crate) fn new(endpoint: &str, event: &str, due: i64) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            event: event.to_owned(),
            due,
            attempts: 0,
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the next attempt after a failed one, or `None` after three days.
    pub(crate) fn again(mut self, now: i64) -> Option<Self> {
        // 1, 5 and 30 minutes, then every few hours, about as Stripe does it in test mode.
        let delays = [
            60, 300, 1_800, 7_200, 18_000, 36_000, 36_000, 36_000, 36_000, 36_000,
        ];
        let delay = *delays.get(self.attempts as usize)?;
        self.attempts += 1;
        self.due = now + delay;
        Some(self)
    }
}

/// Returns the header `Stripe-Signature` of a body at a time, with a signature for each secret.
#[must_use]
pub fn sign(body: &str, time: i64, secrets: &[String]) -> String {
    let mut header = format!("t={time}");
    for secret in secrets {
        // A key of any length is valid for HMAC.
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) {
            mac.update(format!("{time}.{body}").as_bytes());
            header.push_str(",v1=");
            header.push_str(&hex::encode(mac.finalize().into_bytes()));
        }
    }
    header
}

impl State {
    /// Registers an endpoint, and returns its id and secrets.
    pub(crate) fn register(&mut self, new: NewEndpoint) -> (String, Vec<String>) {
        let id = new.id.unwrap_or_else(|| self.ids.next("we_1", 23));
        let secrets = match new.secrets {
            secrets if secrets.is_empty() => vec![self.ids.next("whsec_", 32)],
            secrets => secrets,
        };
        let enabled_events = match new.enabled_events {
            events if events.is_empty() => vec!["*".to_owned()],
            events => events,
        };
        self.endpoints.insert(Endpoint {
            id: id.clone(),
            created: self.now,
            url: new.url,
            secrets: secrets.clone(),
            enabled_events,
            api_version: new.api_version.unwrap_or_else(|| SPEC.api_version.clone()),
            description: None,
            metadata: Metadata::new(),
            is_deleted: false,
        });
        (id, secrets)
    }

    /// Replaces the secrets of an endpoint. Returns `false` if there is no such endpoint.
    pub(crate) fn set_secrets(&mut self, endpoint: &str, secrets: Vec<String>) -> bool {
        let endpoint = self.endpoints.get_mut(endpoint);
        endpoint
            .map(|endpoint| endpoint.secrets = secrets)
            .is_some()
    }

    /// Takes the deliveries that are due, in the order and number of `mode`.
    pub(crate) fn take_deliveries(&mut self, mode: DeliveryMode) -> Vec<Delivery> {
        let now = self.now;
        let (due, later): (VecDeque<_>, VecDeque<_>) = self
            .deliveries
            .drain(..)
            .partition(|delivery| delivery.due <= now);
        self.deliveries = later;
        let copies = mode.copies.max(1) as usize;
        let copied = due
            .into_iter()
            .flat_map(|delivery| std::iter::repeat_n(delivery, copies));
        let mut due: Vec<Delivery> = copied.collect();
        if mode.is_shuffled {
            for last in (1..due.len()).rev() {
                due.swap(last, self.ids.below(last + 1));
            }
        }
        due
    }

    /// Queues an event again for the endpoints that want it. Returns `false` if there is no such event.
    pub(crate) fn redeliver(&mut self, event: &str) -> bool {
        let Some(event) = self.events.get(event) else {
            return false;
        };
        let wanted = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.wants(event.kind));
        let again: Vec<Delivery> = wanted
            .map(|endpoint| Delivery::new(&endpoint.id, &event.id, self.now))
            .collect();
        self.deliveries.extend(again);
        true
    }

    /// Returns a delivery as it is sent, signed at a time. `None` if the endpoint was deleted.
    pub(crate) fn webhook(&self, delivery: &Delivery, signed_at: i64) -> Option<Webhook> {
        let endpoint = self.endpoints.find(&delivery.endpoint, "id").ok()?;
        let event = self.events.get(&delivery.event)?;
        let mut json = self.event_json(event);
        json["api_version"] = endpoint.api_version.as_str().into();
        let body = serde_json::to_string_pretty(&json).ok()?;
        Some(Webhook {
            endpoint: endpoint.id.clone(),
            url: endpoint.url.clone(),
            event_id: event.id.clone(),
            event_type: event.kind.to_owned(),
            signature: sign(&body, signed_at, &endpoint.secrets),
            body,
        })
    }

    fn endpoint_json(&self, endpoint: &Endpoint) -> Value {
        json!({
            "id": endpoint.id,
            "object": "webhook_endpoint",
            "api_version": endpoint.api_version,
            "application": null,
            "created": endpoint.created,
            "description": endpoint.description,
            "enabled_events": endpoint.enabled_events,
            "livemode": self.is_live,
            "metadata": endpoint.metadata,
            "status": "enabled",
            "url": endpoint.url,
        })
    }
}

pub(crate) fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let params = call.params;
    let metadata = update_metadata(&Metadata::new(), params, "metadata")?;
    let url = params.text("url").unwrap_or_default().to_owned();
    let enabled_events = params.texts("enabled_events");
    let (id, secrets) = call.state.register(NewEndpoint {
        url,
        enabled_events: enabled_events.into_iter().map(str::to_owned).collect(),
        secrets: Vec::new(),
        api_version: params.text("api_version").map(str::to_owned),
        id: None,
    });
    let endpoint = call.state.endpoints.find_mut(&id, "id")?;
    endpoint.metadata = metadata;
    endpoint.description = params.non_empty("description").map(str::to_owned);
    let endpoint = call.state.endpoints.find(&id, "id")?;
    let mut json = call.state.endpoint_json(endpoint);
    // The secret is shown once.
    json["secret"] = secrets.first().map(String::as_str).into();
    Ok(json)
}

pub(crate) fn get(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let endpoint = call.state.endpoints.find(&call.id, "id")?;
    Ok(call.state.endpoint_json(endpoint))
}

pub(crate) fn delete(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.state.endpoints.find_mut(&call.id, "id")?.is_deleted = true;
    Ok(json!({ "id": call.id, "object": "webhook_endpoint", "deleted": true }))
}

pub(crate) fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let state = &*call.state;
    let render = |endpoint: &Endpoint| state.endpoint_json(endpoint);
    state
        .endpoints
        .list(call.params, "/v1/webhook_endpoints", |_| true, render)
}
