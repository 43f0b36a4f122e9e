//! Usage: records of calls, the usage events that carry records or adjustments, and their aggregates.
//!
//! A usage event is a [CloudEvents 1.0](https://github.com/cloudevents/spec) event of type
//! [`EVENT_TYPE`] or [`ADJUSTMENT_TYPE`]; `source` and `id` together are its identity. Every member is
//! validated here, because any producer with permission to put events on the bus may have written it.

mod aggregate;
mod dimension;
mod extensions;
mod latency;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::id::{CustomerId, KeyId, PlanId};
use crate::money::MicroUsd;
use crate::plan_book::PlanBook;
use crate::time::rfc3339;

pub use aggregate::{AdjustmentTotals, Aggregate, Aggregates};
pub use dimension::{Dimension, DimensionValue, Endpoint, Model};
pub use extensions::Extensions;
pub use latency::{LATENCY_BUCKETS, Latencies};

/// CloudEvents `type` of a usage event with records, and detail type of its EventBridge event. A change
/// that old readers would misread needs a new version number.
pub const EVENT_TYPE: &str = "tollgate.usage.v1";
/// CloudEvents `type` and detail type of a usage event with adjustments.
pub const ADJUSTMENT_TYPE: &str = "tollgate.adjustment.v1";
/// EventBridge source that metering layers before 0.1.0 used, whatever the usage event's source. It is
/// accepted until the release after 0.1.0.
const EARLIER_SOURCE: &str = "tollgate.metering";
/// Members of a usage event besides its extension attributes.
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
/// Maximum number of records in a usage event.
pub const MAX_RECORDS: usize = 100;
/// Maximum number of adjustments in a usage event. It is lower than for records because each adjustment
/// is stored as an item of its own.
pub const MAX_ADJUSTMENTS: usize = 20;
/// Maximum number of costs in a record.
pub const MAX_COSTS: usize = 16;
/// Maximum length of a route template, in bytes.
pub const MAX_ENDPOINT: usize = 256;
/// Maximum length of a provider's name, in bytes.
pub const MAX_PROVIDER: usize = 64;
/// Maximum length of a model's name, in bytes.
pub const MAX_MODEL: usize = 128;
/// Maximum time that a record may be in the future, to allow for inaccurate clocks.
pub const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// Maximum age of a record that is counted.
pub const MAX_AGE: SignedDuration = SignedDuration::from_hours(35 * 24);

/// Maximum of every count in a record or in one of its costs. The sum of a thousand million records at
/// the maximum still fits a `u64`; beyond that, sums saturate.
pub const MAX_NUMBER: u64 = 100_000_000;
/// Maximum size of a body: a terabyte.
const MAX_BYTES: u64 = 1_000_000_000_000;
/// Maximum amount of one cost: $100,000.
pub const MAX_COST: MicroUsd = MicroUsd(100_000_000_000);
/// Maximum number of calls that one adjustment adds or removes.
const MAX_ADJUSTED_CALLS: u64 = 10_000_000_000;
/// Maximum amount that one adjustment adds or removes, in micro-dollars.
const MAX_ADJUSTED_COST: u64 = 1_000_000_000_000_000;
/// Maximum length of a JSON error message, in bytes; the message may quote the input.
const MAX_REASON: usize = 200;

/// Usage event of one customer; `D` is [`UsageData`] or [`AdjustmentData`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(expecting = "an object")]
pub struct UsageEvent<D> {
    /// CloudEvents version, `1.0`.
    pub specversion: String,
    /// Id that is unique within `source`, and the same in every retry.
    pub id: String,
    /// Producer of the event, such as `tollgate:ping`.
    pub source: String,
    /// [`EVENT_TYPE`] or [`ADJUSTMENT_TYPE`].
    pub r#type: String,
    /// Time at which the event was created.
    #[serde(deserialize_with = "rfc3339")]
    pub time: Timestamp,
    /// Customer of the usage.
    pub subject: CustomerId,
    /// Media type of the data, `application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// All other members of the envelope.
    #[serde(flatten)]
    pub extensions: Extensions,
    /// Payload.
    pub data: D,
}

/// Payload of a usage event of type [`EVENT_TYPE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct UsageData<R> {
    /// Usage records: at least one, at most [`MAX_RECORDS`].
    pub records: Vec<R>,
}

