//! The usage-writer: counts the usage events that metered functions put on the event bus.
//!
//! Its input is an SQS batch whose messages are EventBridge events, each with a usage event as its
//! detail. The usage events of a customer are written together, but each message succeeds or fails on
//! its own. A message or record that can never be counted is quarantined, which is a success. A message
//! that could not be counted now is reported as failed, and the queue delivers it again.

mod owners;
mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tollgate_domain::billing::may_close;
use tollgate_domain::id::{CustomerId, KeyId, PlanId};
use tollgate_domain::plan::{Catalog, Plan};
use tollgate_domain::usage::{
    Adjustment, Aggregates, CountableItem, Defect, EventItem, ReceivedEvent, parse_event,
};
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::{
    EventPart, RejectedRecord, ShardCounts, Store, StoreError, WriteUsageOutcome,
};

pub use owners::Owners;

/// State of a usage-writer instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// Shard counts of hot aggregates, as learnt by this instance.
    pub shard_counts: ShardCounts,
    /// Cache of the customers that keys belong to.
    pub owners: Owners,
    /// The plans, some of which charge overage.
    pub plans: Catalog,
    /// Clock against which records are found to be in the future or too old.
    pub clock: Clock,
    /// Metrics of counted, duplicate, quarantined and failed usage events.
    pub metrics: Metrics,
}

/// Customers written, or messages quarantined, at a time.
const CONCURRENCY: usize = 8;
/// Time limit for counting a batch. When the writes of one customer hang, the other customers' messages
/// still succeed: both limits together are less than the function's timeout.
const COUNTING_TIMEOUT: Duration = Duration::from_secs(15);
/// Time limit for quarantining. Conflicts are quarantined after counting.
const QUARANTINE_TIMEOUT: Duration = Duration::from_secs(8);
/// Most time that a batch takes. The function's timeout in the template must be longer.
pub const BATCH_TIMEOUT: Duration = COUNTING_TIMEOUT.saturating_add(QUARANTINE_TIMEOUT);

/// The EventBridge event that carries a usage event.
#[derive(Deserialize)]
struct EventBridgeEvent<'a> {
    #[serde(borrow)]
    detail: &'a RawValue,
    #[serde(rename = "detail-type")]
    detail_type: String,
    source: String,
}

/// A usage event with a valid envelope.
#[derive(Debug)]
pub struct IncomingEvent {
    received: ReceivedEvent,
    /// The text as it arrived.
    detail: String,
}

impl IncomingEvent {
    /// Parses a usage event.
    ///
    /// # Errors
    /// When its envelope is not of the documented shape.
    pub fn parse(detail: &str) -> Result<Self, Defect> {
        Ok(Self {
            received: parse_event(detail)?,
            detail: detail.to_owned(),
        })
    }

    /// Returns the parsed usage event.
    #[must_use]
    pub fn received(&self) -> &ReceivedEvent {
        &self.received
    }
}

/// Outcome of ingesting one usage event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IngestOutcome {
    /// The whole event was counted before.
    Duplicate,
    /// The event, or a part of it, was counted by this call.
    Counted,
    /// Not counted: another usage event of the same source and id was counted before.
    Conflict,
}

/// The [`IngestOutcome`], or the error that leaves the outcome unknown.
pub type IngestResult = Result<IngestOutcome, Arc<StoreError>>;

/// Input bound for the quarantine.
enum ForQuarantine {
    /// A message that is not a valid usage event.
    Message { body: String, defect: Defect },
    /// The usage event at this index of the batch, whose source and id another one has.
    Conflict(usize),
}

/// A part of a usage event that is written in one transaction.
struct Part<'a> {
    event: &'a IncomingEvent,
    /// Number of the part within the event, from 0.
    number: usize,
    aggregates: Aggregates,
    /// Number of valid records.
    records: usize,
    /// Valid adjustments, by their index in the event.
    adjustments: Vec<(usize, Adjustment)>,
    rejected: Vec<RejectedRecord>,
    /// The time of its earliest record, or of its arrival if that is earlier.
    earliest: Timestamp,
}

