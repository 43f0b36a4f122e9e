//! Usage on its way from a call to the tallies: real emitters, a bus and a queue that do all that the
//! real ones may, and real usage-writers over the embedded engine.

mod model;
mod queue;
mod scenario;
mod world;

use tollgate_local_aws::LocalAws;

use crate::{Trace, Unable, in_virtual_time};
use scenario::Scenario;
use world::World;

/// What was not as the model says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deviation {
    /// Records that were acknowledged, or that an emitter still had in hand, and are not counted.
    pub lost: u64,
    /// Records that were counted more than once.
    pub doubled: u64,
    /// Tallies that differ from the model's, in words.
    pub mismatches: Vec<String>,
}

/// A run, told.
#[derive(Debug)]
pub struct Told {
    /// What happened, in order.
    pub lines: Vec<String>,
    /// What should not have.
    pub deviation: Deviation,
}

/// Runs the seed: what was not as the model says, if anything was.
///
/// # Errors
/// When it cannot be run.
pub fn run(seed: u64, aws: &LocalAws) -> Result<Option<Deviation>, Unable> {
    let deviation = play(seed, aws, Trace::new(false))?;
    Ok((deviation != Deviation::default()).then_some(deviation))
}

/// Runs the seed and tells what happens.
///
/// # Errors
/// When it cannot be run.
pub fn replay(seed: u64, aws: &LocalAws) -> Result<Told, Unable> {
    let trace = Trace::new(true);
    let deviation = play(seed, aws, trace.clone())?;
    Ok(Told {
        lines: trace.into_lines(),
        deviation,
    })
}

fn play(seed: u64, aws: &LocalAws, trace: Trace) -> Result<Deviation, Unable> {
    let scenario = Scenario::drawn(seed);
    trace.tell(|| format!("{scenario:#?}"));
    in_virtual_time(seed, async {
        World::new(seed, &scenario, aws, trace)?.play().await
    })
}
