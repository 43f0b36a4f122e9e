//! The event bus on loopback, which answers as late as it is told to.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::server::{Answer, body, listen};

/// The bus. Its requests come to the thread that hands out events and takes answers, so that what
/// came first is seen first.
pub(crate) struct EventBus {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Ends with this.
    _server: JoinSet<()>,
}

struct Shared {
    delay: Duration,
    puts: Mutex<Vec<Put>>,
}

/// One PutEvents request.
#[derive(Debug, Clone)]
pub(crate) struct Put {
    /// When it came.
    pub(crate) at: Instant,
    /// The calls whose records it has, by the ids that the gateway gave them.
    pub(crate) calls: Vec<String>,
}

impl EventBus {
    /// Begins to listen. All that is put is taken, and the answer goes `delay` later.
    pub(crate) async fn start(delay: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            delay,
            puts: Mutex::default(),
        });
        let answering = Arc::clone(&shared);
        let (address, server) = listen(move |request| {
            let shared = Arc::clone(&answering);
            async move { shared.answer(request).await }
        })
        .await?;
        Ok(Self {
            address,
            shared,
            _server: server,
        })
    }

    /// What a function finds in `AWS_ENDPOINT_URL_EVENTBRIDGE`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far, in the order in which they came.
    pub(crate) fn puts(&self) -> Vec<Put> {
        self.shared.puts().clone()
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let at = Instant::now();
        let request: Value = serde_json::from_slice(&body(request).await).unwrap_or_default();
        let calls = calls(&request);
        self.puts().push(Put { at, calls });
        // A sleep of no time would last until the next millisecond.
        if self.delay > Duration::ZERO {
            sleep(self.delay).await;
        }
        let mut answer = Answer::new(Full::new(Bytes::from(taken(&request))));
        let json = HeaderValue::from_static("application/x-amz-json-1.1");
        answer.headers_mut().insert("content-type", json);
        answer
    }

    fn puts(&self) -> MutexGuard<'_, Vec<Put>> {
        self.puts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entries(request: &Value) -> &[Value] {
    request["Entries"].as_array().map_or(&[], Vec::as_slice)
}

/// The calls of all records in a request.
fn calls(request: &Value) -> Vec<String> {
    let mut calls = Vec::new();
    for entry in entries(request) {
        let detail = entry["Detail"].as_str().unwrap_or_default();
        let detail: Value = serde_json::from_str(detail).unwrap_or_default();
        let records = detail["data"]["records"].as_array().into_iter().flatten();
        let ids = records.filter_map(|record| record["request_id"].as_str());
        calls.extend(ids.map(str::to_owned));
    }
    calls
}

/// The answer that all entries were taken.
fn taken(request: &Value) -> String {
    let ids = (1..=entries(request).len()).map(|id| json!({ "EventId": id.to_string() }));
    json!({ "FailedEntryCount": 0, "Entries": ids.collect::<Vec<_>>() }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_all_entries_are_found_and_all_are_taken() {
        let detail = |ids: &[&str]| {
            let records: Vec<Value> = ids.iter().map(|id| json!({ "request_id": id })).collect();
            json!({ "data": { "records": records } }).to_string()
        };
        let request = json!({ "Entries": [
            { "Detail": detail(&["a", "b"]) }, { "Detail": detail(&[]) },
            { "Detail": detail(&["c"]) }, { "Detail": "?" },
        ] });
        assert_eq!(calls(&request), ["a", "b", "c"]);
        let answer: Value = serde_json::from_str(&taken(&request)).unwrap();
        assert_eq!(answer["Entries"].as_array().map(Vec::len), Some(4));
        assert_eq!(calls(&Value::Null), [""; 0]);
    }
}
