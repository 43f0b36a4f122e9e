//! Deserialisation of JSON request bodies.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// JSON object. Without this wrapper, serde would also accept a list of a struct's fields in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// Deserialises a field of a merge patch (RFC 7396): absent (`None`, by `serde(default)`) leaves the
/// value, `null` (`Some(None)`) removes it, and any other sets it.
///
/// # Errors
/// When the value is not a valid `T`.
pub fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// Whole number of at least 0. In JSON, and so in JSON Schema, `60.0` is one as well as `60`
/// (RFC 8259, section 6), and some languages write it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Whole(pub u64);

/// 2^53: up to here a double has every whole number.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of at least 0")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(number))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Whole, E> {
                let invalid = |_| E::invalid_value(Unexpected::Signed(number), &self);
                u64::try_from(number).map(Whole).map_err(invalid)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
                let is_whole = number.trunc() == number && (0.0..=MAX_EXACT).contains(&number);
                if !is_whole {
                    return Err(E::invalid_value(Unexpected::Float(number), &self));
                }
                // Without a point: `{}` prints a whole double as digits alone.
                let digits = format!("{}", number.abs());
                digits.parse().map(Whole).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_may_have_a_point() {
        let check = |json: &str, expected: Option<u64>| {
            let read: Option<Whole> = serde_json::from_str(json).ok();
            assert_eq!(read.map(|whole| whole.0), expected, "{json}");
        };
        check("60", Some(60));
        check("60.0", Some(60));
        check("6e1", Some(60));
        check("-0.0", Some(0));
        check("18446744073709551615", Some(u64::MAX));
        check("9007199254740992.0", Some(9_007_199_254_740_992));
        for invalid in ["60.5", "-1", "-1.0", "1e300", "\"60\"", "true"] {
            check(invalid, None);
        }
    }
}
