//! `/admin/billing`: billing runs and unbilled usage; and the charges of a customer.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use billing::{Mode, RunReport, UnbilledCustomer};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::billing::ChargedOverage;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::window::Month;
use tollgate_store::{LedgerCharge, Page};
use tollgate_web::{
    AdminCaller, Amount, Cursor, InvalidCursor, JsonBody, List, ListRequest, NoQuery, PathParam,
    Problem, QueryParams,
};

use crate::App;

/// Returns the routes.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/billing/run", post(run))
        .route("/admin/billing/unbilled", get(unbilled))
        .route("/admin/customers/{customer}/charges", get(charges))
        .with_state(app)
}

/// Request body of a billing run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunBody {
    /// Whether to write nothing and only report what would be charged. It has no default, so that a
    /// request without it cannot charge customers.
    dry_run: Option<bool>,
}

async fn run(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    JsonBody(body): JsonBody<RunBody>,
) -> Result<Json<RunReport>, Problem> {
    let mode = match body.dry_run {
        Some(true) => Mode::DryRun,
        Some(false) => Mode::Charge,
        None => {
            let detail = "dry_run is required: true reports what would be charged, false charges.";
            return Err(Problem::unprocessable(detail).with("field", "dry_run"));
        }
    };
    Ok(Json(billing::run(&app.billing(), mode).await?))
}

impl App {
    fn billing(self) -> billing::App {
        billing::App {
            store: self.store,
            plans: self.plans,
            clock: self.clock,
            metrics: self.metrics,
        }
    }
}

/// Query of the charges.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargesQuery {
    /// The current month by default.
    month: Option<Month>,
    cursor: Option<Cursor>,
}

/// A charge in the ledger.
#[derive(Debug, Serialize)]
struct ChargeView {
    id: String,
    month: Month,
    number: u64,
    status: String,
    amount: Amount,
    /// Overage that the month's charges cover up to and including this one, not rounded.
    cumulative_overage: Amount,
    /// This overage by plan. Empty for charges of releases that did not record it.
    overage_by_plan: BTreeMap<PlanId, ChargedOverageView>,
    from_call: u64,
    to_call: u64,
    /// Sum of the adjustments of the month's billable calls when the charge was made.
    adjusted_calls: i64,
    usage_digest: String,
    created_at: Timestamp,
}

/// Overage of one plan that the month's charges cover.
#[derive(Debug, Serialize)]
struct ChargedOverageView {
    calls: u64,
    cost: Amount,
}

impl From<ChargedOverage> for ChargedOverageView {
    fn from(overage: ChargedOverage) -> Self {
        Self {
            calls: overage.calls,
            cost: overage.micro_usd.into(),
        }
    }
}

impl From<LedgerCharge> for ChargeView {
    fn from(LedgerCharge { charge, status }: LedgerCharge) -> Self {
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

/// Lists the charges of a customer's month, oldest first.
async fn charges(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(customer): PathParam<CustomerId>,
    QueryParams(query): QueryParams<ChargesQuery>,
) -> Result<Json<List<ChargeView>>, Problem> {
    let name = format!("charges {customer}");
    let mut list_request = ListRequest::new(name, query.cursor.as_ref())?;
    let month = list_request.window(query.month, Month::containing(app.clock.now()))?;
    let from = match list_request.after() {
        None => 1,
        Some(position) => position.parse().map_err(|_| InvalidCursor)?,
    };
    let page = app.store.charges(&customer, month, from).await?;
    Ok(Json(list_request.page(page)))
}

/// Query of unbilled usage.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnbilledQuery {
    /// The month before the current one by default.
    month: Option<Month>,
    cursor: Option<Cursor>,
}

/// Usage of a closed month that no charge covers.
#[derive(Debug, Serialize)]
struct Unbilled {
    month: Month,
    /// `null` while the month is open: the next billing run will bill its usage.
    closed_at: Option<Timestamp>,
    /// A page may be empty and still be followed by another.
    data: Vec<UnbilledCustomerView>,
    next_cursor: Option<Cursor>,
}

/// Unbilled usage of one customer. `calls`, `overage` and `due` are `null` if they cannot be computed.
#[derive(Debug, Serialize)]
struct UnbilledCustomerView {
    customer_id: CustomerId,
    /// Overage calls that no charge covers.
    calls: Option<u64>,
    /// Cost of these calls, not rounded.
    overage: Option<Amount>,
    /// Charge that would be due for them.
    due: Option<Amount>,
    /// Reason why the numbers cannot be computed.
    reason: Option<String>,
}

impl From<UnbilledCustomer> for UnbilledCustomerView {
    fn from(UnbilledCustomer { customer_id, usage }: UnbilledCustomer) -> Self {
        let computed = usage.as_ref().ok();
        Self {
            customer_id,
            calls: computed.map(|usage| usage.calls),
            overage: computed.map(|usage| usage.overage.into()),
            due: computed.map(|usage| usage.due.into()),
            reason: usage.err().map(|error| error.to_string()),
        }
    }
}

/// Lists the customers with usage that was counted after its month had closed.
async fn unbilled(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<UnbilledQuery>,
) -> Result<Json<Unbilled>, Problem> {
    let mut list_request = ListRequest::new("unbilled", query.cursor.as_ref())?;
    let last = Month::containing(app.clock.now()).previous();
    let month = list_request.window(query.month, last)?;
    let closed_at = app.store.closed_at(month).await?;
    let page = match closed_at {
        Some(_) => billing::unbilled(&app.billing(), month, list_request.after()).await?,
        None => Page {
            items: Vec::new(),
            next: None,
        },
    };
    let List { data, next_cursor } = list_request.page(page);
    Ok(Json(Unbilled {
        month,
        closed_at,
        data,
        next_cursor,
    }))
}
