//! Events: what happened, each with the object as it was then.

use serde_json::{Value, json};

use crate::call::Call;
use crate::error::ApiError;
use crate::spec::SPEC;
use crate::state::{State, previous_attributes};
use crate::table::{Row, in_range};
use crate::webhook::Delivery;

/// Event of an object.
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) created: i64,
    pub(crate) kind: &'static str,
    object: Value,
    previous: Option<Value>,
    cause: Cause,
    deliveries: usize,
}

/// Request that caused an event. Both are `None` for what happens because time passes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cause {
    pub(crate) request_id: Option<String>,
    pub(crate) idempotency_key: Option<String>,
}

impl Row for Event {
    const WHAT: &'static str = "event";

    fn id(&self) -> &str {
        &self.id
    }
}

impl State {
    /// Records an event and queues it for the webhook endpoints that want it.
    pub(crate) fn emit(&mut self, kind: &'static str, object: Value) {
        self.record(kind, object, None);
    }

    /// Records an event of a change, if there is one.
    pub(crate) fn emit_change(&mut self, kind: &'static str, before: &Value, after: Value) {
        let previous = previous_attributes(before, &after);
        if previous
            .as_object()
            .is_some_and(|previous| !previous.is_empty())
        {
            self.record(kind, after, Some(previous));
        }
    }

    fn record(&mut self, kind: &'static str, object: Value, previous: Option<Value>) {
        let id = self.ids.next("evt_1", 23);
        let wanted = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.wants(kind));
        let deliveries: Vec<Delivery> = wanted
            .map(|endpoint| Delivery::new(&endpoint.id, &id, self.now))
            .collect();
        self.events.insert(Event {
            id,
            created: self.now,
            kind,
            object,
            previous,
            cause: self.cause.clone(),
            deliveries: deliveries.len(),
        });
        self.deliveries.extend(deliveries);
    }

    pub(crate) fn event_json(&self, event: &Event) -> Value {
        let mut data = json!({ "object": event.object });
        if let Some(previous) = &event.previous {
            data["previous_attributes"] = previous.clone();
        }
        json!({
            "id": event.id,
            "object": "event",
            "api_version": SPEC.api_version,
            "created": event.created,
            "data": data,
            "livemode": self.is_live,
            "pending_webhooks": event.deliveries,
            "request": {
                "id": event.cause.request_id,
                "idempotency_key": event.cause.idempotency_key,
            },
            "type": event.kind,
        })
    }
}

pub(crate) fn get(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let event = call.state.events.find(&call.id, "id")?;
    Ok(call.state.event_json(event))
}

pub(crate) fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&*call.state, call.params);
    let types = params.texts("types");
    // `invoice.*` selects all events of invoices.
    let is_of = |wanted: &str, kind: &str| match wanted.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => kind == wanted,
    };
    state.events.list(
        params,
        "/v1/events",
        |event| {
            in_range(params, "created", event.created)
                && params
                    .text("type")
                    .is_none_or(|wanted| is_of(wanted, event.kind))
                && (types.is_empty() || types.iter().any(|wanted| is_of(wanted, event.kind)))
        },
        |event| state.event_json(event),
    )
}
