//! CloudEvents extension attributes, which intermediaries may add to a usage event.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// [Extension attributes](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#extension-context-attributes)
/// of a usage event, such as `traceparent`, and its `dataschema`. They are logged with the event and have
/// no effect on what is counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Extensions(BTreeMap<String, Value>);

fn is_name(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !name.is_empty() && name.bytes().all(is_allowed)
}

/// Whether the value has one of the types of attributes in the CloudEvents JSON format. `null` is an
/// attribute that is not set.
fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::Number(number) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        Value::String(text) => !text.chars().any(char::is_control),
        Value::Array(_) | Value::Object(_) => false,
    }
}

impl<'de> Deserialize<'de> for Extensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Attributes;

        impl<'de> Visitor<'de> for Attributes {
            type Value = Extensions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("extension attributes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Extensions, A::Error> {
                let mut attributes = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !is_name(&name) {
                        return Err(A::Error::custom(format_args!(
                            "unknown field `{name}`: extension attributes have names of a-z and 0-9"
                        )));
                    }
                    let value: Value = map.next_value()?;
                    if !is_scalar(&value) {
                        return Err(A::Error::custom(format_args!(
                            "the extension attribute `{name}` must be text without control \
                             characters, a whole number of 32 bits, or true or false"
                        )));
                    }
                    if attributes.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    attributes.insert(name, value);
                }
                Ok(Extensions(attributes))
            }
        }

        deserializer.deserialize_map(Attributes)
    }
}
