//! The authorizer's limits, with several instances, on a network that fails, through crashes, changes
//! of limits, revocations and the ends of windows.

mod model;
mod rush;
mod scenario;
mod world;

use tollgate_local_aws::LocalAws;

use crate::{Trace, Unable, in_virtual_time};
pub use rush::{Rushed, rush};
use scenario::Scenario;
use world::World;

/// A run, told.
#[derive(Debug)]
pub struct Told {
    /// What happened, in order.
    pub lines: Vec<String>,
    /// What should not have.
    pub violations: Vec<String>,
}

/// Runs the seed: what was not as the model says, in words, if anything was.
///
/// # Errors
/// When it cannot be run.
pub fn run(seed: u64, aws: &LocalAws) -> Result<Option<Vec<String>>, Unable> {
    let violations = play(seed, aws, Trace::new(false))?;
    Ok((!violations.is_empty()).then_some(violations))
}

/// Runs the seed and tells what happens.
///
/// # Errors
/// When it cannot be run.
pub fn replay(seed: u64, aws: &LocalAws) -> Result<Told, Unable> {
    let trace = Trace::new(true);
    let violations = play(seed, aws, trace.clone())?;
    Ok(Told {
        lines: trace.into_lines(),
        violations,
    })
}

fn play(seed: u64, aws: &LocalAws, trace: Trace) -> Result<Vec<String>, Unable> {
    let scenario = Scenario::drawn(seed);
    trace.tell(|| format!("{scenario:#?}"));
    in_virtual_time(seed, async {
        let story = World::new(seed, &scenario, aws, trace)
            .await?
            .play()
            .await?;
        Ok(model::violations(&scenario, &story))
    })
}
