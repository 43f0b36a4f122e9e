//! Simulation of metering, from a call to the stored aggregates: the product's emitters and usage-writers over
//! the embedded engine, with a bus and a queue that fail, duplicate, reorder and delay as AWS's may.

mod earlier;
mod model;
mod queue;
mod scenario;
mod simulation;

use tollgate_local_aws::LocalAws;

use crate::{SimulationError, Trace, in_virtual_time};
use scenario::Scenario;
use simulation::Simulation;

/// Deviations of a run from the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deviation {
    /// Records that the bus acknowledged, or that an emitter buffered as it shut down, and that are not
    /// counted.
    pub lost: u64,
    /// Records that were counted more than once.
    pub doubled: u64,
    /// Messages about aggregates and logs that differ from the model.
    pub mismatches: Vec<String>,
}

/// A replayed run.
#[derive(Debug)]
pub struct Replay {
    /// The run's log.
    pub lines: Vec<String>,
    /// Deviations from the model.
    pub deviation: Deviation,
}

/// Runs a seed. Returns its deviations from the model, if there are any.
///
/// # Errors
/// Fails if the simulation cannot be set up or run.
pub fn run(seed: u64, aws: &LocalAws) -> Result<Option<Deviation>, SimulationError> {
    let deviation = simulate(seed, aws, Trace::new(false))?;
    Ok((deviation != Deviation::default()).then_some(deviation))
}

/// Runs a seed and keeps its log.
///
/// # Errors
/// Fails if the simulation cannot be set up or run.
pub fn replay(seed: u64, aws: &LocalAws) -> Result<Replay, SimulationError> {
    let trace = Trace::new(true);
    let deviation = simulate(seed, aws, trace.clone())?;
    Ok(Replay {
        lines: trace.into_lines(),
        deviation,
    })
}

fn simulate(seed: u64, aws: &LocalAws, trace: Trace) -> Result<Deviation, SimulationError> {
    let scenario = Scenario::generate(seed);
    trace.log(|| format!("{scenario:#?}"));
    in_virtual_time(seed, async {
        Simulation::new(seed, &scenario, aws, trace)?.run().await
    })
}
