//! Whose keys are, as far as this instance has asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::key::Owner;
use tollgate_domain::usage::{Item, Received};
use tollgate_store::{Store, StoreError};

/// Keys that are remembered. All are forgotten when there are more: an id costs nothing to make up.
const MOST: usize = 20_000;

/// Remembers the owners of keys for as long as the instance lives: keys do not change hands, and an
/// id that is nobody's is never given to anyone. Cheap to clone; all clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Owners(Arc<Mutex<HashMap<KeyId, Option<Owner>>>>);

impl Owners {
    /// The keys in these entries of `customer` that are somebody else's. A key that Tollgate does not
    /// have is nobody's: usage may be reported of calls that it did not let in.
    pub(crate) async fn foreign<'a>(
        &self,
        store: &Store,
        customer: &CustomerId,
        entries: impl IntoIterator<Item = &'a Received>,
    ) -> Result<BTreeSet<KeyId>, StoreError> {
        let items = entries.into_iter().flat_map(|entry| &entry.items);
        let keys: BTreeSet<&KeyId> = items
            .filter_map(|item| match item {
                Item::Record(record) => Some(&record.key_id),
                Item::Adjustment(_) | Item::Unreadable(_) => None,
            })
            .collect();
        let is_foreign = |owner: &Owner| *owner != Owner::Customer(customer.clone());
        let mut foreign = BTreeSet::new();
        let mut unknown = Vec::new();
        {
            let known = self.known();
            for key in keys {
                match known.get(key) {
                    Some(owner) if owner.as_ref().is_some_and(is_foreign) => {
                        foreign.insert(key.clone());
                    }
                    Some(_) => {}
                    None => unknown.push(key.clone()),
                }
            }
        }
        if unknown.is_empty() {
            return Ok(foreign);
        }
        let owners = store.key_owners(unknown.clone()).await?;
        let of_others = owners.iter().filter(|(_, owner)| is_foreign(owner));
        foreign.extend(of_others.map(|(key, _)| key.clone()));
        let mut known = self.known();
        if known.len() + unknown.len() > MOST {
            known.clear();
        }
        let learned = unknown.into_iter().map(|key| {
            let owner = owners.get(&key).cloned();
            (key, owner)
        });
        known.extend(learned);
        Ok(foreign)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<KeyId, Option<Owner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
