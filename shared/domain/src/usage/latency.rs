//! Distribution of latencies.
//!
//! DynamoDB only adds numbers, so the distribution is a set of counters: four for each doubling of the latency, as wide
//! as one another. Any two distributions can be added, and one that is part of another can be subtracted.

use std::collections::BTreeMap;

/// Counters for each doubling, as a power of two.
const BITS: u32 = 2;
/// Highest bit of the longest latency that has a counter of its own: 2^26 ms, which are 18 hours.
const LAST_BIT: u32 = 25;
/// Number of counters.
pub const LATENCY_BUCKETS: u8 = 100;

/// Number of calls by latency, in buckets each of which is at most a quarter of its least latency wide.
///
/// A percentile differs by at most an eighth, and exact below 8 ms. Latencies of 18 hours and more count as 18 hours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies(BTreeMap<u8, u64>);

/// Returns the bucket of a latency.
fn bucket(latency_ms: u64) -> u8 {
    let longest = (1 << (LAST_BIT + 1)) - 1;
    let latency_ms = latency_ms.min(longest);
    let Some(highest) = latency_ms.checked_ilog2().filter(|bit| *bit >= BITS) else {
        return u8::try_from(latency_ms).unwrap_or(u8::MAX);
    };
    // The bits after the highest one say which quarter of its doubling it is in.
    let shift = highest - BITS;
    let bucket = (u64::from(shift) << BITS) + (latency_ms >> shift);
    u8::try_from(bucket).unwrap_or(u8::MAX)
}

/// Returns the latency in the middle of a bucket.
fn middle(bucket: u8) -> u64 {
    let (bucket, quarters) = (u64::from(bucket), 1 << BITS);
    if bucket < quarters {
        return bucket;
    }
    let shift = (bucket >> BITS) - 1;
    let least = (quarters + bucket % quarters) << shift;
    least + (1 << shift) / 2
}

impl Latencies {
    /// Adds a call of this latency.
    pub fn add(&mut self, latency_ms: u64) {
        self.add_calls(bucket(latency_ms), 1);
    }

    /// Adds calls to a bucket, by its number from 0.
    pub fn add_calls(&mut self, bucket: u8, calls: u64) {
        let sum = self.0.entry(bucket).or_default();
        *sum = sum.saturating_add(calls);
    }

    /// Adds another distribution.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, calls) in &other.0 {
            self.add_calls(*bucket, *calls);
        }
    }

    /// Subtracts a distribution of calls that this one includes.
    pub fn subtract(&mut self, part: &Self) {
        for (bucket, calls) in &part.0 {
            let sum = self.0.entry(*bucket).or_default();
            *sum = sum.saturating_sub(*calls);
        }
        self.0.retain(|_, calls| *calls > 0);
    }

    /// Returns the number of calls in each bucket that has any, by its number from 0.
    pub fn buckets(&self) -> impl Iterator<Item = (u8, u64)> {
        self.0.iter().map(|(bucket, calls)| (*bucket, *calls))
    }

    /// Returns the latency in milliseconds that this percentage of the calls do not exceed: `None` without calls.
    #[must_use]
    pub fn percentile_ms(&self, percent: u64) -> Option<u64> {
        let calls = self
            .0
            .values()
            .map(|calls| u128::from(*calls))
            .sum::<u128>();
        // The nearest rank, from 1.
        let rank = (calls * u128::from(percent)).div_ceil(100).max(1);
        let mut so_far = 0;
        let reached = self.0.iter().find(|(_, calls)| {
            so_far += u128::from(**calls);
            so_far >= rank
        });
        reached.map(|(bucket, _)| middle(*bucket))
    }
}

impl FromIterator<u64> for Latencies {
    fn from_iter<I: IntoIterator<Item = u64>>(latencies_ms: I) -> Self {
        let mut latencies = Self::default();
        for latency_ms in latencies_ms {
            latencies.add(latency_ms);
        }
        latencies
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_one_another() {
        let mut last = None;
        for latency_ms in 0..100_000 {
            let found = bucket(latency_ms);
            let step = last.map_or(0, |last| found - last);
            assert!(step <= 1, "{latency_ms}: bucket {found} after {last:?}");
            last = Some(found);
        }
        for latency_ms in [1 << 26, 1 << 30, u64::MAX] {
            assert_eq!(bucket(latency_ms), LATENCY_BUCKETS - 1);
        }
    }

    #[test]
    fn a_percentile_differs_by_an_eighth_at_most() {
        for latency_ms in (0..10_000).chain([65_535, 65_536, 12_345_678, (1 << 26) - 1]) {
            let latencies: Latencies = [latency_ms].into_iter().collect();
            let found = latencies.percentile_ms(50).unwrap();
            let error = found.abs_diff(latency_ms);
            assert!(error * 8 <= latency_ms, "{latency_ms}: {found}");
            assert!(latency_ms >= 8 || error == 0, "{latency_ms}: {found}");
        }
    }

    #[test]
    fn a_percentile_is_the_latency_of_the_nearest_rank() {
        let check = |latencies_ms: &[u64], percent: u64, expected: Option<u64>| {
            let latencies: Latencies = latencies_ms.iter().copied().collect();
            assert_eq!(
                latencies.percentile_ms(percent),
                expected,
                "{latencies_ms:?}"
            );
        };
        check(&[], 50, None);
        check(&[1], 0, Some(1));
        check(&[1, 2, 3, 4], 50, Some(2));
        check(&[1, 2, 3, 4], 51, Some(3));
        check(&[1, 2, 3, 4], 100, Some(4));
        check(&[0, 0, 0, 7], 75, Some(0));
        check(&[0, 0, 0, 7], 95, Some(7));
    }

    proptest! {
        #[test]
        fn what_was_added_can_be_subtracted(
            one in prop::collection::vec(0_u64..1 << 30, 0..40),
            other in prop::collection::vec(0_u64..1 << 30, 0..40),
        ) {
            let all: Latencies = one.iter().chain(&other).copied().collect();
            let one: Latencies = one.into_iter().collect();
            let other: Latencies = other.into_iter().collect();
            let mut sum = one.clone();
            sum.merge(&other);
            prop_assert_eq!(&sum, &all);
            sum.subtract(&other);
            prop_assert_eq!(sum, one);
        }
    }
}
