//! The billing-api function, called as API Gateway calls it, with a stand-in for Stripe.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod access;
mod charges;
mod checkout;
mod invoices;
mod portal;
mod stack;
mod stripe_customer;
mod subscription;
