//! Billing by hand, and the ledger.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use billing::{Mode, Report};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::CustomerId;
use tollgate_domain::window::Month;
use tollgate_store::LedgerEntry;
use tollgate_web::{
    AdminCaller, Amount, Cursor, InvalidCursor, JsonBody, List, Listing, NoQuery, PathParam,
    Problem, QueryParams,
};

use crate::App;

/// The routes.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/billing/run", post(run))
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
    let app = billing::App {
        store: app.store,
        plans: app.plans,
        clock: app.clock,
        metrics: app.metrics,
    };
    Ok(Json(billing::run(&app, mode).await?))
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
    /// The month's overage when the charge was computed, not rounded.
    cumulative: Amount,
    from_call: u64,
    to_call: u64,
    /// What adjustments had added to the month's billable calls, or taken away.
    adjusted_calls: i64,
    usage_digest: String,
    created_at: Timestamp,
}

impl From<LedgerEntry> for ChargeView {
    fn from(entry: LedgerEntry) -> Self {
        let intent = entry.intent;
        Self {
            id: intent.id,
            month: intent.month,
            number: intent.number,
            status: entry.status,
            amount: intent.cents.into(),
            cumulative: intent.cumulative.into(),
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
