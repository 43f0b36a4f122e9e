//! Simulation of the authorizer's limits: several instances on an unreliable network, with crashes, changed
//! limits, revoked keys and ending windows.

mod model;
mod routing;
mod rush;
mod scenario;
mod simulation;

use tollgate_local_aws::LocalAws;

use crate::{SimulationError, Trace, in_virtual_time};
pub use routing::{
    Consumed, HANDLER_TIME, MonthKind, Period, Purpose, Requests, Route, Router, Routing,
    RoutingOutcome, routing,
};
pub use rush::{Rush, RushOutcome, rush};
use scenario::Scenario;
use simulation::Simulation;

/// A replayed run.
#[derive(Debug)]
pub struct Replay {
    /// The run's log.
    pub lines: Vec<String>,
    /// Deviations from the model.
    pub deviation: Deviation,
}

/// Deviations of a run from the model, as messages.
#[derive(Debug, Clone, Default)]
pub struct Deviation {
    /// Exceeded limits, lost units, and calls that should have been denied.
    pub violations: Vec<String>,
    /// Counters whose totals differ from the calls that were allowed.
    pub ledger_mismatches: Vec<String>,
}

impl Deviation {
    /// Returns all messages.
    pub fn messages(&self) -> impl Iterator<Item = &String> {
        self.violations.iter().chain(&self.ledger_mismatches)
    }

    fn is_empty(&self) -> bool {
        self.violations.is_empty() && self.ledger_mismatches.is_empty()
    }
}

/// Runs a seed. Returns its deviations from the model, if there are any.
///
/// # Errors
/// Fails if the simulation cannot be set up or run.
pub fn run(seed: u64, aws: &LocalAws) -> Result<Option<Deviation>, SimulationError> {
    let deviation = simulate(seed, aws, Trace::new(false))?;
    Ok((!deviation.is_empty()).then_some(deviation))
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
        let history = Simulation::new(seed, &scenario, aws, trace)
            .await?
            .run()
            .await?;
        Ok(model::check(&scenario, &history))
    })
}
