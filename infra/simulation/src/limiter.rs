//! The authorizer's limits, with several instances, on a network that fails, through crashes, changes
//! of limits, revocations and the ends of windows.

mod model;
mod rush;
mod scenario;
mod world;

use tollgate_local_aws::LocalAws;

use crate::{Trace, Unable, in_virtual_time};
pub use rush::{Rush, Rushed, rush};
use scenario::Scenario;
use world::World;

/// A run, told.
#[derive(Debug)]
pub struct Told {
    /// What happened, in order.
    pub lines: Vec<String>,
    /// What should not have.
    pub wrong: Wrong,
}

/// What was not as the model says, in words.
#[derive(Debug, Clone, Default)]
pub struct Wrong {
    /// Limits that were exceeded, units that were lost, calls that should not have been let in.
    pub violations: Vec<String>,
    /// Counters that do not say what was let in.
    pub ledger: Vec<String>,
}

impl Wrong {
    /// All of it.
    pub fn words(&self) -> impl Iterator<Item = &String> {
        self.violations.iter().chain(&self.ledger)
    }

    fn is_nothing(&self) -> bool {
        self.violations.is_empty() && self.ledger.is_empty()
    }
}

/// Runs the seed: what was not as the model says, if anything was.
///
/// # Errors
/// When it cannot be run.
pub fn run(seed: u64, aws: &LocalAws) -> Result<Option<Wrong>, Unable> {
    let wrong = play(seed, aws, Trace::new(false))?;
    Ok((!wrong.is_nothing()).then_some(wrong))
}

/// Runs the seed and tells what happens.
///
/// # Errors
/// When it cannot be run.
pub fn replay(seed: u64, aws: &LocalAws) -> Result<Told, Unable> {
    let trace = Trace::new(true);
    let wrong = play(seed, aws, trace.clone())?;
    Ok(Told {
        lines: trace.into_lines(),
        wrong,
    })
}

fn play(seed: u64, aws: &LocalAws, trace: Trace) -> Result<Wrong, Unable> {
    let scenario = Scenario::drawn(seed);
    trace.tell(|| format!("{scenario:#?}"));
    in_virtual_time(seed, async {
        let story = World::new(seed, &scenario, aws, trace)
            .await?
            .play()
            .await?;
        Ok(model::wrong(&scenario, &story))
    })
}
