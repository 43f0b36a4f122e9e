//! Metrics, extracted from the functions' output as CloudWatch does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tollgate_runtime::metrics::{Metric, NAMESPACE};
use tollgate_runtime::{Clock, Metrics};

/// Metrics read from lines in the embedded metric format. Cheap to clone; clones share the metrics.
#[derive(Debug, Clone, Default)]
pub struct CloudWatch(Arc<Mutex<BTreeMap<Series, Vec<u64>>>>);

/// A metric's name and the values of its dimensions, of which the first is the stack.
type Series = (String, Vec<String>);

impl CloudWatch {
    /// Returns a metrics sink for functions of `stack` whose output is read here.
    #[must_use]
    pub fn metrics(&self, stack: &str, clock: Clock) -> Metrics {
        let this = self.clone();
        Metrics::new(stack, clock, move |line| this.read(line))
    }

    /// Reads a function's output. Lines in any other format are ignored.
    pub fn read(&self, output: &str) {
        for line in output.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let directives = line["_aws"]["CloudWatchMetrics"].as_array();
            for directive in directives.into_iter().flatten() {
                self.read_directive(&line, directive);
            }
        }
    }

    fn read_directive(&self, line: &Value, directive: &Value) {
        if directive["Namespace"] != NAMESPACE {
            return;
        }
        let names = |field: &Value| -> Vec<String> {
            let names = field.as_array().into_iter().flatten();
            names
                .filter_map(|name| Some(name.as_str()?.to_owned()))
                .collect()
        };
        for dimensions in directive["Dimensions"].as_array().into_iter().flatten() {
            let dimensions = names(dimensions).into_iter();
            let values: Option<Vec<String>> = dimensions
                .map(|name| line[name].as_str().map(str::to_owned))
                .collect();
            let Some(values) = values else { continue };
            for metric in directive["Metrics"].as_array().into_iter().flatten() {
                let Some(name) = metric["Name"].as_str() else {
                    continue;
                };
                let samples = match &line[name] {
                    Value::Array(values) => values.iter().filter_map(Value::as_u64).collect(),
                    value => Vec::from_iter(value.as_u64()),
                };
                let series = (name.to_owned(), values.clone());
                self.lock().entry(series).or_default().extend(samples);
            }
        }
    }

    /// Returns all values of a metric for the stack `test`, in the order in which they were written.
    #[must_use]
    pub fn values(&self, metric: Metric, dimensions: &[&str]) -> Vec<u64> {
        let values = ["test"].iter().chain(dimensions);
        let series = (
            metric.name.to_owned(),
            values.map(|&value| value.to_owned()).collect(),
        );
        self.lock().get(&series).cloned().unwrap_or_default()
    }

    /// Returns the sum of a metric's values for the stack `test`.
    #[must_use]
    pub fn sum(&self, metric: Metric, dimensions: &[&str]) -> u64 {
        self.values(metric, dimensions).iter().sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Series, Vec<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
