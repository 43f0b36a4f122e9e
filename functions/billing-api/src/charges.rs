//! `GET /api/billing/charges` and `…/{charge}/proof`. The list for admins, which has more members, is in admin-api.

use axum::Json;
use axum::extract::State;
use tollgate_api::billing::{ChargesQuery, Proof};
use tollgate_api::payments::CustomerCharge;
use tollgate_api::problem::NotFound;
use tollgate_api::schema;
use tollgate_api::{InvalidCursor, List};
use tollgate_billing::proof;
use tollgate_domain::submission::ChargeRef;
use tollgate_domain::window::Month;
use tollgate_payments::Payments;
use tollgate_web::{ListRequest, ManagingCaller, NoQuery, PathParam, Problem, QueryParams};

use crate::App;

tollgate_web::operations!(pub(crate) (app: App) list, show_proof);

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

/// Returns the calculation of a charge of the caller.
#[utoipa::path(
    get,
    path = "/api/billing/charges/{charge}/proof",
    operation_id = "getChargeProof",
    tag = "payments",
    params(("charge" = schema::ChargeId, Path, description = "Id of the charge.")),
    responses(
        (status = 200, description = "The calculation.", body = Proof),
        (status = 404, response = NotFound),
    ),
)]
async fn show_proof(
    State(app): State<App>,
    caller: ManagingCaller,
    _: NoQuery,
    PathParam(charge): PathParam<ChargeRef>,
) -> Result<Json<Proof>, Problem> {
    let no_such_charge = || Problem::not_found("You have no charge with this id.");
    if charge.customer != caller.id {
        return Err(no_such_charge());
    }
    let Payments { store, clock, .. } = &app.payments;
    let found = proof(store, clock, &charge).await?;
    found.map(Json).ok_or_else(no_such_charge)
}
