//! How a decision came out, for the gateway, the log and the metrics.

use std::fmt;

use tollgate_domain::caller::Denial;
use tollgate_domain::decision::Window;

/// No policy: the call is refused before any limit matters, or cannot be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no good key. The gateway knows this by its text, `Unauthorized`, and answers 401.
    Unauthorized(NoGoodKey),
    /// The store does not answer, and the plan says to refuse then. The gateway answers 503.
    Unavailable,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Unauthorized(_) => "Unauthorized",
            Refused::Unavailable => "Unavailable",
        })
    }
}

impl std::error::Error for Refused {}

/// Why a key is no good: for the log and the metrics. The holder learns no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoGoodKey {
    /// There is none.
    Missing,
    /// It cannot be a key: its form or its checksum is wrong.
    Malformed,
    /// No such key was made.
    Unknown,
    /// Its time is over.
    Expired,
    /// It was revoked, or its customer has left.
    Revoked,
    /// It is suspended.
    Suspended,
}

/// What a policy rests on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Grounds {
    /// Allowed: counted, and no limit is exceeded.
    WithinLimits,
    /// Allowed: the route counts towards no limit.
    Uncounted,
    /// Allowed: the store does not answer, and the plan says to let calls pass then.
    StoreDown,
    /// Denied: this window is full.
    Full(Window),
    /// Denied whatever the limits say.
    Denied(Denial),
}

/// The values of the metric's dimensions, `Outcome` and `Reason`.
pub(crate) fn dimensions(decided: Result<Grounds, &Refused>) -> &'static [&'static str] {
    match decided {
        Ok(Grounds::WithinLimits) => &["allowed", "within_limits"],
        Ok(Grounds::Uncounted) => &["allowed", "uncounted"],
        Ok(Grounds::StoreDown) => &["allowed", "store_down"],
        Ok(Grounds::Full(Window::Hour)) => &["limited", "hour"],
        Ok(Grounds::Full(Window::Month)) => &["limited", "month"],
        Ok(Grounds::Denied(Denial::CustomerSuspended)) => &["denied", "customer_suspended"],
        Ok(Grounds::Denied(Denial::NoPlan)) => &["unavailable", "no_plan"],
        Err(Refused::Unauthorized(NoGoodKey::Missing)) => &["unauthorized", "missing_key"],
        Err(Refused::Unauthorized(NoGoodKey::Malformed)) => &["unauthorized", "malformed_key"],
        Err(Refused::Unauthorized(NoGoodKey::Unknown)) => &["unauthorized", "unknown_key"],
        Err(Refused::Unauthorized(NoGoodKey::Expired)) => &["unauthorized", "expired_key"],
        Err(Refused::Unauthorized(NoGoodKey::Revoked)) => &["unauthorized", "revoked_key"],
        Err(Refused::Unauthorized(NoGoodKey::Suspended)) => &["unauthorized", "suspended_key"],
        Err(Refused::Unavailable) => &["unavailable", "store_down"],
    }
}
