//! Metrics, in CloudWatch's embedded metric format: lines on standard output that CloudWatch Logs
//! turns into metrics
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).
//!
//! Every line is paid for, so what is recorded is added up and written together: a function that
//! works through batches calls [`Metrics::write`] after each, one that is called all the time records
//! with [`Metrics::record_and_write_due`].

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::Clock;

/// The CloudWatch namespace of all of them.
pub const NAMESPACE: &str = "Tollgate";
/// The dimension that all of them have: the name of the stack.
pub const STACK: &str = "Stack";

/// How long what is due may wait for the next call of [`Metrics::record_and_write_due`].
const INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// The format's bound on the values of one metric in one line.
const MAX_SAMPLES: usize = 100;

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name in CloudWatch.
    pub name: &'static str,
    /// What it is measured in.
    pub unit: Unit,
    /// Its dimensions besides [`STACK`].
    pub dimensions: &'static [&'static str],
    /// What it tells.
    pub doc: &'static str,
}

/// CloudWatch's name for a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// How many.
    Count,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Count => "Count",
            Unit::Milliseconds => "Milliseconds",
            Unit::Microseconds => "Microseconds",
        }
    }
}

const fn count(name: &'static str, doc: &'static str) -> Metric {
    Metric {
        name,
        unit: Unit::Count,
        dimensions: &[],
        doc,
    }
}

const fn time(name: &'static str, unit: Unit, doc: &'static str) -> Metric {
    Metric {
        unit,
        ..count(name, doc)
    }
}

/// What the authorizer decided.
pub const DECISIONS: Metric = Metric {
    dimensions: &["Outcome", "Reason"],
    ..count(
        "Decisions",
        "Calls decided by the authorizer. `allowed`: `within_limits`, `uncounted`, `store_down`; \
         `limited`: `hour`, `month`; `denied`: `customer_suspended`; `unauthorized`: `missing_key`, \
         `malformed_key`, `unknown_key`, `expired_key`, `revoked_key`, `suspended_key`; \
         `unavailable`: `store_down`, `no_plan`.",
    )
};
/// What limits are held against, and usage is held against in turn.
pub const CALLS_ADMITTED: Metric = count(
    "CallsAdmitted",
    "Calls let in on routes that count, also while the store did not answer; they are metered once \
     they are answered.",
);
/// What only the plan decided.
pub const DECISIONS_WITHOUT_STORE: Metric = count(
    "DecisionsWithoutStore",
    "Calls let in uncounted, or refused, because the store did not answer.",
);
/// What rests on a key that could not be read again.
pub const DECISIONS_BY_STALE_KEY: Metric = count(
    "DecisionsByStaleKey",
    "Calls decided by a key whose time in the cache was over, because the store did not answer. A \
     revocation since then was not seen.",
);
/// How long it took.
pub const DECISION_LATENCY: Metric = time(
    "DecisionLatency",
    Unit::Microseconds,
    "Time that the authorizer took for a decision, gateway and Lambda aside.",
);
/// Units of quota taken from the counters.
pub const LEASES: Metric = count(
    "Leases",
    "Blocks of calls taken from a limit in advance, one write each.",
);
/// Entries that were counted.
pub const EVENTS_COUNTED: Metric = count("EventsCounted", "Usage entries counted.");
/// Entries that had been counted before.
pub const EVENTS_DUPLICATE: Metric = count(
    "EventsDuplicate",
    "Usage entries delivered again after they had been counted; they change nothing.",
);
/// Entries set aside.
pub const EVENTS_QUARANTINED: Metric = count(
    "EventsQuarantined",
    "Messages set aside: whole, or some of their records.",
);
/// Entries to be delivered again.
pub const EVENTS_FAILED: Metric = count(
    "EventsFailed",
    "Deliveries of usage entries that could not be counted now, and come again.",
);
/// Records that were counted.
pub const RECORDS_METERED: Metric = count("RecordsMetered", "Calls counted as usage.");
/// Usage that comes too late for its bill.
pub const CALLS_LATE: Metric = count(
    "CallsLate",
    "Billable calls on plans that charge, and corrections of them, counted three days or more after \
     the end of their month. If it has closed, they are in no bill.",
);
/// Records set aside.
pub const RECORDS_QUARANTINED: Metric =
    count("RecordsQuarantined", "Records set aside, one by one.");
