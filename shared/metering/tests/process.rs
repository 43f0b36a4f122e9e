//! A function with streamed responses, run like on Lambda. This binary is the function too, if the
//! environment names a Runtime API.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::process::ExitCode;

use lambda_http::lambda_runtime::streaming::{Body, channel};
use lambda_http::{Error, Request, Response, service_fn};
use libtest_mimic::{Arguments, Trial};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{FunctionProcess, LambdaHost, StreamedResponse};
use tollgate_metering::{Metering, RequestCost};
use tollgate_testing::event::Event;
use tollgate_testing::metered::{NOW, delivered};
use tower::Layer;

const CHUNK: &str = "chunk";
/// Tokens that are reported before the first chunk; each chunk is one more.
const BEFORE: usize = 700;
/// Highest number of chunks after which a stream ends.
const CHUNKS: usize = 3;

/// Script of a streamed response, in the request body.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Script {
    chunks: usize,
    then: Then,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Then {
    End,
    Fail,
    /// Sends one more chunk after a signal, and then nothing.
    Wait,
}

async fn respond(request: Request) -> Result<Response<Body>, Error> {
    let script: Script = serde_json::from_slice(request.body())?;
    let cost = request.extensions().get::<RequestCost>().cloned();
    let cost = cost.ok_or("the call has no customer")?;
    cost.add_tokens("openai", BEFORE as u64)?;
    let mut signalled = signal(SignalKind::user_defined1())?;
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        for _ in 0..script.chunks {
            cost.add_tokens("openai", 1)?;
            sender.send_data(CHUNK.into()).await?;
        }
        match script.then {
            Then::End => {}
            Then::Fail => sender.abort(),
            Then::Wait => {
                signalled.recv().await;
                cost.add_tokens("openai", 1)?;
                sender.send_data(CHUNK.into()).await?;
                std::future::pending::<()>().await;
            }
        }
        Ok::<_, Error>(())
    });
    Ok(Response::new(body))
}

#[tokio::main(flavor = "current_thread")]
async fn function() -> Result<(), Error> {
    let metering = Metering::from_env()?;
    let service = metering.layer().layer(service_fn(respond));
    metering.run_streaming(service).await
}

/// A function instance with one streamed response.
struct Streaming {
    at: Fixture,
    host: LambdaHost,
    process: FunctionProcess,
    response: StreamedResponse,
}

impl Streaming {
    /// Starts an instance, invokes it, and reads the chunks of the script.
    async fn start(chunks: usize, then: Then) -> Self {
        let at = Fixture::at(NOW);
        let host = LambdaHost::start(at.aws.clone()).await.unwrap();
        let binary = std::env::current_exe().unwrap();
        let process = host.run(binary.to_str().unwrap(), "PingFunction").unwrap();
        // The runtime asks for the first invocation after the extension is registered.
        host.idle().await;
        let event = Event::load("ping/ping").body(&json!(Script { chunks, then }));
        let mut response = host.invoke_streaming(event.0).await.unwrap();
        assert_eq!(response.head["statusCode"], 200);
        assert_eq!(response.head["headers"]["x-ratelimit-limit"], "10000");
        let expected = CHUNK.repeat(chunks);
        let mut read = String::new();
        while read.len() < expected.len() {
            read.push_str(std::str::from_utf8(&response.chunk().await.unwrap()).unwrap());
        }
        assert_eq!(read, expected);
        Self {
            at,
            host,
            process,
            response,
        }
    }
}

/// Checks that the bus delivered one record, of a response with `chunks` chunks.
fn check(at: &Fixture, chunks: usize, truncated: Option<&str>) {
    let mut events = delivered(at);
    assert_eq!(events.len(), 1);
    let mut records = events[0]["detail"]["data"]["records"].take();
    let record = records[0].take();
    assert_eq!(records, json!([Value::Null]));
    assert_eq!(record["truncated"].as_str(), truncated, "{record}");
    let is_billable = matches!(truncated, None | Some("dropped"));
    assert_eq!(record["billable"], is_billable, "{record}");
    assert_eq!(record["response_bytes"], chunks * CHUNK.len(), "{record}");
    assert_eq!(record["costs"][0]["tokens"], BEFORE + chunks, "{record}");
}

async fn ends(chunks: usize) {
    let mut streaming = Streaming::start(chunks, Then::End).await;
    assert_eq!(streaming.response.chunk().await, None);
    streaming.host.idle().await;
    check(&streaming.at, chunks, None);
}

async fn fails(chunks: usize) {
    let mut streaming = Streaming::start(chunks, Then::Fail).await;
    // The runtime reports the error in the body.
    let error = streaming.response.chunk().await.unwrap();
    assert!(error.starts_with(b"Lambda-Runtime-Function-Error-Type"));
    assert_eq!(streaming.response.chunk().await, None);
    streaming.host.idle().await;
    check(&streaming.at, chunks, Some("failed"));
}

async fn is_shut_down(chunks: usize) {
    let streaming = Streaming::start(chunks, Then::Wait).await;
    streaming.process.shut_down().unwrap();
    check(&streaming.at, chunks, Some("interrupted"));
}

/// The flush waits for a body that continues after the Runtime API has stopped reading it.
async fn is_not_read(chunks: usize) {
    let streaming = Streaming::start(chunks, Then::Wait).await;
    drop(streaming.response);
    streaming.host.runtime_idle().await;
    assert_eq!(streaming.at.aws.queue().counts().unwrap().queued, 0);
    streaming.process.signal("USR1").unwrap();
    streaming.host.idle().await;
    check(&streaming.at, chunks + 1, Some("dropped"));
}

async fn loses_the_runtime_api(chunks: usize) {
    let streaming = Streaming::start(chunks, Then::Wait).await;
    drop(streaming.response);
    streaming.host.runtime_idle().await;
    drop(streaming.host);
    streaming.process.wait_for_failure().unwrap();
    check(&streaming.at, chunks, Some("interrupted"));
}

fn trials<F>(kind: &'static str, case: fn(usize) -> F) -> impl Iterator<Item = Trial>
where
    F: Future<Output = ()> + 'static,
{
    (0..=CHUNKS).map(move |chunks| {
        let name = format!("a_stream_{kind}_after_{chunks}");
        Trial::test(name, move || {
            // The host serves the process while the test blocks.
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(1).enable_all().build()?;
            runtime.block_on(case(chunks));
            Ok(())
        })
    })
}

fn main() -> ExitCode {
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() {
        function().unwrap();
        return ExitCode::SUCCESS;
    }
    let trials = trials("that_ends", ends)
        .chain(trials("that_fails", fails))
        .chain(trials("at_shutdown", is_shut_down))
        .chain(trials("that_is_not_read", is_not_read))
        .chain(trials("that_loses_the_runtime_api", loses_the_runtime_api));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
