//! `POST /api/billing/checkout`, and the same for admins.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lambda_http::http::StatusCode;
use tollgate_api::payments::{Checkout, StartCheckout};
use tollgate_api::problem::{
    CheckoutError, Conflict, Member, NotFound, PaymentsUnavailable, Unprocessable,
};
use tollgate_api::schema;
use tollgate_domain::id::{CustomerId, KeyId, PlanId};
use tollgate_payments::{CheckoutOutcome, NewCheckout};
use tollgate_web::{
    AdminCaller, IdempotencyKey, JsonBody, ManagingCaller, NoQuery, PathParam, Problem,
};

use crate::App;
use crate::problems::{check_return_url, no_such_customer, problem};

tollgate_web::operations!(pub(crate) (app: App) start, start_for);

/// Starts a checkout: creates a page of Stripe's on which the caller subscribes to a plan. It ends an earlier one of the
/// caller's that is not completed: its page no longer works.
#[utoipa::path(
    post,
    path = "/api/billing/checkout",
    operation_id = "startCheckout",
    tag = "payments",
    params(("Idempotency-Key" = Option<String>, Header, description = "Key of the request: a repetition within 24 hours returns the same session.", pattern = "^[!-~]{1,255}$")),
    request_body = StartCheckout,
    responses(
        (status = 201, description = "The session was started.", body = Checkout),
        (status = 200, description = "A repetition of a request with the same `Idempotency-Key`: the session that it started, as it is now.", body = Checkout),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
        (status = 500, response = CheckoutError),
        (status = 503, response = PaymentsUnavailable),
    ),
)]
async fn start(
    State(app): State<App>,
    caller: ManagingCaller,
    _: NoQuery,
    idempotency: IdempotencyKey,
    JsonBody(body): JsonBody<StartCheckout>,
) -> Result<Response, Problem> {
    app.start(&caller.key_id, &caller.id, &idempotency, &body)
        .await
}

/// Starts a checkout for a customer. It ends an earlier one of the customer's that is not completed: its page no longer
/// works.
#[utoipa::path(
    post,
    path = "/admin/customers/{customer}/checkout",
    operation_id = "startCustomerCheckout",
    tag = "billing",
    params(("customer" = schema::CustomerId, Path, description = "Id of the customer."), ("Idempotency-Key" = Option<String>, Header, description = "Key of the request: a repetition within 24 hours returns the same session.", pattern = "^[!-~]{1,255}$")),
    request_body = StartCheckout,
    responses(
        (status = 201, description = "The session was started.", body = Checkout),
        (status = 200, description = "A repetition of a request with the same `Idempotency-Key`: the session that it started, as it is now.", body = Checkout),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
        (status = 500, response = CheckoutError),
        (status = 503, response = PaymentsUnavailable),
    ),
)]
async fn start_for(
    State(app): State<App>,
    caller: AdminCaller,
    _: NoQuery,
    PathParam(customer): PathParam<CustomerId>,
    idempotency: IdempotencyKey,
    JsonBody(body): JsonBody<StartCheckout>,
) -> Result<Response, Problem> {
    app.start(&caller.key_id, &customer, &idempotency, &body)
        .await
}

impl App {
    async fn start(
        &self,
        caller: &KeyId,
        customer: &CustomerId,
        idempotency: &IdempotencyKey,
        body: &StartCheckout,
    ) -> Result<Response, Problem> {
        for (field, url) in [
            ("success_url", &body.success_url),
            ("cancel_url", &body.cancel_url),
        ] {
            check_return_url(&self.return_origins, field, url)?;
        }
        // An admin may use one key for several customers.
        let request = serde_json::to_string(&(customer, body)).map_err(Problem::internal)?;
        let mark = idempotency.mark("checkout", caller, &request);
        let new = NewCheckout {
            customer,
            plan: &body.plan,
            success_url: &body.success_url,
            cancel_url: &body.cancel_url,
            idempotency: mark.as_ref(),
        };
        let outcome = self.payments.start_checkout(&new).await;
        self.payments.metrics.write();
        match outcome.map_err(problem)? {
            CheckoutOutcome::Started(checkout) => Ok(respond(StatusCode::CREATED, checkout)),
            CheckoutOutcome::Repeated(checkout) => Ok(respond(StatusCode::OK, checkout)),
            CheckoutOutcome::KeyReused => Err(IdempotencyKey::reused()),
            CheckoutOutcome::NoCustomer => Err(no_such_customer()),
            CheckoutOutcome::Erased => Err(Problem::conflict("The customer was erased.")),
            CheckoutOutcome::NoSuchPlan(offered) => {
                let detail = format!("There is no plan {}.", body.plan);
                Err(not_for_sale(detail, &offered))
            }
            CheckoutOutcome::RetiredPlan(offered) => {
                let detail = format!(
                    "The plan {} is retired, and takes no new customers.",
                    body.plan
                );
                Err(not_for_sale(detail, &offered))
            }
            CheckoutOutcome::NoPrice(offered) => {
                let detail = format!("The plan {} cannot be bought by checkout.", body.plan);
                Err(not_for_sale(detail, &offered))
            }
            CheckoutOutcome::OnPlan => {
                let detail = format!(
                    "The customer has a subscription to the plan {} already.",
                    body.plan
                );
                Err(Problem::conflict(detail).with(Member::Field, "plan"))
            }
            CheckoutOutcome::Subscribed => {
                let detail = "The customer has a subscription already. Its plan is changed in the billing portal.";
                Err(Problem::conflict(detail))
            }
            CheckoutOutcome::BeingPaid => {
                let detail = "An earlier checkout of the customer cannot be ended: it may just be being paid. Try \
                              again in a minute.";
                Err(Problem::conflict(detail))
            }
        }
    }
}

fn respond(status: StatusCode, checkout: Checkout) -> Response {
    (status, Json(checkout)).into_response()
}

/// Creates the 422 for a plan that cannot be bought, with those that can.
fn not_for_sale(detail: String, offered: &[PlanId]) -> Problem {
    let offered: Vec<&str> = offered.iter().map(PlanId::as_str).collect();
    Problem::unprocessable(detail)
        .with(Member::Field, "plan")
        .with(Member::Plans, offered)
}