/// Payload of a usage event of type [`ADJUSTMENT_TYPE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct AdjustmentData<A> {
    /// Adjustments: at least one, at most [`MAX_ADJUSTMENTS`].
    pub adjustments: Vec<A>,
}

/// Signed correction of counted usage, with a reason. Aggregates sum adjustments separately from
/// records, so that reports show both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Adjustment {
    /// Any instant within the day and month to adjust.
    #[serde(deserialize_with = "rfc3339")]
    pub time: Timestamp,
    /// Plan of the calls to adjust.
    pub plan: PlanId,
    /// Billable calls to add (positive) or remove (negative).
    #[serde(default, skip_serializing_if = "is_zero_signed")]
    pub billable_calls: i64,
    /// Cost of the calls to the operator to add (positive) or remove (negative), in micro-dollars.
    #[serde(default, skip_serializing_if = "is_zero_signed")]
    pub micro_usd: i64,
    /// Reason, which is shown to the customer.
    pub reason: String,
}

fn is_zero_signed(number: &i64) -> bool {
    *number == 0
}

/// Usage record: one call of a metered function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct UsageRecord {
    /// Time of the request; decides the day and month in which the call counts.
    #[serde(deserialize_with = "rfc3339")]
    pub time: Timestamp,
    /// Request id of the gateway.
    pub request_id: String,
    /// Key of the request.
    pub key_id: KeyId,
    /// Plan of the customer at the time of the request.
    pub plan: PlanId,
    /// HTTP method.
    pub method: String,
    /// Route template, such as `/api/debates/{id}`; not the path itself, which may contain anything.
    pub endpoint: String,
    /// HTTP status of the response.
    pub status: u16,
    /// Time from the request's arrival in the function to the end of the response body, in milliseconds.
    pub latency_ms: u64,
    /// Size of the request body in bytes, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// Bytes of the response body that were sent, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// Cause of an incomplete response body. Absent if the body was complete, or if that is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
    /// Whether the call counts towards the included and charged ones. If absent, it does unless the
    /// function failed: the status is 500 or above, or the body failed or was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billable: Option<bool>,
    /// Costs of the call to the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<Cost>,
}

/// Cause of an incomplete response body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    /// The function failed while streaming the body.
    Failed,
    /// The body was dropped before its end, such as when the caller disconnected.
    Dropped,
    /// The function's instance shut down.
    Interrupted,
}

/// One cost of a call: tokens of a language model, or another amount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Cost {
    /// Provider that was paid, such as `anthropic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Model that served the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Input tokens.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_tokens: u64,
    /// Output tokens.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_tokens: u64,
    /// Tokens of unknown direction.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tokens: u64,
    /// Amount; 0 if the price of the tokens is unknown.
    pub micro_usd: MicroUsd,
    /// Whether the price of the tokens is unknown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpriced: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Cost {
    /// Returns the sum of all tokens.
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

