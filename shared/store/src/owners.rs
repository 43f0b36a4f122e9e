//! Whose keys are.

use std::collections::HashMap;

use tollgate_domain::id::KeyId;
use tollgate_domain::key::Owner;

use crate::Store;
use crate::accounts::{KeyRef, alias_pk, key_pk, read_key};
use crate::error::StoreError;
use crate::item::{self, Item, Reader};
use crate::schema::ACCOUNTS;

const OPERATION: &str = "asking whose keys are";

impl Store {
    /// The owners of these keys; a key that does not exist has none. Keys do not change hands.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn key_owners(&self, ids: Vec<KeyId>) -> Result<HashMap<KeyId, Owner>, StoreError> {
        let aliases = ids
            .into_iter()
            .map(|id| item::key(alias_pk(&KeyRef::Id(id))));
        let aliases = self
            .batch_get(OPERATION, ACCOUNTS, aliases.collect())
            .await?;
        let digest = |alias: &Item| Reader::new("key alias", alias).text("digest").map(key_pk);
        let keys = aliases.iter().map(|alias| Ok(item::key(digest(alias)?)));
        let keys: Result<Vec<Item>, StoreError> = keys.collect();
        let keys = self.batch_get(OPERATION, ACCOUNTS, keys?).await?;
        let owners = keys.iter().map(|key| {
            let key = read_key(key)?;
            Ok((key.id, key.owner))
        });
        owners.collect()
    }
}
