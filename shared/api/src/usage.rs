//! Usage: events from producers, the usage log, adjustments, and a customer's current month.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tollgate_domain::billing::OverageLine;
use tollgate_domain::id::{CustomerId, KeyId, PlanId};
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan_book::PlanVersion;
use tollgate_domain::window::{Day, Month};
use utoipa::{IntoParams, ToSchema};

use crate::plans::MonthPolicy;
use crate::quarantine::QuarantinedRef;
use crate::{Amount, Cursor, SignedAmount, schema};

/// Request to count usage events.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IngestEvents {
    /// 1 to 100 usage events, in the format of `docs/usage-event.md`.
    #[schema(value_type = Vec<Object>, min_items = 1, max_items = 100)]
    pub events: Vec<Box<RawValue>>,
}

/// Outcomes of usage events, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct IngestedEvents {
    /// Outcome of each usage event.
    pub data: Vec<IngestedEvent>,
    /// Quarantined items with the sources and ids of duplicates: their records were not counted when the rest of the event
    /// was.
    pub quarantined: Vec<QuarantinedRef>,
    /// Pointers to the duplicates that have more quarantined items than listed.
    pub quarantined_more: Vec<String>,
}

/// Outcome of one usage event.
#[derive(Debug, Serialize, ToSchema)]
pub struct IngestedEvent {
    /// Source of the usage event.
    pub source: String,
    /// Id of the usage event.
    pub id: String,
    /// Outcome.
    pub outcome: IngestedOutcome,
}

/// Outcome of ingesting a usage event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum IngestedOutcome {
    /// Counted by this request.
    Counted,
    /// Counted before.
    Duplicate,
}

/// A usage event, record or adjustment that cannot be counted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Defect {
    /// JSON pointer (RFC 6901) into the request body.
    #[schema(examples("/events/0/data/records/3"))]
    pub pointer: String,
    /// Reason.
    pub reason: String,
}

/// Query of the usage log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Customer.
    #[param(value_type = schema::CustomerId)]
    pub customer_id: CustomerId,
    /// First UTC day; today if absent.
    #[param(value_type = Option<schema::Day>)]
    pub from: Option<Day>,
    /// Last UTC day; today if absent.
    #[param(value_type = Option<schema::Day>)]
    pub to: Option<Day>,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// A counted usage event, once for each day of its records.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoggedEvent {
    /// Day of the counted records.
    #[schema(value_type = schema::Day)]
    pub day: Day,
    /// Number of counted records of that day.
    pub records: u64,
    /// The whole usage event as it arrived.
    #[schema(value_type = Object)]
    pub event: Box<RawValue>,
}

/// Query of the usage records of a month.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RecordsQuery {
    /// UTC month; the current one if absent.
    #[param(value_type = Option<schema::Month>)]
    pub month: Option<Month>,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// A page of the counted usage of a customer's month, from which its bill can be recomputed.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageRecords {
    /// Month.
    #[schema(value_type = schema::Month)]
    pub month: Month,
    /// First UTC day of which all usage is still kept. The records of earlier days are incomplete, or gone.
    #[schema(value_type = schema::Day)]
    pub kept_from: Day,
    /// Versions of the plans by which the month is rated: of those of this page's records and adjustments.
    pub plans: Vec<RatedPlan>,
    /// Records, by day. A page may be empty and still be followed by another.
    pub data: Vec<CountedRecord>,
    /// Adjustments, by day.
    pub adjustments: Vec<Adjustment>,
    /// Cursor of the next page; `null` if this is the last.
    #[schema(value_type = Option<schema::Cursor>, required)]
    pub next_cursor: Option<Cursor>,
}

/// A counted usage record.
#[derive(Debug, Serialize, ToSchema)]
pub struct CountedRecord {
    /// Time of the call, which decides its day and month.
    #[schema(value_type = schema::Timestamp)]
    pub time: Timestamp,
    /// Plan of the call.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// Whether the call counts towards the included and charged ones.
    pub billable: bool,
    /// HTTP method.
    pub method: String,
    /// Route template.
    pub endpoint: String,
    /// HTTP status of the response.
    pub status: u16,
    /// Id of the key.
    #[schema(value_type = schema::KeyId)]
    pub key_id: KeyId,
    /// Request id.
    pub request_id: String,
    /// Source of the usage event with the record.
    pub source: String,
    /// Id of the usage event with the record.
    pub id: String,
    /// Time of arrival.
    #[schema(value_type = schema::Timestamp)]
    pub received_at: Timestamp,
}

/// Version of a plan by which a month is rated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RatedPlan {
    /// Plan.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// Number of the version.
    pub version: u64,
    /// Calls of the month that are included, and the prices of those beyond them.
    pub month: MonthPolicy,
}

impl From<&PlanVersion> for RatedPlan {
    fn from(version: &PlanVersion) -> Self {
        Self {
            plan: version.plan.id.clone(),
            version: version.number,
            month: MonthPolicy::from(&version.plan.month),
        }
    }
}

