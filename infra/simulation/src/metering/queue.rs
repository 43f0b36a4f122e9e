//! The event bus and the queue behind it: they deliver every accepted event at least once, in any order, and
//! sometimes again days later. Times and bounds are those of the template.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tollgate_runtime::Entropy;

/// Visibility timeout of a received message.
const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(240);
/// Most messages of a batch.
const MAX_BATCH: usize = 1_000;
/// Times that a message is received before it becomes a dead letter.
const MAX_RECEIVES: u32 = 5;
/// Extension attribute that some copies of a usage event have: another text, but the same event.
pub(super) const EXTENSION: &str = "traceparent";
/// Greatest delay of a duplicate: well before its records are too old to be counted.
const MAX_DUPLICATE_DELAY: Duration = Duration::from_secs(20 * 24 * 3_600);

/// The bus and its queue. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    more: Notify,
    entropy: Entropy,
}

#[derive(Debug, Default)]
struct State {
    messages: BTreeMap<u64, Message>,
    dead_letters: Vec<Message>,
    last_id: u64,
    is_reliable: bool,
    /// Accepted records and adjustments with their customers, by request id, or by the event's id and the
    /// index in the event.
    accepted: BTreeMap<String, (String, Value)>,
}

#[derive(Debug)]
struct Message {
    body: String,
    visible_at: Instant,
    receives: u32,
}

