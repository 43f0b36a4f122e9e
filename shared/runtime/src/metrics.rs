//! Metrics, in CloudWatch's embedded metric format: lines on standard output that CloudWatch Logs
//! turns into metrics
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).
//!
//! CloudWatch bills log lines, so values are collected and written together: a function that processes
//! batches calls [`Metrics::write`] after each batch, and one that is invoked all the time records with
//! [`Metrics::record_and_write_due`].

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use tollgate_domain::id::PlanId;

use crate::Clock;

/// CloudWatch namespace of all metrics.
pub const NAMESPACE: &str = "Tollgate";
/// Dimension of all metrics: the name of the stack.
pub const STACK: &str = "Stack";

/// Dimension of metrics by plan.
pub const PLAN: &str = "Plan";

/// Minimum time between two writes by [`Metrics::record_and_write_due`].
const INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// The format's maximum number of values of one metric in one line.
const MAX_SAMPLES: usize = 100;

/// Definition of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Name in CloudWatch.
    pub name: &'static str,
    /// Unit of the values.
    pub unit: Unit,
    /// Dimensions besides [`STACK`].
    pub dimensions: &'static [&'static str],
    /// Meaning, in Markdown.
    pub doc: &'static str,
}

/// Unit of a metric in CloudWatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Number of occurrences.
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

/// Decisions of the authorizer.
pub const DECISIONS: Metric = Metric {
    dimensions: &["Outcome", "Reason"],
    ..count(
        "Decisions",
        "Calls decided by the authorizer. `allowed`: `within_limits`, `uncounted`, \
         `store_unavailable`; `denied`: `rate_limited`, `quota_exceeded`, `customer_suspended`, `no_plan`; \
         `unauthorized`: `missing_key`, `malformed_key`, `unknown_key`, `expired_key`, \
         `revoked_key`, `suspended_key`; `unavailable`: `store_unavailable`.",
    )
};
/// Calls in the admission ledger.
pub const ADMITTED_CALLS: Metric = count(
    "AdmittedCalls",
    "Calls that the authorizer allowed on counted routes, including those while the store was \
     unavailable. They are metered when their response ends.",
);
/// Decisions by the plan's fail mode alone.
pub const DECISIONS_WITHOUT_STORE: Metric = count(
    "DecisionsWithoutStore",
    "Calls allowed uncounted, or denied, by their plan's fail mode because the store was unavailable.",
);
/// Decisions with a key that was past its TTL.
pub const DECISIONS_BY_STALE_KEY: Metric = count(
    "DecisionsByStaleKey",
    "Calls decided with a cached key past its TTL, because the store was unavailable. A revocation \
     since the key was read had no effect on them.",
);
/// Duration of a decision.
pub const DECISION_LATENCY: Metric = time(
    "DecisionLatency",
    Unit::Microseconds,
    "Time in the authorizer for a decision, without the overhead of API Gateway and Lambda.",
);
/// Reservations of quota units.
pub const RESERVED_LEASES: Metric = count(
    "ReservedLeases",
    "Reservations of quota units by authorizer instances, one write each.",
);
/// Usage events that were counted.
pub const COUNTED_EVENTS: Metric = count("CountedEvents", "Usage events counted.");
/// Usage events that had been counted before.
pub const DUPLICATE_EVENTS: Metric = count(
    "DuplicateEvents",
    "Usage events delivered again after they had been counted; they change nothing.",
);
/// Usage events with quarantined content.
pub const QUARANTINED_EVENTS: Metric = count(
    "QuarantinedEvents",
    "Usage events of which all or some records were quarantined, and unreadable messages.",
);
/// Usage events that will be delivered again.
pub const FAILED_EVENTS: Metric = count(
    "FailedEvents",
    "Deliveries of usage events that could not be counted because of an error, and are retried.",
);
/// Calls in the usage ledger.
pub const METERED_CALLS: Metric = count("MeteredCalls", "Calls counted as usage.");
/// Usage that arrived close to or after the closing of its billing period.
pub const LATE_CALLS: Metric = count(
    "LateCalls",
    "Billable calls on plans that charge for overage, and adjustments of them, counted three days or \
     more after the end of their month. If the month has closed, no bill includes them.",
);
/// Usage records in the quarantine.
pub const QUARANTINED_RECORDS: Metric = count(
    "QuarantinedRecords",
    "Usage records quarantined one by one.",
);
/// Tokens without a known price.
pub const UNPRICED_TOKENS: Metric = count(
    "UnpricedTokens",
    "Language-model tokens counted at no cost, because the price list has no price for them.",
);
/// Usage records that could not be sent to the event bus.
pub const UNSENT_RECORDS: Metric = count(
    "UnsentRecords",
    "Usage records that could not be sent to the event bus, and are in the function's log as \
     `unsent_usage`.",
);
/// Calls without a known customer.
pub const UNATTRIBUTED_CALLS: Metric = count(
    "UnattributedCalls",
    "Calls of metered functions without the authorizer's context, which are not metered: on a route \
     without the authorizer, or not through the gateway.",
);
/// Costs that are in no usage record.
pub const LATE_COSTS: Metric = count(
    "LateCosts",
    "Costs that a function reported after the usage record of their call was made, so that no record \
     includes them. The function gets an error.",
);
/// Time from a call to its count.
pub const METERING_LAG: Metric = time(
    "MeteringLag",
    Unit::Milliseconds,
    "Time from the earliest call of a usage event until the event is counted.",
);
/// Discrepancy: admitted calls that were not metered.
pub const UNMETERED_CALLS: Metric = count(
    "UnmeteredCalls",
    "Calls that were admitted and not metered, of customers with a discrepancy on a day.",
);
/// Discrepancy: metered calls that were not admitted.
pub const UNADMITTED_CALLS: Metric = count(
    "UnadmittedCalls",
    "Calls that were metered and not admitted, of customers with a discrepancy on a day: reported by \
     another producer, or allowed by an instance that crashed before it reported them.",
);
/// Discrepancy: customers without any metered call.
pub const SILENT_CUSTOMERS: Metric = count(
    "SilentCustomers",
    "Customers with admitted calls on a day, none of which was metered.",
);
/// Scheduled reconciliation runs.
pub const RECONCILIATION_RUNS: Metric = count(
    "ReconciliationRuns",
    "Scheduled reconciliation runs that compared the ledgers of all customers.",
);
/// Scheduled billing runs.
pub const BILLING_RUNS: Metric = count(
    "BillingRuns",
    "Scheduled billing runs that processed all open billing periods, even if some of them failed.",
);
/// Charges written to the ledger.
pub const CREATED_CHARGES: Metric = count("CreatedCharges", "Charges written to the ledger.");
/// Billing periods that could not be billed.
pub const FAILED_BILLING_PERIODS: Metric = count(
    "FailedBillingPeriods",
    "Billing periods that could not be billed; the next billing run tries again.",
);
/// Charges that were found to be at Stripe.
pub const SETTLED_CHARGES: Metric = count(
    "SettledCharges",
    "Charges that were submitted to Stripe, or found there.",
);
/// Charges that Stripe rejects.
pub const FAILED_CHARGES: Metric = count(
    "FailedCharges",
    "Charges that Stripe rejected, or whose customers have no Stripe customer; the next nightly run submits them again.",
);
/// Stripe customers that are to be looked at and do not exist.
pub const MISSING_STRIPE_CUSTOMERS: Metric = count(
    "MissingStripeCustomers",
    "Links to Stripe customers that do not exist, and invoices of such that are due, at each billing run.",
);
/// Charges that are at Stripe more than once.
pub const DOUBLED_CHARGES: Metric = count(
    "DoubledCharges",
    "Charges for which Stripe has two invoice items. Never, unless someone else creates them.",
);
/// Sum of the charges.
pub const CHARGED_CENTS: Metric = count("ChargedCents", "Sum of the created charges in US cents.");

