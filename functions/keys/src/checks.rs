//! Checks of the members of requests, and problems that several operations have.

use jiff::Timestamp;
use tollgate_api::problem::Member;
use tollgate_domain::time::Rfc3339;
use tollgate_web::Problem;

/// Maximum of a limit, so that sums of limits are exact in every number format.
const MAX_LIMIT: u64 = 1_000_000_000_000;

pub(crate) fn check_limit(field: &'static str, limit: Option<u64>) -> Result<(), Problem> {
    match limit {
        Some(limit) if limit > MAX_LIMIT => {
            let detail = "A limit must be at most 1,000,000,000,000.";
            Err(Problem::unprocessable(detail).with(Member::Field, field))
        }
        _ => Ok(()),
    }
}

/// Checks an expiry. Returns it in whole milliseconds, the precision that is stored.
pub(crate) fn check_expiry(
    expires_at: Option<Rfc3339>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Problem> {
    let in_ms = |Rfc3339(at)| Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at);
    match expires_at.map(in_ms) {
        Some(at) if at <= now => {
            let detail = "expires_at must be in the future. To end the key now, revoke it.";
            Err(Problem::unprocessable(detail).with(Member::Field, "expires_at"))
        }
        expires_at => Ok(expires_at),
    }
}

/// Creates the 403 for admin keys, which only the operator creates and changes: the functions' roles do not allow it.
pub(crate) fn admin_key_forbidden() -> Problem {
    Problem::forbidden(
        "Admin keys are created with AWS credentials, by \"tollgate admin-key create\". The API can only \
         list, show and revoke them.",
    )
}

pub(crate) fn no_such_key() -> Problem {
    Problem::not_found("There is no key with this prefix or id.")
}
