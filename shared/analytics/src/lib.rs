//! Reports over usage aggregates, for customers and admins.

mod adjustments;
mod current;
mod records;

pub use adjustments::list_adjustments;
pub use current::current_usage;
pub use records::list_records;
