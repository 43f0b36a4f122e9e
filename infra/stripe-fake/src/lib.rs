//! Stateful stand-in for the part of Stripe's API that Tollgate uses, at the pinned API version.
//!
//! [`StripeFake`] behaves as Stripe documents: idempotency keys, pending invoice items and renewals, lists and
//! their pages, checkout and portal, signed webhooks. It has its own clock, and faults on request. All of it is
//! deterministic: ids come from a seed, time from the clock of its [`Options`]. It is called in process
//! ([`StripeFake::send`]), as an axum router ([`StripeFake::router`]), or over HTTP ([`serve`]).
//!
//! Parameters that Stripe does not have are rejected as Stripe does. Those that Stripe has and the stand-in does
//! not implement get status 501, so that nothing is silently ignored.

// Objects such as invoices have more members than the default allows in one `json!`.
#![recursion_limit = "256"]

mod calendar;
mod call;
mod checkout;
mod collection;
mod control;
mod customer;
mod error;
mod event;
mod expand;
mod fake;
mod fault;
mod form;
mod handle;
mod idempotency;
mod ids;
mod invoice;
mod invoice_item;
mod money;
mod options;
mod page;
mod portal;
mod price;
mod renewal;
mod server;
mod spec;
mod state;
mod subscription;
mod table;
mod webhook;

pub use checkout::Completion;
pub use fake::{ConnectionLost, NotPossible, StripeFake};
pub use fault::{Fault, FaultRule};
pub use handle::LoggedRequest;
pub use options::{AfterLastAttempt, Options};
pub use server::serve;
pub use webhook::{DeliveryMode, NewEndpoint, Webhook, sign};

/// Returns the API version that the stand-in has.
#[must_use]
pub fn api_version() -> &'static str {
    &spec::SPEC.api_version
}
