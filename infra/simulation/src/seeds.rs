//! Many seeds, on all cores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tollgate_local_aws::LocalAws;

use crate::{Unable, services};

/// Runs that share tables, at most: tables grow with each.
const RUNS_PER_TABLES: u64 = 500;

/// A seed whose run was not as the model says.
#[derive(Debug, Clone)]
pub struct Violation<T> {
    /// Replays it.
    pub seed: u64,
    /// What was wrong.
    pub what: T,
}

/// Runs seeds 0 to `seeds`, and tells `progress` how many are done each time. A run gives what was
/// wrong, if anything was.
///
/// # Errors
/// When a run cannot be made.
pub fn run_all<T: Send>(
    seeds: u64,
    run: impl Fn(u64, &LocalAws) -> Result<Option<T>, Unable> + Sync,
    progress: impl Fn(u64) + Sync,
) -> Result<Vec<Violation<T>>, Unable> {
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let violations = Mutex::new(Vec::new());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let each = seeds.div_ceil(u64::try_from(cores).unwrap_or(1));
    let share = each.clamp(1, RUNS_PER_TABLES);
    let work = || -> Result<(), Unable> {
        loop {
            let first = next.fetch_add(share, Ordering::Relaxed);
            if first >= seeds {
                return Ok(());
            }
            let aws = services()?;
            for seed in first..seeds.min(first + share) {
                if let Some(what) = run(seed, &aws)? {
                    let mut violations = violations.lock().unwrap_or_else(PoisonError::into_inner);
                    violations.push(Violation { seed, what });
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
    let mut violations = violations
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    violations.sort_by_key(|violation| violation.seed);
    Ok(violations)
}
