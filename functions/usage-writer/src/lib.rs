//! The usage-writer: counts what metered functions put on the bus.
//!
//! Input is an SQS batch whose messages are EventBridge events, each with a usage entry as its
//! detail. The entries of a customer are counted together, but each message succeeds or fails on its
//! own. What can never be counted is set aside in the quarantine and is done with; what could not be
//! counted now is returned as failed, and the queue delivers it again.

mod owners;
mod parts;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::{
    Adjustment, Aggregates, Countable, Defect, Item, Received, read_entry,
};
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::{EntryPart, RefusedRecord, Spread, Store, StoreError, Written};

pub use owners::Owners;

/// What entries are counted with.
#[derive(Debug, Clone)]
pub struct App {
    /// The tallies.
    pub store: Store,
    /// Whose tallies this instance spreads.
    pub spread: Spread,
    /// Whose keys are.
    pub owners: Owners,
    /// Which plans there are, and which of them charge overage.
    pub plans: Catalog,
    /// Decides what is in the future, and what too old.
    pub clock: Clock,
    /// What became of entries and records is counted here.
    pub metrics: Metrics,
}

/// Customers counted at a time.
const CONCURRENCY: usize = 8;

/// The EventBridge event around an entry.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    detail: &'a RawValue,
}

/// A message that is an entry.
struct Entry {
    message_id: String,
    entry: Received,
    /// Its text as it arrived.
    detail: String,
}

/// A message that is none.
struct NoEntry {
    message_id: String,
    body: String,
    defect: Defect,
}

/// A part of an entry, as it is counted.
struct Part<'a> {
    entry: &'a Entry,
    /// From 0.
    number: usize,
    aggregates: Aggregates,
    /// How many of its records are good.
    records: usize,
    adjustments: Vec<(usize, Adjustment)>,
    refused: Vec<RefusedRecord>,
    /// The time of its first record, if that is before the part arrived.
    earliest: Timestamp,
}

/// Counts the entries of a batch, and names the messages to deliver again.
pub async fn handle(app: &App, batch: SqsEvent) -> SqsBatchResponse {
    let mut by_customer: BTreeMap<CustomerId, Vec<Entry>> = BTreeMap::new();
    let mut others = Vec::new();
    for message in batch.records {
        let message_id = message.message_id.unwrap_or_default();
        let body = message.body.unwrap_or_default();
        match read(&body) {
            Ok((entry, detail)) => {
                let customer = entry.customer.clone();
                let entries = by_customer.entry(customer).or_default();
                entries.push(Entry {
                    message_id,
                    entry,
                    detail,
                });
            }
            Err(defect) => others.push(NoEntry {
                message_id,
                body,
                defect,
            }),
        }
    }
    let mut failed = Vec::new();
    let mut of_customers = by_customer.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < CONCURRENCY {
            let app = app.clone();
            if let Some((customer, entries)) = of_customers.next() {
                running.spawn(async move { app.count(&customer, &entries).await });
            } else if let Some(no_entry) = others.pop() {
                running.spawn(async move { app.set_aside(no_entry).await });
            } else {
                break;
            }
        }
        match running.join_next().await {
            None => break,
            Some(Ok(more)) => failed.extend(more),
            // Which messages they were is lost with the task, so the whole batch comes again; what
            // of it was counted is found to be.
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

/// The entry in a message, and its text.
fn read(body: &str) -> Result<(Received, String), Defect> {
    let event: Event<'_> =
        serde_json::from_str(body).map_err(|error| Defect::Shape(error.to_string()))?;
    let detail = event.detail.get();
    Ok((read_entry(detail)?, detail.to_owned()))
}

impl Part<'_> {
    fn add(&mut self, place: usize, item: Result<Countable<'_>, Defect>) {
        match item {
            Ok(Countable::Record(record)) => {
                self.aggregates.add(record);
                self.records += 1;
                self.earliest = self.earliest.min(record.time);
            }
            Ok(Countable::Adjustment(adjustment)) => {
                self.aggregates.adjust(adjustment);
                self.adjustments.push((place, adjustment.clone()));
            }
            Err(defect) => self.refused.push(RefusedRecord {
                index: place,
                reason: defect.to_string(),
            }),
        }
    }

    fn as_stored(&self, received_at: Timestamp) -> EntryPart<'_> {
        let Entry { entry, detail, .. } = self.entry;
        EntryPart {
            source: &entry.source,
            id: &entry.id,
            part: self.number,
            customer: &entry.customer,
            aggregates: &self.aggregates,
            records: self.records,
            adjustments: &self.adjustments,
            refused: &self.refused,
            body: detail.as_bytes(),
            received_at,
        }
    }
}

impl App {
    /// Sets aside a message that is no entry, or returns its id.
    async fn set_aside(&self, no_entry: NoEntry) -> Vec<String> {
        let NoEntry {
            message_id,
            body,
            defect,
        } = no_entry;
        let reason = defect.to_string();
        tracing::warn!(message_id, reason, "a message was quarantined");
        let now = self.clock.now();
        let set_aside = self.store.quarantine_message(body.as_bytes(), &reason, now);
        match set_aside.await {
            Ok(()) => {
                self.record(metrics::ENTRIES_QUARANTINED, 1);
                Vec::new()
            }
            Err(error) => {
                tracing::error!(message_id, error = %Chain(&error), "a message was not quarantined");
                vec![message_id]
            }
        }
    }

