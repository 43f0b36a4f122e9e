//! The usage-writer: counts what metered functions put on the bus.
//!
//! Input is an SQS batch whose messages are EventBridge events, each with a usage entry as its
//! detail. The entries of a customer are counted together, but each message succeeds or fails on its
//! own. What can never be counted is set aside in the quarantine and is done with; what could not be
//! counted now is returned as failed, and the queue delivers it again.

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
    Adjustment, Aggregates, Countable, Defect, Item, Received, parse_event,
};
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::{EventPart, RefusedRecord, ShardCounts, Store, StoreError, Written};

pub use owners::Owners;

/// What entries are counted with.
#[derive(Debug, Clone)]
pub struct App {
    /// The tallies.
    pub store: Store,
    /// Whose tallies this instance spreads.
    pub spread: ShardCounts,
    /// Whose keys are.
    pub owners: Owners,
    /// Which plans there are, and which of them charge overage.
    pub plans: Catalog,
    /// Decides what is in the future, and what too old.
    pub clock: Clock,
    /// What became of entries and records is counted here.
    pub metrics: Metrics,
}

/// Customers counted at a time, and messages set aside.
const CONCURRENCY: usize = 8;
/// How long a batch may take to be counted, and what of it is set aside after that. Where one customer's
/// items give no answer, the others' entries are still answered for: together this is less than the
/// function has.
const COUNTING: Duration = Duration::from_secs(15);
const SETTING_ASIDE: Duration = Duration::from_secs(8);
/// What the function needs of time for a batch, which the template must give it.
pub const LONGEST: Duration = COUNTING.saturating_add(SETTING_ASIDE);

/// The EventBridge event around an entry.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    detail: &'a RawValue,
    #[serde(rename = "detail-type")]
    detail_type: String,
    source: String,
}

/// An entry whose envelope is good.
#[derive(Debug)]
pub struct Entry {
    received: Received,
    /// Its text as it arrived.
    detail: String,
}

impl Entry {
    /// The entry in this text.
    ///
    /// # Errors
    /// When its envelope is not of the documented shape.
    pub fn read(detail: &str) -> Result<Self, Defect> {
        Ok(Self {
            received: parse_event(detail)?,
            detail: detail.to_owned(),
        })
    }

    /// What is in it.
    #[must_use]
    pub fn received(&self) -> &Received {
        &self.received
    }
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// All of it was counted before.
    Duplicate,
    /// It is counted now.
    Counted,
    /// It is not counted: another one of its identity was before.
    Conflict,
}

/// [`Fate`], or why it is not known.
pub type Outcome = Result<Fate, Arc<StoreError>>;

/// What is not to be counted, and is kept to be looked at.
enum Refused {
    /// A message that is no entry.
    Message { body: String, defect: Defect },
    /// The entry of this place, whose identity another one has.
    Conflict(usize),
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
    let mut ids = Vec::new();
    let mut entries = Vec::new();
    let mut refused = Vec::new();
    for message in batch.records {
        let message_id = message.message_id.unwrap_or_default();
        let body = message.body.unwrap_or_default();
        match read(&body) {
            Ok(entry) => {
                ids.push(message_id);
                entries.push(entry);
            }
            Err(defect) => refused.push((message_id, Refused::Message { body, defect })),
        }
    }
    let entries: Arc<[Entry]> = entries.into();
    // What is no entry does not wait for those that are: the store may be slow to count one of them.
    let set_aside = app.set_aside(&entries, refused);
    let (outcomes, mut failed) = tokio::join!(app.count(&entries), set_aside);
    let mut conflicts = Vec::new();
    for (at, (message_id, outcome)) in ids.into_iter().zip(outcomes).enumerate() {
        match outcome {
            Ok(Fate::Counted | Fate::Duplicate) => {}
            Ok(Fate::Conflict) => conflicts.push((message_id, Refused::Conflict(at))),
            Err(error) => {
                let error = Chain(&*error);
                tracing::error!(message_id, %error, "usage was not counted");
                failed.insert(message_id);
            }
        }
    }
    failed.extend(app.set_aside(&entries, conflicts).await);
    app.record(metrics::EVENTS_FAILED, failed.len());
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

/// The entry in a message.
fn read(body: &str) -> Result<Entry, Defect> {
    let event: Event<'_> = serde_json::from_str(body).map_err(|error| Defect::shape(&error))?;
    let entry = Entry::read(event.detail.get())?;
    let received = &entry.received;
    received.check_envelope(&event.detail_type, &event.source)?;
    Ok(entry)
}

/// Runs tasks, some at a time, until all have ended or the time is over. What has not ended by then is
/// dropped, and may have taken effect.
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
                // Which entries they were is lost with the task, so the whole batch comes again; what
                // of it was counted is found to be.
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(within, all).await;
    done
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

