//! `/_local`: the levers that only the local product has.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use billing::{Mode, Report};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_domain::time::Rfc3339;
use tollgate_local_aws::LocalAws;
use tollgate_runtime::Clock;
use tollgate_web::{JsonBody, Problem};

use crate::consumer::{Consumer, Drained};
use crate::gateway::Gateway;
use crate::local_clock::LocalClock;

/// Dead letters in one answer.
const MAX_DEAD_LETTERS: u32 = 100;

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) local_clock: LocalClock,
    pub(crate) clock: Clock,
    pub(crate) aws: LocalAws,
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) billing: billing::App,
    pub(crate) reconciliation: reconciliation::App,
}

pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/_local/clock", get(tell).post(set))
        .route("/_local/drain", post(drain))
        .route("/_local/nightly", post(night))
        .route("/_local/dead-letters", get(dead_letters))
        .with_state(app)
}

#[derive(Debug, Serialize)]
struct Time {
    now: Timestamp,
}

/// Exactly one of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    now: Option<Rfc3339>,
    advance_s: Option<i64>,
}

async fn tell(State(app): State<App>) -> Json<Time> {
    Json(Time {
        now: app.clock.now(),
    })
}

async fn set(State(app): State<App>, JsonBody(to): JsonBody<Move>) -> Result<Json<Time>, Problem> {
    // Usage that waits is of the time before: after a leap it would be late, or of the future.
    app.consumer.drain().await.map_err(Problem::internal)?;
    let moved = match (to.now, to.advance_s) {
        (Some(Rfc3339(now)), None) => app.local_clock.set(now),
        (None, Some(seconds)) => app.local_clock.advance(SignedDuration::from_secs(seconds)),
        _ => return Err(Problem::unprocessable("Give either now or advance_s.")),
    };
    moved.map_err(|error| Problem::unprocessable(format!("The clock stays: {error}.")))?;
    Ok(tell(State(app)).await)
}

#[derive(Debug, Serialize)]
struct DrainReport {
    #[serde(flatten)]
    drained: Drained,
    /// Messages that wait as dead letters, from before as well.
    dead_letters: u64,
}

async fn drain(State(app): State<App>) -> Result<Json<DrainReport>, Problem> {
    let drained = app.consumer.drain().await.map_err(Problem::internal)?;
    let counts = app.aws.queue().counts().map_err(Problem::internal)?;
    Ok(Json(DrainReport {
        drained,
        dead_letters: counts.dead,
    }))
}

/// What runs at night, one after the other.
#[derive(Debug, Serialize)]
struct Night {
    #[serde(flatten)]
    billing: Report,
    /// Of the day before.
    reconciliation: reconciliation::Report,
}

async fn night(State(app): State<App>) -> Result<Json<Night>, Problem> {
    app.gateway.end_authorizer().await;
    // By the time of night on AWS, usage has been delivered for hours.
    app.consumer.drain().await.map_err(Problem::internal)?;
    Ok(Json(Night {
        billing: billing::run(&app.billing, Mode::Charge).await?,
        reconciliation: reconciliation::handle(&app.reconciliation).await?,
    }))
}

#[derive(Debug, Serialize)]
struct DeadLetters {
    /// The oldest hundred.
    data: Vec<DeadLetter>,
}

#[derive(Debug, Serialize)]
struct DeadLetter {
    id: String,
    /// The event, or the text if it is no JSON.
    body: Value,
}

async fn dead_letters(State(app): State<App>) -> Result<Json<DeadLetters>, Problem> {
    let letters = app.aws.queue().dead_letters(MAX_DEAD_LETTERS);
    let letters = letters.map_err(Problem::internal)?;
    let data = letters.into_iter().map(|letter| DeadLetter {
        id: letter.id.to_string(),
        body: serde_json::from_str(&letter.body).unwrap_or(Value::String(letter.body)),
    });
    Ok(Json(DeadLetters {
        data: data.collect(),
    }))
}
