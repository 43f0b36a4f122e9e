//! Seeded runs of the product's own code over the embedded engine, in virtual time, with everything
//! that can go wrong between an instance and the store, held against a model that is told each event
//! once.

mod capacity;
mod drawn;
pub mod ledgers;
pub mod limiter;
pub mod metering;
mod network;
pub mod seeds;
mod time;

use std::sync::Arc;

use serde_json::json;
use tollgate_domain::usage::EVENT_TYPE;
use tollgate_local_aws::{LocalAws, LocalAwsError, Rule};
use tollgate_runtime::{Clock, Entropy};

pub use capacity::Spent;

/// What the names of the tables begin with.
const PREFIX: &str = "simulation";

/// A run that could not be made, and so says nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unable {
    /// The services.
    #[error("the embedded services do not start")]
    Aws(#[from] LocalAwsError),
    /// The store, before anything went wrong by intention.
    #[error("the store cannot be prepared")]
    Store(#[from] tollgate_store::StoreError),
    /// The runtime that a run goes in.
    #[error("no runtime")]
    Runtime(#[from] std::io::Error),
    /// An id, an instant or the like that the simulation made up.
    #[error("what was made up cannot be used")]
    MadeUp(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn made_up<T, E: std::error::Error + Send + Sync + 'static>(
    made: Result<T, E>,
) -> Result<T, Unable> {
    made.map_err(|error| Unable::MadeUp(Box::new(error)))
}

/// The services, with empty tables. Runs of different seeds can share them.
///
/// # Errors
/// When they do not start.
pub fn services() -> Result<LocalAws, Unable> {
    let rule = Rule::new(json!({ "detail-type": [EVENT_TYPE] }));
    let aws = LocalAws::in_memory(made_up(rule)?, Clock::system(), Entropy::seeded(0))?;
    aws.create_tables(PREFIX)?;
    Ok(aws)
}

/// Runs a story in time that passes when there is nothing else to do.
fn in_virtual_time<T>(
    seed: u64,
    story: impl Future<Output = Result<T, Unable>>,
) -> Result<T, Unable> {
    // The jitter of the SDK's retries.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(story)
}

/// What happened in a run, for whoever replays it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Option<Arc<std::sync::Mutex<Vec<String>>>>);

impl Trace {
    pub(crate) fn new(is_wanted: bool) -> Self {
        Self(is_wanted.then(Arc::default))
    }

    /// Adds a line, which is only made where it is wanted.
    pub(crate) fn tell(&self, line: impl FnOnce() -> String) {
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