    fn as_stored(&self, received_at: Timestamp) -> EventPart<'_> {
        let Entry { received, detail } = self.entry;
        EventPart {
            source: &received.source,
            id: &received.id,
            part: self.number,
            customer: &received.customer,
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
    /// Counts entries, each at most once for ever, those of a customer together. Says of each what
    /// became of it.
    pub async fn count(&self, entries: &Arc<[Entry]>) -> Vec<Outcome> {
        let mut by_customer: BTreeMap<&CustomerId, Vec<usize>> = BTreeMap::new();
        for (at, entry) in entries.iter().enumerate() {
            let places = by_customer.entry(&entry.received.customer).or_default();
            places.push(at);
        }
        let tasks = by_customer.into_values().map(|places| {
            let (app, entries) = (self.clone(), Arc::clone(entries));
            async move {
                let of_customer: Vec<&Entry> = places.iter().map(|at| &entries[*at]).collect();
                let outcomes = app.count_together(&of_customer).await;
                places.into_iter().zip(outcomes).collect::<Vec<_>>()
            }
        });
        let mut outcomes: Vec<Option<Outcome>> = vec![None; entries.len()];
        for (at, outcome) in run(tasks, COUNTING).await.into_iter().flatten() {
            outcomes[at] = Some(outcome);
        }
        let late = || Err(Arc::new(StoreError::late("counting usage")));
        let outcomes = outcomes.into_iter();
        outcomes
            .map(|outcome| outcome.unwrap_or_else(late))
            .collect()
    }

    /// What cannot be counted of each of these entries, as of now.
    ///
    /// # Errors
    /// When the store does not say whose keys are.
    pub async fn check(&self, entries: &[Entry]) -> Result<Vec<Vec<RefusedRecord>>, StoreError> {
        let now = self.clock.now();
        let mut refused = Vec::with_capacity(entries.len());
        for entry in entries {
            let Received {
                customer, items, ..
            } = &entry.received;
            let received = [&entry.received];
            let foreign = self.owners.foreign(&self.store, customer, received).await?;
            let defects = items.iter().enumerate().filter_map(|(index, item)| {
                let reason = self.check_item(item, &foreign, now).err()?.to_string();
                Some(RefusedRecord { index, reason })
            });
            refused.push(defects.collect());
        }
        Ok(refused)
    }

    /// Counts entries of one customer.
    async fn count_together(&self, entries: &[&Entry]) -> Vec<Outcome> {
        let received_at = self.clock.now();
        let Some(first) = entries.first() else {
            return Vec::new();
        };
        let received = entries.iter().map(|entry| &entry.received);
        let customer = &first.received.customer;
        let foreign = match self.owners.foreign(&self.store, customer, received).await {
            Ok(foreign) => foreign,
            Err(error) => {
                let error = Arc::new(error);
                return entries.iter().map(|_| Err(Arc::clone(&error))).collect();
            }
        };
        let mut parts = Vec::new();
        let mut of_entries = Vec::new();
        for (at, &entry) in entries.iter().enumerate() {
            let items = &entry.received.items;
            for (number, places) in parts::split(items).into_iter().enumerate() {
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
                    part.add(place, self.check_item(&items[place], &foreign, received_at));
                }
                parts.push(part);
                of_entries.push(at);
            }
        }
        let stored = parts.iter().map(|part| part.as_stored(received_at));
        let stored: Vec<EventPart> = stored.collect();
        let written = self.store.write_usage(&stored, &self.plans, &self.spread);
        let written = written.await;
        let mut outcomes: Vec<Outcome> = vec![Ok(Fate::Duplicate); entries.len()];
        for ((part, at), written) in parts.iter().zip(of_entries).zip(written) {
            let of_part = written.map(|written| {
                self.tell(part, written, received_at);
                match written {
                    Written::Counted => Fate::Counted,
                    Written::Duplicate => Fate::Duplicate,
                    Written::Conflict => Fate::Conflict,
                }
            });
            // An entry is what the worst of its parts is.
            outcomes[at] = match (&outcomes[at], of_part) {
                (Ok(so_far), Ok(of_part)) => Ok(of_part.max(*so_far)),
                (Ok(_), Err(error)) => Err(error),
                (Err(error), _) => Err(Arc::clone(error)),
            };
        }
        outcomes
    }

