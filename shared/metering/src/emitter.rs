//! Records on their way to the bus.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_types::SdkConfig;
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, random_base62};
use tollgate_domain::usage::{
    EVENT_TYPE, Extensions, MAX_RECORDS, UsageData, UsageEvent, UsageRecord,
};
use tollgate_runtime::metrics::{CALLS_UNATTRIBUTED, COSTS_LATE, Metric};
use tollgate_runtime::{Chain, Clock, Entropy};

use crate::call::Calls;
use crate::spill::Spill;

/// EventBridge's bound on the entries of a call.
const MAX_ENTRIES: usize = 10;
/// The most bytes of detail in a call, well below EventBridge's bound.
const MAX_CALL_BYTES: usize = 200_000;
/// Tries of one flush; what is still unsent then waits for the next.
const TRIES: u32 = 3;
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// How long one flush may take: well within the time that a function has for a call, because the
/// flush is part of it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// An instance that ends has about half a second.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(350);
/// How long records are buffered, where not every call is followed by a flush.
const LONGEST_BUFFERED: SignedDuration = SignedDuration::from_secs(5);
/// Entries that wait while the bus is down. The oldest of more are spilled.
const MAX_WAITING: usize = 1_000;
/// Records that are buffered before entries are made of them, flush or no flush.
const MAX_BUFFERED: usize = 10_000;

/// Buffers records and puts them on the bus. Cheap to clone; all clones share the buffer.
///
/// A record is in the buffer until the bus has acknowledged its entry, so that a flush may be dropped
/// at any time, and a process that ends in the midst of one knows what it still has.
#[derive(Debug, Clone)]
pub struct Emitter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    bus: String,
    /// Of each entry, and of the EventBridge event around it: the function's role allows no other.
    source: String,
    clock: Clock,
    entropy: Entropy,
    spill: Spill,
    /// Calls that have yet to become records.
    calls: Calls,
    buffer: Mutex<Buffer>,
    /// Flushes take turns.
    flushing: tokio::sync::Mutex<()>,
    unattributed: Once,
    late_cost: Once,
}

#[derive(Debug, Default)]
struct Buffer {
    /// Since when something waits: the first record after a flush, or a flush that left something.
    since: Option<Timestamp>,
    records: Vec<(CustomerId, UsageRecord)>,
    /// Entries made of earlier records that the bus has not acknowledged. They are sent again as they
    /// are: the same entry twice counts once.
    unsent: VecDeque<Unsent>,
    /// Entries made so far.
    made: u64,
}

/// An entry, by its number among all that were made here.
#[derive(Debug, Clone)]
struct Unsent {
    number: u64,
    detail: Arc<str>,
    records: usize,
}

