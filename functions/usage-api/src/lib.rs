//! Usage, for the customer whose it is.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Serialize;
use tollgate_domain::billing::overage;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan::{Catalog, Plan};
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
        let sdk = aws::sdk_config(env, aws::PATIENT)?;
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
    /// Calls that the authorizer let in: what limits are held against.
    admitted: Admitted,
    /// Calls that were answered and counted: what bills are made of. A few seconds behind.
    metered: Metered,
    /// Corrections of what was counted, which are in the overage and in no other number here.
    adjustments: Adjusted,
    overage: Overage,
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
    /// Calls beyond those that instances of the authorizer may let in, or have let in within the
    /// last second or so, without asking: they count towards the limit already.
    reserved: u64,
    /// Calls after which all with this key are refused; `null` if there is no such number.
    limit: Option<u64>,
    /// Calls before what `beyond` says: those that the plan includes, or fewer if the limit is lower;
    /// `null` if there is no such number.
    included: Option<u64>,
    /// What is left of them.
    remaining: Option<u64>,
    /// Whether calls beyond them are refused, charged or free.
    beyond: Beyond,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Beyond {
    Refused,
    Charged,
    Unlimited,
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
    calls: u64,
    cost: Amount,
}

async fn current(
    State(app): State<App>,
    caller: CustomerCaller,
    _: NoQuery,
) -> Result<Json<Current>, Problem> {
    let month = Month::containing(app.clock.now());
    let plan = app.plans.get(&caller.plan);
    let key = app.store.customers_key(caller.key_id).await?;
    let overrides = key.map(|key| key.overrides).unwrap_or_default();
    let limit = plan.and_then(|plan| plan.limits(&overrides).per_month);
    let included = match plan.and_then(Plan::included) {
        Some(included) if plan.is_some_and(Plan::charges_overage) => {
            Some(limit.map_or(included, |limit| limit.min(included)))
        }
        _ => limit,
    };
    let units = app.store.month_units(&caller.id, month).await?;
    let tally = app.store.month_usage(&caller.id, month).await?;
    let days = app.store.billable_days(&caller.id, month).await?;
    let lines = overage(&app.plans, &days);
    let over_cost: MicroUsd = lines.iter().map(|line| line.micro_usd).sum();
    Ok(Json(Current {
        customer_id: caller.id,
        plan: caller.plan,
        period: Period {
            month,
            starts_at: month.start(),
            ends_at: month.end(),
        },
        admitted: Admitted {
            calls: units.spent,
            reserved: units.taken.saturating_sub(units.spent),
            limit,
            included,
            remaining: included.map(|included| included.saturating_sub(units.spent)),
            beyond: match included {
                None => Beyond::Unlimited,
                _ if included == limit => Beyond::Refused,
                _ => Beyond::Charged,
            },
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
        overage: Overage {
            calls: lines.iter().map(|line| line.over).sum(),
            cost: over_cost.into(),
        },
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