    /// What there is to count of an item of a customer whose keys these are not.
    fn check_item<'a>(
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

    /// Sets aside what is not to be counted, and names the messages of which that is not known.
    async fn set_aside(
        &self,
        entries: &Arc<[Entry]>,
        refused: Vec<(String, Refused)>,
    ) -> BTreeSet<String> {
        let ids = refused.iter().map(|(message_id, _)| message_id.clone());
        let mut unknown: BTreeSet<String> = ids.collect();
        let tasks = refused.into_iter().map(|(message_id, refused)| {
            let (app, entries) = (self.clone(), Arc::clone(entries));
            async move {
                let set_aside = app.quarantine(&message_id, &entries, refused).await;
                if let Err(error) = &set_aside {
                    let error = Chain(error);
                    tracing::error!(message_id, %error, "a message was not quarantined");
                }
                set_aside.is_ok().then_some(message_id)
            }
        });
        for message_id in run(tasks, SETTING_ASIDE).await.into_iter().flatten() {
            unknown.remove(&message_id);
        }
        unknown
    }

    async fn quarantine(
        &self,
        message_id: &str,
        entries: &[Entry],
        refused: Refused,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        match refused {
            Refused::Message { body, defect } => {
                let reason = defect.to_string();
                tracing::warn!(message_id, reason, "a message was quarantined");
                let set_aside = self.store.quarantine_message(body.as_bytes(), &reason, now);
                set_aside.await?;
            }
            Refused::Conflict(at) => {
                let Entry { received, detail } = &entries[at];
                let id = &received.id;
                tracing::warn!(message_id, id, "a conflicting entry was quarantined");
                let refused = RefusedRecord {
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
                    refused: &[refused],
                    body: detail.as_bytes(),
                    received_at: now,
                };
                self.store.quarantine_conflict(&whole).await?;
            }
        }
        self.record(metrics::EVENTS_QUARANTINED, 1);
        Ok(())
    }

    /// Tells in the log and in metrics what became of a part.
    fn tell(&self, part: &Part<'_>, written: Written, received_at: Timestamp) {
        let is_first = usize::from(part.number == 0);
        match written {
            Written::Counted => {
                let refused = part.refused.len();
                if refused > 0 {
                    let Received { source, id, .. } = &part.entry.received;
                    tracing::warn!(source, id, refused, "records were quarantined");
                }
                self.record(metrics::EVENTS_COUNTED, is_first);
                self.record(metrics::EVENTS_QUARANTINED, usize::from(refused > 0));
                self.record(metrics::RECORDS_METERED, part.records);
                self.tell_late(part);
                self.record(metrics::RECORDS_QUARANTINED, refused);
                let tallies = part.aggregates.days.values();
                let unpriced = tallies.map(|tally| tally.unpriced_tokens).sum();
                self.metrics.record(metrics::TOKENS_UNPRICED, &[], unpriced);
                let lag = received_at.duration_since(part.earliest).as_millis();
                let lag = u64::try_from(lag).unwrap_or_default();
                self.metrics.record(metrics::METERING_LAG, &[], lag);
            }
            Written::Duplicate => self.record(metrics::EVENTS_DUPLICATE, is_first),
            Written::Conflict => {}
        }
    }

    /// Tells of calls that may be in no bill, because a run may have closed their month before they were
    /// counted. That is asked as of now, when they have been: a run that began before its month's
    /// three days were over closes nothing.
    fn tell_late(&self, part: &Part<'_>) {
        let now = self.clock.now();
        let charges = |plan: &PlanId| self.plans.get(plan).is_some_and(Plan::charges_overage);
        for (month, tally) in &part.aggregates.months {
            if !may_close(*month, now) {
                continue;
            }
            let recorded = tally.billable.iter().map(|(plan, calls)| (plan, *calls));
            let adjusted = tally.adjusted.billable.iter();
            let adjusted = adjusted.map(|(plan, calls)| (plan, calls.unsigned_abs()));
            let calls = recorded.chain(adjusted).filter(|(plan, _)| charges(plan));
            let calls = calls.fold(0_u64, |sum, (_, calls)| sum.saturating_add(calls));
            if calls > 0 {
                let customer = &part.entry.received.customer;
                tracing::warn!(%customer, %month, calls, "usage came late for its month's bill");
                self.metrics.record(metrics::CALLS_LATE, &[], calls);
            }
        }
    }

    fn record(&self, metric: metrics::Metric, n: usize) {
        self.metrics
            .record(metric, &[], u64::try_from(n).unwrap_or(u64::MAX));
    }
}
