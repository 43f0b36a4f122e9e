//! Canonical JSON, for comparisons that ignore spacing and the order of members.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use tollgate_domain::usage::ATTRIBUTES;

/// A JSON text without spaces, its members sorted. A duplicate member is kept: parsers differ in which
/// of the two they take.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Canonical(String);

/// Whether two usage events are equal: the same bytes, or the same JSON apart from extension attributes.
/// Intermediaries add those, and a retry may take another route.
#[must_use]
pub fn is_same_event(one: &[u8], other: &[u8]) -> bool {
    one == other || event(one).is_some_and(|one| Some(one) == event(other))
}

/// Returns a digest that is equal for usage events which [`is_same_event`] considers equal.
pub(crate) fn digest_of_event(text: &[u8]) -> [u8; 32] {
    digest_of(event(text), text)
}

/// Returns a digest that is equal for texts of the same canonical JSON.
pub(crate) fn digest(text: &[u8]) -> String {
    hex::encode(digest_of(serde_json::from_slice(text).ok(), text))
}

fn digest_of(canonical: Option<Canonical>, text: &[u8]) -> [u8; 32] {
    match canonical {
        Some(Canonical(canonical)) => Sha256::digest(canonical).into(),
        None => Sha256::digest(text).into(),
    }
}

/// Returns the usage event without its extension attributes. It has no duplicate member, or it would not
/// have been parsed as a usage event.
fn event(text: &[u8]) -> Option<Canonical> {
    let mut members: BTreeMap<String, Canonical> = serde_json::from_slice(text).ok()?;
    members.retain(|name, _| ATTRIBUTES.contains(&name.as_str()));
    Some(object(members))
}

fn object(members: impl IntoIterator<Item = (String, Canonical)>) -> Canonical {
    let members = members.into_iter();
    let members = members.map(|(name, Canonical(value))| format!("{}:{value}", quoted(&name)));
    let mut members: Vec<String> = members.collect();
    members.sort_unstable();
    Canonical(format!("{{{}}}", members.join(",")))
}

impl<'de> Deserialize<'de> for Canonical {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Canonical;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Canonical, E> {
        Ok(Canonical("null".to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Canonical, E> {
        Ok(Canonical(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Canonical, E> {
        Ok(Canonical(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Canonical, E> {
        Ok(Canonical(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Canonical, E> {
        // With a point or an exponent, which distinguishes it from an integer.
        Ok(Canonical(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Canonical, E> {
        Ok(Canonical(quoted(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Canonical, A::Error> {
        let mut items: Vec<String> = Vec::new();
        while let Some(Canonical(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Canonical(format!("[{}]", items.join(","))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Canonical, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(object(members))
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_the_same_json_are_equal() {
        let check = |one: &str, other: &str, same: bool| {
            assert_eq!(digest(one.as_bytes()) == digest(other.as_bytes()), same);
        };
        check(
            r#"{"a":1,"b":[true,null,"x"]}"#,
            "{ \"b\": [true, null, \"\\u0078\"],\n\"a\": 1 }",
            true,
        );
        check(r#"{"a":{"b":1,"c":2}}"#, r#"{"a":{"c":2,"b":1}}"#, true);
        check("[1,2]", "[2,1]", false);
        check("1", "1.0", false);
        check("1.50", "1.5", true);
        check("-1", "1", false);
        check(r#""1""#, "1", false);
        check(r#"{"a":500,"a":200}"#, r#"{"a":200}"#, false);
        check(r#"{"a":"1,\"b\":2"}"#, r#"{"a":"1","b":2}"#, false);
        check("no JSON", "no JSON", true);
        check("no JSON", "no  JSON", false);
        check(&"[".repeat(1_000), &"[".repeat(1_001), false);
    }

    #[test]
    fn extension_attributes_do_not_distinguish_events() {
        let check = |one: &str, other: &str, same: bool| {
            let (one, other) = (one.as_bytes(), other.as_bytes());
            assert_eq!(is_same_event(one, other), same);
            assert_eq!(digest_of_event(one) == digest_of_event(other), same);
        };
        let bare = r#"{"id":"e-1","data":{"records":[{"status":200}]}}"#;
        let spaced = r#"{ "data": {"records": [{"status": 200}]}, "id": "e-1" }"#;
        check(bare, spaced, true);
        let digest_of_bare = hex::encode(digest_of_event(bare.as_bytes()));
        assert_eq!(digest_of_bare, digest(spaced.as_bytes()));
        let traced = |by: u8| bare.replacen('{', &format!(r#"{{"traceparent":"00-{by}","#), 1);
        check(bare, &traced(1), true);
        check(&traced(1), &traced(2), true);
        check(&traced(1), &traced(2).replace("200", "404"), false);
        check(bare, &bare.replace("e-1", "e-2"), false);
        // Within a record, an unknown member is not an extension attribute.
        let in_record = |by: u8| bare.replace("200", &format!(r#"200,"traceparent":{by}"#));
        check(&in_record(1), &in_record(2), false);
        check("no JSON", "no JSON", true);
        check("no JSON", "no  JSON", false);
    }
}
