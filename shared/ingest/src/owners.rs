//! Cache from key id to the customer that owns the key.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::key::Owner;
use tollgate_domain::usage::{EventItem, ReceivedEvent};
use tollgate_store::{Store, StoreError};

/// Most keys in the cache. It is cleared when there would be more: a producer can send any number of
/// invented key ids.
const MAX_KEYS: usize = 20_000;

/// Cache of the owners of keys, `None` for an id without a key. An item never expires: a key keeps its
/// owner, and an id without a key is never assigned. Cheap to clone; clones share the cache.
#[derive(Debug, Clone, Default)]
pub struct Owners(Arc<Mutex<HashMap<KeyId, Option<Owner>>>>);

impl Owners {
    /// Returns the keys in these usage events of `customer` that belong to an admin or to another
    /// customer. An id without a key is accepted: producers may report calls to APIs that Tollgate does
    /// not guard.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn foreign<'a>(
        &self,
        store: &Store,
        customer: &CustomerId,
        events: impl IntoIterator<Item = &'a ReceivedEvent>,
    ) -> Result<BTreeSet<KeyId>, StoreError> {
        let items = events.into_iter().flat_map(|event| &event.items);
        let keys: BTreeSet<&KeyId> = items
            .filter_map(|item| match item {
                EventItem::Record(record) => Some(&record.key_id),
                EventItem::Adjustment(_) | EventItem::Unreadable(_) => None,
            })
            .collect();
        let is_foreign = |owner: &Owner| *owner != Owner::Customer(customer.clone());
        let mut foreign = BTreeSet::new();
        let mut missing = Vec::new();
        {
            let cached = self.cached();
            for key in keys {
                match cached.get(key) {
                    Some(owner) if owner.as_ref().is_some_and(is_foreign) => {
                        foreign.insert(key.clone());
                    }
                    Some(_) => {}
                    None => missing.push(key.clone()),
                }
            }
        }
        if missing.is_empty() {
            return Ok(foreign);
        }
        let owners = store.key_owners(missing.clone()).await?;
        let of_others = owners.iter().filter(|(_, owner)| is_foreign(owner));
        foreign.extend(of_others.map(|(key, _)| key.clone()));
        let mut cached = self.cached();
        if cached.len() + missing.len() > MAX_KEYS {
            cached.clear();
        }
        let fetched = missing.into_iter().map(|key| {
            let owner = owners.get(&key).cloned();
            (key, owner)
        });
        cached.extend(fetched);
        Ok(foreign)
    }

    fn cached(&self) -> MutexGuard<'_, HashMap<KeyId, Option<Owner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
