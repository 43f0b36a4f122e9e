//! Usage that is summed up together.

use tollgate_domain::id::CustomerId;
use tollgate_domain::usage::{Dimension, DimensionValue};
use tollgate_domain::window::Day;

/// Usage that is summed up together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageScope {
    /// Usage of all customers.
    All,
    /// Usage of one customer.
    Customer(CustomerId),
}

impl UsageScope {
    /// Returns the partition with the aggregates of a day. No customer's id contains `#`.
    pub(super) fn partition(&self, day: Day) -> String {
        match self {
            UsageScope::All => format!("ALL#{}", day.month()),
            UsageScope::Customer(customer) => customer.as_str().to_owned(),
        }
    }

    /// Whether the scope's usage is summed up by this value. A key is of one customer.
    pub(super) fn has(&self, value: &DimensionValue) -> bool {
        *self != UsageScope::All || value.dimension() != Dimension::Key
    }
}
