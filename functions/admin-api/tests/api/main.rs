//! The admin-api function, called as API Gateway calls it.

#[path = "../../../../shared/web/tests/common/event.rs"]
mod event;
#[path = "../../../../shared/web/tests/common/response.rs"]
mod response;
#[path = "../../../../shared/web/tests/common/stored.rs"]
mod stored;

mod access;
mod billing;
mod bodies;
mod charges;
mod customers;
mod quarantine;
mod reconciliation;
mod stack;
mod usage;