/// Tokens whose price is not known.
pub const TOKENS_UNPRICED: Metric = count(
    "TokensUnpriced",
    "Language-model tokens that were counted at no cost, because the price list has none for them.",
);
/// Records that the bus did not take.
pub const RECORDS_SPILLED: Metric = count(
    "RecordsSpilled",
    "Calls whose usage the event bus did not take, so that it is in a function's log, as `unsent_usage`.",
);
/// Calls that are nobody's.
pub const CALLS_UNATTRIBUTED: Metric = count(
    "CallsUnattributed",
    "Calls of metered functions that came without the authorizer's context, so that they are metered \
     nowhere: on a route without the authorizer, or past the gateway.",
);
/// Costs that are in no record.
pub const COSTS_LATE: Metric = count(
    "CostsLate",
    "Costs that a function reported after the record of their call was made, so that they are in none. \
     The function is told.",
);
/// From the call to its count.
pub const METERING_LAG: Metric = time(
    "MeteringLag",
    Unit::Milliseconds,
    "Time from the earliest call of an entry to its count.",
);
/// Where the two ledgers of a day differ.
pub const CALLS_UNMETERED: Metric = count(
    "CallsUnmetered",
    "Calls of customers whose ledgers of a day differ that were let in and not metered.",
);
/// The other way round.
pub const CALLS_UNADMITTED: Metric = count(
    "CallsUnadmitted",
    "Calls of customers whose ledgers of a day differ that were metered and not let in: reported \
     from elsewhere, or let in by an instance that crashed before it reported them.",
);
/// Customers nothing is known of.
pub const CUSTOMERS_SILENT: Metric = count(
    "CustomersSilent",
    "Customers with calls that were let in on a day, none of which was metered.",
);
/// Runs of reconciliation by the schedule.
pub const RECONCILIATION_RUNS: Metric = count(
    "ReconciliationRuns",
    "Runs of reconciliation by the schedule that compared all customers' ledgers.",
);
/// Runs of billing by the schedule.
pub const BILLING_RUNS: Metric = count(
    "BillingRuns",
    "Runs of billing by the schedule that went through all billing periods, whether or not some failed.",
);
/// Charges written.
pub const CHARGES_CREATED: Metric = count("ChargesCreated", "Charges written into the ledger.");
/// Accounts that could not be billed.
pub const CHARGES_FAILED: Metric = count(
    "ChargesFailed",
    "Accounts that could not be billed; the next run tries again.",
);
/// Their sum.
pub const CENTS_CHARGED: Metric = count("CentsCharged", "US cents charged.");

/// All of them, in the order they are documented.
pub const ALL: &[Metric] = &[
    DECISIONS,
    CALLS_ADMITTED,
    DECISIONS_WITHOUT_STORE,
    DECISIONS_BY_STALE_KEY,
    DECISION_LATENCY,
    LEASES,
    EVENTS_COUNTED,
    EVENTS_DUPLICATE,
    EVENTS_QUARANTINED,
    EVENTS_FAILED,
    RECORDS_METERED,
    CALLS_LATE,
    RECORDS_QUARANTINED,
    TOKENS_UNPRICED,
    RECORDS_SPILLED,
    CALLS_UNATTRIBUTED,
    COSTS_LATE,
    METERING_LAG,
    CALLS_UNMETERED,
    CALLS_UNADMITTED,
    CUSTOMERS_SILENT,
    RECONCILIATION_RUNS,
    BILLING_RUNS,
    CHARGES_CREATED,
    CHARGES_FAILED,
    CENTS_CHARGED,
];

/// A metric, the values of its own dimensions, and what is added to a count, or is a sample of a time,
/// of which CloudWatch makes percentiles.
pub type Record = (Metric, Values, u64);

/// Values of a metric's dimensions. They are texts of the program's own, so that no customer can
/// become one: each combination is a metric that CloudWatch bills.
pub type Values = &'static [&'static str];

/// Collects metrics and writes them. Cheap to clone; all clones collect together.
#[derive(Clone)]
pub struct Metrics(Option<Arc<Inner>>);

struct Inner {
    stack: String,
    clock: Clock,
    write: Box<dyn Fn(&str) + Send + Sync>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    written_at: Option<Timestamp>,
    /// The latest time that anything pending is of. What an instance writes as it ends may have
    /// waited for minutes, and belongs where it happened.
    recorded_at: Option<Timestamp>,
    /// By the metric's dimensions and their values.
    lines: BTreeMap<(Values, Values), Line>,
}

