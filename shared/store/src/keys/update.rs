//! Changing and revoking keys.

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use jiff::Timestamp;
use tollgate_domain::key::{KeyKind, KeyRecord};

use super::item::{KeyRef, read_key};
use crate::error::StoreError;
use crate::item::{n, s, t};
use crate::registry::Changes;
use crate::schema::REGISTRY;
use crate::{Store, item};

/// A change to a key. Outer `None`: not changed; inner `None`: removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Display name.
    pub name: Option<String>,
    /// Expiry.
    pub expires_at: Option<Option<Timestamp>>,
    /// Hourly rate limit of this key.
    pub requests_per_hour: Option<Option<u64>>,
    /// Monthly quota of this key.
    pub monthly_quota: Option<Option<u64>>,
    /// Beginning of the suspension. A key that is already suspended keeps the first instant.
    pub suspended_at: Option<Option<Timestamp>>,
}

/// Outcome of changing a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for a request, moved once"
)]
pub enum UpdateOutcome {
    /// The key after the change.
    Done(KeyRecord),
    /// There is no such key.
    Unknown,
    /// The key is an admin key and cannot be changed.
    Admins,
    /// The key is revoked and cannot be changed.
    Revoked,
    /// The key is rotated; its expiry is the end of the grace period and cannot be changed.
    Rotated,
}

impl Store {
    /// Revokes a key at `now`; one already revoked keeps its first instant. Returns `false` if there is no
    /// such key.
    ///
    /// # Errors
    /// When the store fails; the key may then have been revoked.
    pub async fn revoke_key(&self, key: &KeyRef, now: Timestamp) -> Result<bool, StoreError> {
        let Some((_, key_pk)) = self.find_key(key).await? else {
            return Ok(false);
        };
        let outcome = self
            .client
            .update_item()
            .table_name(self.table(REGISTRY))
            .set_key(Some(item::key(key_pk)))
            .update_expression("SET revoked_at = :now")
            // Exists: an update must not create an incomplete key. Not revoked: the first instant is the
            // one on record, and a repetition of this write changes nothing.
            .condition_expression("attribute_exists(pk) AND attribute_not_exists(revoked_at)")
            .expression_attribute_values(":now", t(now))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match outcome {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(failed.item().is_some_and(|item| !item.is_empty()))
                }
                _ => Err(StoreError::service("revoking a key", error)),
            },
        }
    }

    /// Changes a customer's key.
    ///
    /// # Errors
    /// When the store fails; the change may then have been made.
    pub async fn update_key(
        &self,
        key: &KeyRef,
        change: &KeyChange,
    ) -> Result<UpdateOutcome, StoreError> {
        let key_pk = match self.find_key(key).await? {
            Some((KeyKind::Customer, pk)) => pk,
            Some((KeyKind::Admin, _)) => return Ok(UpdateOutcome::Admins),
            None => return Ok(UpdateOutcome::Unknown),
        };
        let mut changes = Changes::default();
        if let Some(name) = &change.name {
            changes.apply("name", Some(s(name)));
        }
        if let Some(expires_at) = change.expires_at {
            changes.apply("expires_at", expires_at.map(t));
        }
        if let Some(rate) = change.requests_per_hour {
            changes.apply("requests_per_hour", rate.map(n));
        }
        if let Some(quota) = change.monthly_quota {
            changes.apply("monthly_quota", quota.map(n));
        }
        if let Some(suspended_at) = change.suspended_at {
            changes.apply_since("suspended_at", suspended_at);
        }
        // Exists: an update must not create an incomplete key. Not revoked: a revocation is final.
        let mut condition = "attribute_exists(pk) AND attribute_not_exists(revoked_at)".to_owned();
        if change.expires_at.is_some() {
            // Not rotated: the grace period of the rotation is not extended.
            condition.push_str(" AND attribute_not_exists(rotated_to)");
        }
        let updated = self.update_registry_item(key_pk, changes, condition);
        match updated.await? {
            Ok(item) => Ok(UpdateOutcome::Done(read_key(&item)?)),
            Err(None) => Ok(UpdateOutcome::Unknown),
            Err(Some(item)) => match read_key(&item)?.revoked_at {
                Some(_) => Ok(UpdateOutcome::Revoked),
                None => Ok(UpdateOutcome::Rotated),
            },
        }
    }
}
