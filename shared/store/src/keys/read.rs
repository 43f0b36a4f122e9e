//! Reading keys.

use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::key::{KeyDigest, KeyRecord, Role};
use tollgate_domain::page::Page;

use super::item::{KeyRef, alias_pk, aliased, key_pk, read_key};
use crate::Store;
use crate::error::StoreError;
use crate::listing::KEYS;

impl Store {
    /// Reads the key with this digest, of the role that its text claims. Consistent: a revocation that
    /// was acknowledged before is seen.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn key_by_digest(&self, digest: KeyDigest) -> Result<Option<KeyRecord>, StoreError> {
        let role = digest.role();
        let pk = key_pk(role, &digest.expose_hex());
        let key = self.key_at(pk).await?;
        // A customer's key without a customer is not an admin key: otherwise anyone who may change
        // customers' keys could make one of it.
        Ok(key.filter(|key| key.owner.role() == role))
    }

    /// Reads a key by its id or prefix.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn key(&self, key: &KeyRef) -> Result<Option<KeyRecord>, StoreError> {
        match self.find_key(key).await? {
            Some((_, pk)) => self.key_at(pk).await,
            None => Ok(None),
        }
    }

    /// Reads a customer's key by its id.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn customer_key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let alias = alias_pk(Role::Customer, &KeyRef::Id(id));
        match self.registry_item(alias, "finding a key").await? {
            Some(alias) => self.key_at(aliased(Role::Customer, &alias)?).await,
            None => Ok(None),
        }
    }

    /// Whether the key with this id or prefix is an admin key that authorizes requests until it ends.
    /// Admin keys of releases before 0.1.0 are stored among customers' keys, and authorize nothing.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_admin_key(&self, key: &KeyRef) -> Result<bool, StoreError> {
        let found = self.find_key(key).await?;
        Ok(found.is_some_and(|(role, _)| role == Role::Admin))
    }

    async fn key_at(&self, pk: String) -> Result<Option<KeyRecord>, StoreError> {
        let item = self.registry_item(pk, "reading a key").await?;
        item.as_ref().map(read_key).transpose()
    }

    /// Finds the role and the partition key of the key with this id or prefix.
    pub(super) async fn find_key(
        &self,
        key: &KeyRef,
    ) -> Result<Option<(Role, String)>, StoreError> {
        let alias = |role| self.registry_item(alias_pk(role, key), "finding a key");
        let (admins, customers) = tokio::try_join!(alias(Role::Admin), alias(Role::Customer))?;
        // The admin key comes first, so that no customer's key can take its place.
        let admins = admins.map(|alias| (Role::Admin, alias));
        let found = admins.or_else(|| customers.map(|alias| (Role::Customer, alias)));
        let found = found.map(|(role, alias)| Ok((role, aliased(role, &alias)?)));
        found.transpose()
    }

    /// Lists keys by customer and age, after the cursor `after`, at most `limit` of them; only those of
    /// `customer`, if given. Each is returned with the cursor of its position.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list_keys(
        &self,
        customer: Option<&CustomerId>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(String, KeyRecord)>, StoreError> {
        let prefix = customer.map(|id| format!("{id}#"));
        self.list(KEYS, prefix, after, limit, read_key).await
    }
}