/// Ingests the usage events of a batch, and reports the messages to deliver again.
pub async fn handle(app: &App, batch: SqsEvent) -> SqsBatchResponse {
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
            Err(defect) => invalid.push((message_id, ForQuarantine::Message { body, defect })),
        }
    }
    let events: Arc<[IncomingEvent]> = events.into();
    // Invalid messages do not wait for valid ones, whose writes may be slow.
    let quarantined = app.quarantine_all(&events, invalid);
    let (results, mut failed) = tokio::join!(app.ingest(&events), quarantined);
    let mut conflicts = Vec::new();
    for (index, (message_id, result)) in ids.into_iter().zip(results).enumerate() {
        match result {
            Ok(IngestOutcome::Counted | IngestOutcome::Duplicate) => {}
            Ok(IngestOutcome::Conflict) => {
                conflicts.push((message_id, ForQuarantine::Conflict(index)));
            }
            Err(error) => {
                let error = Chain(&*error);
                tracing::error!(message_id, %error, "usage was not counted");
                failed.insert(message_id);
            }
        }
    }
    failed.extend(app.quarantine_all(&events, conflicts).await);
    app.record(metrics::FAILED_EVENTS, failed.len());
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

/// Parses the usage event in a message.
fn parse_message(body: &str) -> Result<IncomingEvent, Defect> {
    let envelope: EventBridgeEvent<'_> =
        serde_json::from_str(body).map_err(|error| Defect::shape(&error))?;
    let event = IncomingEvent::parse(envelope.detail.get())?;
    let received = &event.received;
    received.check_envelope(&envelope.detail_type, &envelope.source)?;
    Ok(event)
}

