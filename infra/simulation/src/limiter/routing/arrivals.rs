//! Arrivals of calls, and their keys.

#![allow(
    clippy::float_arithmetic,
    reason = "random times and weights are neither money nor stored counts"
)]

use std::time::Duration;

use tollgate_runtime::Entropy;

/// Calls of a Poisson process, with keys distributed by Zipf's law with exponent 1: the n-th key has a weight of 1/n.
#[derive(Debug)]
pub(super) struct Arrivals {
    entropy: Entropy,
    per_second: f64,
    /// Time of the last call.
    last: Duration,
    /// Sum of the weights up to each key.
    cumulative: Vec<f64>,
}

impl Arrivals {
    pub(super) fn new(seed: u64, per_second: u32, keys: usize) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=keys).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self {
            cumulative: cumulative.collect(),
            entropy: Entropy::seeded(seed),
            per_second: f64::from(per_second),
            last: Duration::ZERO,
        }
    }

    /// Returns the time of the next call, and the index of its key.
    pub(super) fn next(&mut self) -> (Duration, usize) {
        // The logarithm is of a number in (0, 1].
        let pause = -(1.0 - self.uniform()).ln() / self.per_second;
        self.last += Duration::from_secs_f64(pause);
        let total = self.cumulative.last().copied().unwrap_or_default();
        let weight = self.uniform() * total;
        let key = self.cumulative.partition_point(|sum| *sum <= weight);
        (self.last, key.min(self.cumulative.len().saturating_sub(1)))
    }

    /// Draws a uniform number in [0, 1).
    fn uniform(&self) -> f64 {
        const STEPS: u64 = 1 << 53;
        self.entropy.below(STEPS) as f64 / STEPS as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_arrive_at_their_rate_and_with_the_weights_of_their_keys() {
        let mut arrivals = Arrivals::new(7, 50, 1_000);
        let calls = 200_000_u32;
        let mut found = vec![0_u32; 1_000];
        let mut last = Duration::ZERO;
        for _ in 0..calls {
            let (at, key) = arrivals.next();
            found[key] += 1;
            last = at;
        }
        let seconds = last.as_secs_f64();
        // Within five standard deviations.
        let is_near = |found: f64, expected: f64| (found - expected).abs() < 5.0 * expected.sqrt();
        assert!(is_near(50.0 * seconds, f64::from(calls)), "{seconds} s");
        let harmonic: f64 = (1..=1_000).map(|n| 1.0 / f64::from(n)).sum();
        for rank in [1_u32, 2, 3, 10, 50] {
            let expected = f64::from(calls) / harmonic / f64::from(rank);
            let count = f64::from(found[rank as usize - 1]);
            assert!(
                is_near(count, expected),
                "{rank}: {count}, expected {expected}"
            );
        }
    }
}
