//! Tollgate's rules as pure functions and plain data: keys, plans, limits, usage, money and billing.
//!
//! Nothing here performs I/O, reads a clock or an environment variable, or depends on AWS or HTTP:
//! time, randomness and configuration are arguments. Counts are whole calls, money is whole
//! micro-US-dollars, and time is UTC.

pub mod billing;
pub mod caller;
pub mod customer;
pub mod decision;
pub mod id;
pub mod key;
pub mod lease;
pub mod llm;
pub mod money;
pub mod plan;
pub mod reconciliation;
pub mod time;
pub mod usage;
pub mod window;
