//! Usage: the record of a call, the entry that carries records or corrections of them, and the
//! tallies they add up to.
//!
//! An entry is a [CloudEvents 1.0](https://github.com/cloudevents/spec) event of type
//! [`EVENT_TYPE`] or [`ADJUSTMENT_TYPE`]; `source` and `id` together are its identity. Everything an
//! entry says is checked here, because anyone with the right to put events on the bus may have
//! written it.

mod extensions;
mod tally;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::id::{CustomerId, KeyId, PlanId};
use crate::money::MicroUsd;
use crate::plan::Catalog;
use crate::time::rfc3339;

pub use extensions::Extensions;
pub use tally::{Adjusted, Aggregates, Endpoint, Aggregate};

/// The CloudEvents `type` of an entry of records, and the detail type of its EventBridge event. A
/// change that old readers would misread takes a new number.
pub const EVENT_TYPE: &str = "tollgate.usage.v1";
/// The same of an entry of adjustments.
pub const ADJUSTMENT_TYPE: &str = "tollgate.adjustment.v1";
/// What metering layers before 0.1.0 put as the source of every event, whatever their entry's. It is taken
/// until the release after 0.1.0.
const EARLIER_SOURCE: &str = "tollgate.metering";
/// The members of an entry besides its extension attributes.
pub const ATTRIBUTES: [&str; 8] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "data",
];
/// The most records in one entry.
pub const MAX_RECORDS: usize = 100;
/// The most adjustments in one: each is an item of its own.
pub const MAX_ADJUSTMENTS: usize = 20;
/// The most parts that the cost of one call has.
pub const MAX_COSTS: usize = 16;
/// Bytes of a route's template.
pub const MAX_ENDPOINT: usize = 256;
/// Bytes of a provider's name.
pub const MAX_PROVIDER: usize = 64;
/// Bytes of a model's.
pub const MAX_MODEL: usize = 128;
/// A record this far in the future is taken for a broken clock.
pub const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// A record older than this is too late to count.
pub const MAX_AGE: SignedDuration = SignedDuration::from_hours(35 * 24);

/// A bound on every count in a record, or in a part of its costs. The sums of a thousand million records
/// at the bound still fit a `u64`; beyond that, sums stay at the largest.
pub const MAX_NUMBER: u64 = 100_000_000;
/// The same for the size of a body: a terabyte.
const MAX_BYTES: u64 = 1_000_000_000_000;
/// The same for a part of what one call costs: $100,000.
pub const MAX_COST: MicroUsd = MicroUsd(100_000_000_000);
/// A bound on what one adjustment adds or takes away: calls, and micro-dollars.
const MAX_ADJUSTED_CALLS: u64 = 10_000_000_000;
const MAX_ADJUSTED_COST: u64 = 1_000_000_000_000_000;
/// Bytes of what a JSON reader says is wrong, which may quote anything.
const MAX_REASON: usize = 200;

/// An entry: usage of one customer, `D` being [`UsageData`] or [`AdjustmentData`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "an object")]
pub struct UsageEvent<D> {
    /// `1.0`.
    pub specversion: String,
    /// Unique within `source`; the same in every retry.
    pub id: String,
    /// Who made the entry, such as `tollgate:ping`.
    pub source: String,
    /// [`EVENT_TYPE`] or [`ADJUSTMENT_TYPE`].
    pub r#type: String,
    /// When the entry was made.
    #[serde(deserialize_with = "rfc3339")]
    pub time: Timestamp,
    /// The customer.
    pub subject: CustomerId,
    /// `application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// What else stands in the envelope.
    #[serde(flatten)]
    pub extensions: Extensions,
    /// The payload.
    pub data: D,
}

/// The payload of an entry of type [`EVENT_TYPE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct UsageData<R> {
    /// At least one, at most [`MAX_RECORDS`].
    pub records: Vec<R>,
}

/// The payload of an entry of type [`ADJUSTMENT_TYPE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct AdjustmentData<A> {
    /// At least one, at most [`MAX_ADJUSTMENTS`].
    pub adjustments: Vec<A>,
}

