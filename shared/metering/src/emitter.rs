//! Records on their way to the bus.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_types::SdkConfig;
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, random_base62};
use tollgate_domain::usage::{EVENT_TYPE, MAX_RECORDS, UsageData, UsageEntry, UsageRecord};
use tollgate_runtime::{Chain, Clock, Entropy};

/// The EventBridge `Source` of entries made here. The identity of an entry is inside its detail.
const EVENT_SOURCE: &str = "tollgate.metering";
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
/// Entries that wait while the bus is down. More go to the log.
const MAX_WAITING: usize = 1_000;

/// Buffers records and puts them on the bus. Cheap to clone; all clones share the buffer.
#[derive(Debug, Clone)]
pub struct Emitter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    bus: String,
    source: String,
    clock: Clock,
    entropy: Entropy,
    buffer: Mutex<Buffer>,
}

#[derive(Debug, Default)]
struct Buffer {
    /// Since when something waits: the first record after a flush, or what the flush has left.
    since: Option<Timestamp>,
    records: Vec<(CustomerId, UsageRecord)>,
    /// Entries made of earlier records, whose fate is not known or known to be bad. They are sent
    /// again as they are: the same entry twice counts once.
    unsent: VecDeque<String>,
}

impl Emitter {
    /// An emitter for the function called `function`, to the bus of this name or ARN.
    #[must_use]
    pub fn new(sdk: &SdkConfig, bus: &str, function: &str, clock: Clock, entropy: Entropy) -> Self {
        Self(Arc::new(Inner {
            client: Client::new(sdk),
            bus: bus.to_owned(),
            source: format!("tollgate:{function}"),
            clock,
            entropy,
            buffer: Mutex::default(),
        }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Takes a record for the next flush.
    pub fn record(&self, customer: CustomerId, record: UsageRecord) {
        let now = self.now();
        let mut buffer = self.buffer();
        buffer.since.get_or_insert(now);
        buffer.records.push((customer, record));
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
    /// flush, up to a bound, and then goes to the log.
    pub async fn flush(&self) {
        let entries = self.take();
        let sent = tokio::time::timeout(FLUSH_TIMEOUT, self.try_to_send(entries.clone())).await;
        let unsent = sent.unwrap_or(entries);
        if unsent.is_empty() {
            return;
        }
        tracing::warn!(entries = unsent.len(), "usage waits for the event bus");
        let now = self.now();
        let mut buffer = self.buffer();
        buffer.since.get_or_insert(now);
        buffer.unsent.extend(unsent);
        let too_many = buffer.unsent.len().saturating_sub(MAX_WAITING);
        let spilled: Vec<String> = buffer.unsent.drain(..too_many).collect();
        drop(buffer);
        spill(spilled);
    }

    /// Sends the entries, some more often than once, and returns those that may not have arrived.
    async fn try_to_send(&self, mut entries: Vec<String>) -> Vec<String> {
        for attempt in 1..=TRIES {
            entries = self.send(entries).await;
            if entries.is_empty() {
                break;
            }
            if attempt < TRIES {
                let longest = u64::try_from(LONGEST_WAIT.as_millis()).unwrap_or(u64::MAX);
                let wait =
                    Duration::from_millis(self.0.entropy.below(longest * u64::from(attempt)));
                tokio::time::sleep(wait).await;
            }
        }
        entries
    }

    /// Flushes for the last time: one try, in the third of a second that there is; what may not
    /// have been sent by then goes to the log. An entry that is in both counts once.
    pub async fn close(&self) {
        let entries = self.take();
        let sent = tokio::time::timeout(CLOSE_TIMEOUT, self.send(entries.clone())).await;
        spill(sent.unwrap_or(entries));
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is buffered, as the details of entries, oldest first.
    fn take(&self) -> Vec<String> {
        let (mut entries, records): (Vec<String>, _) = {
            let mut buffer = self.buffer();
            buffer.since = None;
            let unsent = buffer.unsent.drain(..).collect();
            (unsent, std::mem::take(&mut buffer.records))
        };
        let mut by_customer: BTreeMap<CustomerId, Vec<UsageRecord>> = BTreeMap::new();
        for (customer, record) in records {
            by_customer.entry(customer).or_default().push(record);
        }
        for (customer, records) in by_customer {
            for records in records.chunks(MAX_RECORDS) {
                self.make_entries(&customer, records, &mut entries);
            }
        }
        entries
    }

    /// One entry of these records, or several if it would be too large for a call.
    fn make_entries(&self, customer: &CustomerId, records: &[UsageRecord], out: &mut Vec<String>) {
        let entry = UsageEntry {
            specversion: "1.0".to_owned(),
            id: self.0.entropy.with(|rng| random_base62(rng, 24)),
            source: self.0.source.clone(),
            r#type: EVENT_TYPE.to_owned(),
            time: self.now(),
            subject: customer.clone(),
            datacontenttype: Some("application/json".to_owned()),
            data: UsageData {
                records: records.iter().collect(),
            },
        };
        match serde_json::to_string(&entry) {
            Ok(detail) if detail.len() <= MAX_CALL_BYTES || records.len() == 1 => out.push(detail),
            Ok(_) => {
                let (first, second) = records.split_at(records.len() / 2);
                self.make_entries(customer, first, out);
                self.make_entries(customer, second, out);
            }
            Err(error) => tracing::error!(%error, "a usage record cannot be written as JSON"),
        }
    }

    /// Sends the entries, and returns those that must be sent again.
    async fn send(&self, entries: Vec<String>) -> Vec<String> {
        let mut again = Vec::new();
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut call: Vec<String> = Vec::new();
            let mut bytes = 0;
            while let Some(entry) = entries.next_if(|entry| {
                let fits = bytes + entry.len() <= MAX_CALL_BYTES && call.len() < MAX_ENTRIES;
                fits || call.is_empty()
            }) {
                bytes += entry.len();
                call.push(entry);
            }
            again.extend(self.put(call).await);
        }
        again
    }

    /// One PutEvents call; returns the entries that it did not take, or may not have taken.
    async fn put(&self, call: Vec<String>) -> Vec<String> {
        let entry = |detail: &String| {
            PutEventsRequestEntry::builder()
                .event_bus_name(&self.0.bus)
                .source(EVENT_SOURCE)
                .detail_type(EVENT_TYPE)
                .detail(detail)
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
                let failed = |at: usize| match results.get(at) {
                    Some(result) => result.event_id().is_none(),
                    None => true,
                };
                let refused = results.iter().find_map(|result| result.error_code());
                if let Some(code) = refused {
                    tracing::warn!(code, "the event bus refused usage");
                }
                let numbered = call.into_iter().enumerate();
                numbered
                    .filter_map(|(at, entry)| failed(at).then_some(entry))
                    .collect()
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the event bus did not answer");
                call
            }
        }
    }
}

/// Writes entries to the log whole, from where they can be sent again.
fn spill(entries: Vec<String>) {
    for entry in entries {
        tracing::error!(entry, "unsent_usage");
    }
}
