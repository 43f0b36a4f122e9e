//! Lambda's Runtime API and Extensions API for one process, with the times of its requests.
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

use crate::server::{HttpResponse, body, listen, status};

const INVOCATION: &str = "/2018-06-01/runtime/invocation/";
const NEXT: &str = "/2018-06-01/runtime/invocation/next";
const REGISTER: &str = "/2020-01-01/extension/register";
const NEXT_EVENT: &str = "/2020-01-01/extension/event/next";
const ARN: &str = "arn:aws:lambda:us-east-1:123456789012:function:bench";
const TRACE: &str = "Root=1-6b02c680-c6af9ac67b6111e69a4193e8;Sampled=0";
/// Event for which an extension registers to be notified of each invocation.
const INVOKE: &str = "INVOKE";
/// Remaining time in each invocation's deadline, unless another is given.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A report of the process.
#[derive(Debug)]
pub(crate) enum Report {
    /// The init phase has ended.
    Initialized(Init),
    /// The process responded to an event.
    Responded(Invocation),
    /// The process reported an error, of an invocation or of the init phase.
    Failed(Bytes),
}

/// An invocation with its response.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Instant at which the event was sent to the process.
    pub(crate) sent: Instant,
    /// Instant at which the whole response had been received.
    pub(crate) responded: Instant,
    pub(crate) response: Bytes,
}

impl Invocation {
    pub(crate) fn latency(&self) -> Duration {
        self.responded - self.sent
    }
}

/// Times of a process's init phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Init {
    /// Instant of the first poll for an event.
    pub(crate) polled: Instant,
    /// Instant at which the extension, if there is one, had polled too. Lambda then ends the init phase.
    pub(crate) ready: Instant,
}

/// Lambda's APIs for one process.
pub(crate) struct RuntimeApi {
    address: SocketAddr,
    events: UnboundedSender<Bytes>,
    reports: UnboundedReceiver<Report>,
    idle: watch::Receiver<Idle>,
    /// Aborted on drop.
    _server: JoinSet<()>,
}

struct Host {
    events: tokio::sync::Mutex<UnboundedReceiver<Bytes>>,
    /// INVOKE events for the extension.
    invokes: UnboundedSender<Bytes>,
    invokes_out: tokio::sync::Mutex<UnboundedReceiver<Bytes>>,
    reports: UnboundedSender<Report>,
    idle: watch::Sender<Idle>,
    init: Mutex<InitState>,
    current: Mutex<CurrentInvocation>,
    /// Remaining time in each invocation's deadline.
    timeout: Duration,
}

/// Whether the runtime and the extension wait for the next event.
#[derive(Debug, Clone, Copy, Default)]
struct Idle {
    runtime: bool,
    /// `None` unless an extension is registered for INVOKE. Lambda does not wait for other extensions.
    extension: Option<bool>,
}

impl Idle {
    fn is_extension_done(&self) -> bool {
        self.extension != Some(false)
    }
}

/// Body of an extension's registration.
#[derive(Deserialize)]
struct Registration {
    events: Vec<String>,
}

/// Progress of the init phase.
#[derive(Default)]
struct InitState {
    has_extension: bool,
    polled: Option<Instant>,
    extension_polled: Option<Instant>,
    is_reported: bool,
}

/// The event that was sent last.
#[derive(Default)]
struct CurrentInvocation {
    id: u64,
    /// Instant at which it was sent; `None` once the process has responded.
    sent: Option<Instant>,
}

impl RuntimeApi {
    /// Starts to listen.
    pub(crate) async fn start() -> std::io::Result<Self> {
        Self::start_with(TIMEOUT).await
    }

    /// Starts to listen. Each invocation may take `timeout`.
    pub(crate) async fn start_with(timeout: Duration) -> std::io::Result<Self> {
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
            init: Mutex::default(),
            current: Mutex::default(),
            timeout,
        });
        let (address, server) = listen(move |request| {
            let host = Arc::clone(&host);
            async move { host.respond(request).await }
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

    /// Returns the value of `AWS_LAMBDA_RUNTIME_API`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Sends an event to the process at its next poll, and an INVOKE event to its extension, if that is
    /// registered for it.
    pub(crate) fn send(&self, event: Bytes) {
        // Cannot fail: the server holds the receiver, and is aborted only when this is dropped.
        let _ = self.events.send(event);
    }

    /// Waits for the next report of the process.
    pub(crate) async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }

    /// Waits until Lambda could send the next event, or freeze the instance.
    pub(crate) async fn wait_until_idle(&mut self) {
        let is_idle = |idle: &Idle| idle.runtime && idle.is_extension_done();
        // Cannot fail: the server holds the sender, and is aborted only when this is dropped.
        let _ = self.idle.wait_for(is_idle).await;
    }
}

