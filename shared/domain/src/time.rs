//! Parsing of times in requests and usage events.

use jiff::Timestamp;
use jiff::civil::DateTime;
use serde::{Deserialize, Deserializer, Serialize};

/// Instant in the `date-time` form of RFC 3339, section 5.6. jiff alone would also accept times without
/// seconds or colons, signed years, and time zone names in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Rfc3339(pub Timestamp);

/// Error: the text is not an accepted time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTime {
    /// It has another form, or a date or time of day that does not exist.
    #[error(
        "a time must be as in RFC 3339, such as 2026-11-22T10:00:00Z, with at most 9 digits after \
         the point"
    )]
    Form,
    /// It is later than jiff's largest timestamp, which leaves room for time zone offsets in the year
    /// 9999.
    #[error("the latest time is 9999-12-30T22:00:00Z")]
    Late,
}

/// Pattern of the date and time of day; `0` matches any digit.
const LOCAL: &[u8] = b"0000-00-00T00:00:00";
/// Maximum number of digits after the point: nanoseconds.
const MAX_FRACTION: usize = 9;

/// Whether `text` has the syntax of a `date-time`, with at most [`MAX_FRACTION`] digits of fraction.
/// Number ranges are not checked.
fn is_date_time(text: &str) -> bool {
    let Some((local, rest)) = text.split_at_checked(LOCAL.len()) else {
        return false;
    };
    let is_local = local
        .bytes()
        .zip(LOCAL)
        .all(|(found, expected)| match expected {
            b'0' => found.is_ascii_digit(),
            expected => found.eq_ignore_ascii_case(expected),
        });
    let offset = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            let digits = fraction.len() - offset.len();
            if !(1..=MAX_FRACTION).contains(&digits) {
                return false;
            }
            offset
        }
    };
    is_local && is_offset(offset)
}

fn is_offset(text: &str) -> bool {
    match text.as_bytes() {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', hour @ .., b':', tens, ones] => {
            let hour = matches!(hour, [b'0' | b'1', b'0'..=b'9'] | [b'2', b'0'..=b'3']);
            hour && (b'0'..=b'5').contains(tens) && ones.is_ascii_digit()
        }
        _ => false,
    }
}

impl std::str::FromStr for Rfc3339 {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        if !is_date_time(text) {
            return Err(InvalidTime::Form);
        }
        text.parse().map(Self).map_err(|_| {
            let local = text.get(..LOCAL.len()).unwrap_or_default();
            match local.parse::<DateTime>() {
                // The local time is valid, so the instant is out of range.
                Ok(_) => InvalidTime::Late,
                Err(_) => InvalidTime::Form,
            }
        })
    }
}

impl TryFrom<String> for Rfc3339 {
    type Error = InvalidTime;

    fn try_from(text: String) -> Result<Self, InvalidTime> {
        text.parse()
    }
}

/// Deserialises a [`Timestamp`] field, accepting only the form of [`Rfc3339`].
///
/// # Errors
/// When it is not text in the form of [`Rfc3339`].
pub fn rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    Rfc3339::deserialize(deserializer).map(|Rfc3339(at)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_3339_times_are_accepted() {
        let check = |text: &str, expected: &str| {
            let Rfc3339(found) = text.parse().unwrap();
            assert_eq!(found.to_string(), expected, "{text}");
        };
        check("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z");
        check("2026-11-22t10:00:00z", "2026-11-22T10:00:00Z");
        check("2026-11-22T10:00:00+01:00", "2026-11-22T09:00:00Z");
        check("2026-11-22T10:00:00-23:59", "2026-11-23T09:59:00Z");
        check("2026-11-22T10:00:00-00:00", "2026-11-22T10:00:00Z");
        check(
            "2026-11-22T10:00:00.123456789Z",
            "2026-11-22T10:00:00.123456789Z",
        );
        check("2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z");
        check("0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z");
        check("9999-12-30T22:00:00Z", "9999-12-30T22:00:00Z");
    }

    #[test]
    fn forms_that_only_jiff_accepts_are_rejected() {
        for text in [
            "2026-11-22T10:00Z",
            "2026-11-22T10Z",
            "20261122T100000Z",
            "2026-11-22 10:00:00Z",
            "2026-11-22T100000Z",
            "2026-11-22T10:00:00,5Z",
            "2026-11-22T10:00:00+01",
            "2026-11-22T10:00:00+0100",
            "2026-11-22T10:00:00+01:00:00",
            "2026-11-22T10:00:00Z[UTC]",
            "2026-11-22T10:00:00+01:00[Europe/Paris]",
            "2026-11-22T10:00:00Z[u-ca=japanese]",
            "+002026-11-22T10:00:00Z",
            "-000001-11-22T10:00:00Z",
        ] {
            assert!(text.parse::<Timestamp>().is_ok(), "{text}: jiff rejects it");
            assert_eq!(text.parse::<Rfc3339>(), Err(InvalidTime::Form), "{text}");
        }
    }

    #[test]
    fn texts_that_are_not_times_are_rejected() {
        for text in [
            "",
            "yesterday",
            "1795341600",
            "2026-11-22",
            "2026-11-22T10:00:00",
            " 2026-11-22T10:00:00Z",
            "2026-11-22T10:00:00Z ",
            "2026-11-22T10:00:00.Z",
            "2026-11-22T10:00:00.1234567890Z",
            "2026-11-22T10:00:00+24:00",
            "2026-11-22T10:00:00+01:60",
            "2026-11-22T24:00:00Z",
            "2026-13-22T10:00:00Z",
            "2026-02-29T10:00:00Z",
            "2026-11-22T10:00:0\u{e9}",
        ] {
            assert_eq!(text.parse::<Rfc3339>(), Err(InvalidTime::Form), "{text:?}");
        }
    }

    #[test]
    fn times_beyond_the_largest_timestamp_are_rejected_as_too_late() {
        for text in [
            "9999-12-31T23:59:59Z",
            "9999-12-30T22:00:01Z",
            "9999-12-30T22:00:00-00:01",
        ] {
            assert_eq!(text.parse::<Rfc3339>(), Err(InvalidTime::Late), "{text}");
        }
    }

    proptest! {
        /// Every time that this product writes, it also reads.
        #[test]
        fn every_time_with_a_four_digit_year_is_read_back(
            second in -62_167_219_200_i64..253_402_207_200,
            nanosecond in 0_i32..1_000_000_000,
        ) {
            let at = Timestamp::new(second, nanosecond).unwrap();
            prop_assert_eq!(at.to_string().parse(), Ok(Rfc3339(at)));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Rfc3339>();
        }
    }
}