/// What is collected of each metric, by its name.
type Line = BTreeMap<&'static str, (Unit, Collected)>;

enum Collected {
    Sum(u64),
    Samples(Vec<u64>),
}

impl Metrics {
    /// Metrics of `stack`, written as lines to `write`.
    pub fn new(stack: &str, clock: Clock, write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(Inner {
            stack: stack.to_owned(),
            clock,
            write: Box::new(write),
            pending: Mutex::default(),
        })))
    }

    /// Metrics of `stack`, written to standard output.
    #[must_use]
    pub fn to_stdout(stack: &str, clock: Clock) -> Self {
        Self::new(stack, clock, |line| {
            // There is nobody to tell of a closed output.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
        })
    }

    /// Collects nothing.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Adds `value` to a count, or takes it as a sample of a time. `values` are those of the metric's
    /// own dimensions.
    pub fn record(&self, metric: Metric, values: Values, value: u64) {
        let Some(inner) = &self.0 else { return };
        let mut pending = inner.pending();
        let is_full = pending.collect((metric, values, value), inner.clock.now());
        drop(pending);
        if is_full {
            self.write();
        }
    }

    /// Records all of these, and writes what is pending if nothing was written for ten seconds.
    pub fn record_and_write_due(&self, records: impl IntoIterator<Item = Record>) {
        let Some(inner) = &self.0 else { return };
        let now = inner.clock.now();
        let mut pending = inner.pending();
        let mut is_due = pending.is_due(now);
        for record in records {
            is_due |= pending.collect(record, now);
        }
        drop(pending);
        if is_due {
            self.write();
        }
    }

    /// Writes what is pending.
    pub fn write(&self) {
        let Some(inner) = &self.0 else { return };
        let now = inner.clock.now();
        let mut pending = inner.pending();
        pending.written_at = Some(now);
        let recorded_at = pending.recorded_at.take().unwrap_or(now);
        let lines = std::mem::take(&mut pending.lines);
        drop(pending);
        for ((dimensions, values), metrics) in lines {
            let line = inner.line(recorded_at, dimensions, values, metrics);
            (inner.write)(&format!("{line}\n"));
        }
    }
}

