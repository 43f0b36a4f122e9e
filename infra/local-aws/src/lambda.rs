//! A Lambda host for tests, which runs a function's real binary: the Runtime API and the Extensions API,
//! with the AWS services on the same loopback port.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>,
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>

use std::collections::HashMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::LocalAws;
use crate::fixture::Fixture;
use crate::template::Stack;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

/// Deadline of every invocation: the first second of the year 2100, so that none times out.
const DEADLINE_MS: u64 = 4_102_444_800_000;
/// Bytes between the head of a streamed response and its body.
const DELIMITER: [u8; 8] = [0; 8];
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:local";

/// Host of one function instance.
pub struct LambdaHost {
    address: SocketAddr,
    shared: Arc<Shared>,
    invocations: mpsc::UnboundedSender<Invocation>,
    events: mpsc::UnboundedSender<Value>,
    idle: watch::Receiver<Idle>,
}

/// Outcome of an invocation.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The response.
    Response(Value),
    /// An error: `errorType` and `errorMessage`.
    Error(Value),
}

/// A response that is being streamed. Dropping it makes the Runtime API stop reading the stream.
#[derive(Debug)]
pub struct StreamedResponse {
    /// `statusCode`, `headers` and `cookies`.
    pub head: Value,
    body: mpsc::Receiver<Bytes>,
}

impl StreamedResponse {
    /// Returns the next chunk of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Option<Bytes> {
        self.body.recv().await
    }
}

/// Result that the instance sends for an invocation.
enum InvocationResult {
    Buffered(Outcome),
    Streamed(StreamedResponse),
}

/// One recorded action of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It completed an invocation.
    Responded,
    /// It called an AWS API, given as in `X-Amz-Target`.
    Called(String),
}

/// Process of a function instance; killed when dropped.
#[derive(Debug)]
pub struct FunctionProcess(Child);

impl FunctionProcess {
    /// Sends SIGTERM, as Lambda does at a shutdown, and waits for the process to end. Returns its log.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub fn shut_down(mut self) -> std::io::Result<String> {
        self.signal("TERM")?;
        self.0.wait()?;
        let mut log = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut log)?;
        }
        Ok(log)
    }

    /// Sends a signal, given by name, such as `TERM`.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) -> std::io::Result<()> {
        let id = self.0.id().to_string();
        Command::new("kill").args(["-s", name, &id]).status()?;
        Ok(())
    }

    /// Waits for a process that fails by itself. Returns its standard error.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait_for_failure(mut self) -> std::io::Result<String> {
        let mut errors = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut errors)?;
        }
        self.0.wait()?;
        Ok(errors)
    }
}

