//! Checking and counting of usage events: used by the usage-writer and by `POST /admin/usage/events`.
//!
//! Usage events are written together, but each succeeds or fails on its own. Usage that can never be counted is
//! quarantined. A usage event that could not be counted now may be ingested again: its claim counts it once.

mod counted;
mod event;
mod owners;
mod part;
mod quarantine;
mod split;
mod tasks;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tollgate_domain::billing::may_close;
use tollgate_domain::id::CustomerId;
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::usage::{Aggregates, CountableItem, Defect, EventItem, ReceivedEvent};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Clock, Init, Metrics, metrics};
use tollgate_store::{EventPart, PlanCache, ShardCounts, Store, StoreError, WriteUsageOutcome};

pub use counted::{CountedError, CountedPart};
pub use event::{IncomingEvent, REPLAYS};
use owners::ForeignKeys;
pub use owners::Owners;
use part::Part;
pub use quarantine::QuarantineInput;

/// State of ingestion in one instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// The tables.
    pub store: Store,
    /// Shard counts of hot aggregates, as learnt by this instance.
    pub shard_counts: ShardCounts,
    /// Cache of the customers that keys belong to.
    pub owners: Owners,
    /// Cache of the plans, some of which charge overage.
    pub plans: PlanCache,
    /// Clock against which records are found to be in the future or too old.
    pub clock: Clock,
    /// Metrics of counted, duplicate and quarantined usage events.
    pub metrics: Metrics,
}

/// Time limit for counting a batch.
const COUNTING_TIME: Duration = Duration::from_secs(15);
/// Most time that ingesting a batch takes, and quarantining its conflicts after that.
pub const BATCH_TIMEOUT: Duration = COUNTING_TIME.saturating_add(quarantine::TIMEOUT);

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

fn all_failed(events: &[IncomingEvent], error: StoreError) -> Vec<IngestResult> {
    let error = Arc::new(error);
    events.iter().map(|_| Err(Arc::clone(&error))).collect()
}

impl Ingest {
    /// Builds ingestion for a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let (clock, metrics) = (init.clock.clone(), init.metrics.clone());
        Ok(Self::new(Store::build(init)?, clock, metrics))
    }

    /// Creates ingestion for a new instance, whose caches are empty.
    #[must_use]
    pub fn new(store: Store, clock: Clock, metrics: Metrics) -> Self {
        Self {
            plans: PlanCache::new(store.clone()),
            store,
            shard_counts: ShardCounts::default(),
            owners: Owners::default(),
            clock,
            metrics,
        }
    }

    /// Counts usage events that were received at this time, each at most once ever. Returns a result for each, in their
    /// order.
    pub async fn ingest(
        &self,
        events: &[IncomingEvent],
        received_at: Timestamp,
    ) -> Vec<IngestResult> {
        // Boxed: the nested futures of all the store's operations are more than the compiler lays out.
        let counting: BoxFuture<'_, _> = Box::pin(self.count(events, received_at));
        counting.await
    }

    /// Returns the plans, among which are those of the events if they exist.
    async fn plans_of<'a>(
        &self,
        events: impl Iterator<Item = &'a ReceivedEvent>,
    ) -> Result<Arc<PlanBook>, StoreError> {
        let started = self.clock.now();
        let cached = self.plans.current().await?.plans;
        let mut items = events.flat_map(|event| &event.items);
        if items.all(|item| item.plan().is_none_or(|plan| cached.get(plan).is_some())) {
            return Ok(cached);
        }
        // The plan may have been created after the others were read.
        Ok(self.plans.read_after(started).await?.plans)
    }

    async fn count(&self, events: &[IncomingEvent], received_at: Timestamp) -> Vec<IngestResult> {
        let deadline = Instant::now() + COUNTING_TIME;
        let received = events.iter().map(|event| &event.received);
        let read = async {
            let plans = self.plans_of(received.clone()).await?;
            let foreign = self.owners.foreign(&self.store, received).await?;
            Ok::<_, StoreError>((plans, foreign))
        };
        let (plans, foreign) = match timeout_at(deadline, read).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return all_failed(events, error),
            Err(_) => return all_failed(events, StoreError::timed_out("counting usage")),
        };
        let mut parts = Vec::new();
        let mut event_indexes = Vec::new();
        for (event_index, event) in events.iter().enumerate() {
            let ReceivedEvent {
                customer, items, ..
            } = &event.received;
            for (number, indexes) in split::split(items).into_iter().enumerate() {
                let mut part = Part {
                    event,
                    number,
                    aggregates: Aggregates::default(),
                    too_old: Aggregates::default(),
                    records: 0,
                    adjustments: Vec::new(),
                    rejected: Vec::new(),
                    earliest: received_at,
                };
                for index in indexes {
                    let checked =
                        self.check_item(customer, &items[index], &plans, &foreign, received_at);
                    part.add(index, checked);
                }
                parts.push(part);
                event_indexes.push(event_index);
            }
        }
        let stored = parts.iter().map(|part| part.as_stored(received_at));
        let stored: Vec<EventPart> = stored.collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let written = self
            .store
            .write_usage(&stored, &plans, &self.shard_counts, left);
        let written = written.await;
        let mut results: Vec<IngestResult> = vec![Ok(IngestOutcome::Duplicate); events.len()];
        for ((part, index), written) in parts.iter().zip(event_indexes).zip(written) {
            let of_part = written.map(|written| {
                self.record_written(part, written, &plans, received_at);
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

    /// Checks one record or adjustment of a customer's event. `foreign` are the keys that belong to others.
    fn check_item<'a>(
        &self,
        customer: &CustomerId,
        item: &'a EventItem,
        plans: &PlanBook,
        foreign: &ForeignKeys,
        now: Timestamp,
    ) -> Result<CountableItem<'a>, Defect> {
        let countable = item.check(plans, now)?;
        match countable {
            CountableItem::Record(record) if foreign.contains(customer, &record.key_id) => {
                Err(Defect::Key(record.key_id.clone()))
            }
            _ => Ok(countable),
        }
    }

    /// Records the outcome of writing a part, in the log and in metrics.
    fn record_written(
        &self,
        part: &Part<'_>,
        written: WriteUsageOutcome,
        plans: &PlanBook,
        received_at: Timestamp,
    ) {
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
                self.record_late_calls(part, plans);
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
    fn record_late_calls(&self, part: &Part<'_>, plans: &PlanBook) {
        let now = self.clock.now();
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
            let calls = recorded
                .chain(adjusted)
                .filter(|(plan, _)| plans.may_charge_overage(plan));
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
