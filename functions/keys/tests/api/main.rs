//! The operations on keys, called as API Gateway calls them.

mod access;
mod bodies;
mod create;
mod get;
mod list;
mod outages;
mod revoke;
mod rotate;
mod stack;
mod stats;
mod update;
