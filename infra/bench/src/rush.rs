//! A rush: many instances that start cold at once, all called with one key.
//!
//! Hundreds of processes would measure the scheduling of two cores. Instead, the simulation runs the
//! authorizer's code in one process and in virtual time. Only the network and DynamoDB take time; each item has
//! the write capacity of one partition.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::tools::{ToolError, build, run};

/// Outcomes of one call on each instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rush {
    pub(crate) calls: u64,
    /// Calls that were allowed without being counted.
    pub(crate) uncounted: u64,
    /// Calls that were neither allowed nor denied by a limit.
    pub(crate) undecided: u64,
    pub(crate) slowest_ms: f64,
    /// Requests to DynamoDB.
    pub(crate) requests: u64,
    pub(crate) largest_item_bytes: u64,
}

impl Rush {
    pub(crate) fn requests_per_call(&self) -> f64 {
        self.requests as f64 / self.calls as f64
    }
}

pub(crate) const INSTANCES: u32 = 500;
/// Time within which all instances are called.
pub(crate) const WITHIN_MS: u32 = 200;

/// Builds and runs the simulation of a rush with one call on each instance.
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
    // The simulation exits with an error if a call is not counted, but the figures are written anyway.
    let result = run(&mut command).await;
    match std::fs::read(&figures) {
        Ok(json) => {
            serde_json::from_slice(&json).map_err(|_| ToolError::Output("simulation".to_owned()))
        }
        Err(error) => Err(result.err().unwrap_or(ToolError::File(figures, error))),
    }
}