/// A correction of what was counted: more or less, and never silently. It is kept apart from the
/// records in every tally, so that a report shows both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Adjustment {
    /// Of which day and month, by an instant within it.
    #[serde(deserialize_with = "rfc3339")]
    pub time: Timestamp,
    /// The plan of the calls that are corrected.
    pub plan: PlanId,
    /// Billable calls more, or fewer.
    #[serde(default, skip_serializing_if = "is_none")]
    pub billable_calls: i64,
    /// What the calls cost their provider more, or less, in micro-dollars.
    #[serde(default, skip_serializing_if = "is_none")]
    pub micro_usd: i64,
    /// Why, in words that the customer reads too.
    pub reason: String,
}

fn is_none(number: &i64) -> bool {
    *number == 0
}

/// One call that a metered function answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct UsageRecord {
    /// When the call came in; decides the day and month it counts in.
    #[serde(deserialize_with = "rfc3339")]
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
    /// From the call's arrival in the function to the end of the answer's body, in milliseconds.
    pub latency_ms: u64,
    /// Bytes of the request's body, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// Bytes of the answer's body that were sent, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// How the answer's body was cut short. Left out, it was not, or nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
    /// Whether the call counts towards the included and charged ones. Left out, it does unless
    /// the function failed: the status is 500 or above, or the body failed or was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billable: Option<bool>,
    /// What the call cost its provider, part by part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<Cost>,
}

/// How the body of an answer was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    /// The function failed while it streamed.
    Failed,
    /// Nobody read on, such as when the caller hung up.
    Dropped,
    /// The function's instance ended.
    Interrupted,
}

/// One part of what a call cost: tokens of a provider, or an amount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
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
        let is_served = match self.truncated {
            Some(Truncation::Failed | Truncation::Interrupted) => false,
            Some(Truncation::Dropped) | None => self.status < 500,
        };
        self.billable.unwrap_or(is_served)
    }
}

/// Why an entry, or one record of it, cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// Not a JSON object of the entry's or record's shape.
    #[error("not of the documented shape: {0}")]
    Shape(String),
    /// A version that this release does not read.
    #[error("type \"{0}\" is not one that this release reads")]
    Version(String),
    /// The subject cannot name a customer in a URL.
    #[error("subject \"{0}\" cannot name a customer: it has a meaning of its own in a URL")]
    Subject(CustomerId),
    /// No record or adjustment, or too many.
    #[error("{0} {1}; an entry has 1 to {2}")]
    Count(usize, &'static str, usize),
    /// A text is empty, too long, or has control characters.
    #[error("{0} must be printable text of 1 to {1} bytes")]
    Text(&'static str, usize),
    /// The method holds the character that separates it from the endpoint where tallies are stored.
    #[error("method must not contain a space")]
    Method,
    /// A number is out of bounds.
    #[error("{0} is out of bounds")]
    Bounds(&'static str),
    /// An adjustment of nothing.
    #[error("billable_calls or micro_usd must be other than 0")]
    Nothing,
    /// The key is another customer's.
    #[error("key {0} is another customer's")]
    Key(KeyId),
    /// No such plan.
    #[error("there is no plan {0}")]
    Plan(PlanId),
    /// Dated in the future.
    #[error("dated more than {} minutes in the future", MAX_AHEAD.as_mins())]
    Future,
    /// Too old.
    #[error("older than {} days", MAX_AGE.as_hours() / 24)]
    Ancient,
    /// The event that brought the entry has another detail type or source than the entry itself.
    #[error("the {0} of the event, \"{1}\", is not the {2} of the entry")]
    Envelope(&'static str, String, &'static str),
    /// The entry's identity is taken by another entry.
    #[error("an entry of the same source and id but other content came before")]
    Conflict,
}

impl Defect {
    /// What a JSON reader says, in few words: it may quote all that it has read.
    #[must_use]
    pub fn shape(error: &serde_json::Error) -> Self {
        let mut said = error.to_string();
        // A place within an item says nothing to whoever sees the whole entry.
        if let Some(at) = said.rfind(" at line ").filter(|_| error.is_data()) {
            said.truncate(at);
        }
        said.truncate(said.floor_char_boundary(MAX_REASON));
        Self::Shape(said)
    }
}

/// An entry as it arrived: its envelope is good, and what it carries is good or bad item by item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// With `id`, its identity.
    pub source: String,
    /// Unique within the source.
    pub id: String,
    /// What it carries.
    pub r#type: EventType,
    /// Whose usage.
    pub customer: CustomerId,
    /// At least one.
    pub items: Vec<Item>,
}

impl Received {
    /// Whether an EventBridge event of this detail type and source may have brought the entry. What may
    /// be put on the bus is decided by them, and so is who says what: nothing is counted that says
    /// otherwise inside.
    ///
    /// # Errors
    /// When either is not what the entry says.
    pub fn check_envelope(&self, detail_type: &str, source: &str) -> Result<(), Defect> {
        if detail_type != self.r#type.as_str() {
            return Err(Defect::Envelope("detail type", quoted(detail_type), "type"));
        }
        // No role of the stack allows that source. Those that do were made for the earlier layer, which
        // put the usage of every function under it.
        let is_earlier_layer = source == EARLIER_SOURCE
            && self.r#type == EventType::Usage
            && self.source.starts_with("tollgate:");
        if source != self.source && !is_earlier_layer {
            return Err(Defect::Envelope("source", quoted(source), "source"));
        }
        Ok(())
    }

    /// Where the items are in the entry, as a JSON pointer (RFC 6901).
    #[must_use]
    pub fn pointer(&self) -> &'static str {
        match self.r#type {
            EventType::Usage => "/data/records",
            EventType::Adjustment => "/data/adjustments",
        }
    }
}

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// [`EVENT_TYPE`]: records.
    Usage,
    /// [`ADJUSTMENT_TYPE`]: adjustments.
    Adjustment,
}

