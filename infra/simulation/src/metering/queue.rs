//! The bus and the queue behind it: they deliver everything that they have accepted, more often than
//! once, in any order, and now and then days later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tollgate_runtime::Entropy;

/// How long a message that was taken is out of sight.
const VISIBILITY: Duration = Duration::from_secs(360);
/// The latest that a copy comes again: well before its records are too old to count.
const LATEST_COPY: Duration = Duration::from_secs(20 * 24 * 3_600);

/// Cheap to clone; all clones are the same queue.
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
    last_id: u64,
    is_calm: bool,
    /// The records and adjustments that were accepted, with their customers: by request id, or by the
    /// entry's id and the place in it.
    accepted: BTreeMap<String, (String, Value)>,
}

#[derive(Debug)]
struct Message {
    body: String,
    visible_at: Instant,
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

    fn chance(&self, is_calm: bool, percent: u64) -> bool {
        self.0.entropy.below(100) < percent && !is_calm
    }

    fn within(&self, longest: Duration) -> Duration {
        let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(1 + self.0.entropy.below(longest))
    }

    /// From now on nothing goes wrong.
    pub(crate) fn calm(&self) {
        self.state().is_calm = true;
    }

    pub(crate) fn accepted(&self) -> BTreeMap<String, (String, Value)> {
        self.state().accepted.clone()
    }

    /// Puts an entry on the bus for as long as it takes, twice where an answer was lost.
    pub(crate) fn put(&self, detail: &Value, detail_type: &str) {
        let entry = json!({
            "Source": detail["source"], "DetailType": detail_type, "Detail": detail.to_string(),
        });
        let body = json!({ "Entries": [entry] }).to_string();
        let mut tries = 1 + self.0.entropy.below(2);
        while tries > 0 {
            let (_, answer) = self.put_events(&body);
            let is_accepted = answer.contains("\"FailedEntryCount\":0");
            tries -= u64::from(is_accepted);
        }
    }

    /// Puts two entries of one identity on the bus, of which either may be counted, and not both. They
    /// are not among those that were accepted.
    pub(crate) fn put_rivals(&self, rivals: &[Value; 2], detail_type: &str) {
        let accepted = self.accepted();
        for rival in rivals {
            self.put(rival, detail_type);
        }
        self.state().accepted = accepted;
    }

    /// Answers PutEvents: refuses some entries, and takes others twice.
    pub(crate) fn put_events(&self, body: &str) -> (u16, String) {
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let mut results = Vec::new();
        let mut failed = 0;
        let mut state = self.state();
        let is_calm = state.is_calm;
        for entry in request["Entries"].as_array().into_iter().flatten() {
            if self.chance(is_calm, 15) {
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
            for (place, item) in items.enumerate() {
                let id = match item["request_id"].as_str() {
                    Some(id) => id.to_owned(),
                    None => format!("{}/{place}", detail["id"]),
                };
                state
                    .accepted
                    .insert(id, (customer.to_owned(), item.clone()));
            }
            let event = json!({
                "detail-type": entry["DetailType"], "source": entry["Source"], "detail": detail,
            });
            let copies = if self.chance(is_calm, 10) { 2 } else { 1 };
            for _ in 0..copies {
                state.last_id += 1;
                let message = Message {
                    body: event.to_string(),
                    visible_at: Instant::now() + self.within(Duration::from_secs(10)),
                };
                let id = state.last_id;
                state.messages.insert(id, message);
            }
            results.push(json!({ "EventId": state.last_id.to_string() }));
        }
        drop(state);
        self.0.more.notify_waiters();
        let answer = json!({ "FailedEntryCount": failed, "Entries": results });
        (200, answer.to_string())
    }

    /// Waits for messages, and takes some of those that are to be seen, in any order. They stay, and
    /// are seen again after a while, unless they are deleted.
    pub(crate) async fn take(&self) -> Vec<(String, String)> {
        loop {
            let more = self.0.more.notified();
            let next = self.state().messages.values().map(|m| m.visible_at).min();
            match next {
                None => more.await,
                Some(at) if at > Instant::now() => tokio::select! {
                    // So that a seed tells the same story each time.
                    biased;
                    () = sleep_until(at) => {}
                    () = more => {}
                },
                Some(_) => return self.visible(),
            }
        }
    }

    fn visible(&self) -> Vec<(String, String)> {
        let now = Instant::now();
        let mut state = self.state();
        let seen = state.messages.iter().filter(|(_, m)| m.visible_at <= now);
        let mut ids: Vec<u64> = seen.map(|(id, _)| *id).collect();
        let index = |below: usize| {
            let drawn = self.0.entropy.below(u64::try_from(below).unwrap_or(1));
            usize::try_from(drawn).unwrap_or(0)
        };
        for last in (1..ids.len()).rev() {
            ids.swap(last, index(last + 1));
        }
        let count = 1 + index(ids.len().min(100));
        let taken = ids.into_iter().take(count).filter_map(|id| {
            let message = state.messages.get_mut(&id)?;
            message.visible_at = now + VISIBILITY;
            Some((id.to_string(), message.body.clone()))
        });
        taken.collect()
    }

    /// Deletes messages that a writer has not returned. Some deletions are lost, and some messages
    /// come again long after.
    pub(crate) fn delete(&self, ids: impl IntoIterator<Item = String>) {
        let mut state = self.state();
        let is_calm = state.is_calm;
        for id in ids {
            let Ok(id) = id.parse::<u64>() else { continue };
            if self.chance(is_calm, 10) {
                continue;
            }
            let comes_again = self.chance(is_calm, 10);
            match state.messages.get_mut(&id) {
                Some(message) if comes_again => {
                    message.visible_at = Instant::now() + self.within(LATEST_COPY);
                }
                _ => {
                    state.messages.remove(&id);
                }
            }
        }
    }

    /// When the last message has gone.
    pub(crate) fn is_empty(&self) -> bool {
        self.state().messages.is_empty()
    }
}
