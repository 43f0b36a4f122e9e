//! Log of usage that could not be put on the bus.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use tollgate_runtime::{Metrics, metrics};

/// Log of whole usage events, from which they can be put on the bus again: each a line
/// `{"level":"ERROR","message":"unsent_usage","event":{…}}`. An event that is on the bus as well counts
/// once. Their records are counted in the metric `UnsentRecords`.
#[derive(Clone)]
pub struct UnsentLog {
    write: Arc<dyn Fn(&str) + Send + Sync>,
    metrics: Metrics,
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'static str,
    message: &'static str,
    event: &'a RawValue,
}

impl UnsentLog {
    /// Creates a log that passes its lines to `write`.
    #[must_use]
    pub fn new(metrics: Metrics, write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            write: Arc::new(write),
            metrics,
        }
    }

    /// Creates a log on standard error, which does not depend on the log level.
    #[must_use]
    pub fn to_stderr(metrics: Metrics) -> Self {
        Self::new(metrics, |line| {
            // A failure to write to standard error cannot be reported anywhere else.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        })
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Writes events, each given as its JSON and the number of its records.
    pub(crate) fn write<'a>(&self, events: impl IntoIterator<Item = (&'a str, usize)>) {
        let mut unsent_records = 0;
        for (event, records) in events {
            let line = serde_json::from_str(event).and_then(|event| {
                serde_json::to_string(&Line {
                    level: "ERROR",
                    message: "unsent_usage",
                    event,
                })
            });
            match line {
                Ok(line) => (self.write)(&line),
                Err(error) => {
                    tracing::error!(%error, event, "an unsent usage event cannot be serialised");
                }
            }
            unsent_records += u64::try_from(records).unwrap_or(0);
        }
        if unsent_records > 0 {
            self.metrics
                .record(metrics::UNSENT_RECORDS, &[], unsent_records);
            self.metrics.write();
        }
    }
}

impl fmt::Debug for UnsentLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnsentLog").finish_non_exhaustive()
    }
}