impl EventType {
    /// The `type` of such an entry.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Usage => EVENT_TYPE,
            EventType::Adjustment => ADJUSTMENT_TYPE,
        }
    }
}

/// A record or an adjustment, or what is neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A call.
    Record(UsageRecord),
    /// A correction.
    Adjustment(Adjustment),
    /// Not of the shape that the entry's type says.
    Unreadable(Box<Unreadable>),
}

/// An item that can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Countable<'a> {
    /// A call.
    Record(&'a UsageRecord),
    /// A correction.
    Adjustment(&'a Adjustment),
}

/// An item that is not of its shape, with what can be read of it all the same. Another release may
/// read it, and has to find it in the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    defect: Defect,
    time: Option<Timestamp>,
    method: String,
    endpoint: String,
}

/// Where an item counts, as far as it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Decides the day.
    pub time: Option<Timestamp>,
    /// Empty if there is none.
    pub method: &'a str,
    /// The same.
    pub endpoint: &'a str,
}

/// Reads an entry, of whose items each is good or bad by itself.
///
/// # Errors
/// When the envelope is not of the documented shape, so that nothing in it can be trusted.
pub fn parse_event(detail: &str) -> Result<Received, Defect> {
    #[derive(Deserialize)]
    struct Typed {
        r#type: String,
    }
    let entry: UsageEvent<&RawValue> = read(detail).map_err(|defect| {
        // What is of another version may well be of another shape.
        match read::<Typed>(detail) {
            Ok(Typed { r#type }) if !is_known(&r#type) => version(&r#type),
            _ => defect,
        }
    })?;
    let data = entry.data.get();
    let (r#type, items): (_, Vec<Item>) = match entry.r#type.as_str() {
        EVENT_TYPE => {
            let data: UsageData<&RawValue> = read(data)?;
            let records = data.records.into_iter();
            let records = records.map(|raw| item(raw, Item::Record));
            (EventType::Usage, records.collect())
        }
        ADJUSTMENT_TYPE => {
            let data: AdjustmentData<&RawValue> = read(data)?;
            let adjustments = data.adjustments.into_iter();
            let adjustments = adjustments.map(|raw| item(raw, Item::Adjustment));
            (EventType::Adjustment, adjustments.collect())
        }
        other => return Err(version(other)),
    };
    if entry.specversion != "1.0" {
        return Err(Defect::Bounds("specversion"));
    }
    text("id", &entry.id, 128)?;
    text("source", &entry.source, 128)?;
    if !entry.subject.is_path_segment() {
        return Err(Defect::Subject(entry.subject));
    }
    let (what, most) = match r#type {
        EventType::Usage => ("records", MAX_RECORDS),
        EventType::Adjustment => ("adjustments", MAX_ADJUSTMENTS),
    };
    if !(1..=most).contains(&items.len()) {
        return Err(Defect::Count(items.len(), what, most));
    }
    Ok(Received {
        source: entry.source,
        id: entry.id,
        r#type,
        customer: entry.subject,
        items,
    })
}

fn is_known(r#type: &str) -> bool {
    [EVENT_TYPE, ADJUSTMENT_TYPE].contains(&r#type)
}

fn version(found: &str) -> Defect {
    Defect::Version(quoted(found))
}

/// The beginning of a text that may be anything.
fn quoted(text: &str) -> String {
    text.escape_debug().take(64).collect()
}

fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Defect> {
    // The members of a struct may come as a list, as far as serde is concerned.
    if json.trim_start().starts_with('[') {
        return Err(Defect::Shape(
            "invalid type: a list, expected an object".to_owned(),
        ));
    }
    serde_json::from_str(json).map_err(|error| Defect::shape(&error))
}

fn item<'a, T: Deserialize<'a>>(raw: &'a RawValue, good: impl FnOnce(T) -> Item) -> Item {
    match read(raw.get()) {
        Ok(read) => good(read),
        Err(defect) => {
            let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
            let text = |field: &str| value[field].as_str().unwrap_or_default();
            Item::Unreadable(Box::new(Unreadable {
                defect,
                // Whatever any release has read as a time: the item keeps its place.
                time: text("time").parse().ok(),
                method: text("method").to_owned(),
                endpoint: text("endpoint").to_owned(),
            }))
        }
    }
}

impl Item {
    /// Where it counts.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        match self {
            Item::Record(record) => Place {
                time: Some(record.time),
                method: &record.method,
                endpoint: &record.endpoint,
            },
            Item::Adjustment(adjustment) => Place {
                time: Some(adjustment.time),
                method: "",
                endpoint: "",
            },
            Item::Unreadable(unreadable) => Place {
                time: unreadable.time,
                method: &unreadable.method,
                endpoint: &unreadable.endpoint,
            },
        }
    }

    /// What there is to count, as of `now`.
    ///
    /// # Errors
    /// Why it cannot be counted; the other items of its entry may.
    pub fn check(&self, plans: &Catalog, now: Timestamp) -> Result<Countable<'_>, Defect> {
        let (countable, plan, time) = match self {
            Item::Record(record) => {
                record.check()?;
                (Countable::Record(record), &record.plan, record.time)
            }
            Item::Adjustment(adjustment) => {
                adjustment.check()?;
                let countable = Countable::Adjustment(adjustment);
                (countable, &adjustment.plan, adjustment.time)
            }
            Item::Unreadable(unreadable) => return Err(unreadable.defect.clone()),
        };
        if plans.get(plan).is_none() {
            return Err(Defect::Plan(plan.clone()));
        }
        let ahead = time.as_duration() - now.as_duration();
        if ahead > MAX_AHEAD {
            return Err(Defect::Future);
        }
        if -ahead > MAX_AGE {
            return Err(Defect::Ancient);
        }
        Ok(countable)
    }
}

