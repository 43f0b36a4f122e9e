//! `GET /api/billing/charges`. The list for admins, which has more members, is in admin-api.

use axum::Json;
use axum::extract::State;
use tollgate_api::billing::ChargesQuery;
use tollgate_api::payments::CustomerCharge;
use tollgate_api::{InvalidCursor, List};
use tollgate_domain::window::Month;
use tollgate_web::{ListRequest, ManagingCaller, Problem, QueryParams};

use crate::App;

tollgate_web::operations!(pub(crate) (app: App) list);

/// Lists the charges of a month of the caller, oldest first.
#[utoipa::path(
    get,
    path = "/api/billing/charges",
    operation_id = "listCharges",
    tag = "payments",
    params(ChargesQuery),
    responses(
        (status = 200, description = "A page of charges.", body = List<CustomerCharge>),
    ),
)]
async fn list(
    State(app): State<App>,
    caller: ManagingCaller,
    QueryParams(query): QueryParams<ChargesQuery>,
) -> Result<Json<List<CustomerCharge>>, Problem> {
    let name = format!("charges {}", caller.id);
    let mut list_request = ListRequest::new(name, query.cursor.as_ref())?;
    let this_month = Month::containing(app.payments.clock.now());
    let month = list_request.window(query.month, this_month)?;
    let from = match list_request.after() {
        None => 1,
        Some(position) => position.parse().map_err(|_| InvalidCursor)?,
    };
    let page = app.payments.store.charges(&caller.id, month, from).await?;
    Ok(Json(list_request.page(page, CustomerCharge::new)))
}
