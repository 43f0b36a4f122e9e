//! Billing runs, charges and unbilled usage.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::billing::ChargedOverage;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::money::SignedCents;
use tollgate_domain::submission::{ChargeState, ChargeStatus, LedgerCharge};
use tollgate_domain::window::{Day, Month};
use utoipa::{IntoParams, ToSchema};

use crate::payments::CustomerCharge;
use crate::usage::RatedPlan;
use crate::{Amount, Cursor, SignedAmount, schema};

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
    /// Charges and credits created, or in a dry run, those that would be.
    pub charge_count: u64,
    /// Sum of these charges and credits, in US cents.
    #[schema(value_type = i64)]
    pub cents: SignedCents,
    /// Billing periods that could not be billed. The next run tries them again.
    pub failed: u64,
    /// Destination of the charges: `stripe`, or `ledger_only` while no payment provider is configured.
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
    #[schema(value_type = schema::ChargeId)]
    pub id: String,
    /// Customer who pays.
    #[schema(value_type = schema::CustomerId)]
    pub customer_id: CustomerId,
    /// Month of the usage.
    #[schema(value_type = schema::Month)]
    pub month: Month,
    /// Amount, in US cents; negative for a credit.
    #[schema(value_type = i64)]
    pub cents: SignedCents,
    /// Number of the first overage call that the charge covers or the credit takes back, from 1.
    pub from_call: u64,
    /// Number of the last overage call that the charge covers or the credit takes back.
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

/// State of a charge.
#[derive(Debug, ToSchema)]
#[schema(as = ChargeStatus, rename_all = "lowercase")]
pub enum ChargeStatusSchema {
    /// In the ledger, and not submitted yet. Without a secret key of Stripe, charges stay in this state.
    Pending,
    /// Submitted to Stripe; the outcome is unknown, or not recorded yet.
    Submitted,
    /// Not at Stripe, for the reason in `failure_reason`. It is submitted again.
    Failed,
    /// At Stripe.
    Settled,
}

/// A charge in the ledger, or if its amount is negative, a credit.
#[derive(Debug, Serialize, ToSchema)]
pub struct Charge {
    /// Id.
    #[schema(value_type = schema::ChargeId)]
    pub id: String,
    /// Month of the usage.
    #[schema(value_type = schema::Month)]
    pub month: Month,
    /// Number of the charge within the month, from 1.
    pub number: u64,
    /// State. It does not say whether the invoice was paid.
    #[schema(value_type = ChargeStatusSchema)]
    pub status: &'static str,
    /// Amount; negative for a credit.
    pub amount: SignedAmount,
    /// Text on the customer's invoice.
    #[schema(examples("1,234 calls beyond the 100,000 included, 1–15 November 2026"))]
    pub description: String,
    /// Attempts to submit the charge to Stripe.
    pub attempts: u64,
    /// Time of the last attempt.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub last_attempt_at: Option<Timestamp>,
    /// Reason of a failed charge, for the operator.
    #[schema(required)]
    pub failure_reason: Option<String>,
    /// Time from which the charge is submitted, or submitted again; `null` if it is settled.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub next_try: Option<Timestamp>,
    /// Id of Stripe's invoice item, once the charge is settled.
    #[schema(required, examples("ii_1QbZk2LkdIwHu7ix"))]
    pub invoice_item: Option<String>,
    /// Time at which the charge was settled.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub settled_at: Option<Timestamp>,
    /// Overage that the month's charges cover, this one included, not rounded.
    pub cumulative_overage: Amount,
    /// Cumulative overage by plan. Empty for charges of releases that did not store it.
    #[schema(value_type = BTreeMap<String, CoveredOverage>)]
    pub overage_by_plan: BTreeMap<PlanId, CoveredOverage>,
    /// Overage calls that the month's charges cover, this one included.
    pub overage_calls: u64,
    /// Number of the first overage call that the charge covers or the credit takes back, from 1.
    pub from_call: u64,
    /// Number of the last overage call that the charge covers or the credit takes back.
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
    /// Creates the representation of a charge.
    #[must_use]
    pub fn new(ledger: LedgerCharge) -> Self {
        let LedgerCharge {
            charge,
            state,
            attempts,
            next_try,
        } = ledger;
        let status = state.status().as_str();
        let (failure_reason, settled) = match state {
            ChargeState::Failed { reason } => (Some(reason), None),
            ChargeState::Settled { item, at } => (None, Some((item, at))),
            ChargeState::Pending | ChargeState::Submitted => (None, None),
        };
        let (invoice_item, settled_at) = settled.unzip();
        let overage_by_plan = charge.overage_by_plan.into_iter();
        Self {
            id: charge.id,
            month: charge.month,
            number: charge.number,
            status,
            amount: charge.cents.into(),
            description: charge.description,
            attempts: attempts.count,
            last_attempt_at: attempts.last_at,
            failure_reason,
            next_try,
            invoice_item,
            settled_at,
            cumulative_overage: charge.cumulative_overage.into(),
            overage_by_plan: overage_by_plan
                .map(|(plan, overage)| (plan, overage.into()))
                .collect(),
            overage_calls: charge.overage_calls,
            from_call: charge.from_call,
            to_call: charge.to_call,
            adjusted_calls: charge.adjusted_calls,
            usage_digest: charge.usage_digest,
            created_at: charge.created_at,
        }
    }
}

