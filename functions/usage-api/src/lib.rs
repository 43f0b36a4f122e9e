//! Usage, for the customer whose it is.

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

/// What the function works with.
#[derive(Debug, Clone)]
pub struct App {
    /// Counters and tallies.
    pub store: Store,
    /// What each plan includes.
    pub plans: Catalog,
    /// Decides which month is the current one.
    pub clock: Clock,
}

impl App {
    /// As the environment says.
    ///
    /// # Errors
    /// When it does not say enough.
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

/// The routes.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/api/usage/current", get(current))
        .route("/api/usage/adjustments", get(adjustments))
        .with_state(app)
}

/// The current UTC month of one customer.
#[derive(Debug, Serialize)]
struct Current {
    customer_id: CustomerId,
    plan: PlanId,
    period: Period,
    /// Calls that the authorizer let in: what limits are held against, and nothing else.
    admitted: Admitted,
    /// Calls that were answered and counted, here or elsewhere: what bills are made of. A few seconds
    /// behind.
    metered: Metered,
    /// Corrections of what was counted, which are in the overage and in no number of `metered`.
    adjustments: Adjusted,
    /// What bills are made of, as far as this month's `metered` and `adjustments` go; `null` while a plan
    /// of the month's calls is not in the catalogue: what they cost is not known.
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
    /// Those of them that were let in while the store was down, and count towards no limit.
    uncounted: u64,
    /// Calls beyond those that instances of the authorizer may let in, or have let in since they last
    /// reserved some, without asking: they count towards the limit already.
    reserved: u64,
    /// Calls after which all with this key are refused; `null` if there is no such number.
    limit: Option<u64>,
    /// What is left of them.
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
struct Adjusted {
    count: u64,
    billable_calls: i64,
    cost: SignedAmount,
}

#[derive(Debug, Serialize)]
struct Overage {
    /// On all plans.
    calls: u64,
    /// Not rounded; what is charged is the month's sum to the nearest cent, half a cent up.
    cost: Amount,
    /// The plans that charge: the one that the customer is on, and those of calls of this month.
    plans: Vec<OfPlan>,
}

/// Calls on one plan, which bills hold against what this plan includes.
#[derive(Debug, Serialize)]
struct OfPlan {
    plan: PlanId,
    /// Billable calls on it, adjustments included.
    billable_calls: u64,
    /// Calls of a month that cost nothing more.
    included: u64,
    /// What is left of them.
    remaining: u64,
    /// Calls beyond them, and what they cost.
    calls: u64,
    cost: Amount,
}

impl From<Vec<OverageLine>> for Overage {
    fn from(lines: Vec<OverageLine>) -> Self {
        let cost: MicroUsd = lines.iter().map(|line| line.micro_usd).sum();
        Self {
            calls: lines.iter().map(|line| line.over).sum(),
            cost: cost.into(),
            plans: lines.into_iter().map(OfPlan::from).collect(),
        }
    }
}

impl From<OverageLine> for OfPlan {
    fn from(line: OverageLine) -> Self {
        Self {
            plan: line.plan,
            billable_calls: line.calls,
            included: line.included,
            remaining: line.included.saturating_sub(line.calls),
            calls: line.over,
            cost: line.micro_usd.into(),
        }
    }
}

/// The line of a plan that charges and on which no call was made.
fn unused(plan: &Plan) -> Option<OverageLine> {
    let included = plan.included().filter(|_| plan.charges_overage())?;
    Some(OverageLine {
        plan: plan.id.clone(),
        calls: 0,
        adjusted: 0,
        included,
        over: 0,
        micro_usd: MicroUsd(0),
    })
}

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
    let units = app.store.month_units(&caller.id, month).await?;
    // Read once, so that no call is in one of the numbers and not in another.
    let days = app.store.day_usage(&caller.id, month).await?;
    let mut tally = Aggregate::default();
    days.values().for_each(|of_day| tally.merge(of_day));
    let overage = overage(&app.plans, &billable_days(&days)).ok();
    let overage = overage.map(|mut lines| {
        if !lines.iter().any(|line| line.plan == caller.plan) {
            lines.extend(plan.and_then(unused));
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
            calls: units.admitted(),
            uncounted: units.uncounted,
            reserved: units.reserved.saturating_sub(units.spent),
            limit,
            remaining: limit.map(|limit| limit.saturating_sub(units.spent)),
        },
        metered: Metered {
            calls: tally.calls,
            billable_calls: tally.billable_calls(),
            client_errors: tally.client_errors,
            server_errors: tally.server_errors,
            average_latency_ms: tally.latency_ms.checked_div(tally.calls).unwrap_or(0),
            tokens: tally.tokens,
            cost: tally.cost.into(),
        },
        adjustments: Adjusted {
            count: tally.adjusted.count,
            billable_calls: tally.adjusted.billable_calls(),
            cost: SignedAmount::of(tally.adjusted.micro_usd),
        },
        overage,
    }))
}

/// The corrections of the caller's month, each with its reason.
async fn adjustments(
    State(app): State<App>,
    caller: CustomerCaller,
    QueryParams(query): QueryParams<AdjustmentsQuery>,
) -> Result<Json<List<AdjustmentView>>, Problem> {
    let (listing, month) = query.listing(&caller.id, app.clock.now())?;
    let page = app.store.adjustments(&caller.id, month, listing.after());
    Ok(Json(listing.page(page.await?)))
}
