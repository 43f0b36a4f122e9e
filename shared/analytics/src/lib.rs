//! Reports over usage aggregates, for customers and admins.

mod adjustments;
mod current;

pub use adjustments::list_adjustments;
pub use current::current_usage;
