//! Traffic shapes: calls at a steady rate, and their DynamoDB requests.

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{MissedTickBehavior, interval};

use crate::contender::{Contender, ContenderError, Process, Scheme};
use crate::dynamodb::{Counts, DynamoDb};
use crate::samples::Samples;

const CALLS_PER_SECOND: u32 = 500;
/// Instances of the traffic shape `zipf`.
const INSTANCES: usize = 50;
const SEED: u64 = 1;

/// Results of a traffic shape.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    pub(crate) instances: usize,
    pub(crate) keys: usize,
    pub(crate) latency: Samples,
    pub(crate) duration: Duration,
    /// DynamoDB requests from before the instances started to the last call.
    pub(crate) counts: Counts,
    /// DynamoDB requests while the instances shut down.
    pub(crate) shutdown_counts: Counts,
}

impl Traffic {
    pub(crate) fn requests_per_call(&self) -> f64 {
        self.counts.total() as f64 / self.latency.len() as f64
    }

    /// Converts a count over all calls to a count per 1,000 calls.
    pub(crate) fn per_1000(&self, count: f64) -> f64 {
        count / self.latency.len() as f64 * 1e3
    }

    pub(crate) fn calls_per_second(&self) -> f64 {
        self.latency.len() as f64 / self.duration.as_secs_f64()
    }
}

/// Measures calls with one key to one instance.
pub(crate) async fn hot(
    contender: &Contender,
    endpoint: &DynamoDb,
    event: &Bytes,
    seconds: u32,
) -> Result<Traffic, ContenderError> {
    run(contender, endpoint, 1, std::slice::from_ref(event), seconds).await
}

/// Measures calls with many keys, distributed by Zipf's law, to many instances. Each call goes to a random
/// instance, which is close to the worst case for caches and leases.
pub(crate) async fn zipf(
    contender: &Contender,
    endpoint: &DynamoDb,
    events: &[Bytes],
    seconds: u32,
) -> Result<Traffic, ContenderError> {
    run(contender, endpoint, INSTANCES, events, seconds).await
}

async fn run(
    contender: &Contender,
    endpoint: &DynamoDb,
    instances: usize,
    events: &[Bytes],
    seconds: u32,
) -> Result<Traffic, ContenderError> {
    let before = endpoint.counts();
    endpoint.measure_capacity(true);
    let mut processes = Vec::with_capacity(instances);
    for _ in 0..instances {
        processes.push(contender.start(endpoint, Scheme::Http).await?);
    }
    let began = Instant::now();
    let latency = pace(&mut processes, events, seconds * CALLS_PER_SECOND).await?;
    let duration = began.elapsed();
    let before_shutdown = endpoint.counts();
    for process in processes {
        process.shut_down().await?;
    }
    let shutdown_counts = endpoint.counts().since(&before_shutdown);
    endpoint.measure_capacity(false);
    Ok(Traffic {
        instances,
        keys: events.len(),
        latency,
        duration,
        counts: before_shutdown.since(&before),
        shutdown_counts,
    })
}

/// Makes the calls sequentially, each when it is due, or as soon as the call before it has ended.
async fn pace(
    processes: &mut [Process],
    events: &[Bytes],
    calls: u32,
) -> Result<Samples, ContenderError> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let zipf = Zipf::new(events.len());
    let mut due = interval(Duration::from_secs(1) / CALLS_PER_SECOND);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut latency = Samples::default();
    for _ in 0..calls {
        let event = &events[zipf.rank(rng.random())];
        let process = rng.random_range(0..processes.len());
        due.tick().await;
        latency.push(processes[process].decide(event).await?);
    }
    Ok(latency)
}

/// Zipf's law with exponent 1: the n-th key has a weight of 1/n.
struct Zipf {
    /// Sum of the weights up to each rank.
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=count).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self {
            cumulative: cumulative.collect(),
        }
    }

    /// Maps a uniform number in [0, 1) to a rank, from 0.
    fn rank(&self, uniform: f64) -> usize {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let weight = uniform * total;
        let rank = self.cumulative.partition_point(|sum| *sum <= weight);
        rank.min(self.cumulative.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_drawn_by_their_weights() {
        let zipf = Zipf::new(1_000);
        let mut rng = StdRng::seed_from_u64(7);
        let draws = 200_000;
        let mut found = vec![0_u32; 1_000];
        for _ in 0..draws {
            found[zipf.rank(rng.random())] += 1;
        }
        let harmonic: f64 = (1..=1_000).map(|n| 1.0 / f64::from(n)).sum();
        for rank in [1_u32, 2, 3, 10, 50] {
            let expected = f64::from(draws) / harmonic / f64::from(rank);
            let count = f64::from(found[rank as usize - 1]);
            let error = (count - expected).abs();
            // Five standard deviations.
            assert!(
                error < 5.0 * expected.sqrt(),
                "{rank}: {count}, expected {expected}"
            );
        }
    }

    #[test]
    fn every_number_has_a_rank() {
        let zipf = Zipf::new(3);
        assert_eq!(zipf.rank(0.0), 0);
        assert_eq!(zipf.rank(0.54), 0);
        assert_eq!(zipf.rank(0.55), 1);
        assert_eq!(zipf.rank(1.0 - f64::EPSILON), 2);
        assert_eq!(zipf.rank(1.0), 2);
        assert_eq!(Zipf::new(1).rank(0.99), 0);
    }
}