impl Drop for FunctionProcess {
    fn drop(&mut self) {
        // Fails if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Invocation {
    id: String,
    event: Value,
}

/// Whether the runtime and the extension wait for their next event.
#[derive(Debug, Clone, Copy, Default)]
struct Idle {
    runtime: bool,
    /// Also true while no extension is registered.
    extension: bool,
}

struct Shared {
    aws: LocalAws,
    invocations: tokio::sync::Mutex<mpsc::UnboundedReceiver<Invocation>>,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Value>>,
    results: Mutex<HashMap<String, oneshot::Sender<InvocationResult>>>,
    steps: Mutex<Vec<Step>>,
    registered: Mutex<bool>,
    idle: watch::Sender<Idle>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LambdaHost {
    /// Starts to listen. `aws` serves the AWS calls that the instance makes.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(aws: LocalAws) -> std::io::Result<Self> {
        let (invocations, invocations_out) = mpsc::unbounded_channel();
        let (events, events_out) = mpsc::unbounded_channel();
        let (idle_in, idle) = watch::channel(Idle {
            runtime: false,
            extension: true,
        });
        let shared = Arc::new(Shared {
            aws,
            invocations: tokio::sync::Mutex::new(invocations_out),
            events: tokio::sync::Mutex::new(events_out),
            results: Mutex::default(),
            steps: Mutex::default(),
            registered: Mutex::new(false),
            idle: idle_in,
        });
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next_invocation))
            .route(
                "/2018-06-01/runtime/invocation/{id}/response",
                post(responded),
            )
            .route("/2018-06-01/runtime/invocation/{id}/error", post(failed))
            .route("/2020-01-01/extension/register", post(register))
            .route("/2020-01-01/extension/event/next", get(next_event))
            .route("/", post(aws_call))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self {
            address,
            shared,
            invocations,
            events,
            idle,
        })
    }

    /// Returns the URL of the AWS services, such as `http://127.0.0.1:9001`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts a function's binary with the environment variables that Lambda sets, the AWS endpoint of
    /// this host, and the variables that the template sets for the function with the logical id
    /// `function` in a stack called `test`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, binary: &str, function: &str) -> std::io::Result<FunctionProcess> {
        let variables = Stack::built_in("test").and_then(|stack| stack.variables(function));
        self.run_with(binary, variables.map_err(std::io::Error::other)?)
    }

    /// Starts a function's binary as [`run`](Self::run) does, with `variables` in place of the template's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_with(
        &self,
        binary: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> std::io::Result<FunctionProcess> {
        let address = self.address.to_string();
        let child = Command::new(binary)
            .env_clear()
            .envs([
                ("AWS_LAMBDA_RUNTIME_API", address.as_str()),
                ("AWS_LAMBDA_FUNCTION_NAME", "a-function"),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
                // Lambda's own filter passes everything; the template has the process apply the level.
                ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
                ("AWS_REGION", "us-east-1"),
                ("AWS_ACCESS_KEY_ID", "local"),
                ("AWS_SECRET_ACCESS_KEY", "local"),
                ("AWS_ENDPOINT_URL", &self.url()),
            ])
            .envs(variables)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(FunctionProcess(child))
    }

    /// Invokes the function and waits for its response. `None` if the process has ended or streams it.
    pub async fn invoke(&self, event: Value) -> Option<Outcome> {
        match self.start_invocation(event).await? {
            InvocationResult::Buffered(outcome) => Some(outcome),
            InvocationResult::Streamed(_) => None,
        }
    }

    /// Invokes the function and waits for the head of its response. `None` if the process has ended or
    /// does not stream it.
    pub async fn invoke_streaming(&self, event: Value) -> Option<StreamedResponse> {
        match self.start_invocation(event).await? {
            InvocationResult::Streamed(response) => Some(response),
            InvocationResult::Buffered(_) => None,
        }
    }

    async fn start_invocation(&self, event: Value) -> Option<InvocationResult> {
        let id = format!("{:08}", lock(&self.shared.steps).len());
        let (sender, result) = oneshot::channel();
        lock(&self.shared.results).insert(id.clone(), sender);
        let has_extension = *lock(&self.shared.registered);
        // Both count as busy from now on, before they receive the event.
        self.shared.idle.send_modify(|idle| {
            idle.runtime = false;
            idle.extension = !has_extension;
        });
        if has_extension {
            let event = json!({
                "eventType": "INVOKE",
                "deadlineMs": DEADLINE_MS,
                "requestId": id,
                "invokedFunctionArn": ARN,
                "tracing": { "type": "X-Amzn-Trace-Id", "value": "" },
            });
            self.events.send(event).ok()?;
        }
        self.invocations.send(Invocation { id, event }).ok()?;
        result.await.ok()
    }

    /// Waits until both the runtime and the extension ask for their next event, after which Lambda may
    /// freeze the instance.
    pub async fn idle(&self) {
        let mut idle = self.idle.clone();
        // Cannot fail: the sender lives as long as `self`.
        let _ = idle.wait_for(|idle| idle.runtime && idle.extension).await;
    }

    /// Waits until the runtime asks for the next invocation; its extension may still be busy.
    pub async fn runtime_idle(&self) {
        let mut idle = self.idle.clone();
        // Cannot fail: the sender lives as long as `self`.
        let _ = idle.wait_for(|idle| idle.runtime).await;
    }

    /// Returns the actions of the instance so far, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        lock(&self.shared.steps).clone()
    }
}

/// Invokes a function's binary once, on empty tables and configured as in the template, and ends it.
///
/// # Errors
/// When it cannot be started.
///
/// # Panics
/// When the event is not JSON.
#[expect(clippy::unwrap_used, reason = "a test whose setup fails has failed")]
pub async fn invoke_once(
    binary: &str,
    function: &str,
    event: &str,
) -> std::io::Result<Option<Outcome>> {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws).await?;
    let _process = host.run(binary, function)?;
    Ok(host.invoke(serde_json::from_str(event).unwrap()).await)
}

