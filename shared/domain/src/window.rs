//! Windows in which calls are counted: UTC hours, days and months.
//!
//! Each displays as the common prefix of its instants in RFC 3339, which sorts chronologically.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Weekday};
use jiff::tz::Offset;
use jiff::{SignedDuration, Span, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// Error: the text is not a window of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct InvalidWindow {
    text: String,
    expected: &'static str,
}

/// Returns the first instant of `date` in UTC, clamped to the largest timestamp.
fn midnight(date: Date) -> Timestamp {
    Offset::UTC
        .to_timestamp(date.at(0, 0, 0, 0))
        .unwrap_or(Timestamp::MAX)
}

fn date_of(instant: Timestamp) -> Date {
    Offset::UTC.to_datetime(instant).date()
}

/// UTC hour, such as `2026-11-22T09`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour {
    since_epoch: i64,
}

impl Hour {
    /// Returns the hour that contains `instant`.
    #[must_use]
    pub fn containing(instant: Timestamp) -> Self {
        Self {
            since_epoch: instant.as_second().div_euclid(3_600),
        }
    }

    /// Returns the first instant of the hour.
    #[must_use]
    pub fn start(self) -> Timestamp {
        Timestamp::from_second(self.since_epoch * 3_600).unwrap_or(Timestamp::MAX)
    }

    /// Returns the first instant after the hour.
    #[must_use]
    pub fn end(self) -> Timestamp {
        self.start()
            .saturating_add(SignedDuration::from_hours(1))
            .unwrap_or(Timestamp::MAX)
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = Offset::UTC.to_datetime(self.start());
        write!(f, "{}T{:02}", start.date(), start.hour())
    }
}

/// UTC day, such as `2026-11-22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(Date);

impl Day {
    /// Returns the day that contains `instant`.
    #[must_use]
    pub fn containing(instant: Timestamp) -> Self {
        Self(date_of(instant))
    }

    /// Returns the month that contains the day.
    #[must_use]
    pub fn month(self) -> Month {
        Month(self.0.first_of_month())
    }

    /// Whether the day is a Monday.
    #[must_use]
    pub fn is_monday(self) -> bool {
        self.0.weekday() == Weekday::Monday
    }

    /// Returns the next day.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(jiff::Span::new().days(1)))
    }

    /// Returns the previous day.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(jiff::Span::new().days(1)))
    }

    /// Returns the first instant of the day.
    #[must_use]
    pub fn start(self) -> Timestamp {
        midnight(self.0)
    }
}

/// Formats days of one month for people, such as "1–15 November 2026".
#[must_use]
pub fn day_range(first: Day, last: Day) -> String {
    let last_day = last.0.strftime("%-d %B %Y");
    match first == last {
        true => last_day.to_string(),
        false => format!("{}–{last_day}", first.0.strftime("%-d")),
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Day {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let invalid = || InvalidWindow {
            text: text.to_owned(),
            expected: "a day such as 2026-11-22",
        };
        let date: Date = text.parse().map_err(|_| invalid())?;
        let day = Self(date);
        // jiff also accepts a time after the date, and signed years; here, a day has one spelling only.
        // Negative years would not sort chronologically.
        match date.year() >= 0 && day.to_string() == text {
            true => Ok(day),
            false => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Day {
    type Error = InvalidWindow;

    fn try_from(text: String) -> Result<Self, InvalidWindow> {
        text.parse()
    }
}

impl From<Day> for String {
    fn from(day: Day) -> String {
        day.to_string()
    }
}

/// UTC month, such as `2026-11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Month(Date);

impl Month {
    /// Returns the month that contains `instant`.
    #[must_use]
    pub fn containing(instant: Timestamp) -> Self {
        Day::containing(instant).month()
    }

    /// Returns the first instant of the month.
    #[must_use]
    pub fn start(self) -> Timestamp {
        midnight(self.0)
    }

    /// Returns the first instant after the month.
    #[must_use]
    pub fn end(self) -> Timestamp {
        midnight(self.shift(1.month()))
    }

    /// Returns the first day of the month.
    #[must_use]
    pub fn first_day(self) -> Day {
        Day(self.0)
    }

    /// Returns the next month.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.shift(1.month()))
    }

    /// Returns the previous month.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.shift((-1).month()))
    }

    /// Returns the month so many months later.
    #[must_use]
    pub fn plus(self, months: i32) -> Self {
        Self(self.shift(months.months()))
    }

    fn shift(self, by: Span) -> Date {
        self.0.saturating_add(by)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0.year(), self.0.month())
    }
}

impl FromStr for Month {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let day: Result<Day, _> = format!("{text}-01").parse();
        day.map(Day::month).map_err(|_| InvalidWindow {
            text: text.to_owned(),
            expected: "a month such as 2026-11",
        })
    }
}

impl TryFrom<String> for Month {
    type Error = InvalidWindow;

    fn try_from(text: String) -> Result<Self, InvalidWindow> {
        text.parse()
    }
}

impl From<Month> for String {
    fn from(month: Month) -> String {
        month.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn windows_begin_and_end_on_the_utc_boundary() {
        let last = at("2026-12-31T23:59:59.999Z");
        let next = at("2027-01-01T00:00:00Z");
        assert_eq!(Hour::containing(last).to_string(), "2026-12-31T23");
        assert_eq!(Hour::containing(last).end(), next);
        assert_eq!(Hour::containing(next).to_string(), "2027-01-01T00");
        assert_eq!(Day::containing(last).to_string(), "2026-12-31");
        assert_eq!(Month::containing(last).to_string(), "2026-12");
        assert_eq!(Month::containing(last).end(), next);
        assert_eq!(Month::containing(next).previous(), Month::containing(last));
        assert_eq!(Month::containing(next).start(), next);
    }

    #[test]
    fn days_and_months_round_trip() {
        for text in [r#""2026-02""#, r#""0001-12""#] {
            let month: Month = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&month).unwrap(), text);
        }
        let day: Day = serde_json::from_str(r#""2026-02-28""#).unwrap();
        assert_eq!(serde_json::to_string(&day).unwrap(), r#""2026-02-28""#);
    }

    #[test]
    fn february_ends_according_to_the_year() {
        let check = |month: &str, end: &str| {
            assert_eq!(month.parse::<Month>().unwrap().end(), at(end));
        };
        check("2028-02", "2028-03-01T00:00:00Z");
        check("2026-02", "2026-03-01T00:00:00Z");
    }

    #[test]
    fn only_one_spelling_is_accepted() {
        for text in [
            "",
            "2026",
            "2026-13",
            "2026-1",
            "2026-11-22T10",
            "+2026-11",
            "2026-11-",
            "-000001-11",
        ] {
            assert!(text.parse::<Month>().is_err(), "{text:?}");
        }
        for text in [
            "",
            "2026-11",
            "2026-11-31",
            "20261122",
            "2026-11-22T10:00",
            " 2026-11-22",
            "-000001-11-22",
        ] {
            assert!(text.parse::<Day>().is_err(), "{text:?}");
        }
        assert_eq!(
            "2026-11-22".parse::<Day>().unwrap().month().to_string(),
            "2026-11"
        );
    }
}
