//! Rotating keys.

use jiff::Timestamp;
use tollgate_domain::idempotency::Idempotency;
use tollgate_domain::key::KeyRecord;

use super::item::{KeyRef, NewKey, key_items, read_key};
use crate::customers::check_active;
use crate::error::StoreError;
use crate::idempotency::{self, EarlierUse, earlier_use};
use crate::item::{s, t};
use crate::registry::put_if_absent;
use crate::schema::REGISTRY;
use crate::transaction::{Action, Transacted};
use crate::{Store, item};

/// Outcome of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RotateOutcome {
    /// The successor was created by this request.
    New,
    /// The successor was created by an earlier request under the same idempotency key.
    Replayed(Box<KeyRecord>),
    /// The idempotency key was used for another request.
    KeyReused,
    /// The old key was revoked, suspended, rotated or given another expiry since it was read.
    Changed,
    /// The key's customer does not exist, or is erased.
    NoCustomer,
    /// The successor's id, prefix or digest is taken; the caller has to draw another.
    Taken,
}

impl Store {
    /// Stores `successor`, and sets the expiry of `old`, a customer's key as it was read, to `old_ends_at`.
    ///
    /// # Errors
    /// When the store fails; the rotation may then have happened.
    pub async fn rotate_key(
        &self,
        old: &KeyRecord,
        old_ends_at: Timestamp,
        successor: &NewKey<'_>,
        idempotency: Option<&Idempotency>,
    ) -> Result<RotateOutcome, StoreError> {
        let made = successor.record.id.as_str();
        let Some((_, old_pk)) = self.find_key(&KeyRef::Id(old.id.clone())).await? else {
            return Ok(RotateOutcome::Changed);
        };
        let update = Action::update(
            REGISTRY,
            item::key(old_pk),
            "SET rotated_to = :successor, expires_at = :ends",
        )
        .value(":successor", s(made))
        .value(":ends", t(old_ends_at));
        // Exists, where no other clause implies it: an update must not create an incomplete key. Not
        // revoked: a revoked key has no successor. Not suspended: the successor would not be suspended.
        // Not rotated: a key has at most one successor. The expiry is the one from which `old_ends_at`
        // was computed, so that the rotation never extends it. The role needs no clause: it never changes,
        // so the successor's is still that of the key.
        let update = match old.expires_at {
            None => update.when(
                "attribute_exists(pk) AND attribute_not_exists(revoked_at) \
                 AND attribute_not_exists(suspended_at) AND attribute_not_exists(rotated_to) \
                 AND attribute_not_exists(expires_at)",
            ),
            Some(seen) => update
                .when(
                    "attribute_not_exists(revoked_at) AND attribute_not_exists(suspended_at) \
                     AND attribute_not_exists(rotated_to) AND expires_at = :seen",
                )
                .value(":seen", t(seen)),
        };
        let mut actions = vec![update];
        actions.extend(key_items(successor).into_iter().map(put_if_absent));
        actions.extend(old.owner.customer().map(check_active));
        actions
            .extend(idempotency.map(|request| idempotency::put(request, made, self.clock.now())));
        let results = match self.transact("rotating a key", actions).await? {
            Transacted::Committed => return Ok(RotateOutcome::New),
            Transacted::Cancelled(results) => results,
        };
        if let (Some(request), Some(result)) = (idempotency, results.last()) {
            match earlier_use(request, result)? {
                Some(EarlierUse::SameRequest(id)) if id == made => return Ok(RotateOutcome::New),
                Some(EarlierUse::SameRequest(id)) => {
                    let successor = self.created_key(&id).await?;
                    return Ok(RotateOutcome::Replayed(Box::new(successor)));
                }
                Some(EarlierUse::OtherRequest) => return Ok(RotateOutcome::KeyReused),
                None => {}
            }
        }
        if !results[0].is_failed() {
            let has_no_customer = old.owner.customer().is_some() && results[4].is_failed();
            return Ok(if has_no_customer {
                RotateOutcome::NoCustomer
            } else {
                RotateOutcome::Taken
            });
        }
        match results[0].item().map(read_key).transpose()? {
            // By this very call: its first try took effect.
            Some(stored) if stored.rotated_to.as_ref() == Some(&successor.record.id) => {
                Ok(RotateOutcome::New)
            }
            _ => Ok(RotateOutcome::Changed),
        }
    }
}
