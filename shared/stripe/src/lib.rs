//! Signatures of webhooks: of those that Stripe sends, and of those that Tollgate sends.

pub mod outbound;
pub mod webhook;