impl UsageRecord {
    fn check(&self) -> Result<(), Defect> {
        text("request_id", &self.request_id, 128)?;
        text("method", &self.method, 16)?;
        if self.method.contains(' ') {
            return Err(Defect::Method);
        }
        text("endpoint", &self.endpoint, MAX_ENDPOINT)?;
        let numbers = [
            ("status", u64::from(self.status), 100..=599),
            ("latency_ms", self.latency_ms, 0..=MAX_NUMBER),
            (
                "request_bytes",
                self.request_bytes.unwrap_or(0),
                0..=MAX_BYTES,
            ),
            (
                "response_bytes",
                self.response_bytes.unwrap_or(0),
                0..=MAX_BYTES,
            ),
        ];
        for (name, number, bounds) in numbers {
            if !bounds.contains(&number) {
                return Err(Defect::Bounds(name));
            }
        }
        if self.costs.len() > MAX_COSTS {
            return Err(Defect::Bounds("costs"));
        }
        for cost in &self.costs {
            if let Some(provider) = &cost.provider {
                text("provider", provider, MAX_PROVIDER)?;
            }
            if let Some(model) = &cost.model {
                text("model", model, MAX_MODEL)?;
            }
            let tokens = [cost.input_tokens, cost.output_tokens, cost.tokens];
            if tokens.iter().any(|n| *n > MAX_NUMBER) || cost.micro_usd > MAX_COST {
                return Err(Defect::Bounds("costs"));
            }
        }
        Ok(())
    }
}

