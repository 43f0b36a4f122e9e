//! Traffic at a steady pace, and what it asks of DynamoDB.

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{MissedTickBehavior, interval};

use crate::contender::{Contender, ContenderError, Process, Scheme};
use crate::dynamodb::{Counts, DynamoDb};
use crate::samples::Samples;

const CALLS_A_SECOND: u32 = 500;
/// Instances of the shape `zipf`.
const INSTANCES: usize = 50;
const SEED: u64 = 1;

/// What a shape of traffic asked of DynamoDB.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    pub(crate) instances: usize,
    pub(crate) keys: usize,
    pub(crate) latency: Samples,
    pub(crate) took: Duration,
    /// From before the instances were started, until the last call.
    pub(crate) asked: Counts,
    /// As the instances ended.
    pub(crate) asked_at_end: Counts,
}

impl Traffic {
    pub(crate) fn requests_per_call(&self) -> f64 {
        self.asked.total() as f64 / self.latency.len() as f64
    }

    /// A count as what it is for 1,000 calls.
    pub(crate) fn per_1000(&self, count: f64) -> f64 {
        count / self.latency.len() as f64 * 1e3
    }

    pub(crate) fn calls_a_second(&self) -> f64 {
        self.latency.len() as f64 / self.took.as_secs_f64()
    }
}

/// One key on one instance.
pub(crate) async fn hot(
    contender: &Contender,
    endpoint: &DynamoDb,
    event: &Bytes,
    seconds: u32,
) -> Result<Traffic, ContenderError> {
    run(contender, endpoint, 1, std::slice::from_ref(event), seconds).await
}

/// Many keys, the n-th asked for a n-th as often as the first, on many instances. Each call goes to
/// any of the instances, whichever key it has: about the worst that routing can do to what an
/// instance remembers.
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
    endpoint.weigh(true);
    let mut processes = Vec::with_capacity(instances);
    for _ in 0..instances {
        processes.push(contender.start(endpoint, Scheme::Http).await?);
    }
    let began = Instant::now();
    let latency = pace(&mut processes, events, seconds * CALLS_A_SECOND).await?;
    let took = began.elapsed();
    let at_end = endpoint.counts();
    for process in processes {
        process.shut_down().await?;
    }
    let asked_at_end = endpoint.counts().since(&at_end);
    endpoint.weigh(false);
    Ok(Traffic {
        instances,
        keys: events.len(),
        latency,
        took,
        asked: at_end.since(&before),
        asked_at_end,
    })
}

/// Makes the calls, one after the other, each when it is due or as soon after as can be.
async fn pace(
    processes: &mut [Process],
    events: &[Bytes],
    calls: u32,
) -> Result<Samples, ContenderError> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let zipf = Zipf::new(events.len());
    let mut due = interval(Duration::from_secs(1) / CALLS_A_SECOND);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut latency = Samples::default();
    for _ in 0..calls {
        let event = &events[zipf.rank(rng.random())];
        let process = rng.random_range(0..processes.len());
        due.tick().await;
        latency.push(processes[process].invoke(event).await?);
    }
    Ok(latency)
}

/// Zipf's law with the exponent 1: the n-th of all has a share of 1/n.
struct Zipf {
    /// The shares of all up to each.
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

    /// The place, from 0, in which a uniform number from 0 to below 1 falls.
    fn rank(&self, uniform: f64) -> usize {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let place = uniform * total;
        let rank = self.cumulative.partition_point(|sum| *sum <= place);
        rank.min(self.cumulative.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_have_their_shares() {
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
            let off = (count - expected).abs();
            // Five standard deviations.
            assert!(
                off < 5.0 * expected.sqrt(),
                "{rank}: {count}, not {expected}"
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
