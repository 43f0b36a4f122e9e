//! Events of Stripe: the webhook endpoint, which queues them, and the worker, which handles them.

mod webhook;
mod worker;

pub use webhook::{Operations, routes};
pub use worker::handle;
