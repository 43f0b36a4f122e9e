//! The `/_local` routes, which only the local stack has: clock, queue and nightly runs.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use billing::BillingRunError;
use jiff::{SignedDuration, Timestamp};
use reconciliation::ReconciliationReport;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_api::billing::BillingRun;
use tollgate_domain::time::Rfc3339;
use tollgate_local_aws::LocalAws;
use tollgate_runtime::Clock;
use tollgate_web::{JsonBody, Problem};

use crate::consumer::{Consumer, DrainOutcome};
use crate::gateway::Gateway;
use crate::local_clock::LocalClock;
use crate::stand_in::Delivery;

/// Maximum number of dead letters in one response.
const MAX_DEAD_LETTERS: u32 = 100;

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) local_clock: LocalClock,
    pub(crate) clock: Clock,
    pub(crate) aws: LocalAws,
    /// Delivery of usage to the usage-writer.
    pub(crate) usage: Arc<Consumer>,
    /// Delivery of charges to the charge worker.
    pub(crate) charges: Arc<Consumer>,
    /// Delivery of events of Stripe to their worker.
    pub(crate) events: Arc<Consumer>,
    /// Delivery of the stand-in's events to the webhook endpoint.
    pub(crate) webhooks: Arc<Delivery>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) billing: billing::App,
    pub(crate) reconciliation: reconciliation::App,
}

pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/_local/clock", get(clock).post(set_clock))
        .route("/_local/drain", post(drain))
        .route("/_local/nightly", post(nightly))
        .route("/_local/dead-letters", get(dead_letters))
        .with_state(app)
}

#[derive(Debug, Serialize)]
struct Time {
    now: Timestamp,
}

/// A change of the clock: exactly one of the two members.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockChange {
    now: Option<Rfc3339>,
    advance_s: Option<i64>,
}

async fn clock(State(app): State<App>) -> Json<Time> {
    Json(Time {
        now: app.clock.now(),
    })
}

async fn set_clock(
    State(app): State<App>,
    JsonBody(change): JsonBody<ClockChange>,
) -> Result<Json<Time>, Problem> {
    // Queued usage is of the old time: after the change it would be late, or in the future.
    app.usage.drain().await.map_err(Problem::internal)?;
    let changed = match (change.now, change.advance_s) {
        (Some(Rfc3339(now)), None) => app.local_clock.set(now),
        (None, Some(seconds)) => app.local_clock.advance(SignedDuration::from_secs(seconds)),
        _ => return Err(Problem::unprocessable("Give either now or advance_s.")),
    };
    changed
        .map_err(|error| Problem::unprocessable(format!("The clock was not changed: {error}.")))?;
    Ok(clock(State(app)).await)
}

#[derive(Debug, Serialize)]
struct DrainReport {
    #[serde(flatten)]
    outcome: DrainOutcome,
    /// All messages in the dead-letter queue, earlier ones included.
    dead_letters: u64,
    /// Events of Stripe.
    stripe_events: DrainOutcome,
}

/// Delivers the events that the stand-in for Stripe has, and lets customers follow their subscriptions.
async fn drain_stripe(app: &App) -> Result<DrainOutcome, Problem> {
    app.webhooks.deliver().await;
    app.events.drain().await.map_err(Problem::internal)
}

async fn drain(State(app): State<App>) -> Result<Json<DrainReport>, Problem> {
    let outcome = app.usage.drain().await.map_err(Problem::internal)?;
    let stripe_events = drain_stripe(&app).await?;
    let counts = app.aws.queue().counts().map_err(Problem::internal)?;
    Ok(Json(DrainReport {
        outcome,
        dead_letters: counts.dead,
        stripe_events,
    }))
}

/// Reports of the nightly runs: billing, then reconciliation.
#[derive(Debug, Serialize)]
struct NightlyReport {
    #[serde(flatten)]
    billing: BillingRun,
    /// Report on the day before.
    reconciliation: ReconciliationReport,
}

async fn nightly(State(app): State<App>) -> Result<Json<NightlyReport>, Problem> {
    app.gateway.shut_down_authorizer().await;
    // On AWS, the queue has been drained for hours when the nightly schedule fires.
    app.usage.drain().await.map_err(Problem::internal)?;
    drain_stripe(&app).await?;
    let run = billing::next_part(&app.billing, None, None).await;
    let (report, _) = run.map_err(billing_failed)?;
    let announced = billing::announce_whole(&app.billing, &report).await;
    announced.map_err(billing_failed)?;
    app.charges.drain().await.map_err(Problem::internal)?;
    drain_stripe(&app).await?;
    Ok(Json(NightlyReport {
        billing: report,
        reconciliation: reconciliation::handle(&app.reconciliation).await?,
    }))
}

/// Returns the problem of a billing run that failed: a store that does not respond is temporary.
fn billing_failed(error: BillingRunError) -> Problem {
    match error {
        BillingRunError::Store(error) => error.into(),
        other => Problem::internal(other),
    }
}

#[derive(Debug, Serialize)]
struct DeadLetters {
    /// The oldest dead letters, up to a hundred.
    data: Vec<DeadLetter>,
}

#[derive(Debug, Serialize)]
struct DeadLetter {
    id: String,
    /// The event as JSON, or the text if it is not JSON.
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
