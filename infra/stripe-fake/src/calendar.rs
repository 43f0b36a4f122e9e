//! Billing periods: boundaries at whole intervals from an anchor, in UTC.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// Unit of a price's interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Day,
    Week,
    Month,
    Year,
}

/// Interval of a recurring price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) unit: Unit,
    pub(crate) count: i64,
}

impl Unit {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "day" => Some(Self::Day),
            "week" => Some(Self::Week),
            "month" => Some(Self::Month),
            "year" => Some(Self::Year),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

impl Interval {
    /// Returns the boundary `n` intervals after the anchor. A day that a month lacks is its last day, and
    /// each boundary is counted from the anchor, so that the 31st does not become the 28th for good.
    pub(crate) fn boundary(self, anchor: i64, n: i64) -> i64 {
        let count = self.count.saturating_mul(n);
        let span = match self.unit {
            Unit::Day => Span::new().try_days(count),
            Unit::Week => Span::new().try_weeks(count),
            Unit::Month => Span::new().try_months(count),
            Unit::Year => Span::new().try_years(count),
        };
        let moved = span.and_then(|span| zoned(anchor).checked_add(span));
        moved.map_or(i64::MAX, |moved| moved.timestamp().as_second())
    }

    /// Returns the first boundary after a time, and the one before that.
    pub(crate) fn around(self, anchor: i64, time: i64) -> (i64, i64) {
        let days = match self.unit {
            Unit::Day => 1,
            Unit::Week => 7,
            Unit::Month => 31,
            Unit::Year => 366,
        };
        let longest = days * 86_400 * self.count.max(1);
        let mut n = (time - anchor).div_euclid(longest);
        while self.boundary(anchor, n) <= time {
            n += 1;
        }
        (self.boundary(anchor, n - 1), self.boundary(anchor, n))
    }
}

/// Returns the next time after `time` with this day of the month. Hour, minute and second are those of `time`
/// if they are not given.
pub(crate) fn next_day_of_month(
    time: i64,
    day: i64,
    [hour, minute, second]: [Option<i64>; 3],
) -> i64 {
    let now = zoned(time);
    let small = |value: Option<i64>, otherwise: i8| {
        value
            .and_then(|value| i8::try_from(value).ok())
            .unwrap_or(otherwise)
    };
    let clock = Time::new(
        small(hour, now.hour()),
        small(minute, now.minute()),
        small(second, now.second()),
        0,
    );
    let clock = clock.unwrap_or_else(|_| now.time());
    for months in 0..2 {
        let month = now
            .date()
            .first_of_month()
            .saturating_add(Span::new().months(months));
        let day = i8::try_from(day)
            .unwrap_or(1)
            .clamp(1, month.days_in_month());
        let date = month.with().day(day).build().unwrap_or(month);
        let at = date.to_datetime(clock).to_zoned(TimeZone::UTC);
        if let Ok(at) = at
            && at > now
        {
            return at.timestamp().as_second();
        }
    }
    time
}

/// Returns the UTC day of a time, such as `2026-11-17`.
pub(crate) fn day(time: i64) -> String {
    zoned(time).date().to_string()
}

fn zoned(time: i64) -> Zoned {
    let time = Timestamp::from_second(time).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn periods_are_counted_from_the_anchor() {
        let check = |unit, anchor: &str, time: &str, begin: &str, end: &str| {
            let around = Interval { unit, count: 1 }.around(at(anchor), at(time));
            assert_eq!(around, (at(begin), at(end)), "{anchor} {time}");
        };
        let anchor = "2026-01-31T12:00:00Z";
        check(Unit::Month, anchor, anchor, anchor, "2026-02-28T12:00:00Z");
        check(
            Unit::Month,
            anchor,
            "2026-02-28T12:00:00Z",
            "2026-02-28T12:00:00Z",
            "2026-03-31T12:00:00Z",
        );
        check(
            Unit::Month,
            anchor,
            "2026-01-01T00:00:00Z",
            "2025-12-31T12:00:00Z",
            anchor,
        );
        check(
            Unit::Year,
            "2024-02-29T00:00:00Z",
            "2026-06-01T00:00:00Z",
            "2026-02-28T00:00:00Z",
            "2027-02-28T00:00:00Z",
        );
        check(
            Unit::Week,
            "2026-01-01T00:00:00Z",
            "2026-01-09T00:00:00Z",
            "2026-01-08T00:00:00Z",
            "2026-01-15T00:00:00Z",
        );
        check(
            Unit::Day,
            "2026-01-01T00:00:00Z",
            "2026-01-01T23:59:59Z",
            "2026-01-01T00:00:00Z",
            "2026-01-02T00:00:00Z",
        );
    }

    #[test]
    fn the_day_of_a_month_is_the_next_one() {
        let check = |time: &str, day, expected: &str| {
            let next = next_day_of_month(at(time), day, [Some(0); 3]);
            assert_eq!(next, at(expected), "{time} {day}");
        };
        check("2026-11-17T10:00:00Z", 1, "2026-12-01T00:00:00Z");
        check("2026-11-17T10:00:00Z", 20, "2026-11-20T00:00:00Z");
        check("2026-01-30T10:00:00Z", 31, "2026-01-31T00:00:00Z");
        check("2026-02-28T10:00:00Z", 31, "2026-03-31T00:00:00Z");
    }
}
