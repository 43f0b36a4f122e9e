//! Usage: the record of a call, the entry that carries records, and the tallies they add up to.
//!
//! An entry is a [CloudEvents 1.0](https://github.com/cloudevents/spec) event of type
//! [`EVENT_TYPE`]; `source` and `id` together are its identity. Everything an entry says is checked
//! here, because anyone with the right to put events on the bus may have written it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{CustomerId, KeyId, PlanId};
use crate::money::MicroUsd;
use crate::plan::Catalog;
use crate::window::{Day, Month};

/// The CloudEvents `type` of an entry, and the detail type of its EventBridge event. A change that
/// old readers would misread takes a new number.
pub const EVENT_TYPE: &str = "tollgate.usage.v1";
/// The most records in one entry.
pub const MAX_RECORDS: usize = 100;
/// A record this far in the future is taken for a broken clock.
pub const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// A record older than this is too late to count.
pub const MAX_AGE: SignedDuration = SignedDuration::from_hours(35 * 24);

/// A bound on every count in a record. The sums of a hundred thousand million records at the bound
/// still fit a `u64`.
const MAX_NUMBER: u64 = 100_000_000;
/// The same for the size of a body: a terabyte.
const MAX_BYTES: u64 = 1_000_000_000_000;
/// The same for what one call costs: $100,000.
const MAX_COST: MicroUsd = MicroUsd(100_000_000_000);

/// An entry: up to [`MAX_RECORDS`] records of one customer. `R` is [`Value`] until each record has
/// been read on its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageEntry<R> {
    /// `1.0`.
    pub specversion: String,
    /// Unique within `source`; the same in every retry.
    pub id: String,
    /// Who made the entry, such as `tollgate:ping`.
    pub source: String,
    /// [`EVENT_TYPE`].
    pub r#type: String,
    /// When the entry was made.
    pub time: Timestamp,
    /// The customer.
    pub subject: CustomerId,
    /// `application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// The records.
    pub data: UsageData<R>,
}

/// The payload of an entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageData<R> {
    /// At least one.
    pub records: Vec<R>,
}

/// One call that a metered function answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageRecord {
    /// When the call came in; decides the day and month it counts in.
    pub time: Timestamp,
    /// The gateway's id of the request.
    pub request_id: String,
    /// The key it was made with.
    pub key_id: KeyId,
    /// The customer's plan at the time.
    pub plan: PlanId,
    /// HTTP method.
    pub method: String,
    /// The route's template, such as `/api/debates/{id}`; never the path itself, which can hold
    /// anything.
    pub endpoint: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// From the call's arrival in the function to its answer, in milliseconds.
    pub latency_ms: u64,
    /// Bytes of the request's body, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// Bytes of the answer's body, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// Whether the call counts towards the included and charged ones. Left out, it does if the
    /// status is below 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billable: Option<bool>,
    /// What the call cost its provider, part by part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<Cost>,
}

/// One part of what a call cost: tokens of a provider, or an amount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Who was paid, such as `anthropic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Of its models, the one that served the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Language-model tokens that were sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_tokens: u64,
    /// Those that were made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_tokens: u64,
    /// Those of which neither is known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tokens: u64,
    /// The amount; 0 for tokens of a provider whose price is not known.
    pub micro_usd: MicroUsd,
    /// True if the price of the tokens was not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpriced: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Cost {
    /// All of its tokens.
    #[must_use]
    pub fn all_tokens(&self) -> u64 {
        let known = self.input_tokens.saturating_add(self.output_tokens);
        known.saturating_add(self.tokens)
    }
}

impl UsageRecord {
    /// Whether the call counts towards the included and charged ones.
    #[must_use]
    pub fn is_billable(&self) -> bool {
        self.billable.unwrap_or(self.status < 500)
    }
}

