//! Lambda's Runtime API and Extensions API for one process, with the clock beside them.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>,
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::server::{Answer, body, listen, status};

const INVOCATION: &str = "/2018-06-01/runtime/invocation/";
const NEXT: &str = "/2018-06-01/runtime/invocation/next";
const REGISTER: &str = "/2020-01-01/extension/register";
const NEXT_EVENT: &str = "/2020-01-01/extension/event/next";
const ARN: &str = "arn:aws:lambda:us-east-1:123456789012:function:bench";
const TRACE: &str = "Root=1-6b02c680-c6af9ac67b6111e69a4193e8;Sampled=0";
/// The event for which an extension registers to be told of each invocation.
const INVOKE: &str = "INVOKE";
/// What a function is told that it has left.
const TIMEOUT_MS: i64 = 30_000;

/// What the process did.
#[derive(Debug)]
pub(crate) enum Report {
    /// Its start is over.
    Started(Start),
    /// It answered an event.
    Answered(Answered),
    /// It reported an error, of an event or of its start.
    Failed(Bytes),
}

/// An answer, and when it came.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The event was handed to the process.
    pub(crate) handed_out: Instant,
    /// The whole answer was here.
    pub(crate) received: Instant,
    pub(crate) answer: Bytes,
}

impl Answered {
    /// How long the answer took.
    pub(crate) fn took(&self) -> Duration {
        self.received - self.handed_out
    }
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
    idle: watch::Receiver<Idle>,
    /// Ends with this.
    _server: JoinSet<()>,
}

struct Host {
    events: tokio::sync::Mutex<UnboundedReceiver<Bytes>>,
    /// What the extension is told of each invocation.
    invokes: UnboundedSender<Bytes>,
    invokes_out: tokio::sync::Mutex<UnboundedReceiver<Bytes>>,
    reports: UnboundedSender<Report>,
    idle: watch::Sender<Idle>,
    starting: Mutex<Starting>,
    under_way: Mutex<UnderWay>,
}

/// Who waits for the next event.
#[derive(Debug, Clone, Copy, Default)]
struct Idle {
    runtime: bool,
    /// Of an extension that is told of each invocation; Lambda waits for no other.
    extension: Option<bool>,
}

impl Idle {
    fn is_extension_done(&self) -> bool {
        self.extension != Some(false)
    }
}

/// What an extension registers with.
#[derive(Deserialize)]
struct Registration {
    events: Vec<String>,
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
        let (invokes, invokes_out) = unbounded_channel();
        let (reports_in, reports) = unbounded_channel();
        let (idle_in, idle) = watch::channel(Idle::default());
        let host = Arc::new(Host {
            events: tokio::sync::Mutex::new(events_out),
            invokes,
            invokes_out: tokio::sync::Mutex::new(invokes_out),
            reports: reports_in,
            idle: idle_in,
            starting: Mutex::default(),
            under_way: Mutex::default(),
        });
        let (address, server) = listen(move |request| {
            let host = Arc::clone(&host);
            async move { host.answer(request).await }
        })
        .await?;
        Ok(Self {
            address,
            events,
            reports,
            idle,
            _server: server,
        })
    }

    /// What the process finds in `AWS_LAMBDA_RUNTIME_API`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Hands an event to the process, as soon as it asks for one, and its extension too if that is
    /// told of each invocation.
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

    /// Waits until Lambda could hand out the next event, or freeze the process.
    pub(crate) async fn idle(&mut self) {
        let is_idle = |idle: &Idle| idle.runtime && idle.is_extension_done();
        // The sender lives as long as the server, which is as long as this.
        let _ = self.idle.wait_for(is_idle).await;
    }
}

