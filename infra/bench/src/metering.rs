//! The metering layer: what it adds to a call, and whether a caller waits for what follows an answer.

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
use tollgate_metering::{Emitter, Metering, Spill};
use tollgate_runtime::{Clock, Entropy, Metrics};
use tower::{Layer, Service, ServiceExt};

use crate::RELEASE;
use crate::bus::{EventBus, Put};
use crate::contender::{ContenderError, Process};
use crate::core;
use crate::figures::{HEADER, Target, line, rounded};
use crate::report::table;
use crate::run::{binary_in, progress};
use crate::samples::Samples;
use crate::tables::{STACK, SeedError, services};
use crate::tools::{ToolError, build, target_dir};

const EVENT: &str = include_str!("../../../events/ping/ping.json");

/// Calls in this process, with the layer and as many without, and those before that are not measured.
const HANDLER_CALLS: usize = 20_000;
const HANDLER_WARM_UP: usize = 1_000;
/// Calls of processes one right after the other, in each round.
const CALLS: usize = 500;
const ROUNDS: usize = 12;
/// Rounds that are not measured. In the first call a function connects to its bus.
const WARM_UP: usize = 2;

const AT_ONCE: Duration = Duration::ZERO;
const SLOW: Duration = Duration::from_millis(200);
const SLOW_ROUNDS: usize = 60;
/// Later than a function waits: to it the bus is down. It tries again, for three seconds.
const LATE: Duration = Duration::from_secs(1);
/// Few: what waits for such a bus is sent again after each call, and of some thirty the newest would
/// find no time left.
const LATE_ROUNDS: usize = 12;
/// How long a function rests before a call beside a slow bus, or beside a fast one to compare with:
/// so it does not matter which of them was at work just before.
const REST: Duration = Duration::from_millis(200);

