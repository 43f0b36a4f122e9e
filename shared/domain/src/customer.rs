//! Customers: who pays.

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
}
