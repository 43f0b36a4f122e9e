//! Stateful stand-in for the part of Stripe's API that Tollgate uses, at the pinned API version.
//!
//! [`StripeFake`] behaves as Stripe documents: idempotency keys, pending invoice items and renewals, lists and
//! their pages, checkout and portal, signed webhooks. It has its own clock, and faults on request. All of it is
//! deterministic: ids come from a seed, time from the clock of its [`Options`]. It is called in process
//! ([`StripeFake::send`]), as an axum router ([`StripeFake::router`]), or over HTTP ([`serve`]).
//!
//! Parameters that Stripe does not have are rejected as Stripe does. Those that Stripe has and the stand-in does
//! not implement get status 501, so that nothing is silently ignored.
//!
//! # Differences from Stripe
//!
//! - There is one clock, in place of a test clock for each customer.
//! - All prices of a subscription have one interval. There are no trials, discounts, taxes, schedules, tiers or
//!   metered prices, and billing is in flexible mode.
//! - A payment succeeds or is declined at once, except on the page of a checkout session. The ids of payments are
//!   not those of objects, and of payment methods there is only Stripe's test cards.
//! - An item that has only an amount has no `price_details`.
//! - An automatic invoice is finalized after an hour, even if webhooks fail. Stripe waits up to 72 hours
//!   for a success response to `invoice.created`.
//! - Events are listed without end; Stripe lists those of 30 days.
//! - The PDF file of an invoice has its number and total only.
//!
//! Stripe does not document these, so they are assumptions: an error of the execution, such as a missing object, is
//! stored under the idempotency key, and 409 and 429 are not; lists with a deleted customer are allowed; pending
//! items of a deleted customer stay pending; an invoice with a `subscription` and nothing pending is an error; an
//! invoice with a `subscription` takes in its items, also if it has ended, and allows neither
//! `pending_invoice_items_behavior` nor `currency`; one without takes in those of all subscriptions, if it includes
//! pending items; the texts of some errors. `shared/stripe/tests/test_mode/assumptions.rs` checks most of them in
//! Stripe's test mode.

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
mod journal;
mod money;
mod options;
mod page;
mod pdf;
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
pub use journal::JournalError;
pub use options::{AfterLastAttempt, Options};
pub use server::{serve, serve_api};
pub use webhook::{DeliveryMode, NewEndpoint, Webhook, sign};

/// Returns the API version that the stand-in has.
#[must_use]
pub fn api_version() -> &'static str {
    &spec::SPEC.api_version
}
