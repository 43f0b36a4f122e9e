//! What a seed stands for.

use std::time::Duration;

use tollgate_domain::plan::Overrides;
use tollgate_runtime::Entropy;

use crate::drawn::{Step, index, skew_ms};
use crate::network::Weather;

/// What a run is made of. All of it follows from the seed.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// The instant at which it begins.
    pub(crate) start: &'static str,
    pub(crate) weather: Weather,
    /// Whether counters have the write capacity that DynamoDB gives them, and no more.
    pub(crate) has_capacity: bool,
    /// The plan's `max_lease`.
    pub(crate) max_lease: u64,
    /// Whether the plan lets calls pass while the store is down.
    pub(crate) fails_open: bool,
    /// The TTL of keys.
    pub(crate) key_cache: Duration,
    /// How long more they decide while the store does not answer.
    pub(crate) stale_keys: Duration,
    /// The limits of each key; all keys are of one customer.
    pub(crate) keys: Vec<Overrides>,
    /// By how much each instance's clock is ahead, in milliseconds.
    pub(crate) skews_ms: Vec<i64>,
    /// How many calls an instance takes on at the same time.
    pub(crate) calls_at_once: usize,
    pub(crate) steps: Vec<Step<Event>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// A call with a key, to this instance.
    Call { instance: usize, key: usize },
    /// The instance is gone, with all it knew; another takes its place.
    Crash { instance: usize },
    /// The instance is told to end, and another takes its place.
    End { instance: usize },
    /// The instance's clock is set to be so far ahead.
    SetClock { instance: usize, skew_ms: i64 },
    /// The key is revoked.
    Revoke { key: usize },
    /// The key has other limits from now on.
    SetLimits { key: usize, limits: Overrides },
}

/// Instants around which windows end, and one in the middle.
const STARTS: [&str; 4] = [
    "2026-11-22T10:20:00Z",
    "2026-11-22T10:59:50Z",
    "2026-11-30T23:59:50Z",
    "2026-12-31T23:59:30Z",
];

/// Clocks of instances differ by as much to either side.
const MAX_SKEW_MS: i64 = 2_000;

impl Scenario {
    pub(crate) fn drawn(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed);
        let pick = |bound: usize| index(&entropy, bound);
        let keys = 1 + pick(2);
        // Mostly few, so that a limit is met from all sides; and at times as many as a root has room
        // for, or far more.
        let instances = match pick(40) {
            0 => 20 + pick(281),
            1..=5 => 15 + pick(15),
            _ => 1 + pick(5),
        };
        let weather = [
            Weather::CALM,
            Weather::LOSSY,
            Weather::LOSSY,
            Weather::STORMY,
        ][pick(4)];
        // In half of the runs nothing happens to instances and keys, so that the bounds that hold
        // without crashes are put to the test.
        let is_eventful = entropy.below(2) == 0;
        let calls = 15 + pick(60) + if instances > 5 { instances * 2 } else { 0 };
        let hurry = match instances {
            0..=29 => [5, 50, 400, 3_000][pick(4)],
            _ => [2, 50][pick(2)],
        };
        let steps = (0..calls)
            .map(|_| Step {
                after: pause(&entropy, hurry),
                event: event(&entropy, instances, keys, is_eventful),
            })
            .collect();
        Self {
            start: STARTS[pick(STARTS.len())],
            weather,
            has_capacity: instances >= 15,
            max_lease: [1, 2, 5, 1_000][pick(4)],
            fails_open: entropy.below(4) == 0,
            key_cache: Duration::from_secs([0, 5, 5][pick(3)]),
            stale_keys: Duration::from_secs([0, 60, 900][pick(3)]),
            keys: (0..keys).map(|_| limits(&entropy, instances)).collect(),
            skews_ms: (0..instances)
                .map(|_| skew_ms(&entropy, MAX_SKEW_MS))
                .collect(),
            calls_at_once: [1, 1, 4][pick(3)],
            steps,
        }
    }

    /// Whether nothing fails, nobody crashes, and no limit changes.
    pub(crate) fn is_peaceful(&self) -> bool {
        let only_calls = |step: &Step<Event>| matches!(step.event, Event::Call { .. });
        self.weather == Weather::CALM && self.steps.iter().all(only_calls)
    }
}

fn pause(entropy: &Entropy, hurry: u64) -> Duration {
    let ms = match entropy.below(20) {
        // Long enough for accounts of one unit to be given up.
        0 => 70_000,
        1 => 5_000 + entropy.below(2_000),
        _ => entropy.below(hurry),
    };
    Duration::from_millis(ms)
}

fn limits(entropy: &Entropy, instances: usize) -> Overrides {
    let many = u64::try_from(instances).unwrap_or(u64::MAX) * 4;
    let most = [3, 20, 60, 60 + many][index(entropy, 4)];
    let quota = entropy.below(2) == 0;
    Overrides {
        requests_per_hour: Some(entropy.below(most)),
        monthly_quota: quota.then(|| entropy.below(most)),
    }
}

fn event(entropy: &Entropy, instances: usize, keys: usize, is_eventful: bool) -> Event {
    let instance = index(entropy, instances);
    let key = index(entropy, keys);
    let call = Event::Call { instance, key };
    if !is_eventful {
        return call;
    }
    match entropy.below(40) {
        0 | 1 => Event::Crash { instance },
        2 | 3 => Event::End { instance },
        4 => Event::SetClock {
            instance,
            skew_ms: skew_ms(entropy, MAX_SKEW_MS),
        },
        5 if entropy.below(3) == 0 => Event::Revoke { key },
        6 => Event::SetLimits {
            key,
            limits: limits(entropy, instances),
        },
        _ => call,
    }
}
