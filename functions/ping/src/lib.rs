//! `GET /api/secure/ping`: the smallest metered endpoint. It returns the caller's customer and plan.

use axum::Json;
use tollgate_api::examples::Pong;
use tollgate_web::{CustomerCaller, Problem};

tollgate_web::operations!(pub () ping);

/// Returns the caller's customer and plan: the smallest metered endpoint.
#[utoipa::path(
    get,
    path = "/api/secure/ping",
    operation_id = "ping",
    tag = "examples",
    responses(
        (status = 200, description = "The caller.", body = Pong),
    ),
)]
async fn ping(caller: CustomerCaller) -> Result<Json<Pong>, Problem> {
    Ok(Json(Pong {
        message: "pong",
        customer_id: caller.id.into(),
        plan: caller.plan.into(),
    }))
}
