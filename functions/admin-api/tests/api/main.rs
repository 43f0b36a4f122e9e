//! The admin function, called as the gateway calls it.

#[path = "../../../../shared/web/tests/common/answer.rs"]
mod answer;
#[path = "../../../../shared/web/tests/common/event.rs"]
mod event;
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
