//! What a seed stands for.

use std::time::Duration;

use tollgate_runtime::Entropy;

use crate::drawn::{Step, index, skew_ms};
use crate::network::Weather;

/// What a run is made of. All of it follows from the seed.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// The instant at which it begins.
    pub(crate) start: &'static str,
    /// Between the functions and the bus.
    pub(crate) to_bus: Weather,
    /// Between the writers and the tables.
    pub(crate) to_tables: Weather,
    pub(crate) customers: usize,
    /// Whether the functions buffer records over several calls.
    pub(crate) is_buffered: bool,
    /// By how much the clock of each metered function's instance is ahead, in milliseconds.
    pub(crate) functions_ms: Vec<i64>,
    /// The same of the writers.
    pub(crate) writers_ms: Vec<i64>,
    /// How many of a hundred batches a writer does not live to answer.
    pub(crate) writer_crashes: u64,
    pub(crate) steps: Vec<Step<Event>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// This many calls, and then a flush.
    Calls { function: usize, count: usize },
    /// The instance is gone, with all it knew; another takes its place.
    Crash { function: usize },
    /// The instance is told to end, whatever it is at, and another takes its place. What it writes down
    /// is put on the bus afterwards.
    End { function: usize },
    /// Someone corrects what was counted of a customer.
    Adjust { customer: usize },
    /// Two entries of one identity and of different content are put on the bus.
    Rivals { customer: usize },
    /// The instance's clock is set to be so far ahead.
    SetClock { function: usize, skew_ms: i64 },
    /// The same of a writer.
    SetWriterClock { writer: usize, skew_ms: i64 },
    /// Hardly anything that the writer sends arrives.
    CutOff { writer: usize },
    /// It does again, as ever.
    Reconnect { writer: usize },
}

/// Instants around which hours, days, weeks, months and years end, and one in the middle.
const STARTS: [&str; 5] = [
    "2026-11-22T10:20:00Z",
    "2026-11-22T23:59:40Z",
    "2026-11-30T23:59:30Z",
    "2026-12-31T23:59:30Z",
    "2028-02-28T23:59:00Z",
];
/// Clocks differ by up to this: two of them by less than what is taken for a broken one.
const MAX_SKEW_MS: i64 = 120_000;

impl Scenario {
    pub(crate) fn drawn(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed ^ 0x5eed);
        let index = |bound| index(&entropy, bound);
        let skew_ms = || skew_ms(&entropy, MAX_SKEW_MS);
        let weather = || [Weather::CALM, Weather::LOSSY, Weather::CROWDED][index(3)];
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
                3 => Event::CutOff {
                    writer: index(writers),
                },
                4 => Event::Reconnect {
                    writer: index(writers),
                },
                5 => Event::Calls {
                    function,
                    count: 100 + index(60),
                },
                6 => Event::End { function },
                7 => Event::Adjust { customer: index(3) },
                8 => Event::Rivals { customer: index(3) },
                _ => Event::Calls {
                    function,
                    count: 1 + index(4),
                },
            };
            let longest = if entropy.below(10) == 0 { 20_000 } else { 500 };
            Step {
                after: Duration::from_millis(entropy.below(longest)),
                event,
            }
        };
        Self {
            start: STARTS[index(STARTS.len())],
            to_bus: weather(),
            to_tables: weather(),
            customers: 1 + index(3),
            is_buffered: index(3) == 0,
            functions_ms: (0..functions).map(|_| skew_ms()).collect(),
            writers_ms: (0..writers).map(|_| skew_ms()).collect(),
            writer_crashes: [0, 10, 30][index(3)],
            steps: (0..10 + index(30)).map(step).collect(),
        }
    }
}
