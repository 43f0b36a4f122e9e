//! Owners of keys, looked up by key id.

use std::collections::HashMap;

use tollgate_domain::id::KeyId;
use tollgate_domain::key::{KeyKind, Owner};

use super::item::{KeyRef, alias_pk, aliased, read_key};
use crate::Store;
use crate::error::StoreError;
use crate::item::{self, Reader};
use crate::schema::{REGISTRY, attr};

const OPERATION: &str = "reading the owners of keys";

impl Store {
    /// Reads the owners of these keys. A key that does not exist is left out. The owner of a key never
    /// changes.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn key_owners(&self, ids: Vec<KeyId>) -> Result<HashMap<KeyId, Owner>, StoreError> {
        let alias_of = |kind, id: &KeyId| alias_pk(kind, &KeyRef::Id(id.clone()));
        let aliases = ids.iter().flat_map(|id| {
            let kinds = [KeyKind::Admin, KeyKind::Customer];
            kinds.map(|kind| item::key(alias_of(kind, id)))
        });
        let aliases = self.batch_get(OPERATION, REGISTRY, aliases.collect());
        let aliases = aliases.await?;
        let mut by_pk = HashMap::new();
        for alias in &aliases {
            by_pk.insert(Reader::new("key alias", alias).text(attr::PK)?, alias);
        }
        let mut owners = HashMap::new();
        let mut keys = Vec::new();
        for id in ids {
            if by_pk.contains_key(&*alias_of(KeyKind::Admin, &id)) {
                owners.insert(id, Owner::Admin);
            } else if let Some(alias) = by_pk.get(&*alias_of(KeyKind::Customer, &id)) {
                keys.push(item::key(aliased(KeyKind::Customer, alias)?));
            }
        }
        for key in &self.batch_get(OPERATION, REGISTRY, keys).await? {
            let key = read_key(key)?;
            owners.insert(key.id, key.owner);
        }
        Ok(owners)
    }
}