/// Why an entry, or one record of it, cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// Not a JSON object of the entry's or record's shape.
    #[error("not of the documented shape: {0}")]
    Shape(String),
    /// A version that this release does not read.
    #[error("type {0:?} is not one that this release reads")]
    Version(String),
    /// No record, or too many.
    #[error("{0} records; an entry has 1 to {MAX_RECORDS}")]
    RecordCount(usize),
    /// A text is empty, too long, or has control characters.
    #[error("{0} must be 1 to {1} printable characters")]
    Text(&'static str, usize),
    /// The method holds the character that separates it from the endpoint where tallies are stored.
    #[error("method must not contain a space")]
    Method,
    /// A number is out of bounds.
    #[error("{0} is out of bounds")]
    Bounds(&'static str),
    /// No such plan.
    #[error("there is no plan {0}")]
    Plan(PlanId),
    /// Dated in the future.
    #[error("dated more than {} minutes in the future", MAX_AHEAD.as_mins())]
    Future,
    /// Too old.
    #[error("older than {} days", MAX_AGE.as_hours() / 24)]
    Ancient,
    /// The entry's identity is taken by another entry.
    #[error("an entry of the same source and id but other content was counted before")]
    Conflict,
}

/// Reads the envelope of an entry, leaving its records to be read one by one.
///
/// # Errors
/// When the envelope is not of the documented shape, so that no record of it can be trusted.
pub fn read_entry(detail: Value) -> Result<UsageEntry<Value>, Defect> {
    if let Some(Value::String(found)) = detail.get("type")
        && found != EVENT_TYPE
    {
        return Err(Defect::Version(found.chars().take(64).collect()));
    }
    let entry: UsageEntry<Value> =
        serde_json::from_value(detail).map_err(|error| Defect::Shape(error.to_string()))?;
    if entry.specversion != "1.0" {
        return Err(Defect::Bounds("specversion"));
    }
    text("id", &entry.id, 128)?;
    text("source", &entry.source, 128)?;
    let count = entry.data.records.len();
    if count == 0 || count > MAX_RECORDS {
        return Err(Defect::RecordCount(count));
    }
    Ok(entry)
}

/// Reads one record, as of `now`.
///
/// # Errors
/// When it cannot be counted; the other records of its entry can.
pub fn read_record(record: &Value, plans: &Catalog, now: Timestamp) -> Result<UsageRecord, Defect> {
    let record =
        UsageRecord::deserialize(record).map_err(|error| Defect::Shape(error.to_string()))?;
    text("request_id", &record.request_id, 128)?;
    text("method", &record.method, 16)?;
    if record.method.contains(' ') {
        return Err(Defect::Method);
    }
    text("endpoint", &record.endpoint, 256)?;
    if plans.get(&record.plan).is_none() {
        return Err(Defect::Plan(record.plan));
    }
    if !(100..=599).contains(&record.status) {
        return Err(Defect::Bounds("status"));
    }
    if record.latency_ms > MAX_NUMBER {
        return Err(Defect::Bounds("latency_ms"));
    }
    if record.request_bytes.is_some_and(|bytes| bytes > MAX_BYTES) {
        return Err(Defect::Bounds("request_bytes"));
    }
    if record.response_bytes.is_some_and(|bytes| bytes > MAX_BYTES) {
        return Err(Defect::Bounds("response_bytes"));
    }
    if record.costs.len() > 16 {
        return Err(Defect::Bounds("costs"));
    }
    for cost in &record.costs {
        if let Some(provider) = &cost.provider {
            text("provider", provider, 64)?;
        }
        if let Some(model) = &cost.model {
            text("model", model, 128)?;
        }
        let tokens = [cost.input_tokens, cost.output_tokens, cost.tokens];
        if tokens.iter().any(|n| *n > MAX_NUMBER) || cost.micro_usd > MAX_COST {
            return Err(Defect::Bounds("costs"));
        }
    }
    let ahead = record.time.as_duration() - now.as_duration();
    if ahead > MAX_AHEAD {
        return Err(Defect::Future);
    }
    if -ahead > MAX_AGE {
        return Err(Defect::Ancient);
    }
    Ok(record)
}

fn text(what: &'static str, value: &str, max: usize) -> Result<(), Defect> {
    if (1..=max).contains(&value.len()) && !value.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(Defect::Text(what, max))
    }
}

