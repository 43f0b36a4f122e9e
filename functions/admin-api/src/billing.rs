//! Billing by hand, the ledger, and what is in no bill.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use billing::{AtStake, Mode, Report};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::billing::ChargedOverage;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::window::Month;
use tollgate_store::{LedgerCharge, Page};
use tollgate_web::{
    AdminCaller, Amount, Cursor, InvalidCursor, JsonBody, List, Listing, NoQuery, PathParam,
    Problem, QueryParams,
};

use crate::App;

/// The routes.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/billing/run", post(run))
        .route("/admin/billing/unbilled", get(unbilled))
        .route("/admin/customers/{customer}/charges", get(charges))
        .with_state(app)
}

/// The body of a run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunBody {
    /// Writes nothing, and says what would be charged. There is no default: what charges everyone is asked
    /// for in so many words.
    dry_run: Option<bool>,
}

async fn run(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    JsonBody(body): JsonBody<RunBody>,
) -> Result<Json<Report>, Problem> {
    let mode = match body.dry_run {
        Some(true) => Mode::DryRun,
        Some(false) => Mode::Charge,
        None => {
            let detail =
                "Say whether the run is dry: true says what would be charged, false charges.";
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

/// The query of the ledger.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargesQuery {
    /// The current month if left out.
    month: Option<Month>,
    cursor: Option<Cursor>,
}

/// A charge as the ledger has it.
#[derive(Debug, Serialize)]
struct ChargeView {
    id: String,
    month: Month,
    number: u64,
    status: String,
    amount: Amount,
    /// The overage that the month's charges cover with this one, not rounded.
    cumulative: Amount,
    /// The same by plan; empty for charges of releases that did not write it down.
    plans: BTreeMap<PlanId, CoveredView>,
    from_call: u64,
    to_call: u64,
    /// What adjustments had added to the month's billable calls, or taken away.
    adjusted_calls: i64,
    usage_digest: String,
    created_at: Timestamp,
}

/// Overage of a plan that the month's charges cover.
#[derive(Debug, Serialize)]
struct CoveredView {
    calls: u64,
    cost: Amount,
}

impl From<ChargedOverage> for CoveredView {
    fn from(covered: ChargedOverage) -> Self {
        Self {
            calls: covered.calls,
            cost: covered.micro_usd.into(),
        }
    }
}

impl From<LedgerCharge> for ChargeView {
    fn from(entry: LedgerCharge) -> Self {
        let intent = entry.intent;
        let plans = intent.covered.into_iter();
        Self {
            id: intent.id,
            month: intent.month,
            number: intent.number,
            status: entry.status,
            amount: intent.cents.into(),
            cumulative: intent.cumulative.into(),
            plans: plans
                .map(|(plan, covered)| (plan, covered.into()))
                .collect(),
            from_call: intent.from_call,
            to_call: intent.to_call,
            adjusted_calls: intent.adjusted_calls,
            usage_digest: intent.usage_digest,
            created_at: intent.created_at,
        }
    }
}

/// The charges of a customer's month, oldest first.
async fn charges(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(customer): PathParam<CustomerId>,
    QueryParams(query): QueryParams<ChargesQuery>,
) -> Result<Json<List<ChargeView>>, Problem> {
    let name = format!("charges {customer}");
    let mut listing = Listing::new(name, query.cursor.as_ref())?;
    let month = listing.window(query.month, Month::containing(app.clock.now()))?;
    let from = match listing.after() {
        None => 1,
        Some(place) => place.parse().map_err(|_| InvalidCursor)?,
    };
    let page = app.store.charges(&customer, month, from).await?;
    Ok(Json(listing.page(page)))
}

/// The query of what is in no bill.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnbilledQuery {
    /// The month before the current one if left out.
    month: Option<Month>,
    cursor: Option<Cursor>,
}

/// Usage of a closed month that no charge covers.
#[derive(Debug, Serialize)]
struct Unbilled {
    month: Month,
    /// `null` while the month is open: a run will bill what there is.
    closed_at: Option<Timestamp>,
    /// A page may be empty and have a next one.
    data: Vec<AtStakeView>,
    next_cursor: Option<Cursor>,
}

/// What is at stake of one customer.
#[derive(Debug, Serialize)]
struct AtStakeView {
    customer_id: CustomerId,
    /// Overage calls that are in no bill, what they cost, and the charge that would be due for them.
    /// All `null` if that is not known.
    calls: Option<u64>,
    overage: Option<Amount>,
    due: Option<Amount>,
    /// Why it is not known.
    reason: Option<String>,
}

impl From<AtStake> for AtStakeView {
    fn from(AtStake { customer_id, stake }: AtStake) -> Self {
        let known = stake.as_ref().ok();
        Self {
            customer_id,
            calls: known.map(|stake| stake.calls),
            overage: known.map(|stake| stake.overage.into()),
            due: known.map(|stake| stake.due.into()),
            reason: stake.err().map(|error| error.to_string()),
        }
    }
}

/// The customers with usage that was counted after its month had closed.
async fn unbilled(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<UnbilledQuery>,
) -> Result<Json<Unbilled>, Problem> {
    let mut listing = Listing::new("unbilled", query.cursor.as_ref())?;
    let last = Month::containing(app.clock.now()).previous();
    let month = listing.window(query.month, last)?;
    let closed_at = app.store.closed_at(month).await?;
    let page = match closed_at {
        Some(_) => billing::unbilled(&app.billing(), month, listing.after()).await?,
        None => Page {
            items: Vec::new(),
            next: None,
        },
    };
    let List { data, next_cursor } = listing.page(page);
    Ok(Json(Unbilled {
        month,
        closed_at,
        data,
        next_cursor,
    }))
}