/// Reason for which a usage event, or one item of it, cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// It is not a JSON object of the shape of an event or item.
    #[error("not of the documented shape: {0}")]
    Shape(String),
    /// This release does not support the `type`.
    #[error("type \"{0}\" is not supported by this release")]
    Version(String),
    /// The subject cannot be a path segment of a URL.
    #[error("subject \"{0}\" cannot be a customer id: it has a meaning of its own in a URL")]
    Subject(CustomerId),
    /// Its source and id are of the form that replays of quarantined usage have.
    #[error("the source and id are those of a replay")]
    Replay,
    /// There is no record or adjustment, or too many.
    #[error("{0} {1}; an event has 1 to {2}")]
    Count(usize, &'static str, usize),
    /// A text is empty, too long, or has control characters.
    #[error("{0} must be printable text of 1 to {1} bytes")]
    Text(&'static str, usize),
    /// The method contains the space that separates it from the endpoint in the keys of aggregates.
    #[error("method must not contain a space")]
    Method,
    /// A number is out of bounds.
    #[error("{0} is out of bounds")]
    Bounds(&'static str),
    /// The adjustment changes nothing.
    #[error("billable_calls or micro_usd must be other than 0")]
    Nothing,
    /// The key belongs to another customer.
    #[error("key {0} belongs to another customer")]
    Key(KeyId),
    /// The plan does not exist.
    #[error("there is no plan {0}")]
    Plan(PlanId),
    /// The time is too far in the future.
    #[error("dated more than {} minutes in the future", MAX_AHEAD.as_mins())]
    Future,
    /// The time is too long ago.
    #[error("older than {} days", MAX_AGE.as_hours() / 24)]
    Ancient,
    /// The EventBridge event has another detail type or source than the usage event in it.
    #[error("the {0} of the EventBridge event, \"{1}\", is not the {2} of the usage event")]
    Envelope(&'static str, String, &'static str),
    /// Another usage event has the same identity.
    #[error("a usage event with the same source and id but other content was received before")]
    Conflict,
}

impl Defect {
    /// Converts the message of a JSON error, truncated, because it may quote the whole input.
    #[must_use]
    pub fn shape(error: &serde_json::Error) -> Self {
        let mut message = error.to_string();
        // A line and column within an item mean nothing to a reader of the whole event.
        if let Some(at) = message.rfind(" at line ").filter(|_| error.is_data()) {
            message.truncate(at);
        }
        message.truncate(message.floor_char_boundary(MAX_REASON));
        Self::Shape(message)
    }
}

/// Parsed usage event: the envelope is valid, and each item is valid or not by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedEvent {
    /// Producer of the event; part of its identity.
    pub source: String,
    /// Id that is unique within the source.
    pub id: String,
    /// Kind of the items.
    pub r#type: EventType,
    /// Customer of the usage.
    pub customer: CustomerId,
    /// Records or adjustments, at least one.
    pub items: Vec<EventItem>,
}

impl ReceivedEvent {
    /// Checks that the EventBridge event had the detail type and source of the usage event. IAM policies
    /// restrict by these two what a producer may put on the bus, so a usage event that claims others is
    /// not counted.
    ///
    /// # Errors
    /// When either differs from the usage event's.
    pub fn check_envelope(&self, detail_type: &str, source: &str) -> Result<(), Defect> {
        if detail_type != self.r#type.as_str() {
            return Err(Defect::Envelope("detail type", quoted(detail_type), "type"));
        }
        // No role of this stack allows that source. Roles that do were made for the earlier layer, which
        // used it for the usage of every function.
        let is_earlier_layer = source == EARLIER_SOURCE
            && self.r#type == EventType::Usage
            && self.source.starts_with("tollgate:");
        if source != self.source && !is_earlier_layer {
            return Err(Defect::Envelope("source", quoted(source), "source"));
        }
        Ok(())
    }

    /// Returns the JSON pointer (RFC 6901) of the items in the event.
    #[must_use]
    pub fn pointer(&self) -> &'static str {
        match self.r#type {
            EventType::Usage => "/data/records",
            EventType::Adjustment => "/data/adjustments",
        }
    }
}

/// Kind of a usage event, by its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Usage records, [`EVENT_TYPE`].
    Usage,
    /// Adjustments, [`ADJUSTMENT_TYPE`].
    Adjustment,
}

impl EventType {
    /// Returns the `type` of the event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Usage => EVENT_TYPE,
            EventType::Adjustment => ADJUSTMENT_TYPE,
        }
    }
}

/// Item of a usage event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventItem {
    /// Usage record.
    Record(UsageRecord),
    /// Adjustment.
    Adjustment(Adjustment),
    /// Item that is not of the shape of the event's type.
    Unreadable(Box<UnreadableItem>),
}

/// Valid item, which can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountableItem<'a> {
    /// Usage record.
    Record(&'a UsageRecord),
    /// Adjustment.
    Adjustment(&'a Adjustment),
}

/// Item of an unexpected shape, with the dimensions that can be read from it. They must be the same as
/// another release, which may be able to read the item, would find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableItem {
    defect: Defect,
    time: Option<Timestamp>,
    method: String,
    endpoint: String,
}

/// Dimensions by which an item is aggregated, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemDimensions<'a> {
    /// Time, which decides the day and month.
    pub time: Option<Timestamp>,
    /// HTTP method; empty if there is none.
    pub method: &'a str,
    /// Route template; empty if there is none.
    pub endpoint: &'a str,
}

