//! Emitter: buffers usage records and puts them on the event bus.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_types::SdkConfig;
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, uuid_v7};
use tollgate_domain::usage::{
    EVENT_TYPE, Extensions, MAX_RECORDS, UsageData, UsageEvent, UsageRecord,
};
use tollgate_runtime::metrics::{LATE_COSTS, Metric, UNATTRIBUTED_CALLS};
use tollgate_runtime::{Chain, Clock, Entropy};

use crate::call::OpenCalls;
use crate::unsent_log::UnsentLog;

/// EventBridge's limit of entries in one PutEvents request.
const MAX_ENTRIES: usize = 10;
/// Bytes of detail in one request at most, well below EventBridge's limit.
const MAX_REQUEST_BYTES: usize = 200_000;
/// Attempts of one flush. Events still unsent then are sent by the next flush.
const MAX_ATTEMPTS: u32 = 3;
/// Upper bound of the backoff after the first attempt; it grows linearly.
const BACKOFF: Duration = Duration::from_millis(100);
/// Timeout of one flush: well within the timeout of a function, because the flush counts towards it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of the last flush: an instance has about half a second for its shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(350);
/// Age of the oldest buffered record at which a flush is due.
const MAX_BUFFER_AGE: SignedDuration = SignedDuration::from_secs(5);
/// Events kept while the bus is unavailable. Beyond it, the oldest are moved to the unsent log.
const MAX_UNSENT: usize = 1_000;
/// Records buffered before events are made of them, even without a flush.
const MAX_BUFFERED: usize = 10_000;

/// Buffers records and puts them on the bus. Cheap to clone; clones share the buffer.
///
/// A record stays in the buffer until the bus has acknowledged its event, so that a flush may be dropped
/// at any time, and a shutdown during a flush loses nothing.
#[derive(Debug, Clone)]
pub struct Emitter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    bus: String,
    /// Source of each usage event and of its EventBridge event: the function's role allows no other.
    source: String,
    clock: Clock,
    entropy: Entropy,
    unsent_log: UnsentLog,
    /// Calls whose records are not made yet.
    calls: OpenCalls,
    buffer: Mutex<Buffer>,
    /// Serialises the flushes.
    flushing: tokio::sync::Mutex<()>,
    /// Limits the log to the first unattributed call.
    unattributed: Once,
    /// Limits the log to the first late cost.
    late_cost: Once,
}

#[derive(Debug, Default)]
struct Buffer {
    /// Time from which the age of the buffer counts: of the first record after a flush, or of a flush that
    /// left events unsent.
    since: Option<Timestamp>,
    records: Vec<(CustomerId, UsageRecord)>,
    /// Events made of earlier records that the bus has not acknowledged. They are sent again unchanged,
    /// with the same id, so that a duplicate counts once.
    unsent: VecDeque<UnsentEvent>,
    /// Number of events made so far.
    made: u64,
}

/// A usage event that the bus has not acknowledged.
#[derive(Debug, Clone)]
struct UnsentEvent {
    /// Sequence number among the events made by this emitter.
    number: u64,
    /// The event as JSON.
    detail: Arc<str>,
    records: usize,
}

