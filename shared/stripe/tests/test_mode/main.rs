//! Behaviour of Stripe that Tollgate relies on, checked by calls of the client: on the stand-in, or with
//! `STRIPE_TEST_KEY`, a key of test mode, on Stripe.
//!
//! ```sh
//! cargo test -p tollgate-stripe --test test_mode
//! STRIPE_TEST_KEY=sk_test_… cargo test -p tollgate-stripe --test test_mode
//! ```
//!
//! The assertions are the same. One that fails on Stripe only shows a difference of the stand-in, or a mistake of
//! what relies on it. Those of `assumptions` are about what Stripe hardly documents. No run on Stripe is recorded yet.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failed step of a test fails the test"
)]

mod assumptions;
mod customers;
mod idempotency;
mod invoice_items;
mod invoices;
mod pages;
mod prices;
mod rejections;
mod stripe;
mod subscriptions;
