//! Where usage goes that the bus did not take.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use tollgate_runtime::{Metrics, metrics};

/// Writes entries down, whole, from where they can be put on the bus again: each a line
/// `{"level":"ERROR","message":"unsent_usage","entry":{…}}`. An entry that is on the bus as well counts
/// once. Their records are counted in `RecordsSpilled`.
#[derive(Clone)]
pub struct Spill {
    write: Arc<dyn Fn(&str) + Send + Sync>,
    metrics: Metrics,
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'static str,
    message: &'static str,
    entry: &'a RawValue,
}

impl Spill {
    /// Hands the lines to `write`.
    #[must_use]
    pub fn new(metrics: Metrics, write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            write: Arc::new(write),
            metrics,
        }
    }

    /// Writes the lines to standard error, whatever the level of the log.
    #[must_use]
    pub fn to_stderr(metrics: Metrics) -> Self {
        Self::new(metrics, |line| {
            // There is no other place left to tell that this one cannot be written to.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        })
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Writes entries, each with the number of its records.
    pub(crate) fn write<'a>(&self, entries: impl IntoIterator<Item = (&'a str, usize)>) {
        let mut spilled = 0;
        for (entry, records) in entries {
            let line = serde_json::from_str(entry).and_then(|entry| {
                serde_json::to_string(&Line {
                    level: "ERROR",
                    message: "unsent_usage",
                    entry,
                })
            });
            match line {
                Ok(line) => (self.write)(&line),
                Err(error) => tracing::error!(%error, entry, "an entry cannot be written down"),
            }
            spilled += u64::try_from(records).unwrap_or(0);
        }
        if spilled > 0 {
            self.metrics.record(metrics::RECORDS_SPILLED, &[], spilled);
            self.metrics.write();
        }
    }
}

impl fmt::Debug for Spill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spill").finish_non_exhaustive()
    }
}
