//! Billing runs, charges and unbilled usage.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::billing::ChargedOverage;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::money::Cents;
use tollgate_domain::window::Month;
use utoipa::{IntoParams, ToSchema};

use crate::{Amount, Cursor, schema};

/// Request to run billing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunBilling {
    /// Whether to write nothing and only report what would be charged. Required, so that a request without
    /// it cannot charge customers.
    #[schema(value_type = bool, required)]
    pub dry_run: Option<bool>,
}

/// Result of a billing run.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct BillingRun {
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Months that were open.
    #[schema(value_type = Vec<schema::Month>)]
    pub months: Vec<Month>,
    /// Months that this run closed.
    #[schema(value_type = Vec<schema::Month>)]
    pub closed: Vec<Month>,
    /// Billing periods with billable usage: one for each customer and month.
    pub billing_periods: u64,
    /// Charges created, or in a dry run, charges that would be.
    pub charge_count: u64,
    /// Sum of these charges, in US cents.
    #[schema(value_type = u64)]
    pub cents: Cents,
    /// Billing periods that could not be billed. The next run tries them again.
    pub failed: u64,
    /// Destination of the charges: `ledger_only` while no payment provider is configured.
    #[schema(value_type = String)]
    pub destination: &'static str,
    /// The first hundred charges.
    pub charges: Vec<ChargeSummary>,
    /// The first hundred failures.
    pub failures: Vec<FailedPeriod>,
}

/// A charge in the result of a billing run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChargeSummary {
    /// Id, which every run computes the same.
    #[schema(examples("ci_acme_2026-11_0001"))]
    pub id: String,
    /// Customer who pays.
    #[schema(value_type = schema::CustomerId)]
    pub customer_id: CustomerId,
    /// Month of the usage.
    #[schema(value_type = schema::Month)]
    pub month: Month,
    /// Amount, in US cents.
    #[schema(value_type = u64)]
    pub cents: Cents,
    /// Number of the first overage call that the charge covers, from 1.
    pub from_call: u64,
    /// Number of the last overage call that the charge covers.
    pub to_call: u64,
    /// Sum of the adjustments of the month's billable calls when the charge was made.
    pub adjusted_calls: i64,
}

/// A billing period that could not be billed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FailedPeriod {
    /// Customer who could not be billed.
    #[schema(value_type = schema::CustomerId)]
    pub customer_id: CustomerId,
    /// Month of the usage.
    #[schema(value_type = schema::Month)]
    pub month: Month,
    /// Reason in general terms. The log has the details.
    pub reason: String,
}

/// Query of the charges of a month.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChargesQuery {
    /// UTC month; the current one if absent.
    #[param(value_type = Option<schema::Month>)]
    pub month: Option<Month>,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// A charge in the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub struct Charge {
    /// Id.
    #[schema(examples("ci_acme_2026-11_0001"))]
    pub id: String,
    /// Month of the usage.
    #[schema(value_type = schema::Month)]
    pub month: Month,
    /// Number of the charge within the month, from 1.
    pub number: u64,
    /// State: `ledger_only` while no payment provider is configured.
    #[schema(examples("ledger_only"))]
    pub status: String,
    /// Amount.
    pub amount: Amount,
    /// Overage that the month's charges cover, this one included, not rounded.
    pub cumulative_overage: Amount,
    /// Cumulative overage by plan. Empty for charges of releases that did not store it.
    #[schema(value_type = BTreeMap<String, CoveredOverage>)]
    pub overage_by_plan: BTreeMap<PlanId, CoveredOverage>,
    /// Number of the first overage call that the charge covers, from 1.
    pub from_call: u64,
    /// Number of the last overage call that the charge covers.
    pub to_call: u64,
    /// Sum of the adjustments of the month's billable calls when the charge was made.
    pub adjusted_calls: i64,
    /// SHA-256 of the billable calls by day and plan that the charge was computed from.
    pub usage_digest: String,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
}

/// Overage of a plan that the month's charges cover.
#[derive(Debug, Serialize, ToSchema)]
pub struct CoveredOverage {
    /// Overage calls.
    pub calls: u64,
    /// Cost of these calls, not rounded.
    pub cost: Amount,
}

impl From<ChargedOverage> for CoveredOverage {
    fn from(charged: ChargedOverage) -> Self {
        Self {
            calls: charged.calls,
            cost: charged.micro_usd.into(),
        }
    }
}

impl Charge {
    /// Creates the representation of a charge in this state.
    #[must_use]
    pub fn new(charge: tollgate_domain::billing::Charge, status: String) -> Self {
        let overage_by_plan = charge.overage_by_plan.into_iter();
        Self {
            id: charge.id,
            month: charge.month,
            number: charge.number,
            status,
            amount: charge.cents.into(),
            cumulative_overage: charge.cumulative_overage.into(),
            overage_by_plan: overage_by_plan
                .map(|(plan, overage)| (plan, overage.into()))
                .collect(),
            from_call: charge.from_call,
            to_call: charge.to_call,
            adjusted_calls: charge.adjusted_calls,
            usage_digest: charge.usage_digest,
            created_at: charge.created_at,
        }
    }
}

/// Query of unbilled usage.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UnbilledQuery {
    /// UTC month; the one before the current one if absent.
    #[param(value_type = Option<schema::Month>)]
    pub month: Option<Month>,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// Usage of a closed month that no charge covers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Unbilled {
    /// Month.
    #[schema(value_type = schema::Month)]
    pub month: Month,
    /// Time at which the month closed; `null` while it is open: the next billing run will bill its usage.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub closed_at: Option<Timestamp>,
    /// Customers. A page may be empty and still be followed by another.
    pub data: Vec<UnbilledCustomer>,
    /// Cursor of the next page; `null` if this is the last.
    #[schema(value_type = Option<schema::Cursor>, required)]
    pub next_cursor: Option<Cursor>,
}

/// Unbilled usage of one customer. `calls`, `overage` and `due` are `null` if they cannot be computed.
#[derive(Debug, Serialize, ToSchema)]
pub struct UnbilledCustomer {
    /// Customer.
    #[schema(value_type = schema::CustomerId)]
    pub customer_id: CustomerId,
    /// Overage calls that no charge covers.
    #[schema(required)]
    pub calls: Option<u64>,
    /// Cost of these calls, not rounded.
    #[schema(required)]
    pub overage: Option<Amount>,
    /// Charge that would be due for them.
    #[schema(required)]
    pub due: Option<Amount>,
    /// Reason why the numbers cannot be computed.
    #[schema(required)]
    pub reason: Option<String>,
}
