//! The operations on keys, called as API Gateway calls them.

#[path = "../../../../shared/web/tests/common/event.rs"]
mod event;
#[path = "../../../../shared/web/tests/common/response.rs"]
mod response;
#[path = "../../../../shared/web/tests/common/stored.rs"]
mod stored;

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