impl Pending {
    /// Whether the line that it belongs to is full with it.
    fn collect(&mut self, (metric, values, value): Record, now: Timestamp) -> bool {
        self.recorded_at = Some(now);
        let line = self.lines.entry((metric.dimensions, values)).or_default();
        let (_, collected) = line.entry(metric.name).or_insert_with(|| {
            let nothing = match metric.unit {
                Unit::Count => Collected::Sum(0),
                Unit::Milliseconds | Unit::Microseconds => Collected::Samples(Vec::new()),
            };
            (metric.unit, nothing)
        });
        match collected {
            Collected::Sum(sum) => {
                *sum = sum.saturating_add(value);
                false
            }
            Collected::Samples(samples) => {
                samples.push(value);
                samples.len() >= MAX_SAMPLES
            }
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        // A clock that goes back makes it due as well.
        let waited = |at| now.duration_since(at).abs();
        self.written_at.is_none_or(|at| waited(at) >= INTERVAL)
    }
}

impl Inner {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(
        &self,
        recorded_at: Timestamp,
        dimensions: Values,
        values: Values,
        metrics: Line,
    ) -> Value {
        let names: Vec<&str> = [STACK].iter().chain(dimensions).copied().collect();
        let mut line = Map::new();
        let mut definitions = Vec::new();
        line.insert(STACK.to_owned(), self.stack.as_str().into());
        for (name, value) in dimensions.iter().zip(values) {
            line.insert((*name).to_owned(), (*value).into());
        }
        for (name, (unit, value)) in metrics {
            definitions.push(json!({ "Name": name, "Unit": unit.name() }));
            let value = match value {
                Collected::Sum(sum) => sum.into(),
                Collected::Samples(samples) => samples.into(),
            };
            line.insert(name.to_owned(), value);
        }
        let directive = json!({
            "Namespace": NAMESPACE,
            "Dimensions": [names],
            "Metrics": definitions,
        });
        let metadata = json!({
            "Timestamp": recorded_at.as_millisecond(),
            "CloudWatchMetrics": [directive],
        });
        line.insert("_aws".to_owned(), metadata);
        line.into()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    /// Metrics that write to a list, on a clock that is moved.
    fn metrics() -> (Metrics, ManualClock, Arc<Mutex<Vec<Value>>>) {
        let time = ManualClock::at("2026-11-22T10:00:00Z".parse().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let metrics = Metrics::new("prod", time.clock(), move |line| {
            assert!(line.ends_with("}\n") && line.lines().count() == 1);
            sink.lock()
                .unwrap()
                .push(serde_json::from_str(line).unwrap());
        });
        (metrics, time, lines)
    }

    #[test]
    fn a_line_is_in_the_embedded_metric_format() {
        let (metrics, time, lines) = metrics();
        metrics.record(DECISIONS, &["allowed", "uncounted"], 1);
        metrics.record(DECISIONS, &["allowed", "uncounted"], 2);
        time.advance(SignedDuration::from_mins(7));
        metrics.write();
        let expected = json!({
            "_aws": {
                "Timestamp": 1_795_341_600_000_u64,
                "CloudWatchMetrics": [{
                    "Namespace": "Tollgate",
                    "Dimensions": [["Stack", "Outcome", "Reason"]],
                    "Metrics": [{ "Name": "Decisions", "Unit": "Count" }],
                }],
            },
            "Stack": "prod",
            "Outcome": "allowed",
            "Reason": "uncounted",
            "Decisions": 3,
        });
        assert_eq!(*lines.lock().unwrap(), [expected]);
    }

    #[test]
    fn no_two_metrics_have_the_same_name() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn metrics_of_the_same_dimensions_share_a_line() {
        let (metrics, _, lines) = metrics();
        metrics.record(LEASES, &[], 2);
        metrics.record(DECISION_LATENCY, &[], 70);
        metrics.record(DECISION_LATENCY, &[], 90);
        metrics.record(DECISIONS, &["limited", "hour"], 1);
        metrics.record(DECISIONS, &["limited", "month"], 1);
        metrics.write();
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["Leases"], 2);
        assert_eq!(lines[0]["DecisionLatency"], json!([70, 90]));
        assert_eq!(lines[1]["Reason"], "hour");
        assert_eq!(lines[2]["Reason"], "month");
    }

    #[test]
    fn what_is_due_is_written_at_once_and_then_every_ten_seconds() {
        let (metrics, time, lines) = metrics();
        let written_after = |step: i64| {
            time.advance(SignedDuration::from_secs(step));
            metrics.record_and_write_due([(LEASES, &[] as Values, 1)]);
            lines.lock().unwrap().len()
        };
        assert_eq!(written_after(0), 1);
        assert_eq!(written_after(9), 1);
        assert_eq!(written_after(1), 2);
        assert_eq!(written_after(-11), 3);
        metrics.write();
        metrics.write();
        let lines = lines.lock().unwrap();
        let sums: Vec<_> = lines.iter().map(|line| &line["Leases"]).collect();
        assert_eq!(sums, [1, 2, 1]);
    }

    #[test]
    fn no_line_has_more_samples_than_the_format_allows() {
        let (metrics, _, lines) = metrics();
        for sample in 0..250 {
            metrics.record(METERING_LAG, &[], sample);
        }
        metrics.write();
        let lines = lines.lock().unwrap();
        let samples = lines
            .iter()
            .map(|line| line["MeteringLag"].as_array().unwrap());
        assert_eq!(samples.map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
    }

    /// `docs/metrics.md`, made from the declarations.
    fn page() -> String {
        let mut page = format!(
            "# Metrics\n\n\
            The functions write these in CloudWatch's embedded metric format, in the namespace\n\
            `{NAMESPACE}`. The first dimension is always `{STACK}`, the stack's name; none is per customer,\n\
            because CloudWatch bills every combination. This page is made from\n\
            `shared/runtime/src/metrics.rs`.\n\n\
            | metric | unit | further dimensions | meaning |\n|---|---|---|---|\n"
        );
        for metric in ALL {
            let dimensions: Vec<_> = metric.dimensions.iter().map(|d| format!("`{d}`")).collect();
            page.push_str(&format!(
                "| `{}` | {} | {} | {} |\n",
                metric.name,
                metric.unit.name(),
                dimensions.join(", "),
                metric.doc
            ));
        }
        page
    }

    #[test]
    fn the_page_on_metrics_is_up_to_date() {
        crate::assert_page("metrics.md", &page());
    }
}