impl Emitter {
    /// Creates an emitter for the function called `function`, to the bus with this name or ARN.
    #[must_use]
    pub fn new(
        sdk: &SdkConfig,
        bus: &str,
        function: &str,
        clock: Clock,
        entropy: Entropy,
        unsent_log: UnsentLog,
    ) -> Self {
        Self(Arc::new(Inner {
            client: Client::new(sdk),
            bus: bus.to_owned(),
            source: format!("tollgate:{function}"),
            clock,
            entropy,
            unsent_log,
            calls: OpenCalls::default(),
            buffer: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
            unattributed: Once::new(),
            late_cost: Once::new(),
        }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(crate) fn calls(&self) -> &OpenCalls {
        &self.0.calls
    }

    /// Counts a call whose customer is unknown. The first one of an instance is logged as an error.
    pub(crate) fn count_unattributed(&self, reason: impl Display) {
        self.0.unattributed.call_once(|| {
            tracing::error!(%reason, "a call without the authorizer's context is metered nowhere");
        });
        self.count(UNATTRIBUTED_CALLS);
    }

    /// Counts a cost that was added after its record was made. The first one of an instance is logged as an
    /// error.
    pub(crate) fn count_late_cost(&self) {
        self.0.late_cost.call_once(|| {
            tracing::error!("the function adds costs after the record of their call was made");
        });
        self.count(LATE_COSTS);
    }

    fn count(&self, metric: Metric) {
        let metrics = self.0.unsent_log.metrics();
        metrics.record_and_write_due([(metric, &[] as _, 1)]);
    }

    /// Buffers a record for the next flush.
    pub fn record(&self, customer: CustomerId, record: UsageRecord) {
        let now = self.now();
        let mut buffer = self.buffer();
        buffer.since.get_or_insert(now);
        buffer.records.push((customer, record));
        if buffer.records.len() >= MAX_BUFFERED {
            self.make_events(&mut buffer);
            let excess = buffer.take_excess();
            drop(buffer);
            self.log_unsent(excess);
        }
    }

    /// Flushes if 100 records are buffered, or the oldest is five seconds old.
    pub async fn flush_due(&self) {
        let is_due = {
            let buffer = self.buffer();
            let is_old = buffer.since.is_some_and(|since| {
                let age = self.now().duration_since(since);
                // If the clock was set back, the age is unknown, and counts as old.
                age >= MAX_BUFFER_AGE || age.is_negative()
            });
            is_old || buffer.records.len() >= MAX_RECORDS
        };
        if is_due {
            self.flush().await;
        }
    }

    /// Puts all buffered records on the bus. Never fails: unsent events are kept for the next flush, up to
    /// a bound, and written to the unsent log beyond it. Flushes run one at a time, so that on return no
    /// other flush is still sending earlier records.
    pub async fn flush(&self) {
        let _guard = self.0.flushing.lock().await;
        self.make_all_events();
        // Events that the bus has not acknowledged by then stay in the buffer.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.send_with_retries()).await;
        let mut buffer = self.buffer();
        if buffer.unsent.is_empty() {
            return;
        }
        tracing::warn!(
            events = buffer.unsent.len(),
            "usage events could not be sent and are kept for the next flush"
        );
        buffer.since = Some(self.now());
        let excess = buffer.take_excess();
        drop(buffer);
        self.log_unsent(excess);
    }

    /// Sends the unsent events, with retries.
    async fn send_with_retries(&self) {
        for attempt in 1..=MAX_ATTEMPTS {
            self.send(self.unsent()).await;
            if self.unsent().is_empty() {
                break;
            }
            if attempt < MAX_ATTEMPTS {
                let max_ms = u64::try_from(BACKOFF.as_millis()).unwrap_or(u64::MAX);
                let backoff_ms = self.0.entropy.below(max_ms * u64::from(attempt));
                tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
            }
        }
    }

    /// Flushes for the last time, without waiting for a flush in progress: one attempt, with a timeout of
    /// 350 ms. Events that the bus has not acknowledged by then are written to the unsent log; one that is
    /// on the bus as well counts once. Calls in progress are recorded in their current state, with their
    /// bodies as interrupted.
    pub async fn close(&self) {
        self.0.calls.interrupt();
        self.make_all_events();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.send(self.unsent())).await;
        let unsent = self.buffer().unsent.drain(..).collect();
        self.log_unsent(unsent);
        self.0.unsent_log.metrics().write();
    }

    fn log_unsent(&self, events: Vec<UnsentEvent>) {
        let events = events.iter();
        let events = events.map(|event| (&*event.detail, event.records));
        self.0.unsent_log.write(events);
    }

    fn unsent(&self) -> Vec<UnsentEvent> {
        self.buffer().unsent.iter().cloned().collect()
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_all_events(&self) {
        let mut buffer = self.buffer();
        buffer.since = None;
        self.make_events(&mut buffer);
    }

    /// Makes events of all buffered records.
    fn make_events(&self, buffer: &mut Buffer) {
        let mut by_customer: BTreeMap<CustomerId, Vec<UsageRecord>> = BTreeMap::new();
        for (customer, record) in std::mem::take(&mut buffer.records) {
            by_customer.entry(customer).or_default().push(record);
        }
        for (customer, records) in by_customer {
            for records in records.chunks(MAX_RECORDS) {
                self.make_event(&customer, records, buffer);
            }
        }
    }

    /// Makes one event of these records, or several if it would be too large for a request.
    fn make_event(&self, customer: &CustomerId, records: &[UsageRecord], buffer: &mut Buffer) {
        let now = self.now();
        let event = UsageEvent {
            specversion: "1.0".to_owned(),
            id: self.0.entropy.with(|rng| uuid_v7(now, rng)),
            source: self.0.source.clone(),
            r#type: EVENT_TYPE.to_owned(),
            time: now,
            subject: customer.clone(),
            datacontenttype: Some("application/json".to_owned()),
            extensions: Extensions::default(),
            data: UsageData {
                records: records.iter().collect(),
            },
        };
        match serde_json::to_string(&event) {
            Ok(detail) if detail.len() <= MAX_REQUEST_BYTES || records.len() == 1 => {
                buffer.made += 1;
                buffer.unsent.push_back(UnsentEvent {
                    number: buffer.made,
                    detail: detail.into(),
                    records: records.len(),
                });
            }
            Ok(_) => {
                let (first, second) = records.split_at(records.len() / 2);
                self.make_event(customer, first, buffer);
                self.make_event(customer, second, buffer);
            }
            Err(error) => tracing::error!(%error, "a usage event cannot be serialised"),
        }
    }

    /// Sends the events once, and removes those that the bus acknowledges from the buffer.
    async fn send(&self, events: Vec<UnsentEvent>) {
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let mut batch: Vec<UnsentEvent> = Vec::new();
            let mut bytes = 0;
            while let Some(event) = events.next_if(|event| {
                let fits =
                    bytes + event.detail.len() <= MAX_REQUEST_BYTES && batch.len() < MAX_ENTRIES;
                fits || batch.is_empty()
            }) {
                bytes += event.detail.len();
                batch.push(event);
            }
            self.put(&batch).await;
        }
    }

    /// Sends one PutEvents request.
    async fn put(&self, batch: &[UnsentEvent]) {
        let entry = |event: &UnsentEvent| {
            PutEventsRequestEntry::builder()
                .event_bus_name(&self.0.bus)
                .source(&self.0.source)
                .detail_type(EVENT_TYPE)
                .detail(&*event.detail)
                .build()
        };
        let request = self.0.client.put_events();
        let outcome = request
            .set_entries(Some(batch.iter().map(entry).collect()))
            .send()
            .await;
        match outcome {
            Ok(response) => {
                let results = response.entries();
                let error_code = results.iter().find_map(|result| result.error_code());
                if let Some(code) = error_code {
                    tracing::warn!(code, "the event bus rejected usage events");
                }
                // The results are in the order of the request's entries.
                let sent = batch.iter().zip(results);
                let sent = sent.filter(|(_, result)| result.event_id().is_some());
                let sent: BTreeSet<u64> = sent.map(|(event, _)| event.number).collect();
                let unsent = &mut self.buffer().unsent;
                unsent.retain(|event| !sent.contains(&event.number));
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "the PutEvents request failed"),
        }
    }
}

impl Buffer {
    /// Removes and returns the unsent events beyond the bound, oldest first.
    fn take_excess(&mut self) -> Vec<UnsentEvent> {
        let excess = self.unsent.len().saturating_sub(MAX_UNSENT);
        self.unsent.drain(..excess).collect()
    }
}
