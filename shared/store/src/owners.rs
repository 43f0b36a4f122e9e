//! Whose keys are.

use std::collections::HashMap;

use tollgate_domain::id::KeyId;
use tollgate_domain::key::{Owner, Role};

use crate::Store;
use crate::accounts::{KeyRef, alias_pk, aliased, read_key};
use crate::error::StoreError;
use crate::item::{self, Reader};
use crate::schema::{REGISTRY, attr};

const OPERATION: &str = "asking whose keys are";

impl Store {
    /// The owners of these keys; a key that does not exist has none. Keys do not change hands.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn key_owners(&self, ids: Vec<KeyId>) -> Result<HashMap<KeyId, Owner>, StoreError> {
        let name = |role, id: &KeyId| alias_pk(role, &KeyRef::Id(id.clone()));
        let names = ids.iter().flat_map(|id| {
            let roles = [Role::Admin, Role::Customer];
            roles.map(|role| item::key(name(role, id)))
        });
        let aliases = self.batch_get(OPERATION, REGISTRY, names.collect()).await?;
        let mut named = HashMap::new();
        for alias in &aliases {
            named.insert(Reader::new("key alias", alias).text(attr::PK)?, alias);
        }
        let mut owners = HashMap::new();
        let mut keys = Vec::new();
        for id in ids {
            if named.contains_key(&*name(Role::Admin, &id)) {
                owners.insert(id, Owner::Admin);
            } else if let Some(alias) = named.get(&*name(Role::Customer, &id)) {
                keys.push(item::key(aliased(Role::Customer, alias)?));
            }
        }
        for key in &self.batch_get(OPERATION, REGISTRY, keys).await? {
            let key = read_key(key)?;
            owners.insert(key.id, key.owner);
        }
        Ok(owners)
    }
}
