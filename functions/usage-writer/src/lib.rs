//! The usage-writer: counts what metered functions put on the bus.
//!
//! Input is an SQS batch whose messages are EventBridge events, each with a usage entry as its
//! detail. Each message succeeds or fails on its own. What can never be counted is set aside in the
//! quarantine and is done with; what could not be counted now is returned as failed, and the queue
//! delivers it again.

mod parts;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::{Aggregates, Defect, UsageEntry, read_entry, read_record};
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::{EntryPart, RefusedRecord, Store, StoreError, Written};

/// What entries are counted with.
#[derive(Debug, Clone)]
pub struct App {
    /// The tallies.
    pub store: Store,
    /// Which plans there are, and which of them charge overage.
    pub plans: Catalog,
    /// Decides what is in the future, and what too old.
    pub clock: Clock,
    /// What became of entries and records is counted here.
    pub metrics: Metrics,
}

/// Entries counted at a time.
const CONCURRENCY: usize = 8;

/// The EventBridge event around an entry.
#[derive(Deserialize)]
struct Event {
    detail: Box<RawValue>,
}

/// Counts the entries of a batch, and names the messages to deliver again.
pub async fn handle(app: &App, batch: SqsEvent) -> SqsBatchResponse {
    let mut messages = batch.records.into_iter();
    let mut running = JoinSet::new();
    let mut failed = Vec::new();
    loop {
        while running.len() < CONCURRENCY {
            let Some(message) = messages.next() else {
                break;
            };
            let app = app.clone();
            running.spawn(async move { deliver(&app, message).await });
        }
        match running.join_next().await {
            None => break,
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(message_id))) => failed.push(message_id),
            // Which message it was is lost with the task, so the whole batch comes again; what of
            // it was counted is found to be.
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    app.record(metrics::ENTRIES_FAILED, failed.len());
    app.metrics.write();
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = failed
        .into_iter()
        .map(|message_id| {
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = message_id;
            failure
        })
        .collect();
    response
}

/// Counts one message, or returns its id.
async fn deliver(app: &App, message: SqsMessage) -> Result<(), String> {
    let message_id = message.message_id.unwrap_or_default();
    let body = message.body.unwrap_or_default();
    match count(app, &body, &message_id).await {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::error!(message_id, error = %Chain(&error), "usage was not counted");
            Err(message_id)
        }
    }
}

async fn count(app: &App, body: &str, message_id: &str) -> Result<(), StoreError> {
    let received_at = app.clock.now();
    let (entry, detail) = match read(body) {
        Ok(read) => read,
        Err(defect) => {
            let reason = defect.to_string();
            tracing::warn!(message_id, reason, "a message was quarantined");
            let set_aside = app
                .store
                .quarantine_message(body.as_bytes(), &reason, received_at)
                .await;
            return set_aside.map(|()| app.record(metrics::ENTRIES_QUARANTINED, 1));
        }
    };
    let records = &entry.data.records;
    for (part, range) in parts::split(records).into_iter().enumerate() {
        let mut aggregates = Aggregates::default();
        let mut good = 0;
        let mut earliest = received_at;
        let mut refused = Vec::new();
        for (index, record) in records[range.clone()].iter().enumerate() {
            match read_record(record, &app.plans, received_at) {
                Ok(record) => {
                    aggregates.add(&record);
                    good += 1;
                    earliest = earliest.min(record.time);
                }
                Err(defect) => refused.push(RefusedRecord {
                    index: range.start + index,
                    reason: defect.to_string(),
                }),
            }
        }
        if !refused.is_empty() {
            tracing::warn!(
                message_id,
                refused = refused.len(),
                "records were quarantined"
            );
        }
        let part = EntryPart {
            source: &entry.source,
            id: &entry.id,
            part,
            customer: &entry.subject,
            aggregates: &aggregates,
            records: good,
            refused: &refused,
            body: detail.as_bytes(),
            received_at,
        };
        match app.store.write_usage(&part, &app.plans).await? {
            Written::Counted => {
                app.record(metrics::ENTRIES_CLAIMED, usize::from(part.part == 0));
                app.record(
                    metrics::ENTRIES_QUARANTINED,
                    usize::from(!refused.is_empty()),
                );
                app.record(metrics::RECORDS_METERED, good);
                app.record(metrics::RECORDS_QUARANTINED, refused.len());
                let lag = received_at.duration_since(earliest).as_millis();
                let lag = u64::try_from(lag).unwrap_or_default();
                app.metrics.record(metrics::METERING_LAG, &[], lag);
            }
            Written::Duplicate => {
                app.record(metrics::ENTRIES_DUPLICATE, usize::from(part.part == 0));
            }
            Written::Conflict => {
                tracing::warn!(
                    message_id,
                    id = entry.id,
                    "a conflicting entry was quarantined"
                );
                let refused = [RefusedRecord {
                    index: 0,
                    reason: Defect::Conflict.to_string(),
                }];
                let part = EntryPart {
                    refused: &refused,
                    ..part
                };
                let set_aside = app.store.quarantine_conflict(&part).await;
                return set_aside.map(|()| app.record(metrics::ENTRIES_QUARANTINED, 1));
            }
        }
    }
    Ok(())
}

impl App {
    fn record(&self, metric: metrics::Metric, n: usize) {
        self.metrics
            .record(metric, &[], u64::try_from(n).unwrap_or(u64::MAX));
    }
}

/// The entry in a message, and its text.
fn read(body: &str) -> Result<(UsageEntry<Value>, String), Defect> {
    let shape = |error: serde_json::Error| Defect::Shape(error.to_string());
    let event: Event = serde_json::from_str(body).map_err(shape)?;
    let detail = event.detail.get();
    let entry = read_entry(serde_json::from_str(detail).map_err(shape)?)?;
    Ok((entry, detail.to_owned()))
}
