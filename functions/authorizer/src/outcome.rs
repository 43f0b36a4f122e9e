//! Outcomes of a decision, for the gateway, the log and the metrics.

use std::fmt;

use tollgate_api::context::Denial;
use tollgate_domain::decision::Window;

/// The reason why there is no policy: the key is not valid, or nothing could be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizeError {
    /// There is no valid key. The gateway compares the text, `Unauthorized`, and responds with 401.
    Unauthorized(UnauthorizedReason),
    /// The store is unavailable, and the plan fails closed. The gateway responds with 503.
    Unavailable,
}

impl fmt::Display for AuthorizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AuthorizeError::Unauthorized(_) => "Unauthorized",
            AuthorizeError::Unavailable => "Unavailable",
        })
    }
}

impl std::error::Error for AuthorizeError {}

/// The reason why a key is not valid: for the log and the metrics. The caller only receives a 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnauthorizedReason {
    /// The request has no key.
    Missing,
    /// The form or the checksum is wrong.
    Malformed,
    /// No such key exists.
    Unknown,
    /// The key has expired.
    Expired,
    /// The key was revoked, or its customer was erased.
    Revoked,
    /// The key is suspended.
    Suspended,
}

/// The reason for a policy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DecisionReason {
    /// Allowed: counted, and no limit is exceeded.
    WithinLimits,
    /// Allowed: the route or the key counts towards no limit.
    Uncounted,
    /// Allowed: the store is unavailable, and the plan fails open.
    StoreUnavailable,
    /// Denied: the limit of this window is reached.
    LimitReached(Window),
    /// Denied whatever the limits say.
    Denied(Denial),
}

/// Returns the values of the metric's dimensions, `Outcome` and `Reason`.
pub(crate) fn dimensions(
    decided: Result<DecisionReason, &AuthorizeError>,
) -> &'static [&'static str] {
    use AuthorizeError::{Unauthorized, Unavailable};

    match decided {
        Ok(DecisionReason::WithinLimits) => &["allowed", "within_limits"],
        Ok(DecisionReason::Uncounted) => &["allowed", "uncounted"],
        Ok(DecisionReason::StoreUnavailable) => &["allowed", "store_unavailable"],
        Ok(DecisionReason::LimitReached(Window::Hour)) => &["denied", "rate_limited"],
        Ok(DecisionReason::LimitReached(Window::Month)) => &["denied", "quota_exceeded"],
        Ok(DecisionReason::Denied(Denial::CustomerSuspended)) => &["denied", "customer_suspended"],
        Ok(DecisionReason::Denied(Denial::NoPlan)) => &["denied", "no_plan"],
        Err(Unauthorized(UnauthorizedReason::Missing)) => &["unauthorized", "missing_key"],
        Err(Unauthorized(UnauthorizedReason::Malformed)) => &["unauthorized", "malformed_key"],
        Err(Unauthorized(UnauthorizedReason::Unknown)) => &["unauthorized", "unknown_key"],
        Err(Unauthorized(UnauthorizedReason::Expired)) => &["unauthorized", "expired_key"],
        Err(Unauthorized(UnauthorizedReason::Revoked)) => &["unauthorized", "revoked_key"],
        Err(Unauthorized(UnauthorizedReason::Suspended)) => &["unauthorized", "suspended_key"],
        Err(Unavailable) => &["unavailable", "store_unavailable"],
    }
}
