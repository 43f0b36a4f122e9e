//! `GET /api/secure/ping`: the smallest metered endpoint. It returns the caller's customer and plan.

use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tollgate_web::{CustomerCaller, Problem};

/// Response body.
#[derive(Debug, Serialize)]
struct Pong {
    message: &'static str,
    customer_id: String,
    plan: String,
}

/// Returns the route.
pub fn routes() -> Router {
    Router::new().route("/api/secure/ping", get(ping))
}

async fn ping(caller: CustomerCaller) -> Result<Json<Pong>, Problem> {
    Ok(Json(Pong {
        message: "pong",
        customer_id: caller.id.into(),
        plan: caller.plan.into(),
    }))
}
