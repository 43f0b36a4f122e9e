//! An EventBridge endpoint on loopback with a configurable delay.

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

use crate::server::{HttpResponse, body, listen};

/// The event bus. Its requests are handled by the thread that also serves the Runtime API, so that the order
/// of PutEvents requests and responses is observed.
pub(crate) struct EventBus {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Aborted on drop.
    _server: JoinSet<()>,
}

struct Shared {
    delay: Duration,
    puts: Mutex<Vec<Put>>,
}

/// One PutEvents request.
#[derive(Debug, Clone)]
pub(crate) struct Put {
    /// Instant at which the request arrived.
    pub(crate) at: Instant,
    /// Request ids of its usage records.
    pub(crate) request_ids: Vec<String>,
}

impl EventBus {
    /// Starts to listen. All entries are accepted, and each response is sent after `delay`.
    pub(crate) async fn start(delay: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            delay,
            puts: Mutex::default(),
        });
        let handler = Arc::clone(&shared);
        let (address, server) = listen(move |request| {
            let shared = Arc::clone(&handler);
            async move { shared.respond(request).await }
        })
        .await?;
        Ok(Self {
            address,
            shared,
            _server: server,
        })
    }

    /// Returns the value for a function's `AWS_ENDPOINT_URL_EVENTBRIDGE`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns all requests so far, in order of arrival.
    pub(crate) fn puts(&self) -> Vec<Put> {
        self.shared.puts().clone()
    }
}

impl Shared {
    async fn respond(&self, request: Request<Incoming>) -> HttpResponse {
        let at = Instant::now();
        let request: Value = serde_json::from_slice(&body(request).await).unwrap_or_default();
        let request_ids = request_ids(&request);
        self.puts().push(Put { at, request_ids });
        // Tokio would round a sleep of zero up to the next millisecond.
        if self.delay > Duration::ZERO {
            sleep(self.delay).await;
        }
        let mut response = HttpResponse::new(Full::new(Bytes::from(all_accepted(&request))));
        let json = HeaderValue::from_static("application/x-amz-json-1.1");
        response.headers_mut().insert("content-type", json);
        response
    }

    fn puts(&self) -> MutexGuard<'_, Vec<Put>> {
        self.puts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entries(request: &Value) -> &[Value] {
    request["Entries"].as_array().map_or(&[], Vec::as_slice)
}

/// Returns the request ids of all usage records in a PutEvents request.
fn request_ids(request: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for entry in entries(request) {
        let detail = entry["Detail"].as_str().unwrap_or_default();
        let detail: Value = serde_json::from_str(detail).unwrap_or_default();
        let records = detail["data"]["records"].as_array().into_iter().flatten();
        let ids = records.filter_map(|record| record["request_id"].as_str());
        all.extend(ids.map(str::to_owned));
    }
    all
}

/// Returns the body of a response that accepts all entries.
fn all_accepted(request: &Value) -> String {
    let ids = (1..=entries(request).len()).map(|id| json!({ "EventId": id.to_string() }));
    json!({ "FailedEntryCount": 0, "Entries": ids.collect::<Vec<_>>() }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_entries_are_read_and_accepted() {
        let detail = |ids: &[&str]| {
            let records: Vec<Value> = ids.iter().map(|id| json!({ "request_id": id })).collect();
            json!({ "data": { "records": records } }).to_string()
        };
        let request = json!({ "Entries": [
            { "Detail": detail(&["a", "b"]) }, { "Detail": detail(&[]) },
            { "Detail": detail(&["c"]) }, { "Detail": "?" },
        ] });
        assert_eq!(request_ids(&request), ["a", "b", "c"]);
        let response: Value = serde_json::from_str(&all_accepted(&request)).unwrap();
        assert_eq!(response["Entries"].as_array().map(Vec::len), Some(4));
        assert_eq!(request_ids(&Value::Null), [""; 0]);
    }
}