/// Checkout sessions that were started.
pub const CHECKOUTS_STARTED: Metric = Metric {
    dimensions: &[PLAN],
    ..count(
        "CheckoutsStarted",
        "Checkout sessions of Stripe that were started, by the id of the plan.",
    )
};
/// Sessions of the billing portal that were opened.
pub const PORTALS_OPENED: Metric = count(
    "PortalsOpened",
    "Sessions of Stripe's billing portal that were opened.",
);
/// Events of Stripe that were handled.
pub const STRIPE_EVENTS: Metric = count(
    "StripeEvents",
    "Events of Stripe about customers here, repetitions included.",
);
/// Events of Stripe about others.
pub const FOREIGN_STRIPE_EVENTS: Metric = count(
    "ForeignStripeEvents",
    "Events of Stripe about none of the customers here: other software, or another stack, shares the Stripe account.",
);
/// Requests that Stripe did not sign.
pub const REJECTED_WEBHOOKS: Metric = count(
    "RejectedWebhooks",
    "Requests to the webhook endpoint without a valid signature of Stripe's.",
);

/// Events that were put on the bus.
pub const PUBLISHED_EVENTS: Metric = count(
    "PublishedEvents",
    "Events for operator and customers that were numbered, put on the bus, and queued for the webhooks.",
);
/// Deliveries to webhooks that succeeded.
pub const DELIVERED_EVENTS: Metric = count(
    "DeliveredEvents",
    "Deliveries of events to webhooks that the target acknowledged.",
);
/// Deliveries to webhooks that were given up.
pub const UNDELIVERED_EVENTS: Metric = count(
    "UndeliveredEvents",
    "Deliveries of events to webhooks that were given up: after the last attempt, or because the target is gone.",
);

