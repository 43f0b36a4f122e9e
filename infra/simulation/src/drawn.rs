//! What scenarios are drawn with.

use std::time::Duration;

use tollgate_runtime::Entropy;

/// One event, and how long after the one before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<E> {
    pub(crate) after: Duration,
    pub(crate) event: E,
}

/// One of `bound` places.
pub(crate) fn index(entropy: &Entropy, bound: usize) -> usize {
    let bound = u64::try_from(bound).unwrap_or(u64::MAX);
    usize::try_from(entropy.below(bound)).unwrap_or(0)
}

/// By how much a clock is ahead: up to `most` milliseconds to either side.
pub(crate) fn skew_ms(entropy: &Entropy, most: i64) -> i64 {
    let width = u64::try_from(2 * most + 1).unwrap_or(1);
    i64::try_from(entropy.below(width)).unwrap_or(0) - most
}
