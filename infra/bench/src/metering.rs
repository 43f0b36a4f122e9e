//! Measures the latency that metering adds to a call, and checks that responses do not wait for usage to be
//! sent.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes};
use lambda_http::Request;
use lambda_http::http::{Response, StatusCode};
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;
use tollgate_domain::llm::{InvalidPrices, LlmPrices};
use tollgate_local_aws::template::{InvalidTemplate, Stack};
use tollgate_metering::{Emitter, Metering, UnsentLog};
use tollgate_runtime::{Clock, Entropy, Metrics};
use tower::{Layer, Service, ServiceExt};

use crate::RELEASE;
use crate::affinity;
use crate::bus::{EventBus, Put};
use crate::contender::{ContenderError, Process};
use crate::figures::{HEADER, Target, line, rounded};
use crate::report::table;
use crate::run::{binary_in, progress};
use crate::samples::Samples;
use crate::tables::{STACK, SeedError, services};
use crate::tools::{ToolError, build, target_dir};

const EVENT: &str = include_str!("../../../events/ping/ping.json");

/// Handler calls in this process with the layer, and as many without.
const HANDLER_CALLS: usize = 20_000;
/// Handler calls that are not measured.
const HANDLER_WARM_UP: usize = 1_000;
/// Back-to-back calls of a process in each round.
const CALLS: usize = 500;
const ROUNDS: usize = 12;
/// Rounds that are not measured. A function connects to its bus in the first call.
const WARM_UP: usize = 2;

/// Delay of the fast bus.
const FAST: Duration = Duration::ZERO;
/// Delay of the slow bus.
const SLOW: Duration = Duration::from_millis(200);
const SLOW_ROUNDS: usize = 60;
/// Delay of the unresponsive bus: longer than the function's request timeout. The function retries for three
/// seconds.
const UNRESPONSIVE: Duration = Duration::from_secs(1);
/// Few rounds, because unsent records are sent again after each call: with some thirty of them, no time would
/// be left for the newest.
const UNRESPONSIVE_ROUNDS: usize = 12;
/// Pause of a function before each call with a slow bus, and with the fast bus that it is compared with. It
/// removes the influence of which function ran just before.
const PAUSE: Duration = Duration::from_millis(200);

