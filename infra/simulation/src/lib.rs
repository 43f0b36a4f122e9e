//! Seeded simulations: the product's own code runs over the embedded engine, in virtual time, with faults
//! injected between instances and services. Each run is checked against a model that sees every event
//! exactly once.

pub mod billing;
mod capacity;
mod crash;
mod lagging;
pub mod ledgers;
pub mod limiter;
pub mod metering;
mod network;
mod random;
pub mod seeds;
mod time;

use std::sync::Arc;

use serde_json::json;
use tollgate_domain::usage::EVENT_TYPE;
use tollgate_local_aws::{LocalAws, LocalAwsError, Rule};
use tollgate_runtime::{Clock, Entropy};

pub use capacity::ConsumedCapacity;

/// Prefix of the table names.
const PREFIX: &str = "simulation";

/// A failure of the simulation itself: the run has no result.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    /// The embedded services failed to start.
    #[error("the embedded services do not start")]
    Aws(#[from] LocalAwsError),
    /// The store failed without an injected fault.
    #[error("the store fails without an injected fault")]
    Store(#[from] tollgate_store::StoreError),
    /// The async runtime could not be built.
    #[error("the async runtime cannot be built")]
    Runtime(#[from] std::io::Error),
    /// A step of the setup failed, such as the parsing of a generated id.
    #[error("a step of the setup failed")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn setup<T, E: std::error::Error + Send + Sync + 'static>(
    result: Result<T, E>,
) -> Result<T, SimulationError> {
    result.map_err(|error| SimulationError::Setup(Box::new(error)))
}

/// Starts the embedded services, with empty tables. Runs of different seeds can share them.
///
/// # Errors
/// Fails if they do not start.
pub fn services() -> Result<LocalAws, SimulationError> {
    let rule = Rule::new(json!({ "detail-type": [EVENT_TYPE] }));
    let aws = LocalAws::in_memory(setup(rule)?, Clock::system(), Entropy::seeded(0))?;
    aws.create_tables(PREFIX)?;
    Ok(aws)
}

/// Runs a future in virtual time, which advances whenever all tasks wait.
fn in_virtual_time<T>(
    seed: u64,
    run: impl Future<Output = Result<T, SimulationError>>,
) -> Result<T, SimulationError> {
    // Seeds the jitter of the SDK's retries.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(run)
}

/// Log of a run, kept only for a replay.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Option<Arc<std::sync::Mutex<Vec<String>>>>);

impl Trace {
    pub(crate) fn new(is_enabled: bool) -> Self {
        Self(is_enabled.then(Arc::default))
    }

    /// Adds a line, which is formatted only if the log is kept.
    pub(crate) fn log(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.0 {
            let mut lines = lines
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            lines.push(line());
        }
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        let Some(lines) = self.0 else {
            return Vec::new();
        };
        let mut lines = lines
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut *lines)
    }
}
