//! Generates a run's scenario from its seed.

use std::time::Duration;

use tollgate_domain::plan::Overrides;
use tollgate_runtime::Entropy;

use crate::network::FaultRates;
use crate::random::{Step, index, skew_ms};

/// A run's parameters and events. All of it follows from the seed.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// UTC time at which the run starts.
    pub(crate) start: &'static str,
    pub(crate) faults: FaultRates,
    /// Whether each item has only the write capacity of one DynamoDB partition.
    pub(crate) has_capacity: bool,
    /// The plan's `max_lease`.
    pub(crate) max_lease: u64,
    /// Whether the plan fails open.
    pub(crate) fails_open: bool,
    /// TTL of the key cache.
    pub(crate) key_cache: Duration,
    /// Additional time for which expired keys are used while the store does not respond.
    pub(crate) stale_keys: Duration,
    /// Limits of each key. All keys belong to one customer.
    pub(crate) keys: Vec<Overrides>,
    /// Clock skew of each instance in milliseconds, positive if the clock is ahead.
    pub(crate) skews_ms: Vec<i64>,
    /// Concurrent calls of an instance.
    pub(crate) calls_at_once: usize,
    pub(crate) steps: Vec<Step<Event>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// A call with this key, to this instance.
    Call { instance: usize, key: usize },
    /// The instance is lost with its state, and replaced.
    Crash { instance: usize },
    /// The instance is shut down, and replaced.
    ShutDown { instance: usize },
    /// The instance's clock skew changes.
    SetClock { instance: usize, skew_ms: i64 },
    /// The key is revoked.
    Revoke { key: usize },
    /// The key's limits change.
    SetLimits { key: usize, limits: Overrides },
}

/// Start times shortly before windows end, and one in the middle of an hour.
const STARTS: [&str; 4] = [
    "2026-11-22T10:20:00Z",
    "2026-11-22T10:59:50Z",
    "2026-11-30T23:59:50Z",
    "2026-12-31T23:59:30Z",
];

/// Greatest clock skew of an instance, in either direction.
const MAX_SKEW_MS: i64 = 2_000;

impl Scenario {
    pub(crate) fn generate(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed);
        let pick = |bound: usize| index(&entropy, bound);
        let keys = 1 + pick(2);
        // Mostly few instances, so that all of them reach a limit; sometimes as many as a counter's root
        // has room for, or far more.
        let instances = match pick(40) {
            0 => 20 + pick(281),
            1..=5 => 15 + pick(15),
            _ => 1 + pick(5),
        };
        let faults = [
            FaultRates::NONE,
            FaultRates::LOSSY,
            FaultRates::LOSSY,
            FaultRates::SEVERE,
        ][pick(4)];
        // In half of the runs instances and keys do not change, so that the tighter bounds without
        // crashes are tested.
        let is_eventful = entropy.below(2) == 0;
        let calls = 15 + pick(60) + if instances > 5 { instances * 2 } else { 0 };
        let max_pause_ms = match instances {
            0..=29 => [5, 50, 400, 3_000][pick(4)],
            _ => [2, 50][pick(2)],
        };
        let steps = (0..calls)
            .map(|_| Step {
                after: pause(&entropy, max_pause_ms),
                event: event(&entropy, instances, keys, is_eventful),
            })
            .collect();
        Self {
            start: STARTS[pick(STARTS.len())],
            faults,
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

    /// Returns whether the network has no faults and all events are calls.
    pub(crate) fn is_fault_free(&self) -> bool {
        let is_call = |step: &Step<Event>| matches!(step.event, Event::Call { .. });
        self.faults == FaultRates::NONE && self.steps.iter().all(is_call)
    }
}

fn pause(entropy: &Entropy, max_pause_ms: u64) -> Duration {
    let ms = match entropy.below(20) {
        // Long enough for lease shares of one unit to be removed.
        0 => 70_000,
        1 => 5_000 + entropy.below(2_000),
        _ => entropy.below(max_pause_ms),
    };
    Duration::from_millis(ms)
}

fn limits(entropy: &Entropy, instances: usize) -> Overrides {
    let many = u64::try_from(instances).unwrap_or(u64::MAX) * 4;
    let bound = [3, 20, 60, 60 + many][index(entropy, 4)];
    let has_quota = entropy.below(2) == 0;
    Overrides {
        requests_per_hour: Some(entropy.below(bound)),
        monthly_quota: has_quota.then(|| entropy.below(bound)),
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
        2 | 3 => Event::ShutDown { instance },
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
