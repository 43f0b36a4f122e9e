//! A rush: many instances that start cold at once, all called with one key.

use std::time::Duration;

use tollgate_domain::plan::Overrides;
use tollgate_local_aws::LocalAws;

use super::scenario::{Event, Scenario};
use super::simulation::{Outcome, Simulation};
use crate::capacity::ConsumedCapacity;
use crate::network::FaultRates;
use crate::random::Step;
use crate::{SimulationError, Trace, in_virtual_time};

/// Outcomes of the calls of a rush.
#[derive(Debug, Clone, Copy)]
pub struct RushOutcome {
    /// All calls.
    pub calls: u64,
    /// Calls that were allowed and counted.
    pub counted: u64,
    /// Calls that were allowed without being counted.
    pub uncounted: u64,
    /// Calls that were neither allowed nor denied by a limit.
    pub undecided: u64,
    /// Time that the slowest call took.
    pub slowest: Duration,
    /// DynamoDB requests of all calls.
    pub consumed: ConsumedCapacity,
}

/// Parameters of a rush. The key's plan fails open.
#[derive(Debug, Clone, Copy)]
pub struct Rush {
    /// Number of instances, all with empty caches.
    pub instances: usize,
    /// Calls of each instance, one in each round.
    pub rounds: usize,
    /// Time within which the calls of one round start.
    pub within: Duration,
    /// The key's hourly limit.
    pub requests_per_hour: Option<u64>,
    /// The customer's monthly quota.
    pub monthly_quota: Option<u64>,
}

/// Simulates a rush. A round trip to DynamoDB takes 2 to 20 ms.
///
/// # Errors
/// Fails if the simulation cannot be set up or run.
pub fn rush(parameters: Rush, aws: &LocalAws) -> Result<RushOutcome, SimulationError> {
    let Rush {
        instances,
        rounds,
        within,
        requests_per_hour,
        monthly_quota,
    } = parameters;
    let between = within / u32::try_from(instances).unwrap_or(u32::MAX);
    let steps = (0..instances * rounds).map(|nth| Step {
        after: between,
        event: Event::Call {
            instance: nth % instances,
            key: 0,
        },
    });
    let scenario = Scenario {
        start: "2026-11-22T10:20:00Z",
        faults: FaultRates::NONE,
        has_capacity: true,
        max_lease: 1_000,
        fails_open: true,
        key_cache: Duration::from_secs(5),
        stale_keys: Duration::ZERO,
        keys: vec![Overrides {
            requests_per_hour,
            monthly_quota,
        }],
        skews_ms: vec![0; instances],
        calls_at_once: 1,
        steps: steps.collect(),
    };
    // Differs from the seeds of other runs, which share the tables.
    let seed = u64::try_from(instances).unwrap_or(0) + 1_000_000_000;
    in_virtual_time(seed, async {
        let simulation = Simulation::new(seed, &scenario, aws, Trace::new(false)).await?;
        let history = simulation.run().await?;
        let count = |is: fn(Outcome) -> bool| {
            let calls = history.calls.iter().filter(|call| is(call.outcome));
            u64::try_from(calls.count()).unwrap_or(u64::MAX)
        };
        let latencies = history.calls.iter().map(|call| call.ended - call.began);
        Ok(RushOutcome {
            calls: count(|_| true),
            counted: count(|outcome| outcome == Outcome::AllowedCounted),
            uncounted: count(|outcome| outcome == Outcome::AllowedUncounted),
            undecided: count(|outcome| outcome == Outcome::Unavailable),
            slowest: latencies.max().unwrap_or_default(),
            consumed: history.consumed,
        })
    })
}