/// Parses a usage event. An invalid item does not affect the others.
///
/// # Errors
/// When the envelope is invalid, so that nothing in the event can be trusted.
pub fn parse_event(detail: &str) -> Result<ReceivedEvent, Defect> {
    #[derive(Deserialize)]
    struct Typed {
        r#type: String,
    }
    let event: UsageEvent<&RawValue> = read(detail).map_err(|defect| {
        // An event of an unsupported version may have another shape: its version is the defect.
        match read::<Typed>(detail) {
            Ok(Typed { r#type }) if !is_known(&r#type) => version(&r#type),
            _ => defect,
        }
    })?;
    let data = event.data.get();
    let (r#type, items): (_, Vec<EventItem>) = match event.r#type.as_str() {
        EVENT_TYPE => {
            let data: UsageData<&RawValue> = read(data)?;
            let records = data.records.into_iter();
            let records = records.map(|raw| item(raw, EventItem::Record));
            (EventType::Usage, records.collect())
        }
        ADJUSTMENT_TYPE => {
            let data: AdjustmentData<&RawValue> = read(data)?;
            let adjustments = data.adjustments.into_iter();
            let adjustments = adjustments.map(|raw| item(raw, EventItem::Adjustment));
            (EventType::Adjustment, adjustments.collect())
        }
        other => return Err(version(other)),
    };
    if event.specversion != "1.0" {
        return Err(Defect::Bounds("specversion"));
    }
    text("id", &event.id, 128)?;
    text("source", &event.source, 128)?;
    if !event.subject.is_path_segment() {
        return Err(Defect::Subject(event.subject));
    }
    let (what, max) = match r#type {
        EventType::Usage => ("records", MAX_RECORDS),
        EventType::Adjustment => ("adjustments", MAX_ADJUSTMENTS),
    };
    if !(1..=max).contains(&items.len()) {
        return Err(Defect::Count(items.len(), what, max));
    }
    Ok(ReceivedEvent {
        source: event.source,
        id: event.id,
        r#type,
        customer: event.subject,
        items,
    })
}

fn is_known(r#type: &str) -> bool {
    [EVENT_TYPE, ADJUSTMENT_TYPE].contains(&r#type)
}

fn version(found: &str) -> Defect {
    Defect::Version(quoted(found))
}

/// Returns the beginning of an arbitrary text, escaped.
fn quoted(text: &str) -> String {
    text.escape_debug().take(64).collect()
}

fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Defect> {
    // serde would also accept a list of a struct's fields in their order.
    if json.trim_start().starts_with('[') {
        return Err(Defect::Shape(
            "invalid type: a list, expected an object".to_owned(),
        ));
    }
    serde_json::from_str(json).map_err(|error| Defect::shape(&error))
}

fn item<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    valid: impl FnOnce(T) -> EventItem,
) -> EventItem {
    match read(raw.get()) {
        Ok(read) => valid(read),
        Err(defect) => {
            let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
            let text = |field: &str| value[field].as_str().unwrap_or_default();
            EventItem::Unreadable(Box::new(UnreadableItem {
                defect,
                // As lenient as any release has been, so that the item keeps its dimensions.
                time: text("time").parse().ok(),
                method: text("method").to_owned(),
                endpoint: text("endpoint").to_owned(),
            }))
        }
    }
}

impl EventItem {
    /// Returns the dimensions by which the item is aggregated.
    #[must_use]
    pub fn dimensions(&self) -> ItemDimensions<'_> {
        match self {
            EventItem::Record(record) => ItemDimensions {
                time: Some(record.time),
                method: &record.method,
                endpoint: &record.endpoint,
            },
            EventItem::Adjustment(adjustment) => ItemDimensions {
                time: Some(adjustment.time),
                method: "",
                endpoint: "",
            },
            EventItem::Unreadable(unreadable) => ItemDimensions {
                time: unreadable.time,
                method: &unreadable.method,
                endpoint: &unreadable.endpoint,
            },
        }
    }

    /// Returns the plan on which the usage was made, if the item is readable.
    #[must_use]
    pub fn plan(&self) -> Option<&PlanId> {
        match self {
            EventItem::Record(record) => Some(&record.plan),
            EventItem::Adjustment(adjustment) => Some(&adjustment.plan),
            EventItem::Unreadable(_) => None,
        }
    }

    /// Validates the item as of `now`.
    ///
    /// # Errors
    /// When the item cannot be counted. Other items of the event may be countable.
    pub fn check(&self, plans: &PlanBook, now: Timestamp) -> Result<CountableItem<'_>, Defect> {
        let (countable, plan, time) = match self {
            EventItem::Record(record) => {
                record.check()?;
                (CountableItem::Record(record), &record.plan, record.time)
            }
            EventItem::Adjustment(adjustment) => {
                adjustment.check()?;
                let countable = CountableItem::Adjustment(adjustment);
                (countable, &adjustment.plan, adjustment.time)
            }
            EventItem::Unreadable(unreadable) => return Err(unreadable.defect.clone()),
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
    use crate::plan::Catalog;

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

    fn plans() -> PlanBook {
        PlanBook::from_catalog(&Catalog::shipped().unwrap(), now())
    }

    /// Parses an event of this type with `json` as its only item, and returns the item.
    fn read_item(r#type: &str, member: &str, json: &Value) -> Result<EventItem, Defect> {
        let mut event = event();
        event["type"] = r#type.into();
        event["data"] = json!({ member: [json] });
        let mut items = parse_event(&event.to_string())?.items;
        let item = items.remove(0);
        item.check(&plans(), now())?;
        Ok(item)
    }

    fn read(record: &Value) -> Result<UsageRecord, Defect> {
        match read_item(EVENT_TYPE, "records", record)? {
            EventItem::Record(record) => Ok(record),
            other => panic!("{other:?}"),
        }
    }

    fn with(field: &str, value: Value) -> Value {
        let mut record = record();
        record[field] = value;
        record
    }

    #[test]
    fn a_valid_record_round_trips() {
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
    fn the_text_of_a_defect_is_always_short() {
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
    fn deeply_nested_json_is_rejected() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let event = event().to_string();
        let record = record().to_string();
        let as_record = event.replace(&record, &deep);
        let item = &parse_event(&as_record).unwrap().items[0];
        assert!(item.check(&plans(), now()).is_err());
        assert!(parse_event(&deep).is_err());
        let data = format!("{{\"records\":[{record}]}}");
        assert!(parse_event(&event.replace(&data, &deep)).is_err());
        assert!(parse_event(&event.replace("\"e-1\"", &deep)).is_err());
    }

    fn adjustment() -> Value {
        json!({
            "time": "2026-11-20T12:00:00Z", "plan": "pro", "billable_calls": -12,
            "micro_usd": -36_000, "reason": "retries during our outage"
        })
    }

    #[test]
    fn a_valid_adjustment_round_trips() {
        let read = read_item(ADJUSTMENT_TYPE, "adjustments", &adjustment()).unwrap();
        let EventItem::Adjustment(read) = read else {
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
    fn adjustments_are_summed_separately_from_records() {
        let mut sums = Aggregates::default();
        sums.add(&read(&record()).unwrap());
        let EventItem::Adjustment(adjustment) =
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
        assert_eq!((sums.days.len(), sums.dimensions.len()), (2, 4));
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

    fn event() -> Value {
        json!({
            "specversion": "1.0", "id": "e-1", "source": "tollgate:ping", "type": EVENT_TYPE,
            "time": "2026-11-22T10:00:00Z", "subject": "acme", "data": { "records": [record()] }
        })
    }

    #[test]
    fn a_usage_event_must_match_its_eventbridge_event() {
        let matches = |r#type: EventType, source: &str, by_type: &str, by_source: &str| {
            let received = ReceivedEvent {
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
        assert!(matches(usage, ping, EVENT_TYPE, ping));
        assert!(matches(usage, other, EVENT_TYPE, other));
        assert!(matches(adjustment, other, ADJUSTMENT_TYPE, other));
        assert!(!matches(usage, ping, ADJUSTMENT_TYPE, ping));
        assert!(!matches(usage, ping, EVENT_TYPE, other));
        // The earlier layer used one source for the usage of all functions, and for nothing else.
        assert!(matches(usage, ping, EVENT_TYPE, EARLIER_SOURCE));
        assert!(!matches(usage, other, EVENT_TYPE, EARLIER_SOURCE));
        assert!(!matches(adjustment, ping, ADJUSTMENT_TYPE, EARLIER_SOURCE));
    }

    #[test]
    fn each_defect_of_an_event_is_named() {
        let check = |field: &str, value: Value, reason: &str| {
            let mut event = event();
            event[field] = value;
            let defect = parse_event(&event.to_string()).unwrap_err().to_string();
            assert!(defect.contains(reason), "{field}: {defect}");
        };
        assert!(parse_event(&event().to_string()).is_ok());
        check("type", json!("tollgate.usage.v2"), "v2");
        check("type", json!(ADJUSTMENT_TYPE), "unknown field `records`");
        check("specversion", json!("0.3"), "specversion");
        check("id", json!(""), "id must be");
        check("source", json!("x".repeat(129)), "source must be");
        check("subject", json!("a#b"), "customer id");
        check("subject", json!(".."), "subject \"..\" cannot be");
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
    fn extension_attributes_round_trip() {
        let mut extended = event();
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
    fn duplicate_members_of_an_event_are_rejected() {
        let event = event().to_string();
        for member in [
            "\"id\":\"e-2\",",
            "\"traceparent\":\"1\",\"traceparent\":\"2\",",
        ] {
            let doubled = format!("{{{member}{}", &event[1..]);
            let defect = parse_event(&doubled).unwrap_err().to_string();
            assert!(defect.contains("duplicate field `"), "{defect}");
        }
    }

    #[test]
    fn a_record_has_no_extension_attributes() {
        for member in ["traceparent", "dataschema"] {
            let defect = read(&with(member, json!("x"))).unwrap_err().to_string();
            assert!(defect.contains("unknown field"), "{defect}");
        }
    }

    #[test]
    fn records_are_aggregated_under_every_key() {
        let mut failed = read(&with("status", json!(500))).unwrap();
        failed.time = "2026-10-31T23:59:59Z".parse().unwrap();
        let records = [read(&record()).unwrap(), read(&record()).unwrap(), failed];
        let sums: Aggregates = records.iter().collect();
        assert_eq!(sums.days.len(), 2);
        assert_eq!(sums.dimensions.len(), 8);
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
        assert!(!sums.is_empty() && Aggregates::default().is_empty());
    }

    #[test]
    fn a_call_counts_once_for_each_of_its_values() {
        let cost = |provider: Option<&str>, model: Option<&str>, tokens: u64| json!({ "provider": provider, "model": model, "tokens": tokens, "micro_usd": tokens * 2 });
        let costs = [
            cost(Some("anthropic"), Some("large"), 1),
            cost(Some("anthropic"), Some("large"), 10),
            cost(Some("anthropic"), Some("small"), 100),
            cost(Some("anthropic"), None, 1_000),
            cost(Some("openai"), Some("large"), 10_000),
            cost(None, Some("large"), 100_000),
            cost(None, None, 1_000_000),
        ];
        let record = read(&with("costs", json!(costs))).unwrap();
        let sums: Aggregates = [record].iter().collect();
        let model = |provider: Option<&str>, name: Option<&str>| {
            let (provider, name) = (provider.map(str::to_owned), name.map(str::to_owned));
            DimensionValue::Model(Model { provider, name })
        };
        let endpoint = Endpoint {
            method: "POST".to_owned(),
            route: "/api/analyze".to_owned(),
        };
        let expected = [
            (DimensionValue::Endpoint(endpoint), 1_111_111),
            (DimensionValue::Key("key_1".parse().unwrap()), 1_111_111),
            (model(None, Some("large")), 100_000),
            (model(Some("anthropic"), None), 1_000),
            (model(Some("anthropic"), Some("large")), 11),
            (model(Some("anthropic"), Some("small")), 100),
            (model(Some("openai"), Some("large")), 10_000),
            (DimensionValue::Repeated("anthropic".to_owned()), 0),
        ];
        let found = sums.dimensions.iter();
        let found: Vec<(DimensionValue, u64)> = found
            .map(|((_, value), sum)| (value.clone(), sum.tokens))
            .collect();
        assert_eq!(found, expected);
        for ((_, value), sum) in &sums.dimensions {
            // Three models of one provider: two calls more than there were.
            let calls = match value {
                DimensionValue::Repeated(_) => 2,
                _ => 1,
            };
            assert_eq!(
                (sum.calls, sum.billable_calls()),
                (calls, calls),
                "{value:?}"
            );
            assert_eq!(sum.latency_ms, calls * 12, "{value:?}");
            assert_eq!(sum.cost, MicroUsd(sum.tokens * 2), "{value:?}");
        }
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
        let Ok(EventItem::Adjustment(adjustment)) =
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