/// Why metering could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeteringError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error(transparent)]
    Contender(#[from] ContenderError),
    #[error("the function's variables cannot be worked out")]
    Template(#[from] InvalidTemplate),
    #[error("the shipped prices cannot be used")]
    Prices(#[from] InvalidPrices),
    #[error("the event is no event of the gateway's")]
    Event(#[from] serde_json::Error),
    #[error("the event bus has no port")]
    Bus(#[source] io::Error),
    #[error("ping answered {0}")]
    Answered(String),
}

/// Medians of latencies in microseconds, of ping with and without parts of its metering.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// The handler in this process.
    handler_us: f64,
    /// What the layer adds to that.
    layer_us: f64,
    /// Of a process that has the handler alone.
    answer_us: f64,
    /// What the layer adds to that.
    answer_layer_us: f64,
    /// What all of metering adds to it where calls come one right after the other: the layer, an
    /// extension that is told of the call too, and caches that the last flush has just filled.
    answer_metering_us: f64,
    answer_with_slow_bus_over_fast: f64,
    answer_with_late_bus_over_fast: f64,
    /// Answers that took as long as the slow bus does.
    late_answers: usize,
    /// Requests that came to a bus while the call was unanswered.
    puts_before_answer: usize,
    /// Calls whose record had not come to the bus when Lambda could have handed out the next.
    records_missing: usize,
    /// All that these three are of.
    calls: usize,
    /// From an answer until Lambda could hand out the next event.
    held_ms: f64,
    held_slow_ms: f64,
    held_late_ms: f64,
}

/// The most that the layer may add.
const MOST_ADDED_US: f64 = 20.0;
/// The most that an answer may take beside a slow bus, over what it takes beside a fast one. An
/// answer that waited for the bus would be at a hundred times that.
const MOST_RATIO: f64 = 1.2;

impl Figures {
    pub(crate) fn table(&self) -> String {
        table(HEADER, &self.lines())
    }

    fn lines(&self) -> Vec<[String; 4]> {
        let line = |name: &str, value: f64, most: Option<f64>| {
            line(name, Some(value), most.map(Target::AtMost))
        };
        let count = |count: usize| count as f64;
        let (added, ratio, none) = (Some(MOST_ADDED_US), Some(MOST_RATIO), Some(0.0));
        vec![
            line("the handler in this process, µs", self.handler_us, None),
            line("the layer adds to that, µs", self.layer_us, added),
            line(
                "an answer of a process without metering, µs",
                self.answer_us,
                None,
            ),
            line("the layer adds to that, µs", self.answer_layer_us, added),
            line(
                "the whole of metering adds to that, µs",
                self.answer_metering_us,
                None,
            ),
            line(
                "an answer beside a bus of 200 ms: × one of 0 ms",
                self.answer_with_slow_bus_over_fast,
                ratio,
            ),
            line(
                "an answer beside a bus of 1 s: × one of 0 ms",
                self.answer_with_late_bus_over_fast,
                ratio,
            ),
            line("metered calls", count(self.calls), None),
            line(
                "answers that took 200 ms or more",
                count(self.late_answers),
                none,
            ),
            line(
                "requests to the bus before the answer",
                count(self.puts_before_answer),
                none,
            ),
            line(
                "records that had not come by the next event",
                count(self.records_missing),
                none,
            ),
            line("from the answer to the next event, ms", self.held_ms, None),
            line("the same beside a bus of 200 ms", self.held_slow_ms, None),
            line("the same beside a bus of 1 s", self.held_late_ms, None),
        ]
    }
}

/// Measures the layer in this process, and processes of ping.
pub(crate) async fn measure() -> Result<Figures, MeteringError> {
    progress("building ping, and ping without metering");
    let functions = Functions {
        dir: target_dir().await?.join("bench"),
        ping: build("ping", "ping", RELEASE).await?,
        alone: build("bench", "ping-alone", RELEASE).await?,
    };
    let dir = &functions.dir;
    std::fs::create_dir_all(dir).map_err(|error| ToolError::File(dir.clone(), error))?;
    progress("the layer alone");
    let [handler, layered] = layer().await?;
    core::share().await;
    let processes = processes(&functions).await;
    core::release().await;
    let ([alone, with_layer, metered], [fast, slow], [beside_late, late]) = processes?;

    let all_metered = [&metered, &fast, &slow, &beside_late, &late];
    let sum = |of: fn(&Seen) -> usize| all_metered.iter().map(|one| of(&one.seen)).sum();
    let median = |of: &Measured| of.latency.median_us();
    let added = |with: &Measured| rounded(median(with) - median(&alone));
    let ratio = |of: &Measured, to: &Measured| rounded(median(of) / median(to));
    let held = |of: &Measured| rounded(of.held.median_ms());
    Ok(Figures {
        handler_us: rounded(handler.median_us()),
        layer_us: rounded(layered.median_us() - handler.median_us()),
        answer_us: rounded(median(&alone)),
        answer_layer_us: added(&with_layer),
        answer_metering_us: added(&metered),
        answer_with_slow_bus_over_fast: ratio(&slow, &fast),
        answer_with_late_bus_over_fast: ratio(&late, &beside_late),
        late_answers: sum(|seen| seen.late_answers),
        puts_before_answer: sum(|seen| seen.puts_before_answer),
        records_missing: sum(|seen| seen.records_missing),
        calls: sum(|seen| seen.calls),
        held_ms: held(&metered),
        held_slow_ms: held(&slow),
        held_late_ms: held(&late),
    })
}

/// The handler of ping without the layer and with it, each called right after a flush as in an
/// instance that flushes after every call.
async fn layer() -> Result<[Samples; 2], MeteringError> {
    // The records go to a queue that nobody reads.
    let sdk = services()?.sdk_config();
    let (clock, entropy) = (Clock::system(), Entropy::seeded(1));
    let spill = Spill::to_stderr(Metrics::none());
    let emitter = Emitter::new(&sdk, "usage", "ping", clock, entropy, spill);
    let metering = Metering::new(emitter, LlmPrices::shipped()?);
    let mut handler = tollgate_web::serve(ping::routes());
    let mut layered = metering.layer().layer(handler.clone());
    let request = lambda_http::request::from_str(EVENT)?;
    let mut samples = [Samples::default(), Samples::default()];
    for call in 0..HANDLER_WARM_UP + HANDLER_CALLS {
        let without = time(&mut handler, &request).await?;
        // So that there is something to flush after that one too.
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

/// What one call takes, to the end of its answer's body: the layer is at work until then.
async fn time<S, R>(service: &mut S, request: &Request) -> Result<Duration, MeteringError>
where
    S: Service<Request, Response = Response<R>, Error = Infallible>,
    R: Body + Unpin,
{
    let request = request.clone();
    let began = Instant::now();
    let Ok(ready) = service.ready().await;
    let Ok(answer) = ready.call(request).await;
    let (head, mut body) = answer.into_parts();
    while body.frame().await.is_some() {}
    let took = began.elapsed();
    match head.status {
        StatusCode::OK => Ok(took),
        other => Err(MeteringError::Answered(other.to_string())),
    }
}

/// What is measured as processes.
struct Functions {
    dir: PathBuf,
    ping: PathBuf,
    alone: PathBuf,
}

impl Functions {
    /// A process with a bus of its own that answers after this long.
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
            process: contender.start_alone().await?,
            bus,
            calls: Vec::new(),
        })
    }

    /// ping as it is deployed.
    async fn ping(&self, name: &str, delay: Duration) -> Result<Function, MeteringError> {
        self.start(name, &self.ping, None, delay).await
    }

    /// Two of them, which rest before every call: beside a bus that answers at once, and this one.
    async fn beside(&self, delay: Duration, rounds: usize) -> Result<[Measured; 2], MeteringError> {
        let fast = self.ping("ping-fast-bus", AT_ONCE).await?;
        let slow = self.ping("ping-slow-bus", delay).await?;
        take_turns([fast, slow], rounds, 1, REST).await
    }
}

async fn processes(
    functions: &Functions,
) -> Result<([Measured; 3], [Measured; 2], [Measured; 2]), MeteringError> {
    let alone = |name, argument| functions.start(name, &functions.alone, argument, AT_ONCE);
    progress("answers one right after the other");
    let one_by_one = [
        alone("ping-alone", None).await?,
        alone("ping-layer", Some("layer")).await?,
        functions.ping("ping", AT_ONCE).await?,
    ];
    let one_by_one = take_turns(one_by_one, ROUNDS, CALLS, Duration::ZERO).await?;
    progress("answers beside a slow bus");
    let beside_slow = functions.beside(SLOW, SLOW_ROUNDS).await?;
    progress("answers beside a late bus");
    let beside_late = functions.beside(LATE, LATE_ROUNDS).await?;
    Ok((one_by_one, beside_slow, beside_late))
}

/// Calls each function `calls` times, then the next; and that `rounds` times.
async fn take_turns<const N: usize>(
    mut functions: [Function; N],
    rounds: usize,
    calls: usize,
    rest: Duration,
) -> Result<[Measured; N], MeteringError> {
    for _ in 0..WARM_UP + rounds {
        for function in &mut functions {
            for _ in 0..calls {
                if rest > Duration::ZERO {
                    sleep(rest).await;
                }
                function.call().await?;
            }
        }
    }
    let measured = functions
        .each_ref()
        .map(|function| function.measured(WARM_UP * calls));
    for function in functions {
        function.process.stop().await;
    }
    Ok(measured)
}

/// A function, its bus, and all its calls.
struct Function {
    process: Process,
    bus: EventBus,
    calls: Vec<Call>,
}

/// When a call did what.
#[derive(Debug)]
struct Call {
    /// As the gateway has it, and the record.
    id: String,
    handed_out: Instant,
    answered: Instant,
    /// Lambda could have handed out the next event.
    idle: Instant,
}

impl Function {
    async fn call(&mut self) -> Result<(), MeteringError> {
        let id = format!("call-{}", self.calls.len());
        let mut event: Value = serde_json::from_str(EVENT)?;
        event["requestContext"]["requestId"] = id.as_str().into();
        let answered = self.process.ask(&Bytes::from(event.to_string())).await?;
        self.process.idle().await?;
        let idle = Instant::now();
        let answer: Value = serde_json::from_slice(&answered.answer)?;
        if answer["statusCode"] != 200 {
            return Err(MeteringError::Answered(answer.to_string()));
        }
        self.calls.push(Call {
            id,
            handed_out: answered.handed_out,
            answered: answered.received,
            idle,
        });
        Ok(())
    }

    /// What its calls took, but for the first `discarded`; and what was seen of them all.
    fn measured(&self, discarded: usize) -> Measured {
        let measured = &self.calls[discarded..];
        let latency = measured.iter().map(|call| call.answered - call.handed_out);
        let held = measured.iter().map(|call| call.idle - call.answered);
        Measured {
            latency: latency.collect(),
            held: held.collect(),
            seen: Seen::of(&self.calls, &self.bus.puts()),
        }
    }
}

/// What was measured of a function.
struct Measured {
    latency: Samples,
    /// From each answer until Lambda could hand out the next event.
    held: Samples,
    seen: Seen,
}

/// Counts over the calls of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    calls: usize,
    late_answers: usize,
    puts_before_answer: usize,
    records_missing: usize,
}

impl Seen {
    /// Of calls and requests that are each in the order in which they came.
    fn of(calls: &[Call], puts: &[Put]) -> Self {
        let is_unanswered = |at: Instant| {
            let begun = calls.partition_point(|call| call.handed_out <= at);
            calls[..begun]
                .last()
                .is_some_and(|call| at <= call.answered)
        };
        let mut arrived: HashMap<&str, Instant> = HashMap::new();
        for put in puts {
            for call in &put.calls {
                arrived.entry(call).or_insert(put.at);
            }
        }
        let is_missing = |call: &&Call| arrived.get(&*call.id).is_none_or(|at| *at > call.idle);
        let is_late = |call: &&Call| call.answered - call.handed_out >= SLOW;
        Self {
            calls: calls.len(),
            late_answers: calls.iter().filter(is_late).count(),
            puts_before_answer: puts.iter().filter(|put| is_unanswered(put.at)).count(),
            records_missing: calls.iter().filter(is_missing).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls are handed out, answered and over at these milliseconds; requests come at those, with
    /// the records of these calls.
    fn seen(calls: &[[u64; 3]], puts: &[(u64, &[usize])]) -> [usize; 3] {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let calls = calls.iter().enumerate().map(|(id, call)| Call {
            id: id.to_string(),
            handed_out: at(call[0]),
            answered: at(call[1]),
            idle: at(call[2]),
        });
        let puts = puts.iter().map(|(ms, calls)| Put {
            at: at(*ms),
            calls: calls.iter().map(usize::to_string).collect(),
        });
        let seen = Seen::of(&calls.collect::<Vec<_>>(), &puts.collect::<Vec<_>>());
        [
            seen.late_answers,
            seen.puts_before_answer,
            seen.records_missing,
        ]
    }

    #[test]
    fn what_must_follow_an_answer_is_seen_where_it_does_not() {
        let calls = [[0, 1, 10], [20, 21, 30]];
        assert_eq!(seen(&calls, &[(5, &[0]), (25, &[1])]), [0, 0, 0]);
        // The second record comes with the call after it, or never.
        assert_eq!(seen(&calls, &[(5, &[0]), (31, &[1])]), [0, 0, 1]);
        assert_eq!(seen(&calls, &[(5, &[0])]), [0, 0, 1]);
        // What is sent again counts from when it first came.
        assert_eq!(seen(&calls, &[(5, &[0]), (25, &[0, 1])]), [0, 0, 0]);
        // Before the first answer, and before the second.
        assert_eq!(seen(&calls, &[(0, &[0]), (25, &[1])]), [0, 1, 0]);
        assert_eq!(seen(&calls, &[(5, &[0]), (21, &[1])]), [0, 1, 0]);
        assert_eq!(seen(&[[0, 199, 200], [201, 401, 402]], &[]), [1, 0, 2]);
    }

    fn figures() -> Figures {
        Figures {
            handler_us: 5.0,
            layer_us: 20.0,
            answer_us: 50.0,
            answer_layer_us: 20.0,
            answer_metering_us: 80.0,
            answer_with_slow_bus_over_fast: 1.2,
            answer_with_late_bus_over_fast: 1.2,
            late_answers: 0,
            puts_before_answer: 0,
            records_missing: 0,
            calls: 1_000,
            held_ms: 0.5,
            held_slow_ms: 201.0,
            held_late_ms: 3_000.0,
        }
    }

    fn missed(figures: &Figures) -> Vec<String> {
        let lines = figures.lines().into_iter();
        let missed = lines.filter(|line| line[3].contains("missed"));
        missed.map(|line| line[1].clone()).collect()
    }

    #[test]
    fn what_is_missed_is_shown_as_missed() {
        assert_eq!(missed(&figures()), [""; 0]);
        let worse = Figures {
            layer_us: 20.1,
            answer_layer_us: 20.2,
            answer_with_slow_bus_over_fast: 1.21,
            answer_with_late_bus_over_fast: 1.22,
            late_answers: 1,
            puts_before_answer: 2,
            records_missing: 3,
            ..figures()
        };
        let expected = ["20.1", "20.2", "1.21", "1.22", "1", "2", "3"];
        assert_eq!(missed(&worse), expected);
    }
}
