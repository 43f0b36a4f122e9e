//! API keys.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::{CustomerId, KeyId, PlanId};
use tollgate_domain::key::{KeyPrefix, KeyRecord, KeyStatus};
use tollgate_domain::plan;
use tollgate_domain::role::Role;
use tollgate_domain::time::Rfc3339;
use utoipa::{IntoParams, ToSchema};

use crate::json::{Object, Whole, nullable};
use crate::{Cursor, schema};

/// Role of a key, which decides the routes it may call. `call`: the API, on behalf of one customer, and
/// the customer's usage. `manage`: the same, and the customer's keys, billing and sign-in. `admin`: `/admin`;
/// the key belongs to no customer, and is neither limited nor metered.
#[derive(Debug, ToSchema)]
#[schema(as = Role, rename_all = "lowercase")]
pub enum RoleSchema {
    /// Calls the API on behalf of one customer, and reads the customer's usage.
    Call,
    /// As `Call`, and also manages the customer's keys, billing and sign-in.
    Manage,
    /// Calls `/admin`; belongs to no customer and is neither limited nor metered.
    Admin,
}

/// State of a key.
#[derive(Debug, ToSchema)]
#[schema(as = KeyStatus, rename_all = "lowercase")]
pub enum KeyStatusSchema {
    /// The key works.
    Active,
    /// The key is suspended until it is enabled again, expires or is revoked.
    Suspended,
    /// The key has expired.
    Expired,
    /// The key was revoked, which is final.
    Revoked,
}

/// Limits of one key that replace its plan's.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Calls with the key in a UTC hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_u64)]
    pub requests_per_hour: Option<Whole>,
    /// Number of the customer's calls in a UTC month from which calls with this key are denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_u64)]
    pub monthly_quota: Option<Whole>,
}

impl From<plan::Overrides> for Overrides {
    fn from(overrides: plan::Overrides) -> Self {
        Self {
            requests_per_hour: overrides.requests_per_hour.map(Whole),
            monthly_quota: overrides.monthly_quota.map(Whole),
        }
    }
}

impl From<Overrides> for plan::Overrides {
    fn from(overrides: Overrides) -> Self {
        Self {
            requests_per_hour: overrides.requests_per_hour.map(|Whole(limit)| limit),
            monthly_quota: overrides.monthly_quota.map(|Whole(limit)| limit),
        }
    }
}

/// A key, without its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Key {
    /// Id.
    #[schema(value_type = schema::KeyId)]
    pub id: KeyId,
    /// Visible prefix.
    #[schema(value_type = schema::KeyPrefix)]
    pub prefix: KeyPrefix,
    /// Name, for people.
    pub name: String,
    /// Role, which never changes.
    #[schema(value_type = RoleSchema)]
    pub role: Role,
    /// Customer that the key belongs to; `null` for admin keys.
    #[schema(value_type = Option<schema::CustomerId>, required)]
    pub customer_id: Option<CustomerId>,
    /// State.
    #[schema(value_type = KeyStatusSchema)]
    pub status: KeyStatus,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Time of expiry; `null` if the key does not expire.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub expires_at: Option<Timestamp>,
    /// Time of revocation.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub revoked_at: Option<Timestamp>,
    /// Whether the key is not suspended. A `PATCH` changes this member.
    pub enabled: bool,
    /// Time of suspension.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub suspended_at: Option<Timestamp>,
    /// The key's own limits.
    pub overrides: Overrides,
    /// Id of the successor that a rotation made.
    #[schema(value_type = Option<schema::KeyId>, required)]
    pub rotated_to: Option<KeyId>,
}

impl Key {
    /// Creates the representation of a key at `now`.
    #[must_use]
    pub fn new(key: KeyRecord, now: Timestamp) -> Self {
        Self {
            status: key.status(now),
            role: key.role(),
            customer_id: key.owner.customer().cloned(),
            id: key.id,
            prefix: key.prefix,
            name: key.name,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            enabled: key.suspended_at.is_none(),
            suspended_at: key.suspended_at,
            overrides: key.overrides.into(),
            rotated_to: key.rotated_to,
        }
    }
}

/// A key in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ListedKey {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// Current plan of the key's customer; `null` for admin keys.
    #[schema(value_type = Option<schema::PlanId>, required)]
    pub plan: Option<PlanId>,
}