/// All metrics, in the order of the documentation.
pub const ALL: &[Metric] = &[
    DECISIONS,
    ADMITTED_CALLS,
    DECISIONS_WITHOUT_STORE,
    DECISIONS_BY_STALE_KEY,
    DECISION_LATENCY,
    RESERVED_LEASES,
    COUNTED_EVENTS,
    DUPLICATE_EVENTS,
    QUARANTINED_EVENTS,
    FAILED_EVENTS,
    METERED_CALLS,
    LATE_CALLS,
    QUARANTINED_RECORDS,
    UNPRICED_TOKENS,
    UNSENT_RECORDS,
    UNATTRIBUTED_CALLS,
    LATE_COSTS,
    METERING_LAG,
    UNMETERED_CALLS,
    UNADMITTED_CALLS,
    SILENT_CUSTOMERS,
    RECONCILIATION_RUNS,
    BILLING_RUNS,
    CREATED_CHARGES,
    FAILED_BILLING_PERIODS,
    CHARGED_CENTS,
    SETTLED_CHARGES,
    FAILED_CHARGES,
    DOUBLED_CHARGES,
    MISSING_STRIPE_CUSTOMERS,
    CHECKOUTS_STARTED,
    PORTALS_OPENED,
    STRIPE_EVENTS,
    FOREIGN_STRIPE_EVENTS,
    REJECTED_WEBHOOKS,
    PUBLISHED_EVENTS,
    DELIVERED_EVENTS,
    UNDELIVERED_EVENTS,
];

/// One value of a metric: the metric, the values of its own dimensions, and a number to add to a count
/// or a sample of a time.
pub type Record = (Metric, Values, u64);

/// Values of a metric's own dimensions. They are static, so that a customer cannot become one:
/// CloudWatch bills each combination as a metric.
pub type Values = &'static [&'static str];

/// Collector and writer of metrics. Cheap to clone; clones collect together.
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
    /// Time of the latest pending value, which the lines get as their timestamp: the values that an
    /// instance writes when it shuts down may have been pending for minutes.
    recorded_at: Option<Timestamp>,
    /// Pending lines, by the metrics' dimensions and their values.
    lines: BTreeMap<(Values, Values), Line>,
    /// Pending lines of metrics by plan.
    plans: BTreeMap<PlanId, Line>,
}

/// Collected values of each metric, by its name.
type Line = BTreeMap<&'static str, (Unit, Collected)>;

enum Collected {
    Sum(u64),
    Samples(Vec<u64>),
}

impl Metrics {
    /// Creates a collector for `stack` that writes each line with `write`.
    pub fn new(stack: &str, clock: Clock, write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(Inner {
            stack: stack.to_owned(),
            clock,
            write: Box::new(write),
            pending: Mutex::default(),
        })))
    }

    /// Creates a collector for `stack` that writes to standard output.
    #[must_use]
    pub fn to_stdout(stack: &str, clock: Clock) -> Self {
        Self::new(stack, clock, |line| {
            // An error cannot be reported if standard output is closed.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
        })
    }

    /// Creates a collector that discards all values.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Adds `value` to a count, or to the samples of a time. `values` are the values of the metric's own
    /// dimensions. Writes what is pending if a line is full.
    pub fn record(&self, metric: Metric, values: Values, value: u64) {
        let Some(inner) = &self.0 else { return };
        let mut pending = inner.pending();
        let is_full = pending.collect((metric, values, value), inner.clock.now());
        drop(pending);
        if is_full {
            self.write();
        }
    }

    /// Adds `value` to a count whose own dimension is [`PLAN`]. The operator creates the plans, so that they are
    /// few.
    pub fn record_of_plan(&self, metric: Metric, plan: &PlanId, value: u64) {
        let Some(inner) = &self.0 else { return };
        debug_assert_eq!(metric.dimensions, [PLAN]);
        let mut pending = inner.pending();
        pending.recorded_at = Some(inner.clock.now());
        let line = pending.plans.entry(plan.clone()).or_default();
        let is_full = collect(line, metric, value);
        drop(pending);
        if is_full {
            self.write();
        }
    }

    /// Records values, and writes what is pending if nothing was written for ten seconds or a line is
    /// full.
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

    /// Writes all pending values.
    pub fn write(&self) {
        let Some(inner) = &self.0 else { return };
        let now = inner.clock.now();
        let mut pending = inner.pending();
        pending.written_at = Some(now);
        let recorded_at = pending.recorded_at.take().unwrap_or(now);
        let lines = std::mem::take(&mut pending.lines);
        let plans = std::mem::take(&mut pending.plans);
        drop(pending);
        for ((dimensions, values), metrics) in lines {
            let line = inner.line(recorded_at, dimensions, values, metrics);
            (inner.write)(&format!("{line}\n"));
        }
        for (plan, metrics) in plans {
            let line = inner.line(recorded_at, &[PLAN], &[plan.as_str()], metrics);
            (inner.write)(&format!("{line}\n"));
        }
    }
}

