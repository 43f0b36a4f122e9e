//! `/admin/usage/reconciliation`: customers whose admitted and metered calls differ.

use axum::Json;
use axum::extract::State;
use tollgate_api::reconciliation::{
    Discrepancy, Reconciliation, ReconciliationQuery, ReconciliationSummary,
};
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::window::Day;
use tollgate_web::{AdminCaller, ListRequest, Problem, QueryParams};

use crate::App;

tollgate_web::operations!(pub(crate) (app: App) show);

/// Returns the result of the reconciliation of a day.
#[utoipa::path(
    get,
    path = "/admin/usage/reconciliation",
    operation_id = "getReconciliation",
    tag = "usage",
    params(ReconciliationQuery),
    responses(
        (status = 200, description = "The result.", body = Reconciliation),
    ),
)]
async fn show(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<ReconciliationQuery>,
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
        summary: summary.map(|(found, reconciled_at)| ReconciliationSummary {
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