impl Host {
    async fn respond(&self, request: Request<Incoming>) -> HttpResponse {
        match (request.method(), request.uri().path()) {
            (&Method::GET, NEXT) => self.next().await,
            (&Method::POST, REGISTER) => self.register(request).await,
            (&Method::GET, NEXT_EVENT) => self.next_event().await,
            (&Method::POST, _) => self.receive_response(request).await,
            _ => status(404),
        }
    }

    async fn register(&self, request: Request<Incoming>) -> HttpResponse {
        self.update_init(|init| init.has_extension = true);
        let registration = serde_json::from_slice(&body(request).await);
        let Ok(Registration { events }) = registration else {
            return status(400);
        };
        if events.iter().any(|event| event == INVOKE) {
            self.idle.send_modify(|idle| idle.extension = Some(false));
        }
        registered()
    }

    async fn next_event(&self) -> HttpResponse {
        let polled = Instant::now();
        self.update_init(|init| init.extension_polled = Some(polled));
        if self.idle.borrow().extension.is_none() {
            // The extension waits for a SHUTDOWN event, which is never sent here.
            return std::future::pending().await;
        }
        self.idle.send_modify(|idle| idle.extension = Some(true));
        match self.invokes_out.lock().await.recv().await {
            Some(invoke) => HttpResponse::new(Full::new(invoke)),
            None => status(410),
        }
    }

    async fn next(&self) -> HttpResponse {
        let polled = Instant::now();
        self.update_init(|init| {
            init.polled.get_or_insert(polled);
        });
        self.idle.send_modify(|idle| idle.runtime = true);
        let Some(event) = self.events.lock().await.recv().await else {
            return status(410);
        };
        // An invocation lasts until the extension has finished, too.
        let mut idle = self.idle.subscribe();
        let _ = idle.wait_for(Idle::is_extension_done).await;
        let timeout_ms = i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX);
        let deadline_ms = Timestamp::now().as_millisecond().saturating_add(timeout_ms);
        let mut current = self.current();
        current.id += 1;
        self.invoke_extension(current.id, deadline_ms);
        let response = Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", current.id)
            .header("lambda-runtime-deadline-ms", deadline_ms)
            .header("lambda-runtime-invoked-function-arn", ARN)
            .header("lambda-runtime-trace-id", TRACE)
            .body(Full::new(event));
        current.sent = Some(Instant::now());
        response.unwrap_or_else(|_| status(500))
    }

    /// Sends an INVOKE event to the extension, if it is registered for it. Marks runtime and extension as busy
    /// at once, before they have read their events.
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
        // Cannot fail: `self` holds the receiver.
        let _ = self.invokes.send(Bytes::from(event.to_string()));
    }

    async fn receive_response(&self, request: Request<Incoming>) -> HttpResponse {
        let path = request.uri().path().to_owned();
        let body = body(request).await;
        let responded = Instant::now();
        let Some(invocation) = path.strip_suffix("/response") else {
            self.report(Report::Failed(body));
            return status(202);
        };
        let mut current = self.current();
        let id = invocation.strip_prefix(INVOCATION);
        let is_current = id.and_then(|id| id.parse().ok()) == Some(current.id);
        let Some(sent) = current.sent.take().filter(|_| is_current) else {
            return status(400);
        };
        self.report(Report::Responded(Invocation {
            sent,
            responded,
            response: body,
        }));
        status(202)
    }

    /// Updates the progress of the init phase, and reports its end.
    fn update_init(&self, update: impl FnOnce(&mut InitState)) {
        let mut state = self.init.lock().unwrap_or_else(PoisonError::into_inner);
        update(&mut state);
        let Some(init) = state.init().filter(|_| !state.is_reported) else {
            return;
        };
        state.is_reported = true;
        self.report(Report::Initialized(init));
    }

    fn report(&self, report: Report) {
        // Fails if the measurement has ended.
        let _ = self.reports.send(report);
    }

    fn current(&self) -> std::sync::MutexGuard<'_, CurrentInvocation> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InitState {
    /// Returns the times of the init phase, if it has ended.
    fn init(&self) -> Option<Init> {
        let polled = self.polled?;
        let ready = match self.has_extension {
            true => self.extension_polled?.max(polled),
            false => polled,
        };
        Some(Init { polled, ready })
    }
}

