//! Reading of keys with the plans of their customers.

use std::collections::BTreeSet;

use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::key::KeyRecord;
use tollgate_domain::page::Page;
use tollgate_store::{Store, StoreError};

/// A key with its position in the list and the current plan of its customer.
pub(crate) struct Listed {
    pub(crate) position: String,
    pub(crate) key: KeyRecord,
    /// `None` for admin keys.
    pub(crate) plan: Option<PlanId>,
}

/// Reads a page of the list of all keys, or of the keys of one customer.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn read(
    store: &Store,
    customer: Option<&CustomerId>,
    after: Option<&str>,
    limit: usize,
) -> Result<Page<Listed>, StoreError> {
    let page = store.list_keys(customer, after, limit).await?;
    let customers: BTreeSet<CustomerId> = page
        .items
        .iter()
        .filter_map(|(_, key)| key.owner.customer().cloned())
        .collect();
    let plans = store.plans_of(&customers).await?;
    let items = page.items.into_iter().map(|(position, key)| {
        let plan = key.owner.customer().and_then(|id| plans.get(id)).cloned();
        Listed {
            position,
            key,
            plan,
        }
    });
    Ok(Page {
        items: items.collect(),
        next: page.next,
    })
}
