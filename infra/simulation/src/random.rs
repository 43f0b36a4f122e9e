//! Random choices from which scenarios are generated.

use std::time::Duration;

use tollgate_runtime::Entropy;

/// One event, and the delay since the event before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<E> {
    pub(crate) after: Duration,
    pub(crate) event: E,
}

/// Returns a random index below `bound`.
pub(crate) fn index(entropy: &Entropy, bound: usize) -> usize {
    let bound = u64::try_from(bound).unwrap_or(u64::MAX);
    usize::try_from(entropy.below(bound)).unwrap_or(0)
}

/// Returns a random clock skew between `-max` and `max`, in milliseconds.
pub(crate) fn skew_ms(entropy: &Entropy, max: i64) -> i64 {
    let width = u64::try_from(2 * max + 1).unwrap_or(1);
    i64::try_from(entropy.below(width)).unwrap_or(0) - max
}
