//! Runs many seeds on all cores.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tollgate_local_aws::LocalAws;

use crate::{SimulationError, services};

/// Greatest number of runs that share tables, because tables grow with each run.
const RUNS_PER_TABLES: u64 = 500;

/// A seed whose run deviated from the model.
#[derive(Debug, Clone)]
pub struct FailedSeed<T> {
    /// The seed, with which the run can be replayed.
    pub seed: u64,
    /// The deviation from the model.
    pub deviation: T,
}

/// Runs seeds from 0 to below `seeds`, and calls `progress` after each with the number of finished runs.
/// `run` returns the deviation from the model, if there is one.
///
/// # Errors
/// Fails if a run cannot be set up.
pub fn run_all<T: Send>(
    seeds: u64,
    run: impl Fn(u64, &LocalAws) -> Result<Option<T>, SimulationError> + Sync,
    progress: impl Fn(u64) + Sync,
) -> Result<Vec<FailedSeed<T>>, SimulationError> {
    run_some(seeds, false, run, progress)
}

/// Runs seeds from 0 to below `seeds` until one fails, and returns that, and those that were running then and
/// failed too.
///
/// # Errors
/// Fails if a run cannot be set up.
pub fn run_until_failed<T: Send>(
    seeds: u64,
    run: impl Fn(u64, &LocalAws) -> Result<Option<T>, SimulationError> + Sync,
) -> Result<Vec<FailedSeed<T>>, SimulationError> {
    run_some(seeds, true, run, |_| ())
}

fn run_some<T: Send>(
    seeds: u64,
    stops: bool,
    run: impl Fn(u64, &LocalAws) -> Result<Option<T>, SimulationError> + Sync,
    progress: impl Fn(u64) + Sync,
) -> Result<Vec<FailedSeed<T>>, SimulationError> {
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    let failed = Mutex::new(Vec::new());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let each = seeds.div_ceil(u64::try_from(cores).unwrap_or(1));
    let share = each.clamp(1, RUNS_PER_TABLES);
    let work = || -> Result<(), SimulationError> {
        loop {
            let first = next.fetch_add(share, Ordering::Relaxed);
            if first >= seeds {
                return Ok(());
            }
            let aws = services()?;
            for seed in first..seeds.min(first + share) {
                if stopped.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if let Some(deviation) = run(seed, &aws)? {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.push(FailedSeed { seed, deviation });
                    stopped.store(stops, Ordering::Relaxed);
                }
                progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut outcome = Ok(());
        for worker in workers {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => outcome = Err(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    })?;
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_by_key(|run| run.seed);
    Ok(failed)
}
