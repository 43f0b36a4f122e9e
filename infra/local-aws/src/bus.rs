//! The event bus: accepts PutEvents and delivers the events that its rule matches to the queue.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tollgate_domain::id::random_base62;
use tollgate_runtime::{Clock, Entropy};

use crate::{ApiResponse, Queue};

/// EventBridge's limit on the entries of one PutEvents call.
const MAX_ENTRIES: usize = 10;
/// EventBridge's limit on the total size of the entries of one call.
const MAX_BYTES: usize = 1024 * 1024;

/// Event pattern: lists of allowed values of fields, nested like the event.
#[derive(Debug, Clone)]
pub struct Rule(Value);

/// Error for a pattern with operators that this bus does not support.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the local event bus supports only event patterns of strings and prefixes")]
pub struct InvalidPattern;

impl Rule {
    /// Creates a rule from a pattern in EventBridge's JSON form. Of its operators, only the exact match
    /// of strings and `prefix` are supported.
    ///
    /// # Errors
    /// When the pattern uses another operator.
    pub fn new(pattern: Value) -> Result<Self, InvalidPattern> {
        fn supported(pattern: &Value) -> bool {
            match pattern {
                Value::Array(allowed) => allowed
                    .iter()
                    .all(|one| one.is_string() || prefix(one).is_some()),
                Value::Object(fields) => fields.values().all(supported),
                _ => false,
            }
        }
        if pattern.is_object() && supported(&pattern) {
            Ok(Self(pattern))
        } else {
            Err(InvalidPattern)
        }
    }

    fn matches(&self, event: &Value) -> bool {
        fn matches(pattern: &Value, value: &Value) -> bool {
            match pattern {
                Value::Array(allowed) => allowed.iter().any(|one| {
                    let text = value.as_str().unwrap_or_default();
                    one == value || prefix(one).is_some_and(|prefix| text.starts_with(prefix))
                }),
                Value::Object(fields) => fields
                    .iter()
                    .all(|(name, pattern)| matches(pattern, &value[name])),
                _ => false,
            }
        }
        matches(&self.0, event)
    }
}

/// Returns the prefix of a `prefix` operator, or `None` if this is another element of a pattern.
fn prefix(allowed: &Value) -> Option<&str> {
    let operators = allowed.as_object()?;
    operators
        .get("prefix")
        .filter(|_| operators.len() == 1)?
        .as_str()
}

pub(crate) struct Bus {
    rule: Rule,
    queue: Arc<Queue>,
    clock: Clock,
    entropy: Entropy,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutEvents {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    source: Option<String>,
    detail_type: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    resources: Vec<String>,
    /// Unix seconds: the JSON protocol encodes times as numbers.
    time: Option<f64>,
}

impl Bus {
    pub(crate) fn new(rule: Rule, queue: Arc<Queue>, clock: Clock, entropy: Entropy) -> Self {
        Self {
            rule,
            queue,
            clock,
            entropy,
        }
    }

    pub(crate) fn put_events(&self, body: &str) -> ApiResponse {
        let invalid = |message: &str| ApiResponse {
            status: 400,
            body: json!({ "__type": "ValidationException", "message": message }).to_string(),
        };
        let request: PutEvents = match serde_json::from_str(body) {
            Ok(request) => request,
            Err(error) => return invalid(&error.to_string()),
        };
        if request.entries.is_empty() || request.entries.len() > MAX_ENTRIES {
            return invalid("Entries must have 1 to 10 members");
        }
        if body.len() > MAX_BYTES {
            return invalid("Total size of the entries in the request is over the limit");
        }
        let mut results = Vec::new();
        let mut matched = Vec::new();
        for entry in &request.entries {
            match self.event(entry) {
                Ok(event) => {
                    results.push(json!({ "EventId": event["id"] }));
                    if self.rule.matches(&event) {
                        matched.push(event.to_string());
                    }
                }
                Err((code, message)) => {
                    results.push(json!({ "ErrorCode": code, "ErrorMessage": message }));
                }
            }
        }
        if let Err(error) = self.queue.send(&matched) {
            return ApiResponse {
                status: 500,
                body: json!({ "__type": "InternalException", "message": error.to_string() })
                    .to_string(),
            };
        }
        let failed = results
            .iter()
            .filter(|result| result.get("ErrorCode").is_some())
            .count();
        ApiResponse {
            status: 200,
            body: json!({ "FailedEntryCount": failed, "Entries": results }).to_string(),
        }
    }

    /// Builds the event that EventBridge delivers for an entry, or returns its error code and message.
    fn event(&self, entry: &Entry) -> Result<Value, (&'static str, &'static str)> {
        let required = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        let (Some(source), Some(detail_type), Some(detail)) = (
            required(&entry.source),
            required(&entry.detail_type),
            required(&entry.detail),
        ) else {
            return Err((
                "InvalidArgument",
                "Parameter Source, DetailType or Detail is not valid. Reason: it is required.",
            ));
        };
        let detail: Value = serde_json::from_str(&detail)
            .ok()
            .filter(Value::is_object)
            .ok_or(("MalformedDetail", "Detail is malformed."))?;
        let given = entry.time.and_then(|seconds| {
            // A time, not a sum: EventBridge delivers whole seconds only.
            #[expect(clippy::cast_possible_truncation)]
            Timestamp::from_second(seconds as i64).ok()
        });
        let time = given.unwrap_or_else(|| self.clock.now());
        Ok(json!({
            "version": "0",
            "id": self.entropy.with(|rng| random_base62(rng, 32)),
            "detail-type": detail_type,
            "source": source,
            "account": "000000000000",
            "time": format!("{time:.0}"),
            "region": "us-east-1",
            "resources": entry.resources,
            "detail": detail,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_matches_the_fields_it_lists() {
        let rule = Rule::new(json!({ "detail-type": ["a", "b"], "detail": { "x": ["1"] } }));
        let rule = rule.unwrap();
        let check = |event: Value, expected| assert_eq!(rule.matches(&event), expected, "{event}");
        check(
            json!({ "detail-type": "a", "detail": { "x": "1", "y": 2 } }),
            true,
        );
        check(json!({ "detail-type": "c", "detail": { "x": "1" } }), false);
        check(json!({ "detail-type": "b", "detail": { "x": 1 } }), false);
        check(json!({ "detail-type": "b" }), false);
        assert!(Rule::new(json!({ "source": [{ "suffix": "x" }] })).is_err());
    }

    #[test]
    fn a_rule_matches_values_with_its_prefix() {
        let rule = Rule::new(json!({ "source": ["b", { "prefix": "a." }] })).unwrap();
        for (source, expected) in [("a.b", true), ("b", true), ("a", false), ("b.c", false)] {
            assert_eq!(
                rule.matches(&json!({ "source": source })),
                expected,
                "{source}"
            );
        }
        assert!(!rule.matches(&json!({})));
    }
}
