//! The event publisher.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use tollgate_api::events::Event;
use tollgate_domain::event::NumberedEvent;
use tollgate_domain::webhook::Webhook;
use tollgate_payments::{Queue, QueueError};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Clock, Init, Metrics, env, metrics};
use tollgate_store::{Store, StoreError};

use crate::bus::EventBus;
use crate::sender::Delivery;

/// State of a publisher instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// The tables.
    pub store: Store,
    /// Bus of the events.
    pub bus: EventBus,
    /// Queue of the webhook sender.
    pub deliveries: Queue,
    /// Clock that ends an invocation.
    pub clock: Clock,
    /// Metrics of events.
    pub metrics: Metrics,
}

/// Counts of one invocation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Events on the bus, and in the queue.
    pub events: u64,
    /// Deliveries in the queue.
    pub deliveries: u64,
}

/// Error: not all events were published. The next invocation continues.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// Deliveries were not queued.
    #[error("deliveries could not be queued")]
    Queue(#[from] QueueError),
    /// The bus did not accept some events.
    #[error("the bus did not accept {0} events")]
    Bus(usize),
}

impl Publisher {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables, the bus or the queue.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        Ok(Self {
            store: Store::build(init)?,
            bus: EventBus::new(&init.sdk, init.env.get(env::EVENTS_BUS)?),
            deliveries: Queue::new(&init.sdk, init.env.get(env::WEBHOOK_QUEUE)?),
            clock: init.clock.clone(),
            metrics: init.metrics.clone(),
        })
    }

    /// Publishes all stored events, or those for which there is time. Any number of publishers may run at the same
    /// time: an event has one number, and may be sent more than once.
    ///
    /// # Errors
    /// When some events were not published. The others are, as far as the store responds.
    pub async fn publish(&self, until: Option<Timestamp>) -> Result<Published, PublishError> {
        let mut published = Published::default();
        let outcome = self.publish_all(until, &mut published).await;
        // CloudWatch bills a metric by the hours in which it is written, also if it is 0.
        if published.events > 0 {
            self.metrics
                .record(metrics::PUBLISHED_EVENTS, &[], published.events);
            self.metrics.write();
        }
        outcome.map(|()| published)
    }

    async fn publish_all(
        &self,
        until: Option<Timestamp>,
        published: &mut Published,
    ) -> Result<(), PublishError> {
        // Of invocations that ended half-way, or whose events were not accepted. One that is rejected again does not
        // hold up later ones.
        let mut tried = BTreeSet::new();
        let mut webhooks = None;
        let mut outcome = Ok(());
        while until.is_none_or(|until| self.clock.now() < until) {
            let mut events = self.store.unsent_events().await?;
            events.retain(|event| tried.insert(event.number));
            if events.is_empty() {
                events = self.store.number_events().await?;
                tried.extend(events.iter().map(|event| event.number));
            }
            if events.is_empty() {
                break;
            }
            let webhooks = match &webhooks {
                Some(webhooks) => webhooks,
                None => webhooks.insert(self.store.webhooks().await?),
            };
            outcome = outcome.and(self.send(events, webhooks, published).await);
        }
        outcome
    }

    /// Sends numbered events to the bus and to the queue of deliveries, and records that.
    async fn send(
        &self,
        events: Vec<NumberedEvent>,
        webhooks: &[Webhook],
        published: &mut Published,
    ) -> Result<(), PublishError> {
        let events: Vec<Event> = events.into_iter().map(Event::new).collect();
        let accepted = self.bus.put(&events).await;
        let on_bus = events.iter().zip(&accepted).filter(|(_, is_on)| **is_on);
        let on_bus: Vec<&Event> = on_bus.map(|(event, _)| event).collect();
        let deliveries = on_bus.iter().flat_map(|event| {
            let wanting = webhooks.iter().filter(|webhook| webhook.wants(event.kind));
            wanting.map(|webhook| Delivery::first(webhook.id.clone(), event.number))
        });
        let deliveries: Vec<Delivery> = deliveries.collect();
        self.deliveries.send(&deliveries).await?;
        published.deliveries += u64::try_from(deliveries.len()).unwrap_or(0);
        for event in &on_bus {
            self.store.mark_sent(&event.id).await?;
            published.events += 1;
        }
        match events.len() - on_bus.len() {
            0 => Ok(()),
            rejected => Err(PublishError::Bus(rejected)),
        }
    }
}
