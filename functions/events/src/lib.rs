//! Publication of events, and their deliveries to webhooks.
//!
//! Whatever causes an event stores it, in its own transaction. The event publisher gives the stored events their
//! numbers, puts them on the bus, and queues a delivery for each webhook. The webhook sender makes the deliveries, with
//! retries. All of it may happen more than once, under the same id and number.

mod bus;
mod client;
mod publisher;
mod sender;

pub use bus::{EventBus, SOURCE};
pub use client::{DeliveryError, Lookup, WebhookClient};
pub use publisher::{PublishError, Published, Publisher};
pub use sender::{Delivery, Sender, deliver};