/// An error that prevents the measurement of metering.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeteringError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error(transparent)]
    Contender(#[from] ContenderError),
    #[error("the function's environment variables cannot be read from the template")]
    Template(#[from] InvalidTemplate),
    #[error("the shipped prices are invalid")]
    Prices(#[from] InvalidPrices),
    #[error("an event or a response is not valid JSON")]
    Event(#[from] serde_json::Error),
    #[error("the event bus cannot listen on a port")]
    Bus(#[source] io::Error),
    #[error("ping responded with {0}")]
    Response(String),
}

/// Figures of ping with and without parts of its metering. Latencies are medians.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// Latency of the handler in this process.
    handler_us: f64,
    /// Latency that the layer adds to the handler in this process.
    layer_us: f64,
    /// Latency of a process with the bare handler.
    response_us: f64,
    /// Latency that the layer adds to a process.
    response_layer_us: f64,
    /// Latency that all of metering adds to a process in back-to-back calls: the layer, an extension that is
    /// invoked too, and CPU caches filled by the flush just before.
    response_metering_us: f64,
    response_with_slow_bus_over_fast: f64,
    response_with_unresponsive_bus_over_fast: f64,
    /// Responses that took as long as the slow bus's delay, or longer.
    slow_responses: usize,
    /// Bus requests that were sent before the response to the call.
    puts_before_response: usize,
    /// Calls whose record had not reached the bus when Lambda could have sent the next event.
    records_missing: usize,
    /// All calls of functions with metering, to which the three counts above refer.
    calls: usize,
    /// Time from a response until Lambda could send the next event.
    post_response_ms: f64,
    post_response_slow_ms: f64,
    post_response_unresponsive_ms: f64,
}

/// Target for the latency that the layer adds.
const MAX_ADDED_US: f64 = 20.0;
/// Target for the latency with a slow bus, relative to a fast one. A response that waits for the bus would
/// take about a hundred times as long.
const MAX_RATIO: f64 = 1.2;

impl Figures {
    pub(crate) fn table(&self) -> String {
        table(HEADER, &self.lines())
    }

    fn lines(&self) -> Vec<[String; 4]> {
        let line = |name: &str, value: f64, max: Option<f64>| {
            line(name, Some(value), max.map(Target::AtMost))
        };
        let count = |count: usize| count as f64;
        let (added, ratio, none) = (Some(MAX_ADDED_US), Some(MAX_RATIO), Some(0.0));
        vec![
            line(
                "handler in the benchmark's process, µs",
                self.handler_us,
                None,
            ),
            line("added by the layer, µs", self.layer_us, added),
            line(
                "response of a process without metering, µs",
                self.response_us,
                None,
            ),
            line(
                "added by the layer to a process, µs",
                self.response_layer_us,
                added,
            ),
            line(
                "added by all of metering to a process, µs",
                self.response_metering_us,
                None,
            ),
            line(
                "response with a bus delay of 200 ms: × no delay",
                self.response_with_slow_bus_over_fast,
                ratio,
            ),
            line(
                "response with a bus delay of 1 s: × no delay",
                self.response_with_unresponsive_bus_over_fast,
                ratio,
            ),
            line("metered calls", count(self.calls), None),
            line(
                "responses that took 200 ms or more",
                count(self.slow_responses),
                none,
            ),
            line(
                "bus requests before the response",
                count(self.puts_before_response),
                none,
            ),
            line(
                "records not on the bus by the next event",
                count(self.records_missing),
                none,
            ),
            line(
                "time from response to next event, ms",
                self.post_response_ms,
                None,
            ),
            line(
                "time from response to next event, bus delay of 200 ms, ms",
                self.post_response_slow_ms,
                None,
            ),
            line(
                "time from response to next event, bus delay of 1 s, ms",
                self.post_response_unresponsive_ms,
                None,
            ),
        ]
    }
}

/// Measures the layer in this process, and ping as processes.
pub(crate) async fn measure() -> Result<Figures, MeteringError> {
    progress("building ping, and ping without metering");
    let functions = Functions {
        dir: target_dir().await?.join("bench"),
        ping: build("ping", "ping", RELEASE).await?,
        alone: build("bench", "ping-alone", RELEASE).await?,
    };
    let dir = &functions.dir;
    std::fs::create_dir_all(dir).map_err(|error| ToolError::File(dir.clone(), error))?;
    progress("measuring the layer in this process");
    let [handler, layered] = layer().await?;
    affinity::pin().await;
    let processes = processes(&functions).await;
    affinity::unpin().await;
    let ([alone, with_layer, metered], [fast, slow], [reference, unresponsive]) = processes?;

    let all_metered = [&metered, &fast, &slow, &reference, &unresponsive];
    let sum = |of: fn(&CallCounts) -> usize| all_metered.iter().map(|one| of(&one.counts)).sum();
    let median = |of: &Measured| of.latency.median_us();
    let added = |with: &Measured| rounded(median(with) - median(&alone));
    let ratio = |of: &Measured, to: &Measured| rounded(median(of) / median(to));
    let post_response = |of: &Measured| rounded(of.post_response.median_ms());
    Ok(Figures {
        handler_us: rounded(handler.median_us()),
        layer_us: rounded(layered.median_us() - handler.median_us()),
        response_us: rounded(median(&alone)),
        response_layer_us: added(&with_layer),
        response_metering_us: added(&metered),
        response_with_slow_bus_over_fast: ratio(&slow, &fast),
        response_with_unresponsive_bus_over_fast: ratio(&unresponsive, &reference),
        slow_responses: sum(|counts| counts.slow_responses),
        puts_before_response: sum(|counts| counts.puts_before_response),
        records_missing: sum(|counts| counts.records_missing),
        calls: sum(|counts| counts.calls),
        post_response_ms: post_response(&metered),
        post_response_slow_ms: post_response(&slow),
        post_response_unresponsive_ms: post_response(&unresponsive),
    })
}

/// Measures the handler of ping without the layer and with it, each right after a flush, as in an instance
/// that flushes after every call.
async fn layer() -> Result<[Samples; 2], MeteringError> {
    // The records go to a queue without a consumer.
    let sdk = services()?.sdk_config();
    let (clock, entropy) = (Clock::system(), Entropy::seeded(1));
    let unsent_log = UnsentLog::to_stderr(Metrics::none());
    let emitter = Emitter::new(&sdk, "usage", "ping", clock, entropy, unsent_log);
    let metering = Metering::new(emitter, LlmPrices::shipped()?);
    let mut handler = tollgate_web::serve(ping::routes());
    let mut layered = metering.layer().layer(handler.clone());
    let request = lambda_http::request::from_str(EVENT)?;
    let mut samples = [Samples::default(), Samples::default()];
    for call in 0..HANDLER_WARM_UP + HANDLER_CALLS {
        let without = time(&mut handler, &request).await?;
        // Records usage, so that the flush after the call without the layer has something to send too.
        time(&mut layered, &request).await?;
        metering.emitter().flush().await;
        let with = time(&mut layered, &request).await?;
        metering.emitter().flush().await;
        if call >= HANDLER_WARM_UP {
            samples[0].push(without);
            samples[1].push(with);
        }
    }
    Ok(samples)
}

/// Measures one call to the end of the response body, up to which the layer does its work.
async fn time<S, R>(service: &mut S, request: &Request) -> Result<Duration, MeteringError>
where
    S: Service<Request, Response = Response<R>, Error = Infallible>,
    R: Body + Unpin,
{
    let request = request.clone();
    let began = Instant::now();
    let Ok(ready) = service.ready().await;
    let Ok(response) = ready.call(request).await;
    let (head, mut body) = response.into_parts();
    while body.frame().await.is_some() {}
    let latency = began.elapsed();
    match head.status {
        StatusCode::OK => Ok(latency),
        other => Err(MeteringError::Response(other.to_string())),
    }
}

/// Binaries that are measured as processes.
struct Functions {
    dir: PathBuf,
    ping: PathBuf,
    alone: PathBuf,
}

impl Functions {
    /// Starts a process with a bus of its own that responds after `delay`.
    async fn start(
        &self,
        name: &str,
        binary: &Path,
        argument: Option<&str>,
        delay: Duration,
    ) -> Result<Function, MeteringError> {
        let bus = EventBus::start(delay).await.map_err(MeteringError::Bus)?;
        let variables = Stack::built_in(STACK)?.variables("PingFunction")?;
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.push(("AWS_ENDPOINT_URL_EVENTBRIDGE".to_owned(), bus.url()));
        let mut contender = binary_in(&self.dir, name, binary, variables);
        contender.arguments.extend(argument.map(OsString::from));
        Ok(Function {
            process: contender.start_without_dynamodb().await?,
            bus,
            calls: Vec::new(),
        })
    }

    /// Starts ping as it is deployed.
    async fn ping(&self, name: &str, delay: Duration) -> Result<Function, MeteringError> {
        self.start(name, &self.ping, None, delay).await
    }

    /// Measures ping with a bus without delay and with a bus of this delay, with a pause before every call.
    async fn with_bus_delay(
        &self,
        delay: Duration,
        rounds: usize,
    ) -> Result<[Measured; 2], MeteringError> {
        let fast = self.ping("ping-fast-bus", FAST).await?;
        let slow = self.ping("ping-slow-bus", delay).await?;
        alternate([fast, slow], rounds, 1, PAUSE).await
    }
}

async fn processes(
    functions: &Functions,
) -> Result<([Measured; 3], [Measured; 2], [Measured; 2]), MeteringError> {
    let alone = |name, argument| functions.start(name, &functions.alone, argument, FAST);
    progress("measuring back-to-back calls");
    let back_to_back = [
        alone("ping-alone", None).await?,
        alone("ping-layer", Some("layer")).await?,
        functions.ping("ping", FAST).await?,
    ];
    let back_to_back = alternate(back_to_back, ROUNDS, CALLS, Duration::ZERO).await?;
    progress("measuring calls with a slow bus");
    let slow = functions.with_bus_delay(SLOW, SLOW_ROUNDS).await?;
    progress("measuring calls with an unresponsive bus");
    let unresponsive = functions
        .with_bus_delay(UNRESPONSIVE, UNRESPONSIVE_ROUNDS)
        .await?;
    Ok((back_to_back, slow, unresponsive))
}

/// Calls each function in turn, `calls` times in each of `rounds` rounds.
async fn alternate<const N: usize>(
    mut functions: [Function; N],
    rounds: usize,
    calls: usize,
    pause: Duration,
) -> Result<[Measured; N], MeteringError> {
    for _ in 0..WARM_UP + rounds {
        for function in &mut functions {
            for _ in 0..calls {
                if pause > Duration::ZERO {
                    sleep(pause).await;
                }
                function.call().await?;
            }
        }
    }
    let measured = functions
        .each_ref()
        .map(|function| function.measured(WARM_UP * calls));
    for function in functions {
        function.process.kill().await;
    }
    Ok(measured)
}

/// A function, its bus, and all its calls.
struct Function {
    process: Process,
    bus: EventBus,
    calls: Vec<Call>,
}

/// Times of a call.
#[derive(Debug)]
struct Call {
    /// Request id, in the event and in the usage record.
    id: String,
    /// Instant at which the event was sent to the function.
    sent: Instant,
    responded: Instant,
    /// Instant at which Lambda could have sent the next event.
    idle: Instant,
}

impl Function {
    async fn call(&mut self) -> Result<(), MeteringError> {
        let id = format!("call-{}", self.calls.len());
        let mut event: Value = serde_json::from_str(EVENT)?;
        event["requestContext"]["requestId"] = id.as_str().into();
        let invocation = self.process.invoke(&Bytes::from(event.to_string())).await?;
        self.process.wait_until_idle().await?;
        let idle = Instant::now();
        let response: Value = serde_json::from_slice(&invocation.response)?;
        if response["statusCode"] != 200 {
            return Err(MeteringError::Response(response.to_string()));
        }
        self.calls.push(Call {
            id,
            sent: invocation.sent,
            responded: invocation.responded,
            idle,
        });
        Ok(())
    }

    /// Returns the times of all calls except the first `discarded`, and counts over all calls.
    fn measured(&self, discarded: usize) -> Measured {
        let measured = &self.calls[discarded..];
        let latency = measured.iter().map(|call| call.responded - call.sent);
        let post_response = measured.iter().map(|call| call.idle - call.responded);
        Measured {
            latency: latency.collect(),
            post_response: post_response.collect(),
            counts: CallCounts::of(&self.calls, &self.bus.puts()),
        }
    }
}

/// Measurements of a function.
struct Measured {
    latency: Samples,
    /// Times from each response until Lambda could send the next event.
    post_response: Samples,
    counts: CallCounts,
}

/// Counts over the calls of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CallCounts {
    calls: usize,
    slow_responses: usize,
    puts_before_response: usize,
    records_missing: usize,
}

impl CallCounts {
    /// Counts over calls and bus requests, both in chronological order.
    fn of(calls: &[Call], puts: &[Put]) -> Self {
        let is_before_response = |at: Instant| {
            let sent = calls.partition_point(|call| call.sent <= at);
            calls[..sent]
                .last()
                .is_some_and(|call| at <= call.responded)
        };
        let mut arrived: HashMap<&str, Instant> = HashMap::new();
        for put in puts {
            for id in &put.request_ids {
                arrived.entry(id).or_insert(put.at);
            }
        }
        let is_missing = |call: &&Call| arrived.get(&*call.id).is_none_or(|at| *at > call.idle);
        let is_slow = |call: &&Call| call.responded - call.sent >= SLOW;
        Self {
            calls: calls.len(),
            slow_responses: calls.iter().filter(is_slow).count(),
            puts_before_response: puts.iter().filter(|put| is_before_response(put.at)).count(),
            records_missing: calls.iter().filter(is_missing).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts over calls that are sent, responded to and idle at the given milliseconds, and over bus requests
    /// at the given milliseconds with the records of the given calls.
    fn counts(calls: &[[u64; 3]], puts: &[(u64, &[usize])]) -> [usize; 3] {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let calls = calls.iter().enumerate().map(|(id, call)| Call {
            id: id.to_string(),
            sent: at(call[0]),
            responded: at(call[1]),
            idle: at(call[2]),
        });
        let puts = puts.iter().map(|(ms, calls)| Put {
            at: at(*ms),
            request_ids: calls.iter().map(usize::to_string).collect(),
        });
        let counts = CallCounts::of(&calls.collect::<Vec<_>>(), &puts.collect::<Vec<_>>());
        [
            counts.slow_responses,
            counts.puts_before_response,
            counts.records_missing,
        ]
    }

    #[test]
    fn early_puts_and_late_records_are_counted() {
        let calls = [[0, 1, 10], [20, 21, 30]];
        assert_eq!(counts(&calls, &[(5, &[0]), (25, &[1])]), [0, 0, 0]);
        // The second record arrives during the next call, or never.
        assert_eq!(counts(&calls, &[(5, &[0]), (31, &[1])]), [0, 0, 1]);
        assert_eq!(counts(&calls, &[(5, &[0])]), [0, 0, 1]);
        // A record that is sent again counts from its first arrival.
        assert_eq!(counts(&calls, &[(5, &[0]), (25, &[0, 1])]), [0, 0, 0]);
        // Before the first response, and before the second.
        assert_eq!(counts(&calls, &[(0, &[0]), (25, &[1])]), [0, 1, 0]);
        assert_eq!(counts(&calls, &[(5, &[0]), (21, &[1])]), [0, 1, 0]);
        assert_eq!(counts(&[[0, 199, 200], [201, 401, 402]], &[]), [1, 0, 2]);
    }

    fn figures() -> Figures {
        Figures {
            handler_us: 5.0,
            layer_us: 20.0,
            response_us: 50.0,
            response_layer_us: 20.0,
            response_metering_us: 80.0,
            response_with_slow_bus_over_fast: 1.2,
            response_with_unresponsive_bus_over_fast: 1.2,
            slow_responses: 0,
            puts_before_response: 0,
            records_missing: 0,
            calls: 1_000,
            post_response_ms: 0.5,
            post_response_slow_ms: 201.0,
            post_response_unresponsive_ms: 3_000.0,
        }
    }

    fn missed(figures: &Figures) -> Vec<String> {
        let lines = figures.lines().into_iter();
        let missed = lines.filter(|line| line[3].contains("missed"));
        missed.map(|line| line[1].clone()).collect()
    }

    #[test]
    fn a_figure_beyond_its_target_is_shown_as_missed() {
        assert_eq!(missed(&figures()), [""; 0]);
        let worse = Figures {
            layer_us: 20.1,
            response_layer_us: 20.2,
            response_with_slow_bus_over_fast: 1.21,
            response_with_unresponsive_bus_over_fast: 1.22,
            slow_responses: 1,
            puts_before_response: 2,
            records_missing: 3,
            ..figures()
        };
        let expected = ["20.1", "20.2", "1.21", "1.22", "1", "2", "3"];
        assert_eq!(missed(&worse), expected);
    }
}
