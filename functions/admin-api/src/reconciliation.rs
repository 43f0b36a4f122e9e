//! `/admin/usage/reconciliation`: customers whose admitted and metered calls differ.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::CustomerId;
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::window::Day;
use tollgate_web::{AdminCaller, Cursor, ListRequest, Problem, QueryParams};

use crate::App;

/// Returns the routes.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/usage/reconciliation", get(show))
        .with_state(app)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    /// Yesterday by default.
    day: Option<Day>,
    cursor: Option<Cursor>,
}

/// Result of the nightly reconciliation of a UTC day.
#[derive(Debug, Serialize)]
struct Reconciliation {
    day: Day,
    /// `null` if no run has finished.
    summary: Option<Summary>,
    /// Customers whose ledgers differ by more than is tolerated.
    data: Vec<Discrepancy>,
    next_cursor: Option<Cursor>,
}

#[derive(Debug, Serialize)]
struct Summary {
    reconciled_at: Timestamp,
    /// Customers with calls in either ledger.
    customers: u64,
    admitted: u64,
    metered: u64,
    /// Customers whose ledgers differ by more than is tolerated.
    discrepancies: u64,
}

#[derive(Debug, Serialize)]
struct Discrepancy {
    customer_id: CustomerId,
    /// Calls that the authorizer allowed.
    admitted: u64,
    /// Calls that were metered at the time of the run.
    metered: u64,
    /// Calls that are metered now. Usage may come late.
    metered_now: u64,
    /// Whether no call at all was metered at the time of the run.
    silent: bool,
}

async fn show(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<Query>,
) -> Result<Json<Reconciliation>, Problem> {
    let yesterday = Day::containing(app.clock.now()).previous();
    let mut list_request = ListRequest::new("reconciliation", query.cursor.as_ref())?;
    let day = list_request.window(query.day, yesterday)?;
    let page = app
        .store
        .list_discrepancies(day, list_request.after())
        .await?;
    let summary = app.store.reconciled(day).await?;
    let mut data = Vec::with_capacity(page.items.len());
    for (customer_id, compared) in page.items {
        let LedgerComparison { admitted, metered } = compared;
        data.push(Discrepancy {
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
            discrepancies: found.discrepancies,
        }),
        data,
        next_cursor: page.next.map(|position| list_request.cursor(&position)),
    }))
}