/// A new key, in the response to the request that created it. Its `Debug` does not show the secret.
#[derive(Serialize, ToSchema)]
pub struct IssuedKey {
    /// The whole key, a secret that is returned only once; `null` in the response to a repeated request.
    #[schema(required, examples("tg_live_4fJ9aQ2cR8sXk1VbN7mTy3ZpWd5LgHq06EuC2oAf"))]
    pub key: Option<String>,
    /// The key without its secret.
    #[serde(flatten)]
    pub details: Key,
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedKey")
            .field("details", &self.details)
            .finish_non_exhaustive()
    }
}

/// Request to create a key.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// `call`, which is the default, or `manage`. It cannot be changed later. Admin keys are created with AWS
    /// credentials, by `tollgate admin-key create`.
    #[schema(value_type = Option<RoleSchema>)]
    pub role: Option<Role>,
    /// Customer that the key belongs to. Required.
    #[schema(value_type = schema::CustomerId, required)]
    pub customer_id: Option<CustomerId>,
    /// Name, for people.
    #[serde(default)]
    #[schema(value_type = schema::Name)]
    pub name: String,
    /// Time of expiry, in the future. By default the key does not expire.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub expires_at: Option<Rfc3339>,
    /// The key's own limits.
    #[serde(default)]
    #[schema(value_type = Overrides)]
    pub overrides: Object<Overrides>,
}

/// Changes of a key: a merge patch (RFC 7396). An absent member stays, `null` removes one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateKey {
    /// Name, for people.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<schema::Name>)]
    pub name: Option<Option<String>>,
    /// Time of expiry, in the future.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<schema::Timestamp>)]
    pub expires_at: Option<Option<Rfc3339>>,
    /// The key's own limits.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<UpdateOverrides>)]
    pub overrides: Option<Option<Object<UpdateOverrides>>>,
    /// `false` suspends the key, `true` enables it again.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = bool)]
    pub enabled: Option<Option<bool>>,
}

/// Changes of a key's own limits: `null` restores the plan's.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateOverrides {
    /// Calls with the key in a UTC hour.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_u64)]
    pub requests_per_hour: Option<Option<Whole>>,
    /// Number of the customer's calls in a UTC month from which calls with this key are denied.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_u64)]
    pub monthly_quota: Option<Option<Whole>>,
}

/// Default grace period of a rotation: a day.
const DEFAULT_GRACE_S: Whole = Whole(86_400);

/// Request to rotate a key.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// Grace period in seconds, at the end of which the old key expires; a day if absent. With 0 it expires at
    /// once.
    #[serde(default = "default_grace_s")]
    #[schema(value_type = u64, default = 86_400, maximum = 2_592_000)]
    pub grace_period_s: Whole,
}

fn default_grace_s() -> Whole {
    DEFAULT_GRACE_S
}

/// Query of the list of keys.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeysQuery {
    /// Only keys of this customer.
    #[param(value_type = Option<schema::CustomerId>)]
    pub customer_id: Option<CustomerId>,
    /// Only keys of customers on this plan.
    #[param(value_type = Option<schema::PlanId>)]
    pub plan: Option<PlanId>,
    /// Only keys in this state.
    #[param(value_type = Option<KeyStatusSchema>)]
    pub status: Option<KeyStatus>,
    /// Page size; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}

/// Numbers of keys by state.
#[derive(Debug, Default, Clone, Copy, Serialize, ToSchema)]
pub struct KeyCounts {
    /// All keys.
    pub total: u64,
    /// Keys that work.
    pub active: u64,
    /// Suspended keys.
    pub suspended: u64,
    /// Expired keys.
    pub expired: u64,
    /// Revoked keys.
    pub revoked: u64,
}

impl KeyCounts {
    /// Counts a key in this state.
    pub fn add(&mut self, status: KeyStatus) {
        self.total += 1;
        match status {
            KeyStatus::Active => self.active += 1,
            KeyStatus::Suspended => self.suspended += 1,
            KeyStatus::Expired => self.expired += 1,
            KeyStatus::Revoked => self.revoked += 1,
        }
    }
}

/// Numbers of keys by state and plan.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct KeyStats {
    /// All keys.
    #[serde(flatten)]
    pub all: KeyCounts,
    /// Keys of customers, by the current plan of their customer.
    #[schema(value_type = BTreeMap<String, KeyCounts>)]
    pub by_plan: BTreeMap<PlanId, KeyCounts>,
    /// Admin keys.
    pub admin: KeyCounts,
}
