//! `GET /api/billing/subscription`, and the same for admins.

use axum::Json;
use axum::extract::State;
use tollgate_api::payments::CustomerSubscription;
use tollgate_api::problem::{Conflict, NotFound, PaymentsUnavailable};
use tollgate_api::schema;
use tollgate_domain::id::CustomerId;
use tollgate_web::{AdminCaller, ManagingCaller, NoQuery, PathParam, Problem};

use crate::App;
use crate::problems::{no_such_customer, problem};

tollgate_web::operations!(pub(crate) (app: App) show, show_of);

/// Returns the plan and the subscription of the caller.
#[utoipa::path(
    get,
    path = "/api/billing/subscription",
    operation_id = "getSubscription",
    tag = "payments",
    responses(
        (status = 200, description = "The plan and the subscription.", body = CustomerSubscription),
        (status = 409, response = Conflict),
        (status = 503, response = PaymentsUnavailable),
    ),
)]
async fn show(
    State(app): State<App>,
    caller: ManagingCaller,
    _: NoQuery,
) -> Result<Json<CustomerSubscription>, Problem> {
    app.subscription(&caller.id).await
}

/// Returns the plan and the subscription of a customer.
#[utoipa::path(
    get,
    path = "/admin/customers/{customer}/subscription",
    operation_id = "getCustomerSubscription",
    tag = "billing",
    params(("customer" = schema::CustomerId, Path, description = "Id of the customer.")),
    responses(
        (status = 200, description = "The plan and the subscription.", body = CustomerSubscription),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 503, response = PaymentsUnavailable),
    ),
)]
async fn show_of(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(customer): PathParam<CustomerId>,
) -> Result<Json<CustomerSubscription>, Problem> {
    app.subscription(&customer).await
}

impl App {
    async fn subscription(
        &self,
        customer: &CustomerId,
    ) -> Result<Json<CustomerSubscription>, Problem> {
        let found = self.payments.subscription(customer).await;
        found
            .map_err(problem)?
            .map(Json)
            .ok_or_else(no_such_customer)
    }
}
