//! `POST /api/billing/portal`, and the same for admins.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lambda_http::http::StatusCode;
use tollgate_api::payments::{OpenPortal, Portal};
use tollgate_api::problem::{Conflict, NotFound, PaymentsUnavailable, Unprocessable};
use tollgate_api::schema;
use tollgate_domain::id::CustomerId;
use tollgate_payments::PortalOutcome;
use tollgate_web::{AdminCaller, JsonBody, ManagingCaller, NoQuery, PathParam, Problem};

use crate::App;
use crate::problems::{check_return_url, no_such_customer, problem};

tollgate_web::operations!(pub(crate) (app: App) open, open_for);

/// Opens the billing portal: pages of Stripe's on which the caller manages the subscription and the payment methods.
#[utoipa::path(
    post,
    path = "/api/billing/portal",
    operation_id = "openPortal",
    tag = "payments",
    request_body = OpenPortal,
    responses(
        (status = 201, description = "The portal was opened.", body = Portal),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
        (status = 503, response = PaymentsUnavailable),
    ),
)]
async fn open(
    State(app): State<App>,
    caller: ManagingCaller,
    _: NoQuery,
    JsonBody(body): JsonBody<OpenPortal>,
) -> Result<Response, Problem> {
    app.open(&caller.id, &body).await
}

/// Opens the billing portal for a customer.
#[utoipa::path(
    post,
    path = "/admin/customers/{customer}/portal",
    operation_id = "openCustomerPortal",
    tag = "billing",
    params(("customer" = schema::CustomerId, Path, description = "Id of the customer.")),
    request_body = OpenPortal,
    responses(
        (status = 201, description = "The portal was opened.", body = Portal),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
        (status = 503, response = PaymentsUnavailable),
    ),
)]
async fn open_for(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(customer): PathParam<CustomerId>,
    JsonBody(body): JsonBody<OpenPortal>,
) -> Result<Response, Problem> {
    app.open(&customer, &body).await
}

impl App {
    async fn open(&self, customer: &CustomerId, body: &OpenPortal) -> Result<Response, Problem> {
        check_return_url(&self.return_origins, "return_url", &body.return_url)?;
        let outcome = self.payments.open_portal(customer, &body.return_url).await;
        self.payments.metrics.write();
        match outcome.map_err(problem)? {
            PortalOutcome::Opened(portal) => {
                Ok((StatusCode::CREATED, Json::<Portal>(portal)).into_response())
            }
            PortalOutcome::NoCustomer => Err(no_such_customer()),
            PortalOutcome::NotLinked => {
                let detail =
                    "The customer is not known to Stripe, and will be with the first checkout.";
                Err(Problem::conflict(detail))
            }
        }
    }
}
