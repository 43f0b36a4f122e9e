//! Fixtures of the workspace's tests. A dev-dependency of the crates whose tests share them.
//!
//! | feature | modules |
//! |---|---|
//! | | `event_file` |
//! | `event` | `event` |
//! | `response` | `response`, and those of `event` |
//! | `local-aws` | `admitted`, `binary`, `customers`, `faults`, `init`, `seed`, `stored`, `usage` |
//! | `stripe` | `stripe`, and those of `local-aws` |
//! | `metering` | `metered` |
//!
//! A crate's unit tests must not pass the crate's own types to these fixtures: for the compiler, the crate
//! under test and the one that the fixtures depend on are two crates. Integration tests may.
//!
//! A fixture that cannot be set up or read panics, and so fails the test.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a fixture that cannot be set up or read fails the test"
)]

#[cfg(feature = "local-aws")]
pub mod admitted;
#[cfg(feature = "local-aws")]
pub mod binary;
#[cfg(feature = "local-aws")]
pub mod customers;
#[cfg(feature = "event")]
pub mod event;
pub mod event_file;
#[cfg(feature = "local-aws")]
pub mod faults;
#[cfg(feature = "local-aws")]
pub mod init;
#[cfg(feature = "metering")]
pub mod metered;
#[cfg(feature = "response")]
pub mod response;
#[cfg(feature = "local-aws")]
pub mod seed;
#[cfg(feature = "local-aws")]
pub mod stored;
#[cfg(feature = "stripe")]
pub mod stripe;
#[cfg(feature = "local-aws")]
pub mod usage;

use std::fmt::Debug;
use std::str::FromStr;

use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanBook;

/// Parses a literal, such as an id, a timestamp or a month.
#[track_caller]
pub fn p<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// Returns the shipped plans, as a store has that was seeded with them.
pub fn plans() -> PlanBook {
    PlanBook::from_catalog(&Catalog::shipped().unwrap(), p("2026-11-01T00:00:00Z"))
}
