//! Many instances that start on one key at once.

use std::time::Duration;

use tollgate_domain::plan::Overrides;
use tollgate_local_aws::LocalAws;

use super::scenario::{Event, Scenario};
use super::world::{Outcome, World};
use crate::capacity::Spent;
use crate::drawn::Step;
use crate::network::Weather;
use crate::{Trace, Unable, in_virtual_time};

/// What became of the calls.
#[derive(Debug, Clone, Copy)]
pub struct Rushed {
    /// Calls.
    pub calls: u64,
    /// Those of them that were allowed and counted.
    pub counted: u64,
    /// Those that were allowed without.
    pub uncounted: u64,
    /// Those that were neither allowed nor refused by a limit.
    pub undecided: u64,
    /// The longest that a call took.
    pub slowest: Duration,
    /// What was asked of DynamoDB for it.
    pub asked: Spent,
}

/// Instances that know nothing, and decide calls with one key, on a plan that fails open.
#[derive(Debug, Clone, Copy)]
pub struct Rush {
    /// How many.
    pub instances: usize,
    /// Calls of each, one in each round.
    pub rounds: usize,
    /// Within which all instances have begun a round.
    pub within: Duration,
    /// The key's hourly limit.
    pub requests_per_hour: Option<u64>,
    /// The customer's monthly quota.
    pub monthly_quota: Option<u64>,
}

/// Has instances begin on one key at once. A request and its answer take 2 to 20 ms.
///
/// # Errors
/// When it cannot be run.
pub fn rush(of: Rush, aws: &LocalAws) -> Result<Rushed, Unable> {
    let Rush {
        instances,
        rounds,
        within,
        requests_per_hour,
        monthly_quota,
    } = of;
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
        weather: Weather::CALM,
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
    // No seed of another run, in tables that runs share.
    let seed = u64::try_from(instances).unwrap_or(0) + 1_000_000_000;
    in_virtual_time(seed, async {
        let world = World::new(seed, &scenario, aws, Trace::new(false)).await?;
        let story = world.play().await?;
        let count = |is: fn(Outcome) -> bool| {
            let calls = story.calls.iter().filter(|call| is(call.outcome));
            u64::try_from(calls.count()).unwrap_or(u64::MAX)
        };
        let took = story.calls.iter().map(|call| call.ended - call.began);
        Ok(Rushed {
            calls: count(|_| true),
            counted: count(|outcome| outcome == Outcome::Admitted),
            uncounted: count(|outcome| outcome == Outcome::LetThrough),
            undecided: count(|outcome| outcome == Outcome::Unavailable),
            slowest: took.max().unwrap_or_default(),
            asked: story.asked,
        })
    })
}