fn registered() -> HttpResponse {
    let body = r#"{"functionName":"bench","functionVersion":"1","handler":"bootstrap"}"#;
    let mut response = HttpResponse::new(Full::new(Bytes::from_static(body.as_bytes())));
    let id = http::HeaderValue::from_static("bench");
    response
        .headers_mut()
        .insert("lambda-extension-identifier", id);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper_util::client::legacy::{self, connect::HttpConnector};
    use hyper_util::rt::TokioExecutor;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    /// Client of the APIs, in place of the process.
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
            let response = self.client.request(request.unwrap()).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        }

        /// Sends a long poll.
        fn poll(&self, path: &'static str) -> JoinHandle<String> {
            tokio::spawn(self.clone().call(Method::GET, path, ""))
        }

        async fn post(&self, path: &str, body: &'static str) {
            self.clone().call(Method::POST, path, body).await;
        }
    }

    async fn is_pending<T>(response: impl Future<Output = T>) -> bool {
        timeout(Duration::from_millis(50), response).await.is_err()
    }

    #[tokio::test]
    async fn the_next_event_waits_for_an_extension_that_is_registered_for_invoke() {
        let mut api = RuntimeApi::start().await.unwrap();
        let process = Client::of(&api);
        process.post(REGISTER, r#"{"events":["INVOKE"]}"#).await;
        let mut next = process.poll(NEXT);
        api.send(Bytes::from_static(b"the first"));
        assert!(is_pending(&mut next).await);
        let invoked = process.poll(NEXT_EVENT).await.unwrap();
        let invoked: serde_json::Value = serde_json::from_str(&invoked).unwrap();
        assert_eq!(
            (&invoked["eventType"], &invoked["requestId"]),
            (&json!("INVOKE"), &json!("1"))
        );
        assert_eq!(next.await.unwrap(), "the first");
        assert!(matches!(api.report().await, Report::Initialized(_)));

        process
            .post(&format!("{INVOCATION}1/response"), "response")
            .await;
        let Report::Responded(invocation) = api.report().await else {
            panic!("no response");
        };
        assert_eq!(invocation.response, "response");
        let mut next = process.poll(NEXT);
        api.send(Bytes::from_static(b"the second"));
        assert!(is_pending(&mut next).await);
        let _invoked = process.poll(NEXT_EVENT);
        assert_eq!(next.await.unwrap(), "the second");
    }

    #[tokio::test]
    async fn an_instance_is_idle_once_runtime_and_extension_have_polled() {
        let mut api = RuntimeApi::start().await.unwrap();
        let process = Client::of(&api);
        process.post(REGISTER, r#"{"events":["INVOKE"]}"#).await;
        let _next = process.poll(NEXT);
        assert!(is_pending(api.wait_until_idle()).await);
        let _invoked = process.poll(NEXT_EVENT);
        api.wait_until_idle().await;
    }

    #[tokio::test]
    async fn no_event_waits_for_an_extension_that_is_not_registered_for_invoke() {
        let mut api = RuntimeApi::start().await.unwrap();
        let process = Client::of(&api);
        process.post(REGISTER, r#"{"events":[]}"#).await;
        for event in ["the first", "the second"] {
            api.send(Bytes::from(event));
            assert_eq!(process.poll(NEXT).await.unwrap(), event);
        }
        let _next = process.poll(NEXT);
        api.wait_until_idle().await;
        assert!(is_pending(process.poll(NEXT_EVENT)).await);
    }

    #[test]
    fn the_init_phase_ends_when_runtime_and_extension_have_polled() {
        let first = Instant::now();
        let second = first + Duration::from_millis(1);
        let check = |has_extension, polled, extension_polled, expected: Option<_>| {
            let state = InitState {
                has_extension,
                polled,
                extension_polled,
                is_reported: false,
            };
            let init = state.init().map(|init| (init.polled, init.ready));
            assert_eq!(init, expected);
        };
        check(false, None, None, None);
        check(false, Some(first), None, Some((first, first)));
        check(true, Some(first), None, None);
        check(true, None, Some(first), None);
        check(true, Some(first), Some(second), Some((first, second)));
        check(true, Some(second), Some(first), Some((second, second)));
    }
}
