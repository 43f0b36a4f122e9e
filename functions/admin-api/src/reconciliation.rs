//! `/admin/usage/reconciliation`: where the calls that were let in are not those that were metered.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::CustomerId;
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::window::Day;
use tollgate_web::{AdminCaller, Cursor, Listing, Problem, QueryParams};

use crate::App;

/// The routes.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/usage/reconciliation", get(show))
        .with_state(app)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    /// Yesterday if left out.
    day: Option<Day>,
    cursor: Option<Cursor>,
}

/// What the run of the night found of a UTC day.
#[derive(Debug, Serialize)]
struct Reconciliation {
    day: Day,
    /// `null` if no run has come to its end.
    summary: Option<Summary>,
    /// The customers whose ledgers differ by more than is tolerated.
    data: Vec<Difference>,
    next_cursor: Option<Cursor>,
}

#[derive(Debug, Serialize)]
struct Summary {
    reconciled_at: Timestamp,
    /// With calls in either ledger.
    customers: u64,
    admitted: u64,
    metered: u64,
    /// Customers whose ledgers differ by more than is tolerated.
    differences: u64,
}

#[derive(Debug, Serialize)]
struct Difference {
    customer_id: CustomerId,
    /// Calls that the authorizer let in.
    admitted: u64,
    /// Calls that were metered when the run looked.
    metered: u64,
    /// Calls that are metered by now: usage may come late.
    metered_now: u64,
    /// Whether none was metered.
    silent: bool,
}

async fn show(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<Query>,
) -> Result<Json<Reconciliation>, Problem> {
    let yesterday = Day::containing(app.clock.now()).previous();
    let mut listing = Listing::new("reconciliation", query.cursor.as_ref())?;
    let day = listing.window(query.day, yesterday)?;
    let page = app.store.differences(day, listing.after()).await?;
    let summary = app.store.reconciled(day).await?;
    let mut data = Vec::with_capacity(page.items.len());
    for (customer_id, compared) in page.items {
        let LedgerComparison { admitted, metered } = compared;
        data.push(Difference {
            admitted,
            metered,
            metered_now: app.store.metered_calls(&customer_id, day).await?,
            silent: compared.is_silent(),
            customer_id,
        });
    }
    Ok(Json(Reconciliation {
        day,
        summary: summary.map(|(found, reconciled_at)| Summary {
            reconciled_at,
            customers: found.customers,
            admitted: found.total.admitted,
            metered: found.total.metered,
            differences: found.off,
        }),
        data,
        next_cursor: page.next.map(|place| listing.cursor(&place)),
    }))
}
