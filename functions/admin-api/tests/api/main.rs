//! The admin-api function, called as API Gateway calls it.

mod access;
mod billing;
mod bodies;
mod charges;
mod customers;
mod events;
mod plans;
mod quarantine;
mod reconciliation;
mod stack;
mod usage;
mod webhooks;