impl Host {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, NEXT) => self.next().await,
            (&Method::POST, REGISTER) => self.register(request).await,
            (&Method::GET, NEXT_EVENT) => self.next_event().await,
            (&Method::POST, _) => self.posted(request).await,
            _ => status(404),
        }
    }

    async fn register(&self, request: Request<Incoming>) -> Answer {
        self.starting(|starting| starting.has_extension = true);
        let registration = serde_json::from_slice(&body(request).await);
        let Ok(Registration { events }) = registration else {
            return status(400);
        };
        if events.iter().any(|event| event == INVOKE) {
            self.idle.send_modify(|idle| idle.extension = Some(false));
        }
        registered()
    }

    async fn next_event(&self) -> Answer {
        let asked = Instant::now();
        self.starting(|starting| starting.extension_asked = Some(asked));
        if self.idle.borrow().extension.is_none() {
            // It waits for the end, which comes without an announcement.
            return std::future::pending().await;
        }
        self.idle.send_modify(|idle| idle.extension = Some(true));
        match self.invokes_out.lock().await.recv().await {
            Some(invoke) => Answer::new(Full::new(invoke)),
            None => status(410),
        }
    }

    async fn next(&self) -> Answer {
        let asked = Instant::now();
        self.starting(|starting| {
            starting.polled.get_or_insert(asked);
        });
        self.idle.send_modify(|idle| idle.runtime = true);
        let Some(event) = self.events.lock().await.recv().await else {
            return status(410);
        };
        // What the extension does after an answer is part of that invocation.
        let mut idle = self.idle.subscribe();
        let _ = idle.wait_for(Idle::is_extension_done).await;
        let deadline_ms = Timestamp::now().as_millisecond() + TIMEOUT_MS;
        let mut under_way = self.under_way();
        under_way.id += 1;
        self.invoke_extension(under_way.id, deadline_ms);
        let answer = Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", under_way.id)
            .header("lambda-runtime-deadline-ms", deadline_ms)
            .header("lambda-runtime-invoked-function-arn", ARN)
            .header("lambda-runtime-trace-id", TRACE)
            .body(Full::new(event));
        under_way.since = Some(Instant::now());
        answer.unwrap_or_else(|_| status(500))
    }

    /// From now on both are busy, and not only once they have read what they are sent.
    fn invoke_extension(&self, id: u64, deadline_ms: i64) {
        let mut is_invoked = false;
        self.idle.send_modify(|idle| {
            idle.runtime = false;
            is_invoked = idle.extension.is_some();
            idle.extension = is_invoked.then_some(false);
        });
        if !is_invoked {
            return;
        }
        let event = json!({
            "eventType": INVOKE,
            "deadlineMs": deadline_ms,
            "requestId": id.to_string(),
            "invokedFunctionArn": ARN,
            "tracing": { "type": "X-Amzn-Trace-Id", "value": TRACE },
        });
        // The receiver lives as long as this.
        let _ = self.invokes.send(Bytes::from(event.to_string()));
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
        let Some(handed_out) = under_way.since.take().filter(|_| is_current) else {
            return status(400);
        };
        self.report(Report::Answered(Answered {
            handed_out,
            received,
            answer: body,
        }));
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
    use http_body_util::BodyExt;
    use hyper_util::client::legacy::{self, connect::HttpConnector};
    use hyper_util::rt::TokioExecutor;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    /// The process: what it asks of Lambda, and what that answers.
    #[derive(Clone)]
    struct Client {
        client: legacy::Client<HttpConnector, Full<Bytes>>,
        address: String,
    }

    impl Client {
        fn of(api: &RuntimeApi) -> Self {
            Self {
                client: legacy::Client::builder(TokioExecutor::new()).build_http(),
                address: api.address(),
            }
        }

        async fn call(self, method: Method, path: &str, body: &'static str) -> String {
            let request = Request::builder()
                .method(method)
                .uri(format!("http://{}{path}", self.address))
                .body(Full::from(body));
            let answer = self.client.request(request.unwrap()).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        }

        /// An answer that may be long in coming.
        fn ask(&self, path: &'static str) -> JoinHandle<String> {
            tokio::spawn(self.clone().call(Method::GET, path, ""))
        }

        async fn post(&self, path: &str, body: &'static str) {
            self.clone().call(Method::POST, path, body).await;
        }
    }

    async fn is_held<T>(asked: impl Future<Output = T>) -> bool {
        timeout(Duration::from_millis(50), asked).await.is_err()
    }

    #[tokio::test]
    async fn the_next_event_waits_for_an_extension_that_is_invoked() {
        let mut api = RuntimeApi::start().await.unwrap();
        let process = Client::of(&api);
        process.post(REGISTER, r#"{"events":["INVOKE"]}"#).await;
        let mut next = process.ask(NEXT);
        api.send(Bytes::from_static(b"the first"));
        assert!(is_held(&mut next).await);
        let invoked = process.ask(NEXT_EVENT).await.unwrap();
        let invoked: serde_json::Value = serde_json::from_str(&invoked).unwrap();
        assert_eq!(
            (&invoked["eventType"], &invoked["requestId"]),
            (&json!("INVOKE"), &json!("1"))
        );
        assert_eq!(next.await.unwrap(), "the first");
        assert!(matches!(api.report().await, Report::Started(_)));

        process
            .post(&format!("{INVOCATION}1/response"), "answer")
            .await;
        let Report::Answered(answered) = api.report().await else {
            panic!("no answer");
        };
        assert_eq!(answered.answer, "answer");
        let mut next = process.ask(NEXT);
        api.send(Bytes::from_static(b"the second"));
        assert!(is_held(&mut next).await);
        let _invoked = process.ask(NEXT_EVENT);
        assert_eq!(next.await.unwrap(), "the second");
    }

    #[tokio::test]
    async fn an_instance_is_idle_once_both_have_asked() {
        let mut api = RuntimeApi::start().await.unwrap();
        let process = Client::of(&api);
        process.post(REGISTER, r#"{"events":["INVOKE"]}"#).await;
        let _next = process.ask(NEXT);
        assert!(is_held(api.idle()).await);
        let _invoked = process.ask(NEXT_EVENT);
        api.idle().await;
    }

    #[tokio::test]
    async fn no_event_waits_for_an_extension_that_is_not_invoked() {
        let mut api = RuntimeApi::start().await.unwrap();
        let process = Client::of(&api);
        process.post(REGISTER, r#"{"events":[]}"#).await;
        for event in ["the first", "the second"] {
            api.send(Bytes::from(event));
            assert_eq!(process.ask(NEXT).await.unwrap(), event);
        }
        let _next = process.ask(NEXT);
        api.idle().await;
        assert!(is_held(process.ask(NEXT_EVENT)).await);
    }

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
