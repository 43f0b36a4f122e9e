//! Lambda's Runtime API and Extensions API for one process, with the clock beside them.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>,
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use crate::server::{Answer, body, serve, status};

const INVOCATION: &str = "/2018-06-01/runtime/invocation/";
const NEXT: &str = "/2018-06-01/runtime/invocation/next";
const REGISTER: &str = "/2020-01-01/extension/register";
const NEXT_EVENT: &str = "/2020-01-01/extension/event/next";
const ARN: &str = "arn:aws:lambda:us-east-1:123456789012:function:bench";
/// What a function is told that it has left.
const TIMEOUT_MS: i64 = 30_000;

/// What the process did.
#[derive(Debug)]
pub(crate) enum Report {
    /// Its start is over.
    Started(Start),
    /// It answered an event, this long after the event was handed to it.
    Answered { took: Duration, answer: Bytes },
    /// It reported an error, of an event or of its start.
    Failed(Bytes),
}

/// When a process had started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// It asked for its first event.
    pub(crate) polled: Instant,
    /// Its extension, if it registered one, had asked as well: Lambda then ends the init phase.
    pub(crate) ready: Instant,
}

/// Lambda, for one process.
pub(crate) struct RuntimeApi {
    address: SocketAddr,
    events: UnboundedSender<Bytes>,
    reports: UnboundedReceiver<Report>,
    /// Ends with this.
    _server: JoinSet<()>,
}

struct Host {
    events: tokio::sync::Mutex<UnboundedReceiver<Bytes>>,
    reports: UnboundedSender<Report>,
    starting: Mutex<Starting>,
    under_way: Mutex<UnderWay>,
}

/// What is known of a start.
#[derive(Default)]
struct Starting {
    has_extension: bool,
    polled: Option<Instant>,
    extension_asked: Option<Instant>,
    is_reported: bool,
}

/// The event that was handed out last.
#[derive(Default)]
struct UnderWay {
    id: u64,
    since: Option<Instant>,
}

impl RuntimeApi {
    /// Begins to listen.
    pub(crate) async fn start() -> std::io::Result<Self> {
        let (events, events_out) = unbounded_channel();
        let (reports_in, reports) = unbounded_channel();
        let host = Arc::new(Host {
            events: tokio::sync::Mutex::new(events_out),
            reports: reports_in,
            starting: Mutex::default(),
            under_way: Mutex::default(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // Without it an answer in two segments would wait for an acknowledgement.
                let _ = stream.set_nodelay(true);
                let host = Arc::clone(&host);
                connections.spawn(async move {
                    serve(stream, |request| host.answer(request)).await;
                });
            }
        });
        Ok(Self {
            address,
            events,
            reports,
            _server: server,
        })
    }

    /// What the process finds in `AWS_LAMBDA_RUNTIME_API`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Hands an event to the process, as soon as it asks for one.
    pub(crate) fn send(&self, event: Bytes) {
        // The receiver lives as long as the server, which is as long as this.
        let _ = self.events.send(event);
    }

    /// What the process does next.
    pub(crate) async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

impl Host {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, NEXT) => self.next().await,
            (&Method::POST, REGISTER) => {
                self.starting(|starting| starting.has_extension = true);
                registered()
            }
            (&Method::GET, NEXT_EVENT) => {
                let asked = Instant::now();
                self.starting(|starting| starting.extension_asked = Some(asked));
                // It waits for the end, which comes without an announcement.
                std::future::pending().await
            }
            (&Method::POST, _) => self.posted(request).await,
            _ => status(404),
        }
    }

    async fn next(&self) -> Answer {
        let asked = Instant::now();
        self.starting(|starting| {
            starting.polled.get_or_insert(asked);
        });
        let Some(event) = self.events.lock().await.recv().await else {
            return status(410);
        };
        let deadline_ms = Timestamp::now().as_millisecond() + TIMEOUT_MS;
        let mut under_way = self.under_way();
        under_way.id += 1;
        let answer = Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", under_way.id)
            .header("lambda-runtime-deadline-ms", deadline_ms)
            .header("lambda-runtime-invoked-function-arn", ARN)
            .header(
                "lambda-runtime-trace-id",
                "Root=1-6b02c680-c6af9ac67b6111e69a4193e8;Sampled=0",
            )
            .body(Full::new(event));
        under_way.since = Some(Instant::now());
        answer.unwrap_or_else(|_| status(500))
    }

    async fn posted(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let body = body(request).await;
        let received = Instant::now();
        let Some(answered) = path.strip_suffix("/response") else {
            self.report(Report::Failed(body));
            return status(202);
        };
        let mut under_way = self.under_way();
        let id = answered.strip_prefix(INVOCATION);
        let is_current = id.and_then(|id| id.parse().ok()) == Some(under_way.id);
        let Some(since) = under_way.since.take().filter(|_| is_current) else {
            return status(400);
        };
        self.report(Report::Answered {
            took: received - since,
            answer: body,
        });
        status(202)
    }

    /// Takes down what is new of the start, and reports when it is over.
    fn starting(&self, is_new: impl FnOnce(&mut Starting)) {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        is_new(&mut starting);
        let Some(start) = starting.start().filter(|_| !starting.is_reported) else {
            return;
        };
        starting.is_reported = true;
        self.report(Report::Started(start));
    }

    fn report(&self, report: Report) {
        // Whoever measured may have stopped.
        let _ = self.reports.send(report);
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Starting {
    fn start(&self) -> Option<Start> {
        let polled = self.polled?;
        let ready = match self.has_extension {
            true => self.extension_asked?.max(polled),
            false => polled,
        };
        Some(Start { polled, ready })
    }
}

fn registered() -> Answer {
    let body = r#"{"functionName":"bench","functionVersion":"1","handler":"bootstrap"}"#;
    let mut answer = Answer::new(Full::new(Bytes::from_static(body.as_bytes())));
    let id = http::HeaderValue::from_static("bench");
    answer
        .headers_mut()
        .insert("lambda-extension-identifier", id);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_over_when_the_last_has_asked() {
        let first = Instant::now();
        let second = first + Duration::from_millis(1);
        let check = |has_extension, polled, extension_asked, expected: Option<_>| {
            let starting = Starting {
                has_extension,
                polled,
                extension_asked,
                is_reported: false,
            };
            let start = starting.start().map(|start| (start.polled, start.ready));
            assert_eq!(start, expected);
        };
        check(false, None, None, None);
        check(false, Some(first), None, Some((first, first)));
        check(true, Some(first), None, None);
        check(true, None, Some(first), None);
        check(true, Some(first), Some(second), Some((first, second)));
        check(true, Some(second), Some(first), Some((second, second)));
    }
}