/// What a set of records adds up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls answered.
    pub calls: u64,
    /// Calls that count towards the included and charged ones, by the plan they were made on.
    pub billable: BTreeMap<PlanId, u64>,
    /// Calls answered with a 4xx status.
    pub client_errors: u64,
    /// Calls answered with a 5xx status.
    pub server_errors: u64,
    /// Sum of the latencies, in milliseconds.
    pub latency_ms: u64,
    /// Language-model tokens.
    pub tokens: u64,
    /// Those of them whose price was not known.
    pub unpriced_tokens: u64,
    /// What the calls cost their provider.
    pub cost: MicroUsd,
}

impl Tally {
    /// Adds one record.
    pub fn add(&mut self, record: &UsageRecord) {
        self.calls += 1;
        if record.is_billable() {
            *self.billable.entry(record.plan.clone()).or_default() += 1;
        }
        self.client_errors += u64::from((400..500).contains(&record.status));
        self.server_errors += u64::from(record.status >= 500);
        self.latency_ms = self.latency_ms.saturating_add(record.latency_ms);
        for cost in &record.costs {
            let tokens = cost.all_tokens();
            self.tokens = self.tokens.saturating_add(tokens);
            if cost.unpriced {
                self.unpriced_tokens = self.unpriced_tokens.saturating_add(tokens);
            }
            self.cost = self.cost + cost.micro_usd;
        }
    }

    /// Adds another tally.
    pub fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        for (plan, calls) in &other.billable {
            *self.billable.entry(plan.clone()).or_default() += calls;
        }
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.latency_ms = self.latency_ms.saturating_add(other.latency_ms);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.unpriced_tokens = self.unpriced_tokens.saturating_add(other.unpriced_tokens);
        self.cost = self.cost + other.cost;
    }

    /// Billable calls on all plans.
    #[must_use]
    pub fn billable_calls(&self) -> u64 {
        self.billable.values().sum()
    }
}

/// A method and a route template: what endpoint statistics are kept by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// HTTP method.
    pub method: String,
    /// Route template.
    pub route: String,
}

/// The tallies of some records of one customer, by every key they are stored under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aggregates {
    /// By UTC day.
    pub days: BTreeMap<Day, Tally>,
    /// By UTC day and endpoint.
    pub endpoints: BTreeMap<(Day, Endpoint), Tally>,
    /// By UTC month.
    pub months: BTreeMap<Month, Tally>,
}

impl Aggregates {
    /// Adds one record under each of its keys.
    pub fn add(&mut self, record: &UsageRecord) {
        let day = Day::containing(record.time);
        let endpoint = Endpoint {
            method: record.method.clone(),
            route: record.endpoint.clone(),
        };
        self.days.entry(day).or_default().add(record);
        self.endpoints
            .entry((day, endpoint))
            .or_default()
            .add(record);
        self.months.entry(day.month()).or_default().add(record);
    }

    /// Adds other aggregates.
    pub fn merge(&mut self, other: &Self) {
        for (day, tally) in &other.days {
            self.days.entry(*day).or_default().merge(tally);
        }
        for (endpoint, tally) in &other.endpoints {
            let sum = self.endpoints.entry(endpoint.clone()).or_default();
            sum.merge(tally);
        }
        for (month, tally) in &other.months {
            self.months.entry(*month).or_default().merge(tally);
        }
    }

    /// How many items they are stored in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.days.len() + self.endpoints.len() + self.months.len()
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.days.is_empty()
    }
}

impl<'a> FromIterator<&'a UsageRecord> for Aggregates {
    fn from_iter<I: IntoIterator<Item = &'a UsageRecord>>(records: I) -> Self {
        let mut aggregates = Self::default();
        for record in records {
            aggregates.add(record);
        }
        aggregates
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    fn record() -> Value {
        json!({
            "time": "2026-11-22T09:59:59.123Z",
            "request_id": "r-1",
            "key_id": "key_1",
            "plan": "pro",
            "method": "POST",
            "endpoint": "/api/analyze",
            "status": 200,
            "latency_ms": 12,
            "costs": [
                { "provider": "anthropic", "tokens": 1000, "micro_usd": 3000 },
                { "provider": "nobody", "tokens": 5, "micro_usd": 0, "unpriced": true }
            ]
        })
    }

    fn read(record: &Value) -> Result<UsageRecord, Defect> {
        read_record(record, &Catalog::shipped().unwrap(), now())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut record = record();
        record[field] = value;
        record
    }

