//! `/admin/billing`: billing runs and unbilled usage; and the charges of a customer.

use axum::Json;
use axum::extract::State;
use tollgate_api::billing::{
    BillingRun, Charge, ChargesQuery, OpenCharge, OpenChargesQuery, Proof, RunBilling, Unbilled,
    UnbilledCustomer, UnbilledQuery,
};
use tollgate_api::problem::{Member, NotFound, Unprocessable};
use tollgate_api::schema;
use tollgate_api::{InvalidCursor, List};
use tollgate_billing::{Mode, Part, proof, run as run_billing, unbilled as list_unbilled};
use tollgate_domain::id::CustomerId;
use tollgate_domain::page::Page;
use tollgate_domain::submission::{ChargeRef, ChargeStatus};
use tollgate_domain::window::Month;
use tollgate_web::{
    AdminCaller, JsonBody, ListRequest, NoQuery, PathParam, PathParams, Problem, QueryParams,
};

use crate::App;

/// Open charges read for a page, each with a read of its own.
const OPEN_CHARGES: i32 = 25;

tollgate_web::operations!(pub(crate) (app: App) run, charges, open_charges, show_proof, unbilled);

/// Runs billing, or reports what a run would charge.
///
/// Charges are written to the ledger. The next nightly run submits them.
#[utoipa::path(
    post,
    path = "/admin/billing/run",
    operation_id = "runBilling",
    tag = "billing",
    request_body = RunBilling,
    responses(
        (status = 200, description = "The result of the run.", body = BillingRun),
        (status = 422, response = Unprocessable),
    ),
)]
async fn run(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    JsonBody(body): JsonBody<RunBilling>,
) -> Result<Json<BillingRun>, Problem> {
    let mode = match body.dry_run {
        Some(true) => Mode::DryRun,
        Some(false) => Mode::Charge,
        None => {
            let detail = "dry_run is required: true reports what would be charged, false charges.";
            return Err(Problem::unprocessable(detail).with(Member::Field, "dry_run"));
        }
    };
    let (report, _) = run_billing(&app.billing, mode, Part::default()).await?;
    Ok(Json(report))
}

/// Lists the charges of a customer's month, oldest first.
#[utoipa::path(
    get,
    path = "/admin/customers/{customer}/charges",
    operation_id = "listCustomerCharges",
    tag = "billing",
    params(("customer" = schema::CustomerId, Path, description = "Id of the customer."), ChargesQuery),
    responses(
        (status = 200, description = "A page of charges.", body = List<Charge>),
        (status = 404, response = NotFound),
    ),
)]
async fn charges(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(customer): PathParam<CustomerId>,
    QueryParams(query): QueryParams<ChargesQuery>,
) -> Result<Json<List<Charge>>, Problem> {
    let name = format!("charges {customer}");
    let mut list_request = ListRequest::new(name, query.cursor.as_ref())?;
    let month = list_request.window(query.month, Month::containing(app.clock.now()))?;
    let from = match list_request.after() {
        None => 1,
        Some(position) => position.parse().map_err(|_| InvalidCursor)?,
    };
    let page = app.store.charges(&customer, month, from).await?;
    Ok(Json(list_request.page(page, Charge::new)))
}

/// Lists the charges of all customers that are not settled.
#[utoipa::path(
    get,
    path = "/admin/billing/charges",
    operation_id = "listOpenCharges",
    tag = "billing",
    params(OpenChargesQuery),
    responses(
        (status = 200, description = "A page of charges.", body = List<OpenCharge>),
    ),
)]
async fn open_charges(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<OpenChargesQuery>,
) -> Result<Json<List<OpenCharge>>, Problem> {
    let status = ChargeStatus::from(query.status);
    let name = format!("open charges {}", status.as_str());
    let list_request = ListRequest::new(name, query.cursor.as_ref())?;
    let page = app
        .store
        .open_charges(status, None, list_request.after(), Some(OPEN_CHARGES))
        .await?;
    let mut items = Vec::with_capacity(page.items.len());
    for name in page.items {
        let charge = app.store.charge(&name).await?;
        // The index may be behind the ledger.
        items.extend(charge.filter(|charge| charge.state.status() == status));
    }
    let page = Page {
        items,
        next: page.next,
    };
    Ok(Json(list_request.page(page, |charge| OpenCharge {
        customer_id: charge.charge.customer.clone(),
        charge: Charge::new(charge),
    })))
}

/// Returns the calculation of a charge.
#[utoipa::path(
    get,
    path = "/admin/customers/{customer}/charges/{charge}/proof",
    operation_id = "getCustomerChargeProof",
    tag = "billing",
    params(
        ("customer" = schema::CustomerId, Path, description = "Id of the customer."),
        ("charge" = schema::ChargeId, Path, description = "Id of the charge."),
    ),
    responses(
        (status = 200, description = "The calculation.", body = Proof),
        (status = 404, response = NotFound),
    ),
)]
async fn show_proof(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParams(customer, charge): PathParams<CustomerId, ChargeRef>,
) -> Result<Json<Proof>, Problem> {
    let no_such_charge = || Problem::not_found("The customer has no charge with this id.");
    if charge.customer != customer {
        return Err(no_such_charge());
    }
    let found = proof(&app.store, &app.clock, &charge).await?;
    found.map(Json).ok_or_else(no_such_charge)
}

/// Lists the customers with usage that was counted after its month had closed.
#[utoipa::path(
    get,
    path = "/admin/billing/unbilled",
    operation_id = "listUnbilled",
    tag = "billing",
    params(UnbilledQuery),
    responses(
        (status = 200, description = "A page of customers.", body = Unbilled),
    ),
)]
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
        Some(_) => list_unbilled(&app.billing, month, list_request.after()).await?,
        None => Page {
            items: Vec::new(),
            next: None,
        },
    };
    let List { data, next_cursor } = list_request.page(page, represent_unbilled);
    Ok(Json(Unbilled {
        month,
        closed_at,
        data,
        next_cursor,
    }))
}

fn represent_unbilled(customer: tollgate_billing::UnbilledCustomer) -> UnbilledCustomer {
    let usage = customer.usage;
    let computed = usage.as_ref().ok();
    UnbilledCustomer {
        customer_id: customer.customer_id,
        calls: computed.map(|usage| usage.calls),
        overage: computed.map(|usage| usage.overage.into()),
        due: computed.map(|usage| usage.due.into()),
        reason: usage.err().map(|error| error.to_string()),
    }
}
