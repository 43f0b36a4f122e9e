//! Events (<https://docs.stripe.com/api/events>): what has happened to which object.

use jiff::Timestamp;
use jiff::fmt::serde::timestamp::second;
use serde::Deserialize;
use serde_json::json;

use crate::client::StripeClient;
use crate::decode::DecodeError;
use crate::error::StripeError;
use crate::id::EventId;
use crate::pages::{Listed, Pages};
use crate::request::ApiRequest;

/// Envelope of an event. The object itself is not decoded: events arrive repeatedly and in any order, so
/// that the object is to be read again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawEvent")]
pub struct Event {
    /// Id of the event, by which repetitions are recognised.
    pub id: EventId,
    /// Type of the event, such as `invoice.paid`.
    pub kind: String,
    /// Time at which it happened.
    pub created: Timestamp,
    /// Whether it happened in live mode.
    pub livemode: bool,
    /// Version of the API in which the object was rendered.
    pub api_version: Option<String>,
    /// Id of the object, if it has one.
    pub object_id: Option<String>,
    /// Type of the object, such as `invoice`.
    pub object_type: String,
    /// Customer that the object belongs to, which never changes; or the customer that it is.
    pub customer: Option<String>,
}

/// Event as Stripe writes it.
#[derive(Deserialize)]
struct RawEvent {
    id: EventId,
    #[serde(rename = "type")]
    kind: String,
    #[serde(with = "second::required")]
    created: Timestamp,
    livemode: bool,
    #[serde(default)]
    api_version: Option<String>,
    data: RawData,
}

#[derive(Deserialize)]
struct RawData {
    object: RawObject,
}

#[derive(Deserialize)]
struct RawObject {
    #[serde(default)]
    id: Option<String>,
    object: String,
    #[serde(default)]
    customer: Option<Reference>,
}

/// Id of an object, or the object in its place.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Id(String),
    Object { id: String },
}

impl From<RawEvent> for Event {
    fn from(raw: RawEvent) -> Self {
        let object = raw.data.object;
        let customer = match object.customer {
            Some(Reference::Id(id) | Reference::Object { id }) => Some(id),
            None if object.object == "customer" => object.id.clone(),
            None => None,
        };
        Self {
            id: raw.id,
            kind: raw.kind,
            created: raw.created,
            livemode: raw.livemode,
            api_version: raw.api_version,
            object_id: object.id,
            object_type: object.object,
            customer,
        }
    }
}

/// Error: the text is not an event.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEvent {
    /// It is a notification without the object's snapshot (`v2.core.event`), which the endpoint was not set
    /// up for.
    #[error("a thin event: the endpoint must be set up for snapshot events")]
    Thin,
    /// It is not JSON, or members are missing.
    #[error("not an event of Stripe")]
    Malformed(#[source] DecodeError),
}

impl Event {
    /// Parses an event: the body of a webhook, or the detail of an event on a partner event bus.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidEvent> {
        #[derive(Deserialize)]
        struct Mark {
            #[serde(default)]
            object: Option<String>,
        }
        serde_json::from_slice(text).map_err(|error| {
            let mark = serde_json::from_slice::<Mark>(text).ok();
            match mark.and_then(|mark| mark.object).as_deref() {
                Some("v2.core.event") => InvalidEvent::Thin,
                _ => InvalidEvent::Malformed(error.into()),
            }
        })
    }
}

impl Event {
    /// Returns the event without anything but ids, types and times: in the form in which [`parse`](Self::parse)
    /// reads it.
    #[must_use]
    pub fn ids(&self) -> String {
        json!({
            "id": self.id.as_str(),
            "object": "event",
            "type": self.kind,
            "created": self.created.as_second(),
            "livemode": self.livemode,
            "api_version": self.api_version,
            "data": { "object": {
                "id": self.object_id,
                "object": self.object_type,
                "customer": self.customer,
            } },
        })
        .to_string()
    }
}

impl Listed for Event {
    fn cursor(&self) -> &str {
        self.id.as_str()
    }
}

/// Events to list. Stripe keeps them for 30 days.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventFilter<'a> {
    /// Types, 20 at most; all if there are none.
    pub kinds: &'a [&'a str],
    /// Time since which they happened, in whole seconds.
    pub created_since: Option<Timestamp>,
    /// Whether all webhooks received them; `None` for all events.
    pub delivered: Option<bool>,
}

impl StripeClient {
    /// Reads an event.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn event(&self, id: &EventId) -> Result<Event, StripeError> {
        self.call(&ApiRequest::get("/v1/events/{id}", Some(id.as_str())))
            .await
    }

    /// Lists events, newest first.
    pub fn events(&self, filter: &EventFilter<'_>) -> Pages<Event> {
        let mut request = ApiRequest::get("/v1/events", None);
        let form = &mut request.form;
        for (index, kind) in filter.kinds.iter().enumerate() {
            form.add(&format!("types[{index}]"), kind);
        }
        form.add_time("created[gte]", filter.created_since);
        form.add_some("delivery_success", filter.delivered);
        Pages::new(self, request)
    }
}
