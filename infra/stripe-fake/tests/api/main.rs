//! Behaviour of the stand-in, through its router.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod checkout;
mod client;
mod control;
mod core;
mod faults;
mod invoice_items;
mod invoices;
mod journal;
mod portal;
mod subscriptions;
mod webhooks;