impl Shared {
    fn complete(&self, id: &str, outcome: Outcome) -> StatusCode {
        lock(&self.steps).push(Step::Responded);
        self.respond(id, InvocationResult::Buffered(outcome))
    }

    fn respond(&self, id: &str, result: InvocationResult) -> StatusCode {
        match lock(&self.results).remove(id) {
            // The invoker may have stopped waiting.
            Some(sender) => {
                let _ = sender.send(result);
                StatusCode::ACCEPTED
            }
            None => StatusCode::BAD_REQUEST,
        }
    }

    /// Forwards a streamed response as it arrives. Returns before the end of the stream if its receiver
    /// was dropped.
    async fn stream(&self, id: &str, mut body: Body) -> StatusCode {
        let mut read = Vec::new();
        let head = loop {
            let Some(data) = next_data(&mut body).await else {
                return StatusCode::BAD_REQUEST;
            };
            read.extend_from_slice(&data);
            let mut windows = read.windows(DELIMITER.len());
            if let Some(end) = windows.position(|window| window == DELIMITER) {
                break end;
            }
        };
        let first = Bytes::copy_from_slice(&read[head + DELIMITER.len()..]);
        let head = serde_json::from_slice(&read[..head]).unwrap_or_default();
        let (sender, receiver) = mpsc::channel(1);
        let response = StreamedResponse {
            head,
            body: receiver,
        };
        let status = self.respond(id, InvocationResult::Streamed(response));
        let mut next = Some(first);
        while let Some(data) = next {
            if !data.is_empty() && sender.send(data).await.is_err() {
                return StatusCode::PAYLOAD_TOO_LARGE;
            }
            next = tokio::select! {
                next = next_data(&mut body) => next,
                () = sender.closed() => return StatusCode::PAYLOAD_TOO_LARGE,
            };
        }
        lock(&self.steps).push(Step::Responded);
        status
    }
}

/// Reads the next data of a body; `None` at its end.
async fn next_data(body: &mut Body) -> Option<Bytes> {
    loop {
        if let Ok(data) = body.frame().await?.ok()?.into_data() {
            return Some(data);
        }
    }
}

async fn next_invocation(State(shared): State<Arc<Shared>>) -> Response {
    let mut invocations = shared.invocations.lock().await;
    shared.idle.send_modify(|idle| idle.runtime = true);
    let Some(invocation) = invocations.recv().await else {
        // The host was dropped: the response breaks off.
        return Response::new(Body::new(Limited::new(Full::from("none"), 1)));
    };
    let headers = [
        ("lambda-runtime-aws-request-id", invocation.id),
        ("lambda-runtime-deadline-ms", DEADLINE_MS.to_string()),
        ("lambda-runtime-invoked-function-arn", ARN.to_owned()),
    ];
    (headers, invocation.event.to_string()).into_response()
}

async fn responded(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> StatusCode {
    let mode = headers.get("lambda-runtime-function-response-mode");
    if mode.is_some_and(|mode| mode == "streaming") {
        return shared.stream(&id, body).await;
    }
    let Ok(body) = body.collect().await else {
        return StatusCode::BAD_REQUEST;
    };
    let response = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    shared.complete(&id, Outcome::Response(response))
}

async fn failed(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    body: String,
) -> StatusCode {
    let error = serde_json::from_str(&body).unwrap_or_default();
    shared.complete(&id, Outcome::Error(error))
}

async fn register(State(shared): State<Arc<Shared>>) -> Response {
    *lock(&shared.registered) = true;
    shared.idle.send_modify(|idle| idle.extension = false);
    let body = json!({ "functionName": "local", "functionVersion": "1", "handler": "bootstrap" });
    ([("lambda-extension-identifier", "local")], body.to_string()).into_response()
}

async fn next_event(State(shared): State<Arc<Shared>>) -> Response {
    let mut events = shared.events.lock().await;
    shared.idle.send_modify(|idle| idle.extension = true);
    let Some(event) = events.recv().await else {
        return StatusCode::GONE.into_response();
    };
    event.to_string().into_response()
}

async fn aws_call(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> Response {
    let target = headers.get("x-amz-target");
    let target = target.and_then(|target| target.to_str().ok()).unwrap_or("");
    lock(&shared.steps).push(Step::Called(target.to_owned()));
    let (status, response) = shared.aws.call(target, &body);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = [("content-type", "application/x-amz-json-1.0")];
    (status, json, response).into_response()
}
