//! The usage API: usage and adjustments of the calling customer.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Serialize;
use tollgate_domain::billing::{OverageLine, billable_days, overage};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan::{Catalog, Plan};
use tollgate_domain::usage::Aggregate;
use tollgate_domain::window::Month;
use tollgate_runtime::{Clock, Entropy, Env, aws, config};
use tollgate_store::Store;
use tollgate_web::{
    AdjustmentView, AdjustmentsQuery, Amount, CustomerCaller, List, NoQuery, Problem, QueryParams,
    SignedAmount,
};

/// State of a usage-api instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// The plans, with the calls that they include.
    pub plans: Catalog,
    /// Clock that decides which month is the current one.
    pub clock: Clock,
}

impl App {
    /// Builds the state from environment variables.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn from_env(env: &Env) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(env, aws::BACKGROUND_TIMEOUT)?;
        let clock = Clock::system();
        Ok(Self {
            store: Store::from_env(env, &sdk, clock.clone(), Entropy::system()?)?,
            plans: config::plans(env)?,
            clock,
        })
    }
}

/// Returns the routes.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/api/usage/current", get(current))
        .route("/api/usage/adjustments", get(adjustments))
        .with_state(app)
}

/// Response body: the current UTC month of a customer.
#[derive(Debug, Serialize)]
struct Current {
    customer_id: CustomerId,
    plan: PlanId,
    period: Period,
    /// Calls that the authorizer allowed. Limits are checked against these only.
    admitted: Admitted,
    /// Calls reported by usage records, of this API or others. Bills are computed from these. They arrive a few
    /// seconds late.
    metered: Metered,
    /// Sums of the adjustments. The overage includes them; the numbers in `metered` do not.
    adjustments: Adjustments,
    /// Overage of this month's `metered` calls and `adjustments`, as it would be billed. `null` while a plan
    /// of the month's calls is not in the catalogue, so that their price is unknown.
    overage: Option<Overage>,
}

#[derive(Debug, Serialize)]
struct Period {
    month: Month,
    starts_at: Timestamp,
    ends_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct Admitted {
    calls: u64,
    /// Admitted calls that count towards no limit, because they were allowed while the store was down.
    uncounted: u64,
    /// Units that authorizer instances hold in quota leases, or have spent since they last wrote to the store.
    /// They count towards the limit, and are not part of `calls`.
    reserved: u64,
    /// Monthly quota of the calling key. `null` if it has none.
    limit: Option<u64>,
    /// Calls left of the quota.
    remaining: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Metered {
    calls: u64,
    billable_calls: u64,
    client_errors: u64,
    server_errors: u64,
    average_latency_ms: u64,
    tokens: u64,
    cost: Amount,
}

#[derive(Debug, Serialize)]
struct Adjustments {
    count: u64,
    billable_calls: i64,
    cost: SignedAmount,
}

#[derive(Debug, Serialize)]
struct Overage {
    /// Overage calls on all plans.
    calls: u64,
    /// Cost of these calls, not rounded. Charges are based on the month's sum, rounded half up to a cent.
    cost: Amount,
    /// Plans that charge overage: the customer's plan, and those of this month's calls.
    plans: Vec<PlanOverage>,
}

/// Overage of one plan.
#[derive(Debug, Serialize)]
struct PlanOverage {
    plan: PlanId,
    /// Billable calls on the plan, adjustments included.
    billable_calls: u64,
    /// Calls that the plan includes in a month.
    included: u64,
    /// Included calls that are left.
    remaining: u64,
    /// Overage calls.
    calls: u64,
    /// Cost of the overage calls, not rounded.
    cost: Amount,
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

/// Returns the overage line of a plan without calls, if the plan charges overage.
fn unused_plan(plan: &Plan) -> Option<OverageLine> {
    let included = plan.included().filter(|_| plan.charges_overage())?;
    Some(OverageLine {
        plan: plan.id.clone(),
        calls: 0,
        adjusted: 0,
        included,
        overage_calls: 0,
        micro_usd: MicroUsd(0),
    })
}

/// Returns the usage of the current month.
async fn current(
    State(app): State<App>,
    caller: CustomerCaller,
    _: NoQuery,
) -> Result<Json<Current>, Problem> {
    let month = Month::containing(app.clock.now());
    let plan = app.plans.get(&caller.plan);
    let key = app.store.customer_key(caller.key_id).await?;
    let overrides = key.map(|key| key.overrides).unwrap_or_default();
    let limit = plan.and_then(|plan| plan.limits(&overrides).per_month);
    let counter = app.store.month_counter(&caller.id, month).await?;
    // All numbers are computed from one read of the days, so that they agree with each other.
    let days = app.store.day_usage(&caller.id, month).await?;
    let mut aggregate = Aggregate::default();
    days.values().for_each(|day| aggregate.merge(day));
    let overage = overage(&app.plans, &billable_days(&days)).ok();
    let overage = overage.map(|mut lines| {
        if !lines.iter().any(|line| line.plan == caller.plan) {
            lines.extend(plan.and_then(unused_plan));
        }
        Overage::from(lines)
    });
    Ok(Json(Current {
        customer_id: caller.id,
        plan: caller.plan,
        period: Period {
            month,
            starts_at: month.start(),
            ends_at: month.end(),
        },
        admitted: Admitted {
            calls: counter.admitted(),
            uncounted: counter.uncounted,
            reserved: counter.reserved.saturating_sub(counter.spent),
            limit,
            remaining: limit.map(|limit| limit.saturating_sub(counter.spent)),
        },
        metered: Metered {
            calls: aggregate.calls,
            billable_calls: aggregate.billable_calls(),
            client_errors: aggregate.client_errors,
            server_errors: aggregate.server_errors,
            average_latency_ms: aggregate
                .latency_ms
                .checked_div(aggregate.calls)
                .unwrap_or(0),
            tokens: aggregate.tokens,
            cost: aggregate.cost.into(),
        },
        adjustments: Adjustments {
            count: aggregate.adjusted.count,
            billable_calls: aggregate.adjusted.billable_calls(),
            cost: SignedAmount::of(aggregate.adjusted.micro_usd),
        },
        overage,
    }))
}

/// Lists the adjustments of a month of the caller, each with its reason.
async fn adjustments(
    State(app): State<App>,
    caller: CustomerCaller,
    QueryParams(query): QueryParams<AdjustmentsQuery>,
) -> Result<Json<List<AdjustmentView>>, Problem> {
    let (list_request, month) = query.listing(&caller.id, app.clock.now())?;
    let page = app
        .store
        .adjustments(&caller.id, month, list_request.after());
    Ok(Json(list_request.page(page.await?)))
}
