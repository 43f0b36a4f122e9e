//! `GET /api/billing/invoices`, and the same for admins.

use axum::Json;
use axum::extract::State;
use tollgate_api::payments::Invoice;
use tollgate_api::problem::{Conflict, NotFound, PaymentsUnavailable};
use tollgate_api::schema;
use tollgate_api::{List, PageQuery};
use tollgate_domain::id::CustomerId;
use tollgate_web::{
    AdminCaller, ListRequest, ManagingCaller, PathParam, Problem, QueryParams, page_size,
};

use crate::App;
use crate::problems::{no_such_customer, problem};

tollgate_web::operations!(pub(crate) (app: App) list, list_of);

/// Lists the invoices of the caller, newest first. Drafts are left out.
#[utoipa::path(
    get,
    path = "/api/billing/invoices",
    operation_id = "listInvoices",
    tag = "payments",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of invoices.", body = List<Invoice>),
        (status = 409, response = Conflict),
        (status = 503, response = PaymentsUnavailable),
    ),
)]
async fn list(
    State(app): State<App>,
    caller: ManagingCaller,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Json<List<Invoice>>, Problem> {
    app.invoices(&caller.id, &query).await
}

/// Lists the invoices of a customer, newest first. Drafts are left out.
#[utoipa::path(
    get,
    path = "/admin/customers/{customer}/invoices",
    operation_id = "listCustomerInvoices",
    tag = "billing",
    params(("customer" = schema::CustomerId, Path, description = "Id of the customer."), PageQuery),
    responses(
        (status = 200, description = "A page of invoices.", body = List<Invoice>),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 503, response = PaymentsUnavailable),
    ),
)]
async fn list_of(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(customer): PathParam<CustomerId>,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Json<List<Invoice>>, Problem> {
    app.invoices(&customer, &query).await
}

impl App {
    async fn invoices(
        &self,
        id: &CustomerId,
        query: &PageQuery,
    ) -> Result<Json<List<Invoice>>, Problem> {
        let limit = page_size(query.limit)?;
        let customer = self.payments.store.customer(id).await?;
        let customer = customer.ok_or_else(no_such_customer)?;
        // The list is that of a Stripe customer, so that a cursor of an earlier one is invalid.
        let linked = customer.recipient.as_ref();
        let linked = linked.map_or("", |recipient| recipient.customer.as_str());
        let name = format!("invoices {id} {linked}");
        let list_request = ListRequest::new(name, query.cursor.as_ref())?;
        let page = self
            .payments
            .invoices(&customer, list_request.after(), limit);
        let page = page.await.map_err(problem)?;
        Ok(Json(list_request.page(page, |invoice| invoice)))
    }
}