impl Emitter {
    /// An emitter for the function called `function`, to the bus of this name or ARN.
    #[must_use]
    pub fn new(
        sdk: &SdkConfig,
        bus: &str,
        function: &str,
        clock: Clock,
        entropy: Entropy,
        spill: Spill,
    ) -> Self {
        Self(Arc::new(Inner {
            client: Client::new(sdk),
            bus: bus.to_owned(),
            source: format!("tollgate:{function}"),
            clock,
            entropy,
            spill,
            calls: Calls::default(),
            buffer: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
            unattributed: Once::new(),
            late_cost: Once::new(),
        }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(crate) fn calls(&self) -> &Calls {
        &self.0.calls
    }

    /// Counts a call of which nobody knows whose it is. The first one of an instance is an error in
    /// the log.
    pub(crate) fn count_unattributed(&self, reason: impl Display) {
        self.0.unattributed.call_once(|| {
            tracing::error!(%reason, "a call without the authorizer's context is metered nowhere");
        });
        self.count(CALLS_UNATTRIBUTED);
    }

    /// Counts a cost that came too late for its record. The first one of an instance is an error in
    /// the log.
    pub(crate) fn count_late_cost(&self) {
        self.0.late_cost.call_once(|| {
            tracing::error!("a function reports costs after the record of their call was made");
        });
        self.count(COSTS_LATE);
    }

    fn count(&self, metric: Metric) {
        let metrics = self.0.spill.metrics();
        metrics.record_and_write_due([(metric, &[] as _, 1)]);
    }

    /// Takes a record for the next flush.
    pub fn record(&self, customer: CustomerId, record: UsageRecord) {
        let now = self.now();
        let mut buffer = self.buffer();
        buffer.since.get_or_insert(now);
        buffer.records.push((customer, record));
        if buffer.records.len() >= MAX_BUFFERED {
            self.make_entries(&mut buffer);
            let spilled = buffer.too_many();
            drop(buffer);
            self.spill(spilled);
        }
    }

    /// [`flush`](Self::flush), if 100 records are buffered, or anything has been for five seconds.
    pub async fn flush_due(&self) {
        let is_due = {
            let buffer = self.buffer();
            let has_waited = buffer.since.is_some_and(|since| {
                let waited = self.now().duration_since(since);
                // A clock that was set back tells nothing of how long it was.
                waited >= LONGEST_BUFFERED || waited.is_negative()
            });
            has_waited || buffer.records.len() >= MAX_RECORDS
        };
        if is_due {
            self.flush().await;
        }
    }

    /// Puts all that is buffered on the bus. Never fails: what cannot be sent waits for the next
    /// flush, up to a bound, and is spilled beyond it. When it returns, no other flush is still at what
    /// was recorded before.
    pub async fn flush(&self) {
        let _turn = self.0.flushing.lock().await;
        self.make_all_entries();
        // What the bus has not acknowledged by then is still there.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.try_to_send()).await;
        let mut buffer = self.buffer();
        if buffer.unsent.is_empty() {
            return;
        }
        tracing::warn!(
            entries = buffer.unsent.len(),
            "usage waits for the event bus"
        );
        buffer.since = Some(self.now());
        let spilled = buffer.too_many();
        drop(buffer);
        self.spill(spilled);
    }

    /// Sends what is unsent, some of it more often than once.
    async fn try_to_send(&self) {
        for attempt in 1..=TRIES {
            self.send(self.unsent()).await;
            if self.unsent().is_empty() {
                break;
            }
            if attempt < TRIES {
                let longest = u64::try_from(LONGEST_WAIT.as_millis()).unwrap_or(u64::MAX);
                let wait =
                    Duration::from_millis(self.0.entropy.below(longest * u64::from(attempt)));
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Flushes for the last time, whatever a flush is at: one try, in the third of a second that there
    /// is. What may not have been sent by then is spilled. An entry that is on the bus as well counts
    /// once. Calls under way are recorded as they stand, their answers' bodies as interrupted.
    pub async fn close(&self) {
        self.0.calls.interrupt();
        self.make_all_entries();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.send(self.unsent())).await;
        let spilled = self.buffer().unsent.drain(..).collect();
        self.spill(spilled);
        self.0.spill.metrics().write();
    }

    fn spill(&self, entries: Vec<Unsent>) {
        let entries = entries.iter();
        let entries = entries.map(|entry| (&*entry.detail, entry.records));
        self.0.spill.write(entries);
    }

    fn unsent(&self) -> Vec<Unsent> {
        self.buffer().unsent.iter().cloned().collect()
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_all_entries(&self) {
        let mut buffer = self.buffer();
        buffer.since = None;
        self.make_entries(&mut buffer);
    }

    /// Makes entries of all records.
    fn make_entries(&self, buffer: &mut Buffer) {
        let mut by_customer: BTreeMap<CustomerId, Vec<UsageRecord>> = BTreeMap::new();
        for (customer, record) in std::mem::take(&mut buffer.records) {
            by_customer.entry(customer).or_default().push(record);
        }
        for (customer, records) in by_customer {
            for records in records.chunks(MAX_RECORDS) {
                self.make_entry(&customer, records, buffer);
            }
        }
    }

    /// One entry of these records, or several if it would be too large for a call.
    fn make_entry(&self, customer: &CustomerId, records: &[UsageRecord], buffer: &mut Buffer) {
        let entry = UsageEvent {
            specversion: "1.0".to_owned(),
            id: self.0.entropy.with(|rng| random_base62(rng, 24)),
            source: self.0.source.clone(),
            r#type: EVENT_TYPE.to_owned(),
            time: self.now(),
            subject: customer.clone(),
            datacontenttype: Some("application/json".to_owned()),
            extensions: Extensions::default(),
            data: UsageData {
                records: records.iter().collect(),
            },
        };
        match serde_json::to_string(&entry) {
            Ok(detail) if detail.len() <= MAX_CALL_BYTES || records.len() == 1 => {
                buffer.made += 1;
                buffer.unsent.push_back(Unsent {
                    number: buffer.made,
                    detail: detail.into(),
                    records: records.len(),
                });
            }
            Ok(_) => {
                let (first, second) = records.split_at(records.len() / 2);
                self.make_entry(customer, first, buffer);
                self.make_entry(customer, second, buffer);
            }
            Err(error) => tracing::error!(%error, "a usage record cannot be written as JSON"),
        }
    }

    /// Sends the entries once, and forgets those that the bus acknowledges.
    async fn send(&self, entries: Vec<Unsent>) {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut call: Vec<Unsent> = Vec::new();
            let mut bytes = 0;
            while let Some(entry) = entries.next_if(|entry| {
                let fits = bytes + entry.detail.len() <= MAX_CALL_BYTES && call.len() < MAX_ENTRIES;
                fits || call.is_empty()
            }) {
                bytes += entry.detail.len();
                call.push(entry);
            }
            self.put(&call).await;
        }
    }

    /// One PutEvents call.
    async fn put(&self, call: &[Unsent]) {
        let entry = |entry: &Unsent| {
            PutEventsRequestEntry::builder()
                .event_bus_name(&self.0.bus)
                .source(&self.0.source)
                .detail_type(EVENT_TYPE)
                .detail(&*entry.detail)
                .build()
        };
        let request = self.0.client.put_events();
        let outcome = request
            .set_entries(Some(call.iter().map(entry).collect()))
            .send()
            .await;
        match outcome {
            Ok(answer) => {
                let results = answer.entries();
                let refused = results.iter().find_map(|result| result.error_code());
                if let Some(code) = refused {
                    tracing::warn!(code, "the event bus refused usage");
                }
                // The results are in the order of the entries.
                let taken = call.iter().zip(results);
                let taken = taken.filter(|(_, result)| result.event_id().is_some());
                let taken: BTreeSet<u64> = taken.map(|(entry, _)| entry.number).collect();
                let unsent = &mut self.buffer().unsent;
                unsent.retain(|entry| !taken.contains(&entry.number));
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "the event bus did not answer"),
        }
    }
}

impl Buffer {
    /// Takes out what is too much to wait, oldest first.
    fn too_many(&mut self) -> Vec<Unsent> {
        let too_many = self.unsent.len().saturating_sub(MAX_WAITING);
        self.unsent.drain(..too_many).collect()
    }
}
