//! Billing: the nightly run, which writes charges into the ledger and queues them, and the charge worker, which
//! submits them to Stripe.

mod planner;
mod worker;

pub use planner::{
    App, BillingRunError, Continuation, Incomplete, Progress, announce_whole, handle, next_part,
};
pub use worker::{Worker, submit};
