//! Journal of requests, from which a stand-in regains its state.
//!
//! The state follows from the seed, the requests and their times, so that requests on disk are all that a restart
//! needs. Deliveries of events are not in the journal: after a restart, events are delivered again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::HeaderName;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tower::ServiceExt;

use crate::fake::StripeFake;
use crate::server::MAX_BODY;

/// Header fields that decide what a request does.
const HEADERS: [&str; 4] = [
    "authorization",
    "content-type",
    "idempotency-key",
    "stripe-version",
];

/// Error: a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("{0} cannot be read or written")]
    File(PathBuf, #[source] io::Error),
    /// A line, counted from 1, is no request.
    #[error("line {1} of {0} is no request")]
    Line(PathBuf, usize),
}

/// Request that may change something.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
struct Recorded {
    /// Seconds since the Unix epoch, by the clock of the stand-in.
    at: i64,
    method: String,
    /// Path and query.
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Recorded {
    fn to_request(&self) -> Option<Request> {
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(&self.path);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Body::from(self.body.clone())).ok()
    }
}

/// Open journal.
pub(crate) struct Journal {
    /// Locked while a request is handled, so that the requests are in the order in which they took effect.
    file: Mutex<File>,
    path: PathBuf,
}

impl Journal {
    fn append(&self, file: &mut File, recorded: &Recorded) -> Result<(), JournalError> {
        let line = serde_json::to_string(recorded).map_err(io::Error::from);
        let written = line.and_then(|line| file.write_all(format!("{line}\n").as_bytes()));
        written.map_err(|error| JournalError::File(self.path.clone(), error))
    }
}

/// Repeats the requests of a journal, and returns it to append to.
pub(crate) async fn replay(fake: &StripeFake, path: &Path) -> Result<Journal, JournalError> {
    let unusable = |error| JournalError::File(path.to_owned(), error);
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)
        .map_err(unusable)?;
    let router = fake.plain_router();
    let mut complete = 0;
    let mut reader = BufReader::new(&file);
    for number in 1.. {
        let mut line = String::new();
        let read = reader.read_line(&mut line).map_err(unusable)?;
        // A line without an end was being written when the process ended, and its request had not begun.
        if !line.ends_with('\n') {
            break;
        }
        complete += read as u64;
        let invalid = || JournalError::Line(path.to_owned(), number);
        let recorded: Recorded = serde_json::from_str(&line).map_err(|_| invalid())?;
        let request = recorded.to_request().ok_or_else(invalid)?;
        fake.replay_at(Some(recorded.at));
        handle(&router, request).await;
    }
    fake.replay_at(None);
    file.set_len(complete).map_err(unusable)?;
    file.flush().map_err(unusable)?;
    Ok(Journal {
        file: Mutex::new(file),
        path: path.to_owned(),
    })
}

async fn handle(router: &Router, request: Request) -> Response {
    match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Writes a request that may change something into the journal, and then handles it.
pub(crate) async fn record(
    State(fake): State<StripeFake>,
    request: Request,
    next: Next,
) -> Response {
    let Some(journal) = fake.journal() else {
        return next.run(request).await;
    };
    if request.method() == Method::GET {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let body: Bytes = body.to_bytes();
    let header = |name: &str| {
        let value = parts
            .headers
            .get(HeaderName::from_bytes(name.as_bytes()).ok()?)?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    };
    let mut file = journal.file.lock().await;
    let recorded = Recorded {
        at: fake.now().as_second(),
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: HEADERS.into_iter().filter_map(header).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    if journal.append(&mut file, &recorded).is_err() {
        return StatusCode::INSUFFICIENT_STORAGE.into_response();
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}
