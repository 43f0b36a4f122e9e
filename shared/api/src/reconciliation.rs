//! Reconciliation of admitted and metered calls.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::CustomerId;
use tollgate_domain::window::Day;
use utoipa::{IntoParams, ToSchema};

use crate::{Cursor, schema};

/// Query of the reconciliation of a day.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReconciliationQuery {
    /// UTC day; yesterday if absent.
    #[param(value_type = Option<schema::Day>)]
    pub day: Option<Day>,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// Result of the nightly reconciliation of a UTC day.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reconciliation {
    /// Day.
    #[schema(value_type = schema::Day)]
    pub day: Day,
    /// Sums of all customers; `null` if no run of this day has finished.
    #[schema(required)]
    pub summary: Option<ReconciliationSummary>,
    /// Customers whose ledgers differ by more than is tolerated.
    pub data: Vec<Discrepancy>,
    /// Cursor of the next page; `null` if this is the last.
    #[schema(value_type = Option<schema::Cursor>, required)]
    pub next_cursor: Option<Cursor>,
}

/// Sums of a reconciliation.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReconciliationSummary {
    /// Time of the run.
    #[schema(value_type = schema::Timestamp)]
    pub reconciled_at: Timestamp,
    /// Customers with calls in either ledger.
    pub customers: u64,
    /// Admitted calls.
    pub admitted: u64,
    /// Metered calls.
    pub metered: u64,
    /// Customers whose ledgers differ by more than is tolerated.
    pub discrepancies: u64,
}

/// A customer whose ledgers differ by more than is tolerated.
#[derive(Debug, Serialize, ToSchema)]
pub struct Discrepancy {
    /// Customer.
    #[schema(value_type = schema::CustomerId)]
    pub customer_id: CustomerId,
    /// Admitted calls.
    pub admitted: u64,
    /// Calls that were metered when the run compared them.
    pub metered: u64,
    /// Calls that are metered now. Usage may arrive late.
    pub metered_now: u64,
    /// Whether the customer has admitted calls and no metered ones.
    pub silent: bool,
}