/// Runs tasks, [`CONCURRENCY`] at a time, until all have ended or the time limit has passed. Returns the
/// results of those that have ended. The others are dropped, and may have taken effect.
async fn run<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
    within: Duration,
) -> Vec<T> {
    let mut done = Vec::new();
    let mut tasks = tasks.into_iter();
    let mut running = JoinSet::new();
    let all = async {
        loop {
            while running.len() < CONCURRENCY
                && let Some(task) = tasks.next()
            {
                running.spawn(task);
            }
            match running.join_next().await {
                Some(Ok(one)) => done.push(one),
                // It is unknown which messages the task was for, so the whole batch fails and is delivered
                // again; usage that was counted is then a duplicate.
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(within, all).await;
    done
}

impl Part<'_> {
    fn add(&mut self, index: usize, item: Result<CountableItem<'_>, Defect>) {
        match item {
            Ok(CountableItem::Record(record)) => {
                self.aggregates.add(record);
                self.records += 1;
                self.earliest = self.earliest.min(record.time);
            }
            Ok(CountableItem::Adjustment(adjustment)) => {
                self.aggregates.adjust(adjustment);
                self.adjustments.push((index, adjustment.clone()));
            }
            Err(defect) => self.rejected.push(RejectedRecord {
                index,
                reason: defect.to_string(),
            }),
        }
    }

    fn as_stored(&self, received_at: Timestamp) -> EventPart<'_> {
        let IncomingEvent { received, detail } = self.event;
        EventPart {
            source: &received.source,
            id: &received.id,
            part: self.number,
            customer: &received.customer,
            aggregates: &self.aggregates,
            records: self.records,
            adjustments: &self.adjustments,
            rejected: &self.rejected,
            body: detail.as_bytes(),
            received_at,
        }
    }
}

impl App {
    /// Counts usage events, each at most once ever, and those of a customer together. Returns a result
    /// for each, in their order.
    pub async fn ingest(&self, events: &Arc<[IncomingEvent]>) -> Vec<IngestResult> {
        let mut by_customer: BTreeMap<&CustomerId, Vec<usize>> = BTreeMap::new();
        for (index, event) in events.iter().enumerate() {
            let indexes = by_customer.entry(&event.received.customer).or_default();
            indexes.push(index);
        }
        let tasks = by_customer.into_values().map(|indexes| {
            let (app, events) = (self.clone(), Arc::clone(events));
            async move {
                let of_customer: Vec<&IncomingEvent> =
                    indexes.iter().map(|index| &events[*index]).collect();
                let results = app.ingest_of_customer(&of_customer).await;
                indexes.into_iter().zip(results).collect::<Vec<_>>()
            }
        });
        let mut results: Vec<Option<IngestResult>> = vec![None; events.len()];
        for (index, result) in run(tasks, COUNTING_TIMEOUT).await.into_iter().flatten() {
            results[index] = Some(result);
        }
        let timed_out = || Err(Arc::new(StoreError::timed_out("counting usage")));
        let results = results.into_iter();
        results
            .map(|result| result.unwrap_or_else(timed_out))
            .collect()
    }

    /// Validates usage events as of now. Returns, for each, the records and adjustments that cannot be
    /// counted.
    ///
    /// # Errors
    /// When the owners of keys cannot be read.
    pub async fn validate(
        &self,
        events: &[IncomingEvent],
    ) -> Result<Vec<Vec<RejectedRecord>>, StoreError> {
        let now = self.clock.now();
        let mut rejected = Vec::with_capacity(events.len());
        for event in events {
            let ReceivedEvent {
                customer, items, ..
            } = &event.received;
            let received = [&event.received];
            let foreign = self.owners.foreign(&self.store, customer, received).await?;
            let defects = items.iter().enumerate().filter_map(|(index, item)| {
                let reason = self.check_item(item, &foreign, now).err()?.to_string();
                Some(RejectedRecord { index, reason })
            });
            rejected.push(defects.collect());
        }
        Ok(rejected)
    }

    /// Counts usage events of one customer.
    async fn ingest_of_customer(&self, events: &[&IncomingEvent]) -> Vec<IngestResult> {
        let received_at = self.clock.now();
        let Some(first) = events.first() else {
            return Vec::new();
        };
        let received = events.iter().map(|event| &event.received);
        let customer = &first.received.customer;
        let foreign = match self.owners.foreign(&self.store, customer, received).await {
            Ok(foreign) => foreign,
            Err(error) => {
                let error = Arc::new(error);
                return events.iter().map(|_| Err(Arc::clone(&error))).collect();
            }
        };
        let mut parts = Vec::new();
        let mut event_indexes = Vec::new();
        for (event_index, &event) in events.iter().enumerate() {
            let items = &event.received.items;
            for (number, indexes) in parts::split(items).into_iter().enumerate() {
                let mut part = Part {
                    event,
                    number,
                    aggregates: Aggregates::default(),
                    records: 0,
                    adjustments: Vec::new(),
                    rejected: Vec::new(),
                    earliest: received_at,
                };
                for index in indexes {
                    part.add(index, self.check_item(&items[index], &foreign, received_at));
                }
                parts.push(part);
                event_indexes.push(event_index);
            }
        }
        let stored = parts.iter().map(|part| part.as_stored(received_at));
        let stored: Vec<EventPart> = stored.collect();
        let written = self
            .store
            .write_usage(&stored, &self.plans, &self.shard_counts);
        let written = written.await;
        let mut results: Vec<IngestResult> = vec![Ok(IngestOutcome::Duplicate); events.len()];
        for ((part, index), written) in parts.iter().zip(event_indexes).zip(written) {
            let of_part = written.map(|written| {
                self.record_written(part, written, received_at);
                match written {
                    WriteUsageOutcome::Counted => IngestOutcome::Counted,
                    WriteUsageOutcome::Duplicate => IngestOutcome::Duplicate,
                    WriteUsageOutcome::Conflict => IngestOutcome::Conflict,
                }
            });
            // An event's outcome is the greatest of its parts' outcomes, and an error if any part failed.
            results[index] = match (&results[index], of_part) {
                (Ok(so_far), Ok(of_part)) => Ok(of_part.max(*so_far)),
                (Ok(_), Err(error)) => Err(error),
                (Err(error), _) => Err(Arc::clone(error)),
            };
        }
        results
    }

    /// Checks one record or adjustment. `foreign` are the event's keys that belong to other customers.
    fn check_item<'a>(
        &self,
        item: &'a EventItem,
        foreign: &BTreeSet<KeyId>,
        now: Timestamp,
    ) -> Result<CountableItem<'a>, Defect> {
        let countable = item.check(&self.plans, now)?;
        match countable {
            CountableItem::Record(record) if foreign.contains(&record.key_id) => {
                Err(Defect::Key(record.key_id.clone()))
            }
            _ => Ok(countable),
        }
    }

    /// Quarantines the input of these messages. Returns the ids of the messages that are not known to be
    /// quarantined.
    async fn quarantine_all(
        &self,
        events: &Arc<[IncomingEvent]>,
        inputs: Vec<(String, ForQuarantine)>,
    ) -> BTreeSet<String> {
        let ids = inputs.iter().map(|(message_id, _)| message_id.clone());
        let mut failed: BTreeSet<String> = ids.collect();
        let tasks = inputs.into_iter().map(|(message_id, input)| {
            let (app, events) = (self.clone(), Arc::clone(events));
            async move {
                let quarantined = app.quarantine(&message_id, &events, input).await;
                if let Err(error) = &quarantined {
                    let error = Chain(error);
                    tracing::error!(message_id, %error, "a message could not be quarantined");
                }
                quarantined.is_ok().then_some(message_id)
            }
        });
        for message_id in run(tasks, QUARANTINE_TIMEOUT).await.into_iter().flatten() {
            failed.remove(&message_id);
        }
        failed
    }

    async fn quarantine(
        &self,
        message_id: &str,
        events: &[IncomingEvent],
        input: ForQuarantine,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        match input {
            ForQuarantine::Message { body, defect } => {
                let reason = defect.to_string();
                tracing::warn!(message_id, reason, "a message was quarantined");
                let quarantined = self.store.quarantine_message(body.as_bytes(), &reason, now);
                quarantined.await?;
            }
            ForQuarantine::Conflict(index) => {
                let IncomingEvent { received, detail } = &events[index];
                let id = &received.id;
                tracing::warn!(message_id, id, "a conflicting usage event was quarantined");
                let rejected = RejectedRecord {
                    index: 0,
                    reason: Defect::Conflict.to_string(),
                };
                let whole = EventPart {
                    source: &received.source,
                    id,
                    part: 0,
                    customer: &received.customer,
                    aggregates: &Aggregates::default(),
                    records: 0,
                    adjustments: &[],
                    rejected: &[rejected],
                    body: detail.as_bytes(),
                    received_at: now,
                };
                self.store.quarantine_conflict(&whole).await?;
            }
        }
        self.record(metrics::QUARANTINED_EVENTS, 1);
        Ok(())
    }

    /// Records the outcome of writing a part, in the log and in metrics.
    fn record_written(&self, part: &Part<'_>, written: WriteUsageOutcome, received_at: Timestamp) {
        let is_first = usize::from(part.number == 0);
        match written {
            WriteUsageOutcome::Counted => {
                let rejected = part.rejected.len();
                if rejected > 0 {
                    let ReceivedEvent { source, id, .. } = &part.event.received;
                    tracing::warn!(source, id, rejected, "records were quarantined");
                }
                self.record(metrics::COUNTED_EVENTS, is_first);
                self.record(metrics::QUARANTINED_EVENTS, usize::from(rejected > 0));
                self.record(metrics::METERED_CALLS, part.records);
                self.record_late_calls(part);
                self.record(metrics::QUARANTINED_RECORDS, rejected);
                let days = part.aggregates.days.values();
                let unpriced = days.map(|day| day.unpriced_tokens).sum();
                self.metrics.record(metrics::UNPRICED_TOKENS, &[], unpriced);
                let lag = received_at.duration_since(part.earliest).as_millis();
                let lag = u64::try_from(lag).unwrap_or_default();
                self.metrics.record(metrics::METERING_LAG, &[], lag);
            }
            WriteUsageOutcome::Duplicate => self.record(metrics::DUPLICATE_EVENTS, is_first),
            WriteUsageOutcome::Conflict => {}
        }
    }

    /// Records calls that may never be billed, because a billing run may have closed their month before
    /// they were counted. Uses the time after the write: a billing run that began before the three days
    /// after the month's end were over does not close it.
    fn record_late_calls(&self, part: &Part<'_>) {
        let now = self.clock.now();
        let charges = |plan: &PlanId| self.plans.get(plan).is_some_and(Plan::charges_overage);
        for (month, aggregate) in &part.aggregates.months {
            if !may_close(*month, now) {
                continue;
            }
            let recorded = aggregate
                .billable
                .iter()
                .map(|(plan, calls)| (plan, *calls));
            let adjusted = aggregate.adjusted.billable.iter();
            let adjusted = adjusted.map(|(plan, calls)| (plan, calls.unsigned_abs()));
            let calls = recorded.chain(adjusted).filter(|(plan, _)| charges(plan));
            let calls = calls.fold(0_u64, |sum, (_, calls)| sum.saturating_add(calls));
            if calls > 0 {
                let customer = &part.event.received.customer;
                tracing::warn!(%customer, %month, calls, "usage came too late to be billed");
                self.metrics.record(metrics::LATE_CALLS, &[], calls);
            }
        }
    }

    fn record(&self, metric: metrics::Metric, n: usize) {
        self.metrics
            .record(metric, &[], u64::try_from(n).unwrap_or(u64::MAX));
    }
}
