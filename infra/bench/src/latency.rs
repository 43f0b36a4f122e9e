//! How long things take: starts, first decisions, and decisions of a process that is warm.
//!
//! Contenders take turns, so that whatever else the machine does hits all of them.

use hyper::body::Bytes;

use crate::contender::{Contender, ContenderError, Memory, Process, Scheme};
use crate::dynamodb::DynamoDb;
use crate::samples::Samples;

/// A contender and the event that it is asked with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) contender: &'a Contender,
    pub(crate) event: &'a Bytes,
}

impl Case<'_> {
    /// Whether it starts and decides.
    pub(crate) async fn try_out(&self, endpoint: &DynamoDb) -> Result<(), ContenderError> {
        let mut process = self.contender.start(endpoint, Scheme::Http).await?;
        process.invoke(self.event).await?;
        process.stop().await;
        Ok(())
    }
}

/// From the start of the process until it asks for an event: `count` samples of each contender,
/// after `discarded` that fill the page cache.
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
                samples.push(process.started_in());
            }
            process.stop().await;
        }
    }
    Ok(samples)
}

/// Starts against an endpoint that speaks TLS.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsStarts {
    /// From the start of the process until it is ready for an event.
    pub(crate) ready: Samples,
    /// From the start of the process until its first decision.
    pub(crate) decided: Samples,
    /// Starts in which DynamoDB was asked before that.
    pub(crate) asked_before: usize,
}

/// Starts a contender over TLS `count` times, and lets it decide once each time.
pub(crate) async fn tls_starts(
    case: Case<'_>,
    endpoint: &DynamoDb,
    count: usize,
) -> Result<TlsStarts, ContenderError> {
    let mut starts = TlsStarts::default();
    for _ in 0..count {
        let before = endpoint.counts().total();
        let mut process = case.contender.start(endpoint, Scheme::Https).await?;
        starts.asked_before += usize::from(endpoint.counts().total() > before);
        process.invoke(case.event).await?;
        starts.decided.push(process.age());
        starts.ready.push(process.ready_in());
        process.stop().await;
    }
    Ok(starts)
}

/// Decisions of a warm process.
#[derive(Debug, Clone)]
pub(crate) struct Warm {
    pub(crate) latency: Samples,
    /// What DynamoDB was asked for one decision, on average.
    pub(crate) requests_per_call: f64,
    /// Without what DynamoDB's stand-in took to work out its answers.
    pub(crate) less_engine: Samples,
    /// After all of them.
    pub(crate) memory: Memory,
}

/// How many calls are made of each case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    /// Not measured.
    pub(crate) warm_up: usize,
    pub(crate) rounds: usize,
    /// In each round.
    pub(crate) calls: usize,
}

struct Running<'a> {
    case: Case<'a>,
    process: Process,
    latency: Samples,
    less_engine: Samples,
    requests: u64,
}

/// One call after the other, in a process for each case.
pub(crate) async fn warm(
    cases: &[Case<'_>],
    endpoint: &DynamoDb,
    rounds: Rounds,
) -> Result<Vec<Warm>, ContenderError> {
    let mut running = Vec::with_capacity(cases.len());
    for &case in cases {
        let mut process = case.contender.start(endpoint, Scheme::Http).await?;
        for _ in 0..rounds.warm_up {
            process.invoke(case.event).await?;
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
                let took = one.process.invoke(one.case.event).await?;
                let asked = endpoint.counts().since(&before);
                one.latency.push(took);
                one.less_engine.push(took.saturating_sub(asked.engine));
                one.requests += asked.total();
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
        one.process.stop().await;
    }
    Ok(results)
}
