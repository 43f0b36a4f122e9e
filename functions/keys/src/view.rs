//! Keys in responses, and the checks of their members in requests.

use jiff::Timestamp;
use serde::Serialize;
use tollgate_domain::id::{CustomerId, KeyId, PlanId};
use tollgate_domain::key::{KeyPrefix, KeyRecord, KeyStatus, Role};
use tollgate_domain::plan::Overrides;
use tollgate_domain::time::Rfc3339;
use tollgate_web::Problem;

/// A key in a response, without its secret.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct KeyView {
    id: KeyId,
    prefix: KeyPrefix,
    name: String,
    role: Role,
    customer_id: Option<CustomerId>,
    status: KeyStatus,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    /// Whether the key is not suspended. A `PATCH` changes this member.
    enabled: bool,
    suspended_at: Option<Timestamp>,
    overrides: Overrides,
    rotated_to: Option<KeyId>,
}

impl KeyView {
    pub(crate) fn new(key: KeyRecord, now: Timestamp) -> Self {
        Self {
            status: key.status(now),
            role: key.owner.role(),
            customer_id: key.owner.customer().cloned(),
            id: key.id,
            prefix: key.prefix,
            name: key.name,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            enabled: key.suspended_at.is_none(),
            suspended_at: key.suspended_at,
            overrides: key.overrides,
            rotated_to: key.rotated_to,
        }
    }
}

/// A key in a list, with the current plan of its customer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListedKey {
    #[serde(flatten)]
    pub(crate) key: KeyView,
    pub(crate) plan: Option<PlanId>,
}

/// A new key in the response to the request that created it.
#[derive(Debug, Serialize)]
pub(crate) struct IssuedKey {
    /// The secret; `null` in the response to a repeated request.
    pub(crate) key: Option<String>,
    #[serde(flatten)]
    pub(crate) view: KeyView,
}

/// Maximum length of a name, in characters.
const MAX_NAME: usize = 100;
/// Maximum of a limit, so that sums of limits are exact in every number format.
const MAX_LIMIT: u64 = 1_000_000_000_000;

pub(crate) fn check_name(name: &str) -> Result<(), Problem> {
    if name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        let detail = "name must have at most 100 characters, and no control characters.";
        Err(Problem::unprocessable(detail).with("field", "name"))
    }
}

pub(crate) fn check_limit(field: &'static str, limit: Option<u64>) -> Result<(), Problem> {
    match limit {
        Some(limit) if limit > MAX_LIMIT => {
            let detail = "A limit must be at most 1,000,000,000,000.";
            Err(Problem::unprocessable(detail).with("field", field))
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
            Err(Problem::unprocessable(detail).with("field", "expires_at"))
        }
        expires_at => Ok(expires_at),
    }
}

/// 403: only the operator creates and changes admin keys. The functions' roles do not allow it.
pub(crate) fn admin_key_forbidden() -> Problem {
    Problem::forbidden(
        "Admin keys are created with AWS credentials, by \"tollgate admin-key create\". The API can only \
         list, show and revoke them.",
    )
}

pub(crate) fn no_such_key() -> Problem {
    Problem::not_found("There is no key with this prefix or id.")
}
