//! Creating keys.

use tollgate_domain::idempotency::Idempotency;
use tollgate_domain::key::KeyRecord;

use super::item::{NewKey, key_items, read_key};
use crate::Store;
use crate::customers::check_active;
use crate::error::StoreError;
use crate::idempotency::{self, CreateOutcome, EarlierUse, earlier_use};
use crate::registry::put_if_absent;
use crate::transaction::{Action, Transacted};

impl Store {
    /// Returns the outcome of an earlier creating request under the same idempotency key, if there was
    /// one: [`CreateOutcome::Replayed`] or [`CreateOutcome::KeyReused`]. For a handler that validates a
    /// request against data that may have changed since the first request. It does not replace the
    /// idempotency key of the creating call, which covers concurrent requests.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn repeated_key(
        &self,
        request: &Idempotency,
    ) -> Result<Option<CreateOutcome<KeyRecord>>, StoreError> {
        Ok(match self.find_earlier_use(request).await? {
            Some(EarlierUse::SameRequest(id)) => {
                Some(CreateOutcome::Replayed(self.created_key(&id).await?))
            }
            Some(EarlierUse::OtherRequest) => Some(CreateOutcome::KeyReused),
            None => None,
        })
    }

    /// Stores a new key, its prefix and its id, each unique.
    ///
    /// # Errors
    /// When the store fails; the key may then have been stored.
    pub async fn create_key(
        &self,
        key: &NewKey<'_>,
        idempotency: Option<&Idempotency>,
    ) -> Result<CreateOutcome<KeyRecord>, StoreError> {
        let made = key.record.id.as_str();
        let mut actions: Vec<Action> = key_items(key).into_iter().map(put_if_absent).collect();
        actions.extend(key.record.owner.customer().map(check_active));
        actions
            .extend(idempotency.map(|request| idempotency::put(request, made, self.clock.now())));
        let results = match self.transact("creating a key", actions).await? {
            Transacted::Committed => return Ok(CreateOutcome::New),
            Transacted::Cancelled(results) => results,
        };
        if let (Some(request), Some(result)) = (idempotency, results.last()) {
            match earlier_use(request, result)? {
                // By this very call, whose first response was lost for longer than the token is valid: a
                // key's id is drawn for its creation, and so identifies the write as well.
                Some(EarlierUse::SameRequest(id)) if id == made => return Ok(CreateOutcome::New),
                Some(EarlierUse::SameRequest(id)) => {
                    return self.created_key(&id).await.map(CreateOutcome::Replayed);
                }
                Some(EarlierUse::OtherRequest) => return Ok(CreateOutcome::KeyReused),
                None => {}
            }
        }
        if key.record.owner.customer().is_some() && results[3].is_failed() {
            return Ok(CreateOutcome::NoCustomer);
        }
        match results[0].item().map(read_key).transpose()? {
            Some(stored) if stored.id == key.record.id => Ok(CreateOutcome::New),
            _ => Ok(CreateOutcome::Taken),
        }
    }

    /// Reads the key that an idempotency item refers to.
    pub(super) async fn created_key(&self, id: &str) -> Result<KeyRecord, StoreError> {
        let id = id.parse().map_err(|_| idempotency::corrupt())?;
        let key = self.customer_key(id).await?;
        key.ok_or_else(idempotency::corrupt)
    }
}
