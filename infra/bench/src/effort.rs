//! How much is measured.

use crate::latency::Rounds;

/// How often each thing is done.
#[derive(Debug, Clone)]
pub(crate) struct Effort {
    /// Starts of each contender.
    pub(crate) starts: usize,
    /// Starts of each over TLS.
    pub(crate) tls_starts: usize,
    pub(crate) warm: Rounds,
    pub(crate) handler_batches: usize,
    /// In each batch.
    pub(crate) handler_calls: u32,
    /// Seconds of the shape `hot`.
    pub(crate) hot_s: u32,
    /// Seconds of the shape `zipf`.
    pub(crate) zipf_s: u32,
}

impl Effort {
    /// Enough for figures that are published.
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

    /// Enough to see that everything can be measured.
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
