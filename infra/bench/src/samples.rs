//! Samples of a duration, and their percentiles.

use std::time::Duration;

/// Repeated measurements of one duration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the nearest-rank percentile: the least sample that is not exceeded by `percent` percent of all
    /// samples. Returns zero if there are no samples.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// Returns the median in microseconds.
    pub(crate) fn median_us(&self) -> f64 {
        us(self.percentile(50))
    }

    /// Returns the median in milliseconds.
    pub(crate) fn median_ms(&self) -> f64 {
        self.median_us() / 1e3
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// Returns a duration in microseconds.
pub(crate) fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let check = |samples: &[u64], percent: usize, expected: u64| {
            let samples: Samples = samples.iter().copied().map(Duration::from_micros).collect();
            let found = samples.percentile(percent);
            assert_eq!(
                found,
                Duration::from_micros(expected),
                "{samples:?} {percent}"
            );
        };
        check(&[], 50, 0);
        check(&[7], 50, 7);
        check(&[7], 99, 7);
        // The order of the samples does not matter.
        check(&[15, 50, 20, 40, 35], 30, 20);
        check(&[15, 50, 20, 40, 35], 40, 20);
        check(&[15, 50, 20, 40, 35], 50, 35);
        check(&[15, 50, 20, 40, 35], 100, 50);
        let hundred: Vec<u64> = (1..=100).collect();
        check(&hundred, 50, 50);
        check(&hundred, 90, 90);
        check(&hundred, 99, 99);
    }

    #[test]
    fn medians_are_in_the_named_unit() {
        let samples = Samples::from_iter([Duration::from_micros(2_500)]);
        assert!((samples.median_us() - 2_500.0).abs() < 1e-6);
        assert!((samples.median_ms() - 2.5).abs() < 1e-9);
    }
}
