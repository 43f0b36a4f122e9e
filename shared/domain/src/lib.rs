//! Tollgate's rules as pure functions and plain data: keys, plans, limits, usage, money and billing.
//!
//! Nothing here performs I/O, reads a clock or an environment variable, or depends on AWS or HTTP:
//! time, randomness and configuration are arguments. Counts are whole calls, money is whole
//! micro-US-dollars, and time is UTC.

pub mod billing;
pub mod customer;
pub mod decision;
pub mod event;
pub mod failure;
pub mod id;
pub mod idempotency;
pub mod key;
pub mod lease;
pub mod llm;
pub mod money;
pub mod name;
pub mod page;
pub mod plan;
pub mod plan_book;
pub mod reconciliation;
pub mod role;
pub mod submission;
pub mod subscription;
pub mod time;
pub mod usage;
pub mod window;