/// Query of the adjustments of a month.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AdjustmentsQuery {
    /// UTC month; the current one if absent.
    #[param(value_type = Option<schema::Month>)]
    pub month: Option<Month>,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// A counted adjustment.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Adjustment {
    /// Time that decides the day and month of the adjustment.
    #[schema(value_type = schema::Timestamp)]
    pub time: Timestamp,
    /// Plan of the corrected calls.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// Billable calls added, or if negative, removed.
    pub billable_calls: i64,
    /// Cost added, or if negative, removed.
    pub cost: SignedAmount,
    /// Reason.
    pub reason: String,
    /// Source of the usage event with the adjustment.
    pub source: String,
    /// Id of the usage event with the adjustment.
    pub id: String,
    /// Time of arrival.
    #[schema(value_type = schema::Timestamp)]
    pub received_at: Timestamp,
}

/// Usage of a customer in the current UTC month.
#[derive(Debug, Serialize, ToSchema)]
pub struct CurrentUsage {
    /// Customer.
    #[schema(value_type = schema::CustomerId)]
    pub customer_id: CustomerId,
    /// Current plan.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// The month.
    pub period: Period,
    /// Calls that the authorizer allowed. Limits are checked against these only.
    pub admitted: AdmittedUsage,
    /// Calls reported by usage records, of this API or others. Bills are computed from these. They arrive a
    /// few seconds late.
    pub metered: MeteredUsage,
    /// Sums of the adjustments. The overage includes them; the numbers in `metered` do not.
    pub adjustments: AdjustmentSums,
    /// Overage of this month's `metered` calls and `adjustments`, as it would be billed. `null` while a plan
    /// of the month's calls is not in the catalogue, so that their price is unknown.
    #[schema(required)]
    pub overage: Option<Overage>,
}

/// A UTC month.
#[derive(Debug, Serialize, ToSchema)]
pub struct Period {
    /// Month.
    #[schema(value_type = schema::Month)]
    pub month: Month,
    /// First instant of the month.
    #[schema(value_type = schema::Timestamp)]
    pub starts_at: Timestamp,
    /// First instant of the next month.
    #[schema(value_type = schema::Timestamp)]
    pub ends_at: Timestamp,
}

/// Admitted calls of a month.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdmittedUsage {
    /// Admitted calls.
    pub calls: u64,
    /// Admitted calls that count towards no limit, because they were allowed while the store was down.
    pub uncounted: u64,
    /// Units that authorizer instances hold in quota leases, or have spent since they last wrote to the
    /// store. They count towards the limit, and are not part of `calls`.
    pub reserved: u64,
    /// Monthly quota of the calling key; `null` if it has none.
    #[schema(required)]
    pub limit: Option<u64>,
    /// Calls left of the quota; `null` if there is none.
    #[schema(required)]
    pub remaining: Option<u64>,
}

/// Metered calls of a month.
#[derive(Debug, Serialize, ToSchema)]
pub struct MeteredUsage {
    /// Metered calls.
    pub calls: u64,
    /// Metered calls that count towards the included and charged ones.
    pub billable_calls: u64,
    /// Calls with a 4xx status.
    pub client_errors: u64,
    /// Calls with a 5xx status.
    pub server_errors: u64,
    /// Mean latency, in milliseconds.
    pub average_latency_ms: u64,
    /// Language-model tokens.
    pub tokens: u64,
    /// Cost of the calls to their provider.
    pub cost: Amount,
}

/// Sums of the adjustments of a month.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdjustmentSums {
    /// Number of adjustments.
    pub count: u64,
    /// Billable calls added, or if negative, removed.
    pub billable_calls: i64,
    /// Cost added, or if negative, removed.
    pub cost: SignedAmount,
}

/// Overage of a month.
#[derive(Debug, Serialize, ToSchema)]
pub struct Overage {
    /// Overage calls on all plans.
    pub calls: u64,
    /// Cost of these calls, not rounded. Charges are based on the month's sum, rounded half up to a cent.
    pub cost: Amount,
    /// Plans that charge overage: the customer's plan, and those of this month's calls.
    pub plans: Vec<PlanOverage>,
}

/// Overage of one plan in a month.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlanOverage {
    /// Plan.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// Billable calls on the plan, adjustments included.
    pub billable_calls: u64,
    /// Calls that the plan includes in a month.
    pub included: u64,
    /// Included calls that are left.
    pub remaining: u64,
    /// Overage calls.
    pub calls: u64,
    /// Cost of the overage calls, not rounded.
    pub cost: Amount,
}

impl From<Vec<OverageLine>> for Overage {
    fn from(lines: Vec<OverageLine>) -> Self {
        let cost: MicroUsd = lines.iter().map(|line| line.micro_usd).sum();
        Self {
            calls: lines.iter().map(|line| line.overage_calls).sum(),
            cost: cost.into(),
            plans: lines.into_iter().map(PlanOverage::from).collect(),
        }
    }
}

impl From<OverageLine> for PlanOverage {
    fn from(line: OverageLine) -> Self {
        Self {
            plan: line.plan,
            billable_calls: line.calls,
            included: line.included,
            remaining: line.included.saturating_sub(line.calls),
            calls: line.overage_calls,
            cost: line.micro_usd.into(),
        }
    }
}
