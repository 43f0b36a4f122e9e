//! Identifiers: short strings that are validated when parsed.

use std::fmt;

use jiff::Timestamp;
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Error: the text is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {max} characters of {alphabet}")]
pub struct InvalidId {
    what: &'static str,
    max: usize,
    alphabet: &'static str,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, max $max:literal, $alphabet:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                let allowed: fn(char) -> bool = $allowed;
                if (1..=$max).contains(&text.len()) && text.chars().all(allowed) {
                    Ok(Self(text))
                } else {
                    Err(InvalidId { what: $what, max: $max, alphabet: $alphabet })
                }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier! {
    /// Id of a customer: chosen by the admin, or `cus_` and 20 base62 characters.
    CustomerId, "a customer id", max 64, "A-Z, a-z, 0-9, '_', '-' and '.'",
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}
identifier! {
    /// Public id of a key, independent of the secret: `key_` and 20 base62 characters.
    KeyId, "a key id", max 64, "A-Z, a-z, 0-9, '_' and '-'",
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}
identifier! {
    /// Id of an [event](crate::event::Event): `evt_` and 32 hexadecimal digits.
    EventId, "an event id", max 64, "A-Z, a-z, 0-9 and '_'",
    |c| c.is_ascii_alphanumeric() || c == '_'
}
identifier! {
    /// Id of a webhook: `wh_` and 20 base62 characters.
    WebhookId, "a webhook id", max 64, "A-Z, a-z, 0-9 and '_'",
    |c| c.is_ascii_alphanumeric() || c == '_'
}
identifier! {
    /// Id of a plan in the [catalogue](crate::plan::Catalog).
    PlanId, "a plan id", max 32, "a-z, 0-9 and '-'",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Generates `len` base62 characters, each uniformly distributed (5.95 bits).
pub fn random_base62(rng: &mut impl Rng, len: usize) -> String {
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        // 248 is the largest multiple of 62 in a byte; larger values would favour the first digits.
        let digits = bytes.iter().filter(|byte| **byte < 248);
        text.extend(
            digits
                .take(len - text.len())
                .map(|byte| char::from(BASE62[usize::from(byte % 62)])),
        );
    }
    text
}

/// Generates a UUID of version 7 (RFC 9562) with this time.
pub fn uuid_v7(at: Timestamp, rng: &mut impl Rng) -> String {
    let ms = u64::try_from(at.as_millisecond()).unwrap_or(0);
    let mut random = [0; 10];
    rng.fill_bytes(&mut random);
    let id = uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid();
    id.hyphenated().to_string()
}

/// Encodes `value` as exactly six base62 digits, most significant first.
pub(crate) fn base62_of_u32(mut value: u32) -> [u8; 6] {
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(value % 62) as usize];
        value /= 62;
    }
    digits
}

impl CustomerId {
    /// Whether the id can be a path segment of a URL. Clients resolve the segments `.` and `..`
    /// (RFC 3986, section 5.2.4), even percent-encoded.
    ///
    /// Only new ids are checked; parsing does not check, so that ids stored before this rule can still
    /// be read.
    #[must_use]
    pub fn is_path_segment(&self) -> bool {
        !matches!(self.as_str(), "." | "..")
    }

    /// Generates an id of 119 random bits.
    pub fn random(rng: &mut impl Rng) -> Self {
        Self(format!("cus_{}", random_base62(rng, 20)))
    }
}

impl KeyId {
    /// Generates an id of 119 random bits, independent of the key.
    pub fn random(rng: &mut impl Rng) -> Self {
        Self(format!("key_{}", random_base62(rng, 20)))
    }
}

impl WebhookId {
    /// Generates an id of 119 random bits.
    pub fn random(rng: &mut impl Rng) -> Self {
        Self(format!("wh_{}", random_base62(rng, 20)))
    }
}

impl EventId {
    /// Returns the id of the first 128 bits of a digest.
    pub(crate) fn of_digest(digest: &[u8]) -> Self {
        let digest = &digest[..digest.len().min(16)];
        Self(format!("evt_{}", hex::encode(digest)))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn identifiers_that_are_empty_too_long_or_of_other_characters_are_rejected() {
        let check = |text: &str, expected: bool| {
            assert_eq!(text.parse::<CustomerId>().is_ok(), expected, "{text:?}");
        };
        check("acme", true);
        check("cus_Ab-1.eu", true);
        check(&"x".repeat(64), true);
        check("", false);
        check(&"x".repeat(65), false);
        check("a#b", false);
        check("a b", false);
        check("é", false);
        let error = "".parse::<PlanId>().unwrap_err().to_string();
        assert_eq!(
            error,
            "a plan id must be 1 to 32 characters of a-z, 0-9 and '-'"
        );
    }

    #[test]
    fn one_or_two_dots_are_not_a_path_segment() {
        let check = |text: &str, expected: bool| {
            let id: CustomerId = text.parse().unwrap();
            assert_eq!(id.is_path_segment(), expected, "{text:?}");
        };
        check(".", false);
        check("..", false);
        check("...", true);
        check(".a", true);
        check("acme.eu", true);
    }

    #[test]
    fn random_base62_characters_are_uniformly_distributed() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(random_base62(&mut rng, 33).len(), 33);
        let text = random_base62(&mut rng, 62_000);
        for character in BASE62 {
            let times = text.bytes().filter(|it| it == character).count();
            // 1,000 is expected, with a standard deviation of 31.
            assert!((850..1_150).contains(&times), "{character}: {times}");
        }
    }

    #[test]
    fn base62_is_padded_and_covers_the_range() {
        assert_eq!(&base62_of_u32(0), b"000000");
        assert_eq!(&base62_of_u32(61), b"00000z");
        assert_eq!(&base62_of_u32(u32::MAX), b"4gfFC3");
    }
}
