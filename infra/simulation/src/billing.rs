//! Simulation of billing, from counted usage to invoices: the product's own writers, billing runs, charge workers and
//! workers of Stripe's events over the embedded engine and the stand-in for Stripe, on networks that lose, delay and
//! repeat.

mod model;
mod scenario;
mod simulation;
mod stripe;
mod subscriptions;

use crate::{SimulationError, Trace, in_virtual_time, services};
use scenario::Scenario;
use simulation::Simulation;

/// Deviations of a run from the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deviation {
    /// Cents of overage for which there is no invoice item.
    pub lost: u64,
    /// Charges with more than one invoice item.
    pub doubled: u64,
    /// Messages about invoice items and ledgers that differ from the model.
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
pub fn run(seed: u64) -> Result<Option<Deviation>, SimulationError> {
    let deviation = simulate(seed, Trace::new(false))?;
    Ok((deviation != Deviation::default()).then_some(deviation))
}

/// Runs a seed and keeps its log.
///
/// # Errors
/// Fails if the simulation cannot be set up or run.
pub fn replay(seed: u64) -> Result<Replay, SimulationError> {
    let trace = Trace::new(true);
    let deviation = simulate(seed, trace.clone())?;
    Ok(Replay {
        lines: trace.into_lines(),
        deviation,
    })
}

fn simulate(seed: u64, trace: Trace) -> Result<Deviation, SimulationError> {
    let scenario = Scenario::generate(seed);
    trace.log(|| format!("{scenario:#?}"));
    // A billing run reads the charges of all customers, so each seed has tables of its own.
    let aws = services()?;
    in_virtual_time(seed, async {
        Simulation::new(seed, &scenario, &aws, trace)
            .await?
            .run()
            .await
    })
}