    #[test]
    fn a_good_record_is_read_and_written_the_same() {
        let read = read(&record()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), record());
    }

    #[test]
    fn each_defect_of_a_record_is_named() {
        let check = |record: Value, reason: &str| {
            let defect = read(&record).unwrap_err().to_string();
            assert!(defect.contains(reason), "{record}: {defect}");
        };
        check(json!(1), "invalid type");
        check(with("status", json!("200")), "invalid type");
        check(with("status", json!(-1)), "invalid value");
        check(with("status", json!(99)), "status is out of bounds");
        check(with("latency_ms", json!(1e308)), "invalid type");
        check(
            with("latency_ms", json!(u64::MAX)),
            "latency_ms is out of bounds",
        );
        check(with("latency_ms", json!(1.5)), "invalid type");
        check(with("plan", json!("platinum")), "no plan platinum");
        check(with("plan", json!("a b")), "plan id");
        check(with("endpoint", json!("")), "endpoint must be");
        check(with("endpoint", json!("x".repeat(257))), "endpoint must be");
        check(with("method", json!("G\nET")), "method must be");
        check(with("method", json!("GET /a")), "must not contain a space");
        check(with("extra", json!(1)), "unknown field `extra`");
        check(
            with("time", json!("yesterday")),
            "not of the documented shape",
        );
        check(
            with("time", json!("2026-11-22T10:05:00.001Z")),
            "in the future",
        );
        check(
            with("time", json!("2026-10-18T09:59:59Z")),
            "older than 35 days",
        );
        check(with("costs", json!([{ "micro_usd": -1 }])), "invalid value");
        check(
            with("costs", json!([{ "micro_usd": 100_000_000_001_u64 }])),
            "costs is out",
        );
    }

    #[test]
    fn the_edges_of_the_accepted_times_are_accepted() {
        assert!(read(&with("time", json!("2026-11-22T10:05:00Z"))).is_ok());
        assert!(read(&with("time", json!("2026-10-18T10:00:00Z"))).is_ok());
    }

    fn entry() -> Value {
        json!({
            "specversion": "1.0", "id": "e-1", "source": "tollgate:ping", "type": EVENT_TYPE,
            "time": "2026-11-22T10:00:00Z", "subject": "acme", "data": { "records": [record()] }
        })
    }

    #[test]
    fn each_defect_of_an_entry_is_named() {
        let check = |field: &str, value: Value, reason: &str| {
            let mut entry = entry();
            entry[field] = value;
            let defect = read_entry(entry).unwrap_err().to_string();
            assert!(defect.contains(reason), "{field}: {defect}");
        };
        assert!(read_entry(entry()).is_ok());
        check("type", json!("tollgate.usage.v2"), "v2");
        check("specversion", json!("0.3"), "specversion");
        check("id", json!(""), "id must be");
        check("source", json!("x".repeat(129)), "source must be");
        check("subject", json!("a#b"), "customer id");
        check("data", json!({ "records": [] }), "0 records");
        check("data", json!({ "records": vec![0; 101] }), "101 records");
        check("surprise", json!(true), "unknown field");
    }

    #[test]
    fn records_add_up_under_every_key() {
        let mut failed = read(&with("status", json!(500))).unwrap();
        failed.time = "2026-10-31T23:59:59Z".parse().unwrap();
        let records = [read(&record()).unwrap(), read(&record()).unwrap(), failed];
        let sums: Aggregates = records.iter().collect();
        assert_eq!(sums.days.len(), 2);
        assert_eq!(sums.endpoints.len(), 2);
        assert_eq!(sums.months.len(), 2);
        let november = &sums.months[&"2026-11".parse().unwrap()];
        assert_eq!((november.calls, november.billable_calls()), (2, 2));
        assert_eq!((november.tokens, november.unpriced_tokens), (2_010, 10));
        assert_eq!(november.cost, MicroUsd(6_000));
        let october = &sums.months[&"2026-10".parse().unwrap()];
        assert_eq!((october.calls, october.billable_calls()), (1, 0));
        assert_eq!(october.server_errors, 1);
        let mut merged = november.clone();
        merged.merge(october);
        assert_eq!(merged.calls, 3);
    }
}