    /// Counts entries of one customer, and returns the ids of the messages of those that it could
    /// not count.
    async fn count(&self, customer: &CustomerId, entries: &[Entry]) -> Vec<String> {
        let received_at = self.clock.now();
        let received = entries.iter().map(|entry| &entry.entry);
        let foreign = match self.owners.foreign(&self.store, customer, received).await {
            Ok(foreign) => foreign,
            Err(error) => {
                tracing::error!(%customer, error = %Chain(&error), "usage was not counted");
                return entries
                    .iter()
                    .map(|entry| entry.message_id.clone())
                    .collect();
            }
        };
        let mut parts = Vec::new();
        for entry in entries {
            let items = &entry.entry.items;
            let of_entry = parts::split(items).into_iter().enumerate();
            parts.extend(of_entry.map(|(number, places)| {
                let mut part = Part {
                    entry,
                    number,
                    aggregates: Aggregates::default(),
                    records: 0,
                    adjustments: Vec::new(),
                    refused: Vec::new(),
                    earliest: received_at,
                };
                for place in places {
                    part.add(place, self.check(&items[place], &foreign, received_at));
                }
                part
            }));
        }
        let stored = parts.iter().map(|part| part.as_stored(received_at));
        let stored: Vec<EntryPart> = stored.collect();
        let outcomes = self.store.write_usage(&stored, &self.plans, &self.spread);
        let outcomes = outcomes.await;
        let mut failed = HashSet::new();
        for (part, outcome) in parts.iter().zip(outcomes) {
            let message_id = &part.entry.message_id;
            let outcome = match outcome {
                Ok(Written::Conflict) if part.number == 0 => {
                    self.set_aside_conflict(part.entry, received_at).await
                }
                Ok(written) => {
                    self.tell(part, written, received_at);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                let error = Chain(&*error);
                tracing::error!(message_id, %error, "usage was not counted");
                failed.insert(message_id.clone());
            }
        }
        failed.into_iter().collect()
    }

    /// What there is to count of an item of a customer whose keys these are not.
    fn check<'a>(
        &self,
        item: &'a Item,
        foreign: &BTreeSet<KeyId>,
        now: Timestamp,
    ) -> Result<Countable<'a>, Defect> {
        let countable = item.check(&self.plans, now)?;
        match countable {
            Countable::Record(record) if foreign.contains(&record.key_id) => {
                Err(Defect::Key(record.key_id.clone()))
            }
            _ => Ok(countable),
        }
    }

    /// Sets aside an entry whose identity another one has.
    async fn set_aside_conflict(
        &self,
        entry: &Entry,
        received_at: Timestamp,
    ) -> Result<(), Arc<StoreError>> {
        let Entry {
            message_id,
            entry,
            detail,
        } = entry;
        let id = &entry.id;
        tracing::warn!(message_id, id, "a conflicting entry was quarantined");
        let refused = RefusedRecord {
            index: 0,
            reason: Defect::Conflict.to_string(),
        };
        let whole = EntryPart {
            source: &entry.source,
            id,
            part: 0,
            customer: &entry.customer,
            aggregates: &Aggregates::default(),
            records: 0,
            adjustments: &[],
            refused: &[refused],
            body: detail.as_bytes(),
            received_at,
        };
        self.store.quarantine_conflict(&whole).await?;
        self.record(metrics::ENTRIES_QUARANTINED, 1);
        Ok(())
    }

    /// Tells in the log and in metrics what became of a part.
    fn tell(&self, part: &Part<'_>, written: Written, received_at: Timestamp) {
        let is_first = usize::from(part.number == 0);
        match written {
            Written::Counted => {
                let refused = part.refused.len();
                if refused > 0 {
                    let message_id = &part.entry.message_id;
                    tracing::warn!(message_id, refused, "records were quarantined");
                }
                self.record(metrics::ENTRIES_CLAIMED, is_first);
                self.record(metrics::ENTRIES_QUARANTINED, usize::from(refused > 0));
                self.record(metrics::RECORDS_METERED, part.records);
                self.record(metrics::RECORDS_QUARANTINED, refused);
                let tallies = part.aggregates.days.values();
                let unpriced = tallies.map(|tally| tally.unpriced_tokens).sum();
                self.metrics.record(metrics::TOKENS_UNPRICED, &[], unpriced);
                let lag = received_at.duration_since(part.earliest).as_millis();
                let lag = u64::try_from(lag).unwrap_or_default();
                self.metrics.record(metrics::METERING_LAG, &[], lag);
            }
            Written::Duplicate => self.record(metrics::ENTRIES_DUPLICATE, is_first),
            Written::Conflict => {}
        }
    }

    fn record(&self, metric: metrics::Metric, n: usize) {
        self.metrics
            .record(metric, &[], u64::try_from(n).unwrap_or(u64::MAX));
    }
}
