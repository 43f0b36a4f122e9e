//! The decision on a call with a valid key: allowed, or denied by one of two limits.
//!
//! Two counters limit the calls: one of the key in a UTC hour, and one of its customer in a UTC month.
//! The store counts; this module interprets the counts.

use jiff::Timestamp;

use crate::plan::Limits;
use crate::window::{Hour, Month};

/// Outcome of counting a call, which is counted in both windows or in neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountOutcome {
    /// Counted in both windows.
    Both {
        /// Calls of the key in this hour, this one included.
        in_hour: u64,
        /// Calls of the customer in this month, this one included.
        in_month: u64,
    },
    /// The key's hour is exhausted.
    HourFull,
    /// The customer's month is exhausted.
    MonthFull,
    /// Both windows are exhausted.
    BothFull,
}

impl CountOutcome {
    /// Returns the outcome for the windows that are exhausted, or `None` if neither is.
    #[must_use]
    pub fn full(hour: bool, month: bool) -> Option<Self> {
        match (hour, month) {
            (false, false) => None,
            (true, false) => Some(Self::HourFull),
            (false, true) => Some(Self::MonthFull),
            (true, true) => Some(Self::BothFull),
        }
    }
}

impl CountOutcome {
    /// Returns the calls of the customer's month, as far as the outcome shows them: at least the limit if the month
    /// is exhausted.
    #[must_use]
    pub fn in_month(self, limits: Limits) -> Option<u64> {
        match self {
            CountOutcome::Both { in_month, .. } => Some(in_month),
            CountOutcome::HourFull => None,
            CountOutcome::MonthFull | CountOutcome::BothFull => limits.per_month,
        }
    }
}

/// Window of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// The key's UTC hour.
    Hour,
    /// The customer's UTC month.
    Month,
}

impl Window {
    /// Returns the window's name in headers and problems.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Window::Hour => "hour",
            Window::Month => "month",
        }
    }
}

/// Status of one limit after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitStatus {
    /// Window of the limit.
    pub window: Window,
    /// Calls allowed in the window.
    pub limit: u64,
    /// Calls left in the window after this one.
    pub remaining: u64,
    /// Length of the window in seconds.
    pub window_s: u64,
    /// End of the window, at which the count restarts.
    pub resets_at: Timestamp,
}

impl LimitStatus {
    /// Returns the whole seconds until the window ends: at least one, and rounded up, so that a client
    /// that waits that long is not early.
    #[must_use]
    pub fn resets_in_s(&self, now: Timestamp) -> u64 {
        let left = self.resets_at.as_duration() - now.as_duration();
        let whole = u64::try_from(left.as_secs()).unwrap_or(0);
        (whole + u64::from(left.subsec_nanos() > 0)).max(1)
    }
}

/// Decision by the limits on a call with a valid key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The call is allowed.
    Allow {
        /// Status of the key's hour.
        hour: LimitStatus,
        /// Status of the customer's month, if it has a limit.
        month: Option<LimitStatus>,
    },
    /// The call is denied and counted in neither window.
    Deny {
        /// The limit that was reached. If both were, the one that resets later, because no call is
        /// allowed before that.
        by: LimitStatus,
        /// The other limit, if both were reached.
        also: Option<LimitStatus>,
    },
}

/// Decides on a call made at `now`, given the outcome of counting it.
#[must_use]
pub fn decide(now: Timestamp, limits: Limits, counted: CountOutcome) -> Decision {
    let this_hour = Hour::containing(now);
    let this_month = Month::containing(now);
    let hour_status = |used: u64| LimitStatus {
        window: Window::Hour,
        limit: limits.per_hour,
        remaining: limits.per_hour.saturating_sub(used),
        window_s: 3_600,
        resets_at: this_hour.end(),
    };
    let full_hour = hour_status(limits.per_hour);
    let month_status = |limit: u64, used: u64| LimitStatus {
        window: Window::Month,
        limit,
        remaining: limit.saturating_sub(used),
        window_s: seconds_between(this_month.start(), this_month.end()),
        resets_at: this_month.end(),
    };
    let month_limit = limits.per_month.unwrap_or(0);
    let full_month = month_status(month_limit, month_limit);
    match counted {
        CountOutcome::Both { in_hour, in_month } => Decision::Allow {
            hour: hour_status(in_hour),
            month: limits.per_month.map(|limit| month_status(limit, in_month)),
        },
        CountOutcome::HourFull => Decision::Deny {
            by: full_hour,
            also: None,
        },
        CountOutcome::MonthFull => Decision::Deny {
            by: full_month,
            also: None,
        },
        // A month never ends before an hour that it contains.
        CountOutcome::BothFull => Decision::Deny {
            by: full_month,
            also: Some(full_hour),
        },
    }
}

fn seconds_between(start: Timestamp, end: Timestamp) -> u64 {
    u64::try_from(end.as_second() - start.as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        per_hour: 100,
        per_month: Some(1_000),
    };

    fn now() -> Timestamp {
        "2026-11-30T23:59:59.5Z".parse().unwrap()
    }

    #[test]
    fn an_allowed_call_has_the_remaining_calls() {
        let counted = CountOutcome::Both {
            in_hour: 3,
            in_month: 1_000,
        };
        let Decision::Allow { hour, month } = decide(now(), LIMITS, counted) else {
            panic!("denied");
        };
        assert_eq!(
            (hour.limit, hour.remaining, hour.window_s),
            (100, 97, 3_600)
        );
        let month = month.unwrap();
        assert_eq!((month.limit, month.remaining), (1_000, 0));
        assert_eq!(month.window_s, 30 * 86_400);
        assert_eq!(month.resets_at.to_string(), "2026-12-01T00:00:00Z");
        assert_eq!(month.resets_in_s(now()), 1);
    }

    #[test]
    fn a_denial_has_the_limit_that_was_reached() {
        let check = |counted, window, limit, other| {
            let Decision::Deny { by, also } = decide(now(), LIMITS, counted) else {
                panic!("allowed");
            };
            assert_eq!((by.window, by.limit, by.remaining), (window, limit, 0));
            assert_eq!(also.map(|also| also.window), other);
        };
        check(CountOutcome::HourFull, Window::Hour, 100, None);
        check(CountOutcome::MonthFull, Window::Month, 1_000, None);
        check(
            CountOutcome::BothFull,
            Window::Month,
            1_000,
            Some(Window::Hour),
        );
    }

    #[test]
    fn an_unlimited_month_has_no_status() {
        let limits = Limits {
            per_hour: 1,
            per_month: None,
        };
        let counted = CountOutcome::Both {
            in_hour: 1,
            in_month: 5_000_000,
        };
        let decision = decide(now(), limits, counted);
        assert!(matches!(decision, Decision::Allow { month: None, .. }));
    }
}
