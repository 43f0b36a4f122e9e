//! Traffic with many keys, on as many instances as Lambda starts for it.
//!
//! The simulation runs the authorizer's code in virtual time, because calls of many minutes decide how many instances
//! there are and what they have cached. Only cold starts, the handler and requests to DynamoDB take time.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::tools::{ToolError, build, run};

/// Calls with many keys at one rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Routing {
    /// Calls that arrive in a second, on average.
    pub(crate) per_second: u32,
    pub(crate) keys: usize,
    /// Duration of the steady state.
    pub(crate) seconds: u64,
    pub(crate) warm_up_s: u64,
    pub(crate) cold_start_ms: u64,
    pub(crate) idle_timeout_s: u64,
    pub(crate) round_trip_ms: u64,
    /// Time of a decision from memory.
    pub(crate) handler_ms: u64,
    /// From the first call on.
    pub(crate) whole: Period,
    /// After the warm-up.
    pub(crate) steady: Period,
}

/// Calls of a period, and what they took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Period {
    pub(crate) calls: u64,
    pub(crate) instances_started: u64,
    /// Greatest number of instances at once.
    pub(crate) most_instances: u64,
    pub(crate) reads: u64,
    pub(crate) read_units: f64,
    pub(crate) writes: u64,
    pub(crate) write_units: f64,
    /// Requests to DynamoDB by purpose.
    pub(crate) requests: BTreeMap<String, u64>,
    /// Sequential requests for which 1,000 decisions waited.
    pub(crate) round_trips_per_1000: f64,
    pub(crate) p50_ms: u64,
    pub(crate) p90_ms: u64,
    pub(crate) p99_ms: u64,
}

impl Period {
    pub(crate) fn requests_per_call(&self) -> f64 {
        (self.reads + self.writes) as f64 / self.calls as f64
    }

    /// Converts a count over all calls to a count per 1,000 calls.
    pub(crate) fn per_1000(&self, count: f64) -> f64 {
        count / self.calls as f64 * 1e3
    }
}

/// A rate of calls with a number of keys, and the seconds of the warm-up and of the steady state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) keys: u32,
    pub(crate) warm_up_s: u32,
    pub(crate) seconds: u32,
}

/// Rates for published figures. The instances that all start with the first calls end after five minutes, unless the
/// traffic needs them. An hour has one end of an hour.
pub(crate) const FULL: [Rate; 3] = [
    Rate {
        per_second: 5,
        keys: 1_000,
        warm_up_s: 600,
        seconds: 3_600,
    },
    Rate {
        per_second: 50,
        keys: 1_000,
        warm_up_s: 600,
        seconds: 1_200,
    },
    Rate {
        per_second: 500,
        keys: 1_000,
        warm_up_s: 420,
        seconds: 300,
    },
];

/// Rates for a smoke test of the benchmark.
pub(crate) const QUICK: [Rate; 1] = [Rate {
    per_second: 50,
    keys: 1_000,
    warm_up_s: 10,
    seconds: 20,
}];

/// Builds the simulation, and runs it at each rate.
pub(crate) async fn measure(
    dir: &Path,
    profile: &str,
    rates: &[Rate],
) -> Result<Vec<Routing>, ToolError> {
    let simulation = build("simulation", "simulation", profile).await?;
    let figures = dir.join("routing.json");
    let mut measured = Vec::with_capacity(rates.len());
    for rate in rates {
        let mut command = Command::new(&simulation);
        command
            .arg("routing")
            .args(["--per-second", &rate.per_second.to_string()])
            .args(["--keys", &rate.keys.to_string()])
            .args(["--warm-up-s", &rate.warm_up_s.to_string()])
            .args(["--seconds", &rate.seconds.to_string()])
            .arg("--json")
            .arg(&figures);
        // The simulation exits with an error if a call is not allowed or not counted.
        run(&mut command).await?;
        let json = std::fs::read(&figures);
        let json = json.map_err(|error| ToolError::File(figures.clone(), error))?;
        let parsed = serde_json::from_slice(&json);
        measured.push(parsed.map_err(|_| ToolError::Output("simulation".to_owned()))?);
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_of_the_simulation_are_read() {
        let period = json!({
            "calls": 2_000, "counted": 2_000, "instances_started": 1, "most_instances": 6,
            "reads": 2_600, "read_units": 2_600.0, "writes": 3_200, "write_units": 3_201.0,
            "requests": { "key": 1_300, "customer": 1_300, "hour_lease": 1_600, "month_lease": 1_600 },
            "round_trips_per_1000": 1_954.5, "busy_ms": 20_000, "p50_ms": 13, "p90_ms": 13, "p99_ms": 13,
        });
        let figures = json!({
            "per_second": 50, "keys": 1_000, "seconds": 1_200, "warm_up_s": 600, "cold_start_ms": 200,
            "idle_timeout_s": 300, "round_trip_ms": 4, "handler_ms": 1, "whole": period, "steady": period,
        });
        let routing: Routing = serde_json::from_value(figures).unwrap();
        let steady = routing.steady;
        assert!((steady.requests_per_call() - 2.9).abs() < 1e-9);
        assert!((steady.per_1000(steady.write_units) - 1_600.5).abs() < 1e-9);
    }
}