impl Queue {
    pub(crate) fn new(entropy: Entropy) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            more: Notify::new(),
            entropy,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self, is_reliable: bool, percent: u64) -> bool {
        self.0.entropy.below(100) < percent && !is_reliable
    }

    fn within(&self, max: Duration) -> Duration {
        let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(1 + self.0.entropy.below(max_ms))
    }

    /// Stops injecting faults.
    pub(crate) fn stop_faults(&self) {
        self.state().is_reliable = true;
    }

    pub(crate) fn accepted(&self) -> BTreeMap<String, (String, Value)> {
        self.state().accepted.clone()
    }

    /// Puts a usage event on the bus and retries until it is accepted; in half of the cases twice, as after a
    /// lost response.
    pub(crate) fn put(&self, event: &Value, detail_type: &str) {
        let entry = json!({
            "Source": event["source"], "DetailType": detail_type, "Detail": event.to_string(),
        });
        let body = json!({ "Entries": [entry] }).to_string();
        let mut remaining = 1 + self.0.entropy.below(2);
        while remaining > 0 {
            let (_, response) = self.put_events(&body);
            let is_accepted = response.contains("\"FailedEntryCount\":0");
            remaining -= u64::from(is_accepted);
        }
    }

    /// Puts two events with the same source and id but different content on the bus. Either may be counted,
    /// but not both, so they are left out of [`Queue::accepted`].
    pub(crate) fn put_conflicting(&self, events: &[Value; 2], detail_type: &str) {
        let accepted = self.accepted();
        for event in events {
            self.put(event, detail_type);
        }
        self.state().accepted = accepted;
    }

    /// Handles a PutEvents request: fails some entries, and delivers others twice.
    pub(crate) fn put_events(&self, body: &str) -> (u16, String) {
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let mut results = Vec::new();
        let mut failed = 0;
        let mut state = self.state();
        let is_reliable = state.is_reliable;
        for entry in request["Entries"].as_array().into_iter().flatten() {
            if self.chance(is_reliable, 15) {
                failed += 1;
                results
                    .push(json!({ "ErrorCode": "InternalFailure", "ErrorMessage": "simulated" }));
                continue;
            }
            let text = entry["Detail"].as_str().unwrap_or_default();
            let detail: Value = serde_json::from_str(text).unwrap_or_default();
            let customer = detail["subject"].as_str().unwrap_or_default();
            let items = detail["data"].as_object().into_iter().flatten();
            let items = items.filter_map(|(_, items)| items.as_array()).flatten();
            for (index, item) in items.enumerate() {
                let id = match item["request_id"].as_str() {
                    Some(id) => id.to_owned(),
                    None => format!("{}/{index}", detail["id"]),
                };
                state
                    .accepted
                    .insert(id, (customer.to_owned(), item.clone()));
            }
            let mut event = json!({
                "detail-type": entry["DetailType"], "source": entry["Source"], "detail": detail,
            });
            let copies = if self.chance(is_reliable, 10) { 2 } else { 1 };
            for copy in 0..copies {
                if copy > 0 && self.chance(is_reliable, 50) {
                    event["detail"][EXTENSION] = format!("copy-{copy}").into();
                }
                state.last_id += 1;
                let message = Message {
                    body: event.to_string(),
                    visible_at: Instant::now() + self.within(Duration::from_secs(10)),
                    receives: 0,
                };
                let id = state.last_id;
                state.messages.insert(id, message);
            }
            results.push(json!({ "EventId": state.last_id.to_string() }));
        }
        drop(state);
        self.0.more.notify_waiters();
        let response = json!({ "FailedEntryCount": failed, "Entries": results });
        (200, response.to_string())
    }

    /// Waits for messages, and receives some of the visible ones in random order, with their ids. Unless they
    /// are deleted, they become visible again after the visibility timeout.
    pub(crate) async fn receive(&self) -> Vec<(String, String)> {
        loop {
            let more = self.0.more.notified();
            let next = self.state().messages.values().map(|m| m.visible_at).min();
            match next {
                None => more.await,
                Some(at) if at > Instant::now() => tokio::select! {
                    // Polls in a fixed order, so that every run of a seed is the same.
                    biased;
                    () = sleep_until(at) => {}
                    () = more => {}
                },
                Some(_) => {
                    let received = self.receive_visible();
                    if !received.is_empty() {
                        return received;
                    }
                }
            }
        }
    }

    fn receive_visible(&self) -> Vec<(String, String)> {
        let now = Instant::now();
        let mut state = self.state();
        let is_dead = |_: &u64, m: &mut Message| m.visible_at <= now && m.receives >= MAX_RECEIVES;
        let dead: Vec<_> = state.messages.extract_if(.., is_dead).collect();
        state.dead_letters.extend(dead.into_iter().map(|(_, m)| m));
        let visible = state.messages.iter().filter(|(_, m)| m.visible_at <= now);
        let mut ids: Vec<u64> = visible.map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Vec::new();
        }
        let index = |bound: usize| {
            let random = self.0.entropy.below(u64::try_from(bound).unwrap_or(1));
            usize::try_from(random).unwrap_or(0)
        };
        for last in (1..ids.len()).rev() {
            ids.swap(last, index(last + 1));
        }
        let count = 1 + index(ids.len().min(MAX_BATCH));
        let received = ids.into_iter().take(count).filter_map(|id| {
            let message = state.messages.get_mut(&id)?;
            message.visible_at = now + VISIBILITY_TIMEOUT;
            message.receives += 1;
            Some((id.to_string(), message.body.clone()))
        });
        received.collect()
    }

    /// Deletes messages that a writer has handled. Some deletions are lost, and some messages are delivered
    /// again much later.
    pub(crate) fn delete(&self, ids: impl IntoIterator<Item = String>) {
        let mut state = self.state();
        let is_reliable = state.is_reliable;
        for id in ids {
            let Ok(id) = id.parse::<u64>() else { continue };
            if self.chance(is_reliable, 10) {
                // Receives in which nothing failed make no dead letter.
                if let Some(message) = state.messages.get_mut(&id) {
                    message.receives = 0;
                }
                continue;
            }
            let is_duplicated = self.chance(is_reliable, 10);
            match state.messages.get_mut(&id) {
                Some(message) if is_duplicated => {
                    message.receives = 0;
                    message.visible_at = Instant::now() + self.within(MAX_DUPLICATE_DELAY);
                }
                _ => {
                    state.messages.remove(&id);
                }
            }
        }
    }

    /// Returns the dead letters to the queue, as an operator does when faults have ceased. From now on, a message is
    /// received a few times at most.
    pub(crate) fn redrive(&self) {
        let mut state = self.state();
        for message in state.messages.values_mut() {
            message.receives = 0;
        }
        for message in std::mem::take(&mut state.dead_letters) {
            state.last_id += 1;
            let id = state.last_id;
            let message = Message {
                receives: 0,
                ..message
            };
            state.messages.insert(id, message);
        }
        drop(state);
        self.0.more.notify_waiters();
    }

    /// Returns the number of dead letters.
    pub(crate) fn dead_letters(&self) -> usize {
        self.state().dead_letters.len()
    }

    /// Returns whether all messages were deleted.
    pub(crate) fn is_empty(&self) -> bool {
        self.state().messages.is_empty()
    }
}
