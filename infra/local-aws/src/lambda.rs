//! What Lambda is to a function's process: the Runtime API and the Extensions API, on a loopback
//! port where the AWS services answer as well. Runs a function's real binary in tests.
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

/// Far enough ahead that no invocation times out: the first second of the year 2100.
const DEADLINE_MS: u64 = 4_102_444_800_000;
/// What separates the head of a streamed answer from its body.
const DELIMITER: [u8; 8] = [0; 8];
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:local";

/// Lambda, for one function's process.
pub struct LambdaHost {
    address: SocketAddr,
    shared: Arc<Shared>,
    invocations: mpsc::UnboundedSender<Invocation>,
    events: mpsc::UnboundedSender<Value>,
    idle: watch::Receiver<Idle>,
}

/// How an invocation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// With an answer.
    Answer(Value),
    /// With an error: `errorType` and `errorMessage`.
    Error(Value),
}

/// An answer that is being streamed. If this is dropped, the Runtime API takes no more of it.
#[derive(Debug)]
pub struct StreamedAnswer {
    /// `statusCode`, `headers` and `cookies`.
    pub head: Value,
    body: mpsc::Receiver<Bytes>,
}

impl StreamedAnswer {
    /// What comes next of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Option<Bytes> {
        self.body.recv().await
    }
}

/// What the process answers an invocation with.
enum Answer {
    Whole(Outcome),
    Streamed(StreamedAnswer),
}

/// What the process did, in the order it did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It ended an invocation.
    Answered,
    /// It called an AWS API, named as in `X-Amz-Target`.
    Called(String),
}

/// A function's process; killed when it is dropped.
#[derive(Debug)]
pub struct FunctionProcess(Child);

impl FunctionProcess {
    /// Announces the end, as Lambda does, and waits for it. Returns what the process logged.
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

    /// Sends it the signal of that name, such as `TERM`.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) -> std::io::Result<()> {
        let id = self.0.id().to_string();
        Command::new("kill").args(["-s", name, &id]).status()?;
        Ok(())
    }

    /// Waits for the end of a process that cannot start, or cannot go on. Returns what it said on
    /// standard error.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn failure(mut self) -> std::io::Result<String> {
        let mut said = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        self.0.wait()?;
        Ok(said)
    }
}

impl Drop for FunctionProcess {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Invocation {
    id: String,
    event: Value,
}

/// Who waits for the next event.
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
    outcomes: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
    steps: Mutex<Vec<Step>>,
    registered: Mutex<bool>,
    idle: watch::Sender<Idle>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LambdaHost {
    /// Begins to listen. `aws` answers the calls that the process makes.
    ///
    /// # Errors
    /// When there is no port.
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
            outcomes: Mutex::default(),
            steps: Mutex::default(),
            registered: Mutex::new(false),
            idle: idle_in,
        });
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next_invocation))
            .route(
                "/2018-06-01/runtime/invocation/{id}/response",
                post(answered),
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

    /// Where the AWS services answer, such as `http://127.0.0.1:9001`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts a function's binary with the variables that Lambda sets, the endpoints of the AWS
    /// services pointing here, and what the template sets for the function of that logical id in a
    /// stack called `test`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, binary: &str, function: &str) -> std::io::Result<FunctionProcess> {
        let variables = Stack::built_in("test").and_then(|stack| stack.variables(function));
        self.run_with(binary, variables.map_err(std::io::Error::other)?)
    }

    /// The same with these variables in place of the template's.
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
                // Lambda's own filter lets all pass; the template has the process apply the level.
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

    /// Invokes the function, and waits for its answer. `None` if the process has gone, or streams it.
    pub async fn invoke(&self, event: Value) -> Option<Outcome> {
        match self.begin(event).await? {
            Answer::Whole(outcome) => Some(outcome),
            Answer::Streamed(_) => None,
        }
    }

    /// Invokes the function, and waits for the head of its answer. `None` if the process has gone, or
    /// does not stream it.
    pub async fn invoke_streaming(&self, event: Value) -> Option<StreamedAnswer> {
        match self.begin(event).await? {
            Answer::Streamed(answer) => Some(answer),
            Answer::Whole(_) => None,
        }
    }

    async fn begin(&self, event: Value) -> Option<Answer> {
        let id = format!("{:08}", lock(&self.shared.steps).len());
        let (sender, outcome) = oneshot::channel();
        lock(&self.shared.outcomes).insert(id.clone(), sender);
        let has_extension = *lock(&self.shared.registered);
        // Both are busy from now on, and not only once they have taken the event.
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
        outcome.await.ok()
    }

    /// Waits until the process waits for the next invocation, its extension included: the moment
    /// from which Lambda may freeze it.
    pub async fn idle(&self) {
        let mut idle = self.idle.clone();
        // The sender lives as long as this.
        let _ = idle.wait_for(|idle| idle.runtime && idle.extension).await;
    }

    /// Waits until the process asks for the next invocation, whatever its extension is still at.
    pub async fn asked(&self) {
        let mut idle = self.idle.clone();
        // The sender lives as long as this.
        let _ = idle.wait_for(|idle| idle.runtime).await;
    }

    /// What the process has done so far.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        lock(&self.shared.steps).clone()
    }
}

/// What a function's binary makes of one event where there is no customer, key or usage: started as
/// the template configures it, and ended.
///
/// # Errors
/// When it cannot be started.
///
/// # Panics
/// When the event is no JSON.
#[expect(clippy::unwrap_used, reason = "a test that cannot begin has failed")]
pub async fn answer_alone(
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
    fn end(&self, id: &str, outcome: Outcome) -> StatusCode {
        lock(&self.steps).push(Step::Answered);
        self.answer(id, Answer::Whole(outcome))
    }

    fn answer(&self, id: &str, answer: Answer) -> StatusCode {
        match lock(&self.outcomes).remove(id) {
            // Whoever invoked it may have stopped waiting.
            Some(sender) => {
                let _ = sender.send(answer);
                StatusCode::ACCEPTED
            }
            None => StatusCode::BAD_REQUEST,
        }
    }

    /// Hands on a streamed answer as it comes. The status is of a response that comes early if
    /// nobody takes it any more.
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
        let answer = StreamedAnswer {
            head,
            body: receiver,
        };
        let status = self.answer(id, Answer::Streamed(answer));
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
        lock(&self.steps).push(Step::Answered);
        status
    }
}

/// The next data of a body; `None` at its end.
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
        // There is no Lambda any more: a response that breaks off.
        return Response::new(Body::new(Limited::new(Full::from("none"), 1)));
    };
    let headers = [
        ("lambda-runtime-aws-request-id", invocation.id),
        ("lambda-runtime-deadline-ms", DEADLINE_MS.to_string()),
        ("lambda-runtime-invoked-function-arn", ARN.to_owned()),
    ];
    (headers, invocation.event.to_string()).into_response()
}

async fn answered(
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
    let answer = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    shared.end(&id, Outcome::Answer(answer))
}

async fn failed(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    body: String,
) -> StatusCode {
    let error = serde_json::from_str(&body).unwrap_or_default();
    shared.end(&id, Outcome::Error(error))
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
    let (status, answer) = shared.aws.answer(target, &body);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = [("content-type", "application/x-amz-json-1.0")];
    (status, json, answer).into_response()
}
