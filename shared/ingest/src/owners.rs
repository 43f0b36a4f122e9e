//! Cache from key id to the customer that owns the key.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// Keys in usage events that belong to an admin, or to another customer than the usage.
#[derive(Debug, Default)]
pub(crate) struct ForeignKeys(BTreeSet<(CustomerId, KeyId)>);

impl ForeignKeys {
    pub(crate) fn contains(&self, customer: &CustomerId, key: &KeyId) -> bool {
        // Nearly always there is none, and nothing has to be cloned.
        !self.0.is_empty() && self.0.contains(&(customer.clone(), key.clone()))
    }
}

impl Owners {
    /// Returns the keys in these usage events that belong to an admin or to another customer. An id without a key is
    /// accepted: producers may report calls to APIs that Tollgate does not guard.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn foreign<'a>(
        &self,
        store: &Store,
        events: impl IntoIterator<Item = &'a ReceivedEvent>,
    ) -> Result<ForeignKeys, StoreError> {
        let keys = events.into_iter().flat_map(|event| {
            let items = event.items.iter();
            items.filter_map(|item| match item {
                EventItem::Record(record) => Some((&event.customer, &record.key_id)),
                EventItem::Adjustment(_) | EventItem::Unreadable(_) => None,
            })
        });
        let keys: BTreeSet<(&CustomerId, &KeyId)> = keys.collect();
        let ids: BTreeSet<&KeyId> = keys.iter().map(|(_, id)| *id).collect();
        let mut owners: BTreeMap<&KeyId, Option<Owner>> = BTreeMap::new();
        let mut missing = Vec::new();
        {
            let cached = self.cached();
            for id in ids {
                match cached.get(id) {
                    Some(owner) => _ = owners.insert(id, owner.clone()),
                    None => missing.push(id),
                }
            }
        }
        if !missing.is_empty() {
            let found = store.key_owners(missing.iter().copied().cloned().collect());
            let found = found.await?;
            let read = missing.into_iter().map(|id| (id, found.get(id).cloned()));
            let read: Vec<_> = read.collect();
            let mut cached = self.cached();
            if cached.len() + read.len() > MAX_KEYS {
                cached.clear();
            }
            cached.extend(
                read.iter()
                    .map(|(id, owner)| ((*id).clone(), owner.clone())),
            );
            owners.extend(read);
        }
        let foreign = keys.into_iter().filter(|(customer, id)| {
            let owner = owners.get(id).and_then(Option::as_ref);
            owner.is_some_and(|owner| *owner != Owner::Customer((*customer).clone()))
        });
        let foreign = foreign.map(|(customer, id)| (customer.clone(), id.clone()));
        Ok(ForeignKeys(foreign.collect()))
    }

    fn cached(&self) -> MutexGuard<'_, HashMap<KeyId, Option<Owner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
