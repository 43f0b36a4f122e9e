//! The usage-writer: counts the usage events that metered functions put on the event bus.
//!
//! Its input is an SQS batch whose messages are EventBridge events, each with a usage event as its
//! detail. Each message succeeds or fails on its own. A message or record that can never be counted is
//! quarantined, which is a success. A message that could not be counted now is reported as failed, and the
//! queue delivers it again.

use std::sync::Arc;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_domain::usage::Defect;
pub use tollgate_ingest::BATCH_TIMEOUT;
use tollgate_ingest::{IncomingEvent, Ingest, IngestOutcome, QuarantineInput};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Chain, Init, metrics, sqs};

/// State of a usage-writer instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// Checks and counts usage events.
    pub ingest: Ingest,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables or the plans.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let ingest = Ingest::build(init)?;
        Ok(Self { ingest })
    }
}

/// The EventBridge event that carries a usage event.
#[derive(Deserialize)]
struct EventBridgeEvent<'a> {
    #[serde(borrow)]
    detail: &'a RawValue,
    #[serde(rename = "detail-type")]
    detail_type: String,
    source: String,
}

/// Ingests the usage events of a batch, and reports the messages to deliver again.
pub async fn handle(app: &App, batch: SqsEvent) -> SqsBatchResponse {
    let ingest = &app.ingest;
    let mut ids = Vec::new();
    let mut events = Vec::new();
    let mut invalid = Vec::new();
    for message in batch.records {
        let message_id = message.message_id.unwrap_or_default();
        let body = message.body.unwrap_or_default();
        match parse_message(&body) {
            Ok(event) => {
                ids.push(message_id);
                events.push(event);
            }
            Err(defect) => invalid.push((message_id, QuarantineInput::Message { body, defect })),
        }
    }
    let events: Arc<[IncomingEvent]> = events.into();
    // Invalid messages do not wait for valid ones, whose writes may be slow.
    let quarantined = ingest.quarantine_all(&events, invalid);
    let (results, mut failed) =
        tokio::join!(ingest.ingest(&events, ingest.clock.now()), quarantined);
    let mut conflicts = Vec::new();
    for (index, (message_id, result)) in ids.into_iter().zip(results).enumerate() {
        match result {
            Ok(IngestOutcome::Counted | IngestOutcome::Duplicate) => {}
            Ok(IngestOutcome::Conflict) => {
                conflicts.push((message_id, QuarantineInput::Conflict(index)));
            }
            Err(error) => {
                let error = Chain(&*error);
                tracing::error!(message_id, %error, "usage was not counted");
                failed.insert(message_id);
            }
        }
    }
    failed.extend(ingest.quarantine_all(&events, conflicts).await);
    let metrics = &ingest.metrics;
    metrics.record(metrics::FAILED_EVENTS, &[], failed.len() as u64);
    metrics.write();
    sqs::failed(failed)
}

/// Parses the usage event in a message.
fn parse_message(body: &str) -> Result<IncomingEvent, Defect> {
    let envelope: EventBridgeEvent<'_> =
        serde_json::from_str(body).map_err(|error| Defect::shape(&error))?;
    let event = IncomingEvent::parse(envelope.detail.get())?;
    let received = event.received();
    received.check_envelope(&envelope.detail_type, &envelope.source)?;
    Ok(event)
}
