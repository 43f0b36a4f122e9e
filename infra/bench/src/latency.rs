//! Measures process starts, first decisions, and warm decisions.
//!
//! Contenders are measured alternately, so that other load on the machine affects all of them.

use hyper::body::Bytes;

use crate::contender::{Contender, ContenderError, Memory, Process, Scheme};
use crate::dynamodb::DynamoDb;
use crate::samples::Samples;

/// A contender, and the event that is sent to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) contender: &'a Contender,
    pub(crate) event: &'a Bytes,
}

impl Case<'_> {
    /// Checks that the contender starts and allows the event.
    pub(crate) async fn check(&self, endpoint: &DynamoDb) -> Result<(), ContenderError> {
        let mut process = self.contender.start(endpoint, Scheme::Http).await?;
        process.decide(self.event).await?;
        process.kill().await;
        Ok(())
    }
}

/// Measures the time from process start to the first poll: `count` samples of each contender, after
/// `discarded` starts that fill the page cache.
pub(crate) async fn starts(
    cases: &[Case<'_>],
    endpoint: &DynamoDb,
    discarded: usize,
    count: usize,
) -> Result<Vec<Samples>, ContenderError> {
    let mut samples = vec![Samples::default(); cases.len()];
    for round in 0..discarded + count {
        for (case, samples) in cases.iter().zip(&mut samples) {
            let process = case.contender.start(endpoint, Scheme::Http).await?;
            if round >= discarded {
                samples.push(process.time_to_first_poll());
            }
            process.kill().await;
        }
    }
    Ok(samples)
}

/// Process starts against a DynamoDB endpoint with TLS.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsStarts {
    /// Times from process start to the end of the init phase.
    pub(crate) ready: Samples,
    /// Times from process start to the first decision.
    pub(crate) decided: Samples,
    /// Number of starts that sent a DynamoDB request during the init phase.
    pub(crate) with_request: usize,
}

/// Starts a contender `count` times with TLS, with one decision each time.
pub(crate) async fn tls_starts(
    case: Case<'_>,
    endpoint: &DynamoDb,
    count: usize,
) -> Result<TlsStarts, ContenderError> {
    let mut starts = TlsStarts::default();
    for _ in 0..count {
        let before = endpoint.counts().total();
        let mut process = case.contender.start(endpoint, Scheme::Https).await?;
        starts.with_request += usize::from(endpoint.counts().total() > before);
        process.decide(case.event).await?;
        starts.decided.push(process.age());
        starts.ready.push(process.time_to_ready());
        process.kill().await;
    }
    Ok(starts)
}

/// Decisions of a warm process.
#[derive(Debug, Clone)]
pub(crate) struct Warm {
    pub(crate) latency: Samples,
    /// Average number of DynamoDB requests of a decision.
    pub(crate) requests_per_call: f64,
    /// Latencies less the time that the DynamoDB engine took to process the requests.
    pub(crate) less_engine: Samples,
    /// Memory after all decisions.
    pub(crate) memory: Memory,
}

/// Number of calls to each contender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    /// Calls before the first round, which are not measured.
    pub(crate) warm_up: usize,
    pub(crate) rounds: usize,
    /// Calls in each round.
    pub(crate) calls: usize,
}

struct Running<'a> {
    case: Case<'a>,
    process: Process,
    latency: Samples,
    less_engine: Samples,
    requests: u64,
}

/// Measures sequential calls, to one process for each case.
pub(crate) async fn warm(
    cases: &[Case<'_>],
    endpoint: &DynamoDb,
    rounds: Rounds,
) -> Result<Vec<Warm>, ContenderError> {
    let mut running = Vec::with_capacity(cases.len());
    for &case in cases {
        let mut process = case.contender.start(endpoint, Scheme::Http).await?;
        for _ in 0..rounds.warm_up {
            process.decide(case.event).await?;
        }
        running.push(Running {
            case,
            process,
            latency: Samples::default(),
            less_engine: Samples::default(),
            requests: 0,
        });
    }
    for _ in 0..rounds.rounds {
        for one in &mut running {
            for _ in 0..rounds.calls {
                let before = endpoint.counts();
                let latency = one.process.decide(one.case.event).await?;
                let counts = endpoint.counts().since(&before);
                one.latency.push(latency);
                one.less_engine
                    .push(latency.saturating_sub(counts.engine_time));
                one.requests += counts.total();
            }
        }
    }
    let mut results = Vec::with_capacity(running.len());
    for one in running {
        let calls = one.latency.len() as f64;
        results.push(Warm {
            memory: one.process.memory()?,
            requests_per_call: one.requests as f64 / calls,
            latency: one.latency,
            less_engine: one.less_engine,
        });
        one.process.kill().await;
    }
    Ok(results)
}
