//! The event bus.

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_types::SdkConfig;
use tollgate_api::events::Event;

/// Source of the events on the bus. It distinguishes them from usage events, whose sources are functions and
/// producers.
pub const SOURCE: &str = "tollgate.events";

/// EventBridge's limit of entries in one PutEvents request. Ten events are far below its limit of bytes.
const MAX_ENTRIES: usize = 10;

/// A bus of EventBridge. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventBus {
    client: Client,
    bus: String,
}

impl EventBus {
    /// Returns the bus with this name or ARN.
    #[must_use]
    pub fn new(sdk: &SdkConfig, bus: &str) -> Self {
        Self {
            client: Client::new(sdk),
            bus: bus.to_owned(),
        }
    }

    /// Puts events on the bus. Returns for each whether the bus has accepted it.
    pub(crate) async fn put(&self, events: &[Event]) -> Vec<bool> {
        let mut accepted = Vec::with_capacity(events.len());
        for batch in events.chunks(MAX_ENTRIES) {
            accepted.extend(self.put_batch(batch).await);
        }
        accepted
    }

    async fn put_batch(&self, batch: &[Event]) -> Vec<bool> {
        let mut items = Vec::with_capacity(batch.len());
        for event in batch {
            let Ok(detail) = serde_json::to_string(event) else {
                tracing::error!(event = event.number, "an event cannot be represented");
                return vec![false; batch.len()];
            };
            let item = PutEventsRequestEntry::builder()
                .event_bus_name(&self.bus)
                .source(SOURCE)
                .detail_type(event.kind.as_str())
                .detail(detail);
            items.push(item.build());
        }
        let request = self.client.put_events().set_entries(Some(items));
        match request.send().await {
            Ok(response) => {
                let results = response.entries();
                let is_accepted = |at: usize| {
                    let result = results.get(at);
                    result.is_some_and(|result| result.error_code().is_none())
                };
                (0..batch.len()).map(is_accepted).collect()
            }
            Err(error) => {
                let error = tollgate_runtime::Chain(&error);
                tracing::warn!(%error, "the bus did not accept a request");
                vec![false; batch.len()]
            }
        }
    }
}