/// Query of open charges.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OpenChargesQuery {
    /// State.
    #[param(inline, value_type = OpenChargeStatusSchema)]
    pub status: OpenStatus,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// State of an open charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenStatus {
    /// See [`ChargeStatus::Pending`].
    Pending,
    /// See [`ChargeStatus::Submitted`].
    Submitted,
    /// See [`ChargeStatus::Failed`].
    Failed,
}

impl From<OpenStatus> for ChargeStatus {
    fn from(status: OpenStatus) -> Self {
        match status {
            OpenStatus::Pending => Self::Pending,
            OpenStatus::Submitted => Self::Submitted,
            OpenStatus::Failed => Self::Failed,
        }
    }
}

/// State of an open charge: one that is not settled.
#[derive(Debug, ToSchema)]
#[schema(as = OpenChargeStatus, rename_all = "lowercase")]
pub enum OpenChargeStatusSchema {
    /// In the ledger, and not submitted yet.
    Pending,
    /// Submitted to Stripe; the outcome is unknown, or not recorded yet.
    Submitted,
    /// Not at Stripe, for the reason in `failure_reason`. It is submitted again.
    Failed,
}

/// An open charge with its customer.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenCharge {
    /// Customer who owes the amount.
    #[schema(value_type = schema::CustomerId)]
    pub customer_id: CustomerId,
    /// The charge.
    pub charge: Charge,
}

/// Calculation of a charge.
#[derive(Debug, Serialize, ToSchema)]
pub struct Proof {
    /// The charge.
    pub charge: CustomerCharge,
    /// Cost of the month's overage calls when the charge was made, not rounded.
    pub cumulative_overage: Amount,
    /// Sum of the month's earlier charges. With the charge, it is the `cumulative_overage`, rounded half up to
    /// a cent.
    pub charged_before: SignedAmount,
    /// SHA-256 of a line `<day> <plan> <calls>` for each of `usage`, with ` <adjusted calls>` after it, signed, unless
    /// they are 0.
    pub usage_digest: String,
    /// Calls from which the charge was computed; empty if a release that did not keep them made it.
    pub usage: Vec<RatedCalls>,
    /// Versions of the plans of these calls.
    pub plans: Vec<RatedPlan>,
    /// First UTC day of which all usage is still kept: `/api/usage/records` has the records behind the calls of
    /// this day and later ones.
    #[schema(value_type = schema::Day)]
    pub kept_from: Day,
}

/// Billable calls of a day on a plan.
#[derive(Debug, Serialize, ToSchema)]
pub struct RatedCalls {
    /// UTC day.
    #[schema(value_type = schema::Day)]
    pub day: Day,
    /// Plan.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// Billable calls by the usage records.
    pub calls: u64,
    /// Billable calls that adjustments added, or if negative, removed.
    pub adjusted_calls: i64,
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
