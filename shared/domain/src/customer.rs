//! Customers: who pays.
//!
//! A customer's id is a pseudonym by contract: it stands in usage, log and ledger for good, and must
//! not say who somebody is. The name and the e-mail address do, and are what an erasure removes.

use jiff::Timestamp;

use crate::id::{CustomerId, PlanId};

/// A customer of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Names the customer everywhere, in records for ever.
    pub id: CustomerId,
    /// For people to read.
    pub name: String,
    /// Where bills would go.
    pub email: Option<String>,
    /// Decides limits and prices from the next call on.
    pub plan: PlanId,
    /// When the customer was first known.
    pub created_at: Timestamp,
    /// Since when the customer has been suspended.
    pub suspended_at: Option<Timestamp>,
    /// When the customer left: who it was is no longer known.
    pub erased_at: Option<Timestamp>,
}
