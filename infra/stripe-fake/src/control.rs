//! Control of the stand-in over HTTP, under `/_fake`, with JSON bodies.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::checkout::Completion;
use crate::fake::{NotPossible, StripeFake};
use crate::fault::FaultRule;
use crate::webhook::{DeliveryMode, NewEndpoint, Webhook};

pub(crate) fn routes() -> Router<StripeFake> {
    Router::new()
        .route("/_fake/clock", get(clock).post(advance))
        .route(
            "/_fake/faults",
            get(faults).post(add_fault).delete(clear_faults),
        )
        .route("/_fake/webhooks", post(register))
        .route("/_fake/webhooks/delivery", post(set_delivery))
        .route("/_fake/webhooks/take", post(take))
        .route("/_fake/webhooks/{id}/secrets", post(set_secrets))
        .route("/_fake/events/{id}/redeliver", post(redeliver))
        .route("/_fake/customers/{id}/payments", post(payments))
        .route("/_fake/checkout/{id}/complete", post(complete))
        .route("/_fake/checkout/{id}/settle", post(settle))
}

/// Error of the control: status 400, or 404 for what does not exist.
struct Rejected(StatusCode, String);

impl IntoResponse for Rejected {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<NotPossible> for Rejected {
    fn from(error: NotPossible) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

/// Time by which the clock advances, or to which.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Advance {
    Seconds(i64),
    To(i64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payments {
    declined: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Complete {
    payment: Completion,
    email: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settle {
    paid: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Secrets {
    secrets: Vec<String>,
}

async fn clock(State(fake): State<StripeFake>) -> Json<Value> {
    Json(
        json!({ "now": fake.now().as_second(), "next_due": fake.next_due().map(|due| due.as_second()) }),
    )
}

async fn advance(State(fake): State<StripeFake>, Json(advance): Json<Advance>) -> Json<Value> {
    let seconds = match advance {
        Advance::Seconds(seconds) => seconds,
        Advance::To(time) => time - fake.now().as_second(),
    };
    fake.advance(SignedDuration::from_secs(seconds.max(0)));
    clock(State(fake)).await
}

async fn faults(State(fake): State<StripeFake>) -> Json<Vec<FaultRule>> {
    Json(fake.faults())
}

async fn add_fault(State(fake): State<StripeFake>, Json(rule): Json<FaultRule>) -> StatusCode {
    fake.add_fault(rule);
    StatusCode::NO_CONTENT
}

async fn clear_faults(State(fake): State<StripeFake>) -> StatusCode {
    fake.clear_faults();
    StatusCode::NO_CONTENT
}

async fn register(
    State(fake): State<StripeFake>,
    Json(endpoint): Json<NewEndpoint>,
) -> Json<Value> {
    let (id, secrets) = fake.register_endpoint(endpoint);
    Json(json!({ "id": id, "secrets": secrets }))
}

async fn set_delivery(
    State(fake): State<StripeFake>,
    Json(mode): Json<DeliveryMode>,
) -> StatusCode {
    fake.set_delivery(mode);
    StatusCode::NO_CONTENT
}

async fn take(State(fake): State<StripeFake>) -> Json<Vec<Webhook>> {
    Json(fake.take_events())
}

async fn set_secrets(
    State(fake): State<StripeFake>,
    Path(id): Path<String>,
    Json(Secrets { secrets }): Json<Secrets>,
) -> Result<StatusCode, Rejected> {
    found(fake.set_endpoint_secrets(&id, secrets))
}

async fn redeliver(
    State(fake): State<StripeFake>,
    Path(id): Path<String>,
) -> Result<StatusCode, Rejected> {
    found(fake.redeliver(&id))
}

async fn payments(
    State(fake): State<StripeFake>,
    Path(id): Path<String>,
    Json(Payments { declined }): Json<Payments>,
) -> Result<StatusCode, Rejected> {
    fake.decline_payments(&id, declined)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn complete(
    State(fake): State<StripeFake>,
    Path(id): Path<String>,
    Json(Complete { payment, email }): Json<Complete>,
) -> Result<StatusCode, Rejected> {
    fake.complete_checkout(&id, payment, email.as_deref())?;
    Ok(StatusCode::NO_CONTENT)
}

async fn settle(
    State(fake): State<StripeFake>,
    Path(id): Path<String>,
    Json(Settle { paid }): Json<Settle>,
) -> Result<StatusCode, Rejected> {
    fake.settle_checkout(&id, paid)?;
    Ok(StatusCode::NO_CONTENT)
}

fn found(exists: bool) -> Result<StatusCode, Rejected> {
    if exists {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Rejected(
            StatusCode::NOT_FOUND,
            "There is no such object.".to_owned(),
        ))
    }
}
