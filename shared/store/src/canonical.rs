//! JSON as it is compared: whatever its spacing and the order of its members.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use tollgate_domain::key::hex;

/// A JSON text without spaces, its members sorted. A member that comes twice is there twice: readers
/// differ in which they take.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Canonical(String);

/// Whether two texts are the same, or are JSON that says the same.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    one == other || canonical(one).is_some_and(|one| Some(one) == canonical(other))
}

/// A digest that is the same for all texts that [`is_same`] takes for the same.
pub(crate) fn digest(text: &[u8]) -> String {
    let digest = match canonical(text) {
        Some(Canonical(canonical)) => Sha256::digest(canonical),
        None => Sha256::digest(text),
    };
    hex(&digest)
}

fn canonical(text: &[u8]) -> Option<Canonical> {
    serde_json::from_slice(text).ok()
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
        // With a point or an exponent, which tells it from a whole number.
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
        let mut members: Vec<String> = Vec::new();
        while let Some((name, Canonical(value))) = map.next_entry::<String, _>()? {
            members.push(format!("{}:{value}", quoted(&name)));
        }
        members.sort_unstable();
        Ok(Canonical(format!("{{{}}}", members.join(","))))
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_same_if_they_say_the_same() {
        let check = |one: &str, other: &str, same: bool| {
            let (one, other) = (one.as_bytes(), other.as_bytes());
            assert_eq!(is_same(one, other), same);
            assert_eq!(digest(one) == digest(other), same);
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
}
