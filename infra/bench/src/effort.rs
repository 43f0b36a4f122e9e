//! Numbers of repetitions.

use crate::latency::Rounds;

/// Number of repetitions of each measurement.
#[derive(Debug, Clone)]
pub(crate) struct Effort {
    /// Starts of each contender.
    pub(crate) starts: usize,
    /// Starts of each contender over TLS.
    pub(crate) tls_starts: usize,
    pub(crate) warm: Rounds,
    pub(crate) handler_batches: usize,
    /// Handler calls in each batch.
    pub(crate) handler_calls: u32,
    /// Duration of the traffic shape `hot`, in seconds.
    pub(crate) hot_s: u32,
    /// Duration of the traffic shape `zipf`, in seconds.
    pub(crate) zipf_s: u32,
}

impl Effort {
    /// Returns the repetitions for published figures.
    pub(crate) fn full() -> Self {
        Self {
            starts: 40,
            tls_starts: 20,
            warm: Rounds {
                warm_up: 1_000,
                rounds: 10,
                calls: 1_000,
            },
            handler_batches: 50,
            handler_calls: 500,
            hot_s: 20,
            zipf_s: 60,
        }
    }

    /// Returns the repetitions for a smoke test of the benchmark.
    pub(crate) fn quick() -> Self {
        Self {
            starts: 5,
            tls_starts: 3,
            warm: Rounds {
                warm_up: 200,
                rounds: 2,
                calls: 200,
            },
            handler_batches: 5,
            handler_calls: 100,
            hot_s: 2,
            zipf_s: 4,
        }
    }
}