impl Pending {
    /// Collects a value. Returns whether its line is full now.
    fn collect(&mut self, (metric, values, value): Record, now: Timestamp) -> bool {
        self.recorded_at = Some(now);
        let line = self.lines.entry((metric.dimensions, values)).or_default();
        collect(line, metric, value)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        // The absolute difference, so that a clock that is set back does not delay a write.
        let elapsed = |at| now.duration_since(at).abs();
        self.written_at.is_none_or(|at| elapsed(at) >= INTERVAL)
    }
}

/// Collects a value in a line. Returns whether the line is full now.
fn collect(line: &mut Line, metric: Metric, value: u64) -> bool {
    let (_, collected) = line.entry(metric.name).or_insert_with(|| {
        let empty = match metric.unit {
            Unit::Count => Collected::Sum(0),
            Unit::Milliseconds | Unit::Microseconds => Collected::Samples(Vec::new()),
        };
        (metric.unit, empty)
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

impl Inner {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(
        &self,
        recorded_at: Timestamp,
        dimensions: Values,
        values: &[&str],
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

    /// Creates metrics with a manual clock that write to a list.
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
    fn metrics_by_plan_have_a_line_for_each_plan() {
        let (metrics, _, lines) = metrics();
        for plan in ["pro", "free", "pro"] {
            metrics.record_of_plan(CHECKOUTS_STARTED, &plan.parse().unwrap(), 1);
        }
        metrics.write();
        metrics.write();
        let lines = lines.lock().unwrap();
        let found: Vec<_> = lines
            .iter()
            .map(|line| (&line["Plan"], &line["CheckoutsStarted"]))
            .collect();
        assert_eq!(
            found,
            [(&json!("free"), &json!(1)), (&json!("pro"), &json!(2))]
        );
        let dimensions = &lines[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"];
        assert_eq!(*dimensions, json!([["Stack", "Plan"]]));
    }

    #[test]
    fn no_two_metrics_have_the_same_name() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn metrics_of_the_same_dimensions_share_a_line() {
        let (metrics, _, lines) = metrics();
        metrics.record(RESERVED_LEASES, &[], 2);
        metrics.record(DECISION_LATENCY, &[], 70);
        metrics.record(DECISION_LATENCY, &[], 90);
        metrics.record(DECISIONS, &["denied", "rate_limited"], 1);
        metrics.record(DECISIONS, &["denied", "quota_exceeded"], 1);
        metrics.write();
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["ReservedLeases"], 2);
        assert_eq!(lines[0]["DecisionLatency"], json!([70, 90]));
        assert_eq!(lines[1]["Reason"], "quota_exceeded");
        assert_eq!(lines[2]["Reason"], "rate_limited");
    }

    #[test]
    fn the_first_values_are_written_at_once_and_later_ones_every_ten_seconds() {
        let (metrics, time, lines) = metrics();
        let written_after = |step: i64| {
            time.advance(SignedDuration::from_secs(step));
            metrics.record_and_write_due([(RESERVED_LEASES, &[] as Values, 1)]);
            lines.lock().unwrap().len()
        };
        assert_eq!(written_after(0), 1);
        assert_eq!(written_after(9), 1);
        assert_eq!(written_after(1), 2);
        assert_eq!(written_after(-11), 3);
        metrics.write();
        metrics.write();
        let lines = lines.lock().unwrap();
        let sums: Vec<_> = lines.iter().map(|line| &line["ReservedLeases"]).collect();
        assert_eq!(sums, [1, 2, 1]);
    }

    #[test]
    fn a_line_has_at_most_as_many_samples_as_the_format_allows() {
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

    /// Generates `docs/metrics.md` from the declarations.
    fn page() -> String {
        let mut page = format!(
            "# Metrics\n\n\
            The functions write these metrics in CloudWatch's embedded metric format, in the namespace\n\
            `{NAMESPACE}`. The first dimension is always `{STACK}`, the stack's name. There is no dimension for\n\
            customers, because CloudWatch bills every combination of values. This page is generated from\n\
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
    fn the_metrics_page_is_up_to_date() {
        crate::assert_page("metrics.md", &page());
    }
}