impl Adjustment {
    fn check(&self) -> Result<(), Defect> {
        text("reason", &self.reason, 512)?;
        if self.billable_calls == 0 && self.micro_usd == 0 {
            return Err(Defect::Nothing);
        }
        if self.billable_calls.unsigned_abs() > MAX_ADJUSTED_CALLS {
            return Err(Defect::Bounds("billable_calls"));
        }
        if self.micro_usd.unsigned_abs() > MAX_ADJUSTED_COST {
            return Err(Defect::Bounds("micro_usd"));
        }
        Ok(())
    }
}

fn text(what: &'static str, value: &str, max: usize) -> Result<(), Defect> {
    if (1..=max).contains(&value.len()) && !value.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(Defect::Text(what, max))
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

    /// The one item of an entry of this type that carries `json`.
    fn read_item(r#type: &str, member: &str, json: &Value) -> Result<Item, Defect> {
        let mut entry = entry();
        entry["type"] = r#type.into();
        entry["data"] = json!({ member: [json] });
        let mut items = parse_event(&entry.to_string())?.items;
        let item = items.remove(0);
        item.check(&Catalog::shipped().unwrap(), now())?;
        Ok(item)
    }

    fn read(record: &Value) -> Result<UsageRecord, Defect> {
        match read_item(EVENT_TYPE, "records", record)? {
            Item::Record(record) => Ok(record),
            other => panic!("{other:?}"),
        }
    }

    fn with(field: &str, value: Value) -> Value {
        let mut record = record();
        record[field] = value;
        record
    }

    #[test]
    fn a_good_record_is_read_and_written_the_same() {
        for record in [record(), with("truncated", json!("dropped"))] {
            let read = read(&record).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), record);
        }
    }

    #[test]
    fn each_defect_of_a_record_is_named() {
        let check = |record: Value, reason: &str| {
            let defect = read(&record).unwrap_err().to_string();
            assert!(defect.contains(reason), "{record}: {defect}");
        };
        check(json!(1), "invalid type");
        check(
            json!(["2026-11-22T09:59:59Z", "r-1"]),
            "invalid type: a list",
        );
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
        check(with("truncated", json!("cut")), "unknown variant `cut`");
        check(
            with("time", json!("yesterday")),
            "not of the documented shape",
        );
        check(
            with("time", json!("2026-11-22 09:00:00Z")),
            "a time must be as in RFC 3339",
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
    fn what_is_said_of_a_defect_is_short_whatever_the_defect() {
        let long = "\u{1f40c}".repeat(100_000);
        let fields = ["status", "latency_ms", "time", "surprise"];
        let records = fields.map(|field| with(field, json!(long)));
        let wholes = [json!(long), json!([long]), json!({ &long: long })];
        for record in records.iter().chain(&wholes) {
            let defect = read(record).unwrap_err().to_string();
            assert!(defect.len() < 300, "{} bytes", defect.len());
        }
    }

    #[test]
    fn a_call_counts_unless_the_function_failed() {
        let check = |status: u16, truncated: Option<&str>, billable: Option<bool>, expected| {
            let mut record = with("status", status.into());
            record["truncated"] = truncated.into();
            record["billable"] = billable.into();
            let read = read(&record).unwrap();
            assert_eq!(read.is_billable(), expected, "{record}");
        };
        check(499, None, None, true);
        check(500, None, None, false);
        check(200, Some("dropped"), None, true);
        check(500, Some("dropped"), None, false);
        check(200, Some("failed"), None, false);
        check(200, Some("interrupted"), None, false);
        check(200, Some("failed"), Some(true), true);
        check(200, None, Some(false), false);
    }

    #[test]
    fn nothing_is_nested_too_deeply() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let entry = entry().to_string();
        let record = record().to_string();
        let as_record = entry.replace(&record, &deep);
        let item = &parse_event(&as_record).unwrap().items[0];
        assert!(item.check(&Catalog::shipped().unwrap(), now()).is_err());
        assert!(parse_event(&deep).is_err());
        let data = format!("{{\"records\":[{record}]}}");
        assert!(parse_event(&entry.replace(&data, &deep)).is_err());
        assert!(parse_event(&entry.replace("\"e-1\"", &deep)).is_err());
    }

    fn adjustment() -> Value {
        json!({
            "time": "2026-11-20T12:00:00Z", "plan": "pro", "billable_calls": -12,
            "micro_usd": -36_000, "reason": "retries during our outage"
        })
    }

    #[test]
    fn a_good_adjustment_is_read_and_written_the_same() {
        let read = read_item(ADJUSTMENT_TYPE, "adjustments", &adjustment()).unwrap();
        let Item::Adjustment(read) = read else {
            panic!("{read:?}");
        };
        assert_eq!(serde_json::to_value(&read).unwrap(), adjustment());
    }

    #[test]
    fn each_defect_of_an_adjustment_is_named() {
        let check = |field: &str, value: Value, reason: &str| {
            let mut adjustment = adjustment();
            adjustment[field] = value;
            let read = read_item(ADJUSTMENT_TYPE, "adjustments", &adjustment);
            let defect = read.unwrap_err().to_string();
            assert!(defect.contains(reason), "{adjustment}: {defect}");
        };
        check("reason", json!(""), "reason must be");
        check("reason", json!("x".repeat(513)), "reason must be");
        check("plan", json!("platinum"), "no plan platinum");
        check("billable_calls", json!(1.5), "invalid type");
        check(
            "billable_calls",
            json!(-10_000_000_001_i64),
            "billable_calls is out",
        );
        check("micro_usd", json!(i64::MIN), "micro_usd is out");
        check("time", json!("2026-11-22T10:05:01Z"), "in the future");
        check("calls", json!(1), "unknown field");
        let nothing = json!({ "time": "2026-11-20T12:00:00Z", "plan": "pro", "reason": "none" });
        let defect = read_item(ADJUSTMENT_TYPE, "adjustments", &nothing).unwrap_err();
        assert_eq!(defect, Defect::Nothing);
    }

    #[test]
    fn what_an_adjustment_adds_up_to_is_apart_from_the_records() {
        let mut sums = Aggregates::default();
        sums.add(&read(&record()).unwrap());
        let Item::Adjustment(adjustment) =
            read_item(ADJUSTMENT_TYPE, "adjustments", &adjustment()).unwrap()
        else {
            panic!("no adjustment");
        };
        sums.adjust(&adjustment);
        let month = &sums.months[&"2026-11".parse().unwrap()];
        assert_eq!((month.calls, month.billable_calls()), (1, 1));
        assert_eq!(
            (month.adjusted.count, month.adjusted.billable_calls()),
            (1, -12)
        );
        assert_eq!(month.adjusted.micro_usd, -36_000);
        assert_eq!((sums.days.len(), sums.endpoints.len()), (2, 1));
        let back = Adjustment {
            billable_calls: 12,
            ..adjustment
        };
        sums.adjust(&back);
        let month = &sums.months[&"2026-11".parse().unwrap()];
        assert!(month.adjusted.billable.is_empty());
        assert_eq!(month.adjusted.count, 2);
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
    fn an_entry_is_what_the_event_that_brought_it_says() {
        let brought = |r#type: EventType, source: &str, by_type: &str, by_source: &str| {
            let received = Received {
                source: source.to_owned(),
                id: "e-1".to_owned(),
                r#type,
                customer: "acme".parse().unwrap(),
                items: Vec::new(),
            };
            received.check_envelope(by_type, by_source).is_ok()
        };
        let (usage, adjustment) = (EventType::Usage, EventType::Adjustment);
        let (ping, other) = ("tollgate:ping", "billing-import");
        assert!(brought(usage, ping, EVENT_TYPE, ping));
        assert!(brought(usage, other, EVENT_TYPE, other));
        assert!(brought(adjustment, other, ADJUSTMENT_TYPE, other));
        assert!(!brought(usage, ping, ADJUSTMENT_TYPE, ping));
        assert!(!brought(usage, ping, EVENT_TYPE, other));
        // The earlier layer put the usage of all functions under one source, and nothing else.
        assert!(brought(usage, ping, EVENT_TYPE, EARLIER_SOURCE));
        assert!(!brought(usage, other, EVENT_TYPE, EARLIER_SOURCE));
        assert!(!brought(adjustment, ping, ADJUSTMENT_TYPE, EARLIER_SOURCE));
    }

    #[test]
    fn each_defect_of_an_entry_is_named() {
        let check = |field: &str, value: Value, reason: &str| {
            let mut entry = entry();
            entry[field] = value;
            let defect = parse_event(&entry.to_string()).unwrap_err().to_string();
            assert!(defect.contains(reason), "{field}: {defect}");
        };
        assert!(parse_event(&entry().to_string()).is_ok());
        check("type", json!("tollgate.usage.v2"), "v2");
        check("type", json!(ADJUSTMENT_TYPE), "unknown field `records`");
        check("specversion", json!("0.3"), "specversion");
        check("id", json!(""), "id must be");
        check("source", json!("x".repeat(129)), "source must be");
        check("subject", json!("a#b"), "customer id");
        check("subject", json!(".."), "subject \"..\" cannot name");
        check("time", json!("2026-11-22T10:00Z"), "RFC 3339");
        check("time", json!("9999-12-31T23:59:59Z"), "the latest time is");
        check("data", json!({ "records": [] }), "0 records");
        check("data", json!({ "records": vec![0; 101] }), "101 records");
        check("data_base64", json!("e30="), "unknown field `data_base64`");
        check("traceParent", json!("00-1"), "unknown field `traceParent`");
        for value in [json!({}), json!([1]), json!(1.5), json!(2_147_483_648_u32)] {
            check("surprise", value, "extension attribute `surprise`");
        }
        check("surprise", json!("a\nb"), "extension attribute `surprise`");
    }

    #[test]
    fn extension_attributes_are_read_and_written_the_same() {
        let mut extended = entry();
        let bare = parse_event(&extended.to_string());
        for (name, value) in [
            (
                "traceparent",
                json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ),
            ("dataschema", json!("https://example.com/usage.json")),
            ("partitionkey", json!("")),
            ("sampledrate", json!(-2_147_483_648_i64)),
            ("retry2", json!(true)),
            ("nothing", json!(null)),
        ] {
            extended[name] = value;
        }
        assert_eq!(parse_event(&extended.to_string()), bare);
        let read: UsageEvent<Value> = serde_json::from_value(extended.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), extended);
    }

    #[test]
    fn no_member_of_an_entry_comes_twice() {
        let entry = entry().to_string();
        for member in [
            "\"id\":\"e-2\",",
            "\"traceparent\":\"1\",\"traceparent\":\"2\",",
        ] {
            let doubled = format!("{{{member}{}", &entry[1..]);
            let defect = parse_event(&doubled).unwrap_err().to_string();
            assert!(defect.contains("duplicate field `"), "{defect}");
        }
    }

    #[test]
    fn members_that_an_entry_does_not_have_are_none_of_a_record() {
        for member in ["traceparent", "dataschema"] {
            let defect = read(&with(member, json!("x"))).unwrap_err().to_string();
            assert!(defect.contains("unknown field"), "{defect}");
        }
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
        let one: Aggregates = records[..1].iter().collect();
        assert_eq!((sums.len(), one.len()), (6, 3));
        assert!(!one.is_empty() && Aggregates::default().is_empty());
    }

    #[test]
    fn sums_of_parts_add_up_to_the_sum() {
        let records = [200, 200, 404, 500, 500].map(|status| {
            let mut record = read(&with("status", json!(status))).unwrap();
            if status == 500 {
                record.time = "2026-10-31T23:59:59Z".parse().unwrap();
            }
            record
        });
        let all: Aggregates = records.iter().collect();
        for at in 0..=records.len() {
            let (first, second) = records.split_at(at);
            let mut sum: Aggregates = first.iter().collect();
            sum.merge(&second.iter().collect());
            assert_eq!(sum, all, "{at}");
        }
        let Ok(Item::Adjustment(adjustment)) =
            read_item(ADJUSTMENT_TYPE, "adjustments", &adjustment())
        else {
            panic!("an adjustment cannot be read");
        };
        let (mut one, mut two) = (Aggregates::default(), all);
        one.adjust(&adjustment);
        two.merge(&one);
        two.merge(&one);
        let november = &two.months[&"2026-11".parse().unwrap()].adjusted;
        assert_eq!((november.count, november.billable_calls()), (2, -24));
        assert_eq!(november.micro_usd, -72_000);
    }
}
