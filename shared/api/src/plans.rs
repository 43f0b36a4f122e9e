//! Plans and their versions.

use std::num::NonZeroU64;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::money::{Cents, MicroUsd};
use tollgate_domain::plan;
use tollgate_domain::plan_book::{PlanVersion as StoredVersion, PlanVersions};
use tollgate_domain::window::{Day, Month};
use utoipa::{IntoParams, ToSchema};

use crate::json::{Object, Whole, nullable};
use crate::{Cursor, schema};

/// A plan with all of its versions.
#[derive(Debug, Serialize, ToSchema)]
pub struct Plan {
    /// Id.
    #[schema(value_type = schema::PlanId)]
    pub id: PlanId,
    /// Whether the plan takes no new customers. A `PATCH` changes this member.
    pub retired: bool,
    /// Time of retirement.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub retired_at: Option<Timestamp>,
    /// Number of the version that applies to the current month, unless a customer is pinned to another.
    pub current_version: u64,
    /// Versions, oldest first.
    pub versions: Vec<PlanVersion>,
}

impl Plan {
    /// Creates the representation of a plan in `month`.
    #[must_use]
    pub fn new(plan: &PlanVersions, month: Month) -> Self {
        Self {
            id: plan.id().clone(),
            retired: plan.retired_at.is_some(),
            retired_at: plan.retired_at,
            current_version: plan.in_effect(month, None).number,
            versions: plan.iter().map(PlanVersion::from).collect(),
        }
    }
}

/// A version of a plan. It never changes.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlanVersion {
    /// Number, from 1.
    pub version: u64,
    /// First month to which the version applies. The first version also applies to all earlier months.
    #[schema(value_type = schema::Month)]
    pub takes_effect: Month,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Limits and prices.
    pub definition: PlanDefinition,
}

impl From<&StoredVersion> for PlanVersion {
    fn from(version: &StoredVersion) -> Self {
        Self {
            version: version.number,
            takes_effect: version.takes_effect,
            created_at: version.created_at,
            definition: PlanDefinition::from(&version.plan),
        }
    }
}

/// Limits and prices of a version of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanDefinition {
    /// Name, for people.
    #[schema(value_type = schema::Name)]
    pub name: String,
    /// Calls of a key in a UTC hour.
    #[schema(value_type = u64, maximum = 1_000_000_000_000_u64)]
    pub requests_per_hour: Whole,
    /// Calls of a UTC month that are included, and what applies beyond them.
    #[schema(value_type = MonthPolicy)]
    pub month: Object<MonthPolicy>,
    /// Decision on calls while the store is unavailable and cannot count them.
    #[schema(value_type = FailMode)]
    pub fail_mode: plan::FailMode,
    /// Most units of a limit that an instance of the authorizer reserves at once, and that are lost if it
    /// crashes. With 1, exactly the limit is allowed.
    #[serde(default = "max_lease")]
    #[schema(value_type = u64, default = 1000, minimum = 1, maximum = 1000)]
    pub max_lease: Whole,
    /// Monthly fee in US cents, charged by the customer's subscription.
    #[serde(default = "no_fee")]
    #[schema(value_type = u64, default = 0, maximum = 99_999_999)]
    pub monthly_fee_cents: Whole,
    /// Id of the Stripe price that carries the monthly fee. Customers cannot subscribe to a plan without one.
    #[serde(default)]
    #[schema(value_type = Option<schema::StripePriceId>)]
    pub stripe_price: Option<String>,
    /// Cadence at which charges are made and submitted to Stripe.
    #[serde(default)]
    #[schema(value_type = SubmissionCadence, default = "nightly")]
    pub submission: plan::SubmissionCadence,
}

fn max_lease() -> Whole {
    Whole(tollgate_domain::lease::MAX_LEASE)
}

fn no_fee() -> Whole {
    Whole(0)
}

/// Decision on calls while the store is unavailable.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum FailMode {
    /// Calls are allowed uncounted.
    Open,
    /// Calls are rejected with 503.
    Closed,
}

/// Cadence at which charges are made and submitted to Stripe. In between, the overage adds up.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum SubmissionCadence {
    /// Daily, after the nightly billing run.
    Nightly,
    /// On Mondays, and when the month closes.
    Weekly,
    /// When the month closes.
    Monthly,
}

/// Calls of a UTC month that are included, and what applies beyond them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum MonthPolicy {
    /// Calls beyond the included ones are denied.
    Blocked {
        /// Calls allowed in a month.
        #[schema(value_type = u64, maximum = 1_000_000_000_000_u64)]
        included: Whole,
    },
    /// Calls beyond the included ones are allowed and charged.
    Overage {
        /// Calls of a month that are not charged.
        #[schema(value_type = u64, maximum = 1_000_000_000_000_u64)]
        included: Whole,
        /// Prices of an overage call, in ascending order of their first day. The first price also applies to
        /// all earlier days.
        #[schema(value_type = Vec<OveragePrice>, min_items = 1, max_items = 100)]
        prices: Vec<Object<OveragePrice>>,
    },
    /// All calls are allowed, and none is charged.
    Unlimited {},
}

