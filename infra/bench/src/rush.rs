//! Many instances that begin on one key at once.
//!
//! Processes by the hundred would measure how two cores share them out. So these are the authorizer's
//! code in one process, in virtual time, by the program that simulates it: what takes time is the
//! network, and DynamoDB, which has the write capacity that one item has.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::tools::{ToolError, build, run};

/// What became of a call on each instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rush {
    pub(crate) calls: u64,
    /// Calls that were allowed without being counted.
    pub(crate) uncounted: u64,
    /// Calls that were neither allowed nor refused by a limit.
    pub(crate) undecided: u64,
    pub(crate) slowest_ms: f64,
    /// Requests to DynamoDB.
    pub(crate) requests: u64,
    pub(crate) largest_item_bytes: u64,
}

impl Rush {
    pub(crate) fn requests_per_decision(&self) -> f64 {
        self.requests as f64 / self.calls as f64
    }
}

pub(crate) const INSTANCES: u32 = 500;
/// The time within which all of them begin.
pub(crate) const WITHIN_MS: u32 = 200;

/// Builds the simulation, and has it make a call on each instance.
pub(crate) async fn measure(dir: &Path, profile: &str) -> Result<Rush, ToolError> {
    let figures = dir.join("rush.json");
    match std::fs::remove_file(&figures) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ToolError::File(figures, error));
        }
        _ => {}
    }
    let mut command = Command::new(build("simulation", "simulation", profile).await?);
    command
        .arg("rush")
        .args(["--instances", &INSTANCES.to_string()])
        .args(["--within-ms", &WITHIN_MS.to_string()])
        .arg("--json")
        .arg(&figures);
    // A call that is not counted fails it, and is a figure here.
    let ran = run(&mut command).await;
    match std::fs::read(&figures) {
        Ok(json) => {
            serde_json::from_slice(&json).map_err(|_| ToolError::Output("simulation".to_owned()))
        }
        Err(error) => Err(ran.err().unwrap_or(ToolError::File(figures, error))),
    }
}
