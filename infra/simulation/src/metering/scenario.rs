//! Generates a run's scenario from its seed.

use std::time::Duration;

use tollgate_runtime::Entropy;

use crate::network::FaultRates;
use crate::random::{Step, index, skew_ms};

/// A run's parameters and events. All of it follows from the seed.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// UTC time at which the run starts.
    pub(crate) start: &'static str,
    /// Faults between the metered functions and the bus.
    pub(crate) bus_faults: FaultRates,
    /// Faults between the writers and the tables.
    pub(crate) table_faults: FaultRates,
    pub(crate) customers: usize,
    /// Whether the functions buffer records over several calls.
    pub(crate) is_buffered: bool,
    /// Clock skew of each metered function's instance in milliseconds, positive if the clock is ahead.
    pub(crate) function_skews_ms: Vec<i64>,
    /// Clock skew of each writer in milliseconds, positive if the clock is ahead.
    pub(crate) writer_skews_ms: Vec<i64>,
    /// Percentage of batches during which the writer crashes.
    pub(crate) writer_crash_percent: u64,
    /// Claims at which a bucket is closed.
    pub(crate) max_claims: usize,
    pub(crate) steps: Vec<Step<Event>>,
    /// Replacement of the release before claims were put.
    pub(crate) upgrade: Option<Upgrade>,
}

/// A replacement of instances of an earlier release during the run.
#[derive(Debug, Clone)]
pub(crate) struct Upgrade {
    /// Clock skew of each of its writers in milliseconds, positive if the clock is ahead.
    pub(crate) skews_ms: Vec<i64>,
    /// Number of steps after which they end.
    pub(crate) steps: usize,
    /// Time after the start of the run at which the next step is made then: soon after all releases put claims, or on the
    /// next day, whose usage no earlier release has counted.
    pub(crate) goes_on_after: Duration,
}

impl Upgrade {
    fn generate(seed: u64) -> Option<Self> {
        let entropy = Entropy::seeded(seed ^ 0xea71);
        let writers = 1 + index(&entropy, 2);
        let is_upgraded = entropy.below(3) == 0;
        is_upgraded.then(|| Self {
            skews_ms: (0..writers)
                .map(|_| skew_ms(&entropy, MAX_SKEW_MS))
                .collect(),
            steps: index(&entropy, 40),
            goes_on_after: Duration::from_secs(3_600 * [2, 30][index(&entropy, 2)]),
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// This many calls, and then a flush.
    Calls { function: usize, count: usize },
    /// The instance is lost with its state, and replaced.
    Crash { function: usize },
    /// The instance is shut down during whatever it does, and replaced. Usage that it logs as unsent is put
    /// on the bus at the end of the run.
    ShutDown { function: usize },
    /// Adjustments of a customer's usage are put on the bus.
    Adjust { customer: usize },
    /// Two events with the same source and id but different content are put on the bus.
    Conflict { customer: usize },
    /// The instance's clock skew changes.
    SetClock { function: usize, skew_ms: i64 },
    /// The writer's clock skew changes.
    SetWriterClock { writer: usize, skew_ms: i64 },
    /// The writer's network to the tables fails.
    Disconnect { writer: usize },
    /// The writer's network has the scenario's fault rates again.
    Reconnect { writer: usize },
}

/// Start times shortly before hours, days, weeks, months and years end, and one in the middle of an hour.
const STARTS: [&str; 5] = [
    "2026-11-22T10:20:00Z",
    "2026-11-22T23:59:40Z",
    "2026-11-30T23:59:30Z",
    "2026-12-31T23:59:30Z",
    "2028-02-28T23:59:00Z",
];
/// Greatest clock skew, in either direction: two clocks differ by less than the bound beyond which a record's
/// time is rejected.
const MAX_SKEW_MS: i64 = 120_000;

impl Scenario {
    /// Whether nothing prevents the writers from counting, apart from one another.
    pub(crate) fn has_reliable_writers(&self) -> bool {
        let is_fault = |step: &Step<Event>| {
            matches!(
                step.event,
                Event::SetWriterClock { .. } | Event::Disconnect { .. }
            )
        };
        // An earlier release cannot compare an event with a guard.
        self.upgrade.is_none()
            && self.table_faults == FaultRates::NONE
            && self.writer_crash_percent == 0
            && !self.steps.iter().any(is_fault)
    }

    pub(crate) fn generate(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed ^ 0x5eed);
        let index = |bound| index(&entropy, bound);
        let skew_ms = || skew_ms(&entropy, MAX_SKEW_MS);
        let faults = || [FaultRates::NONE, FaultRates::LOSSY, FaultRates::CONTENDED][index(3)];
        let (functions, writers) = (1 + index(3), 1 + index(4));
        let step = |_| {
            let function = index(functions);
            let event = match entropy.below(24) {
                0 => Event::Crash { function },
                1 => Event::SetClock {
                    function,
                    skew_ms: skew_ms(),
                },
                2 => Event::SetWriterClock {
                    writer: index(writers),
                    skew_ms: skew_ms(),
                },
                3 => Event::Disconnect {
                    writer: index(writers),
                },
                4 => Event::Reconnect {
                    writer: index(writers),
                },
                5 => Event::Calls {
                    function,
                    count: 100 + index(60),
                },
                6 => Event::ShutDown { function },
                7 => Event::Adjust { customer: index(3) },
                8 | 9 => Event::Conflict { customer: index(3) },
                _ => Event::Calls {
                    function,
                    count: 1 + index(4),
                },
            };
            let max_pause_ms = if entropy.below(10) == 0 { 20_000 } else { 500 };
            Step {
                after: Duration::from_millis(entropy.below(max_pause_ms)),
                event,
            }
        };
        Self {
            start: STARTS[index(STARTS.len())],
            bus_faults: faults(),
            table_faults: faults(),
            customers: 1 + index(3),
            is_buffered: index(3) == 0,
            function_skews_ms: (0..functions).map(|_| skew_ms()).collect(),
            writer_skews_ms: (0..writers).map(|_| skew_ms()).collect(),
            writer_crash_percent: [0, 10, 30][index(3)],
            max_claims: [2, 10, 20_000][index(3)],
            steps: (0..10 + index(30)).map(step).collect(),
            upgrade: Upgrade::generate(seed),
        }
    }
}