/// Price of an overage call from a UTC day on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OveragePrice {
    /// First day on which the price applies.
    #[schema(value_type = schema::Day)]
    pub from: Day,
    /// Price of one call in millionths of a US dollar.
    #[schema(value_type = u64, maximum = 1_000_000_000_000_u64)]
    pub micro_usd_per_call: Whole,
}

impl From<&plan::MonthPolicy> for MonthPolicy {
    fn from(policy: &plan::MonthPolicy) -> Self {
        match policy {
            plan::MonthPolicy::Blocked { included } => Self::Blocked {
                included: Whole(*included),
            },
            plan::MonthPolicy::Overage { included, prices } => Self::Overage {
                included: Whole(*included),
                prices: prices
                    .iter()
                    .map(|price| {
                        Object(OveragePrice {
                            from: price.from,
                            micro_usd_per_call: Whole(price.micro_usd_per_call.0),
                        })
                    })
                    .collect(),
            },
            plan::MonthPolicy::Unlimited => Self::Unlimited {},
        }
    }
}

impl From<MonthPolicy> for plan::MonthPolicy {
    fn from(policy: MonthPolicy) -> Self {
        match policy {
            MonthPolicy::Blocked { included } => Self::Blocked {
                included: included.0,
            },
            MonthPolicy::Overage { included, prices } => Self::Overage {
                included: included.0,
                prices: prices
                    .into_iter()
                    .map(|Object(price)| plan::OveragePrice {
                        from: price.from,
                        micro_usd_per_call: MicroUsd(price.micro_usd_per_call.0),
                    })
                    .collect(),
            },
            MonthPolicy::Unlimited {} => Self::Unlimited,
        }
    }
}

impl From<&plan::Plan> for PlanDefinition {
    fn from(plan: &plan::Plan) -> Self {
        Self {
            name: plan.name.clone(),
            requests_per_hour: Whole(plan.requests_per_hour),
            month: Object(MonthPolicy::from(&plan.month)),
            fail_mode: plan.fail_mode,
            max_lease: Whole(plan.max_lease.get()),
            monthly_fee_cents: Whole(plan.monthly_fee_cents.0),
            stripe_price: plan.stripe_price.clone(),
            submission: plan.submission,
        }
    }
}

impl PlanDefinition {
    /// Returns the plan with that id. A `max_lease` of 0, which is invalid, becomes 1.
    #[must_use]
    pub fn into_plan(self, id: PlanId) -> plan::Plan {
        plan::Plan {
            id,
            name: self.name,
            requests_per_hour: self.requests_per_hour.0,
            month: self.month.0.into(),
            fail_mode: self.fail_mode,
            max_lease: NonZeroU64::new(self.max_lease.0).unwrap_or(NonZeroU64::MIN),
            monthly_fee_cents: Cents(self.monthly_fee_cents.0),
            stripe_price: self.stripe_price,
            submission: self.submission,
        }
    }
}

/// Request to create a plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePlan {
    /// Id.
    #[schema(value_type = schema::PlanId)]
    pub id: PlanId,
    /// Limits and prices of the first version.
    #[schema(value_type = PlanDefinition)]
    pub definition: Object<PlanDefinition>,
}

/// Request to add a version to a plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePlanVersion {
    /// Number of the latest version, on which the new one is based.
    #[schema(value_type = u64, minimum = 1)]
    pub expected_version: Whole,
    /// First month to which the version applies: one that begins more than an hour from now, or one of the 24 months
    /// after that, and not before the one in which the latest version takes effect.
    #[schema(value_type = schema::Month)]
    pub takes_effect: Month,
    /// Whether to write nothing and only list the customers to whom the version would apply. Required.
    #[schema(value_type = bool, required)]
    pub dry_run: Option<bool>,
    /// Limits and prices.
    #[schema(value_type = PlanDefinition)]
    pub definition: Object<PlanDefinition>,
}

/// A new version of a plan, or in a dry run, the one that would be added.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewPlanVersion {
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Plan.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// The version.
    pub version: PlanVersion,
    /// A page of the customers to whom the version would apply, if they stay on the plan, in a dry run. A page
    /// may be empty and still have a next one.
    #[schema(required)]
    pub affected: Option<AffectedCustomers>,
}

/// A page of the customers to whom a new version of a plan would apply.
#[derive(Debug, Serialize, ToSchema)]
pub struct AffectedCustomers {
    /// The customers.
    pub data: Vec<AffectedCustomer>,
    /// Position after the page, for `cursor`; `null` on the last page.
    #[schema(value_type = Option<schema::Cursor>, required)]
    pub next_cursor: Option<Cursor>,
}

/// A customer to whom a new version of a plan would apply.
#[derive(Debug, Serialize, ToSchema)]
pub struct AffectedCustomer {
    /// The customer.
    #[schema(value_type = schema::CustomerId)]
    pub customer_id: CustomerId,
    /// Number of the version that applies to the customer now.
    pub version: u64,
}

/// Query of a dry run of a new version.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AffectedQuery {
    /// `next_cursor` of the previous page of affected customers.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// Changes of a plan: a merge patch (RFC 7396).
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdatePlan {
    /// `true` retires the plan: it applies to the customers who are on it, and takes no others. `false` ends
    /// the retirement.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = bool)]
    pub retired: Option<Option<bool>>,
}
