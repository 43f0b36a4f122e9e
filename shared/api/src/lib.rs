//! Tollgate's HTTP API as data: requests, responses, problems and operation ids, each with its OpenAPI
//! schema; and the authorizer's context, which is the contract between authorizer, gateway and functions.
//!
//! Doc comments of fields and types in this crate are the descriptions in `infra/openapi.json`.

pub mod billing;
pub mod context;
pub mod cursor;
pub mod customers;
pub mod document;
pub mod events;
pub mod examples;
pub mod json;
pub mod keys;
pub mod money;
pub mod payments;
pub mod plans;
pub mod problem;
pub mod quarantine;
pub mod reconciliation;
pub mod schema;
pub mod usage;
pub mod webhooks;

pub use cursor::{Cursor, InvalidCursor, List, PageQuery};
pub use money::{Amount, CurrencyAmount, SignedAmount};
