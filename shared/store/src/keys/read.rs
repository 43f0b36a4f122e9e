//! Reading keys.

use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::key::{KeyDigest, KeyKind, KeyRecord};
use tollgate_domain::page::Page;

use super::item::{KeyRef, alias_pk, aliased, key_pk, read_key};
use crate::Store;
use crate::error::StoreError;
use crate::listing::KEYS;

impl Store {
    /// Reads the key with this digest, of the kind that its text claims. Consistent: a revocation that
    /// was acknowledged before is seen.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn key_by_digest(&self, digest: KeyDigest) -> Result<Option<KeyRecord>, StoreError> {
        let kind = digest.kind();
        let pk = key_pk(kind, &digest.expose_hex());
        let key = self.key_at(pk).await?;
        // A customer's key without a customer is not an admin key: otherwise anyone who may change
        // customers' keys could make one of it.
        Ok(key.filter(|key| key.owner.kind() == kind))
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
        let alias = alias_pk(KeyKind::Customer, &KeyRef::Id(id));
        match self.registry_item(alias, "finding a key").await? {
            Some(alias) => self.key_at(aliased(KeyKind::Customer, &alias)?).await,
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
        Ok(found.is_some_and(|(kind, _)| kind == KeyKind::Admin))
    }

    async fn key_at(&self, pk: String) -> Result<Option<KeyRecord>, StoreError> {
        let item = self.registry_item(pk, "reading a key").await?;
        item.as_ref().map(read_key).transpose()
    }

    /// Finds the kind and the partition key of the key with this id or prefix.
    pub(super) async fn find_key(
        &self,
        key: &KeyRef,
    ) -> Result<Option<(KeyKind, String)>, StoreError> {
        let alias = |kind| self.registry_item(alias_pk(kind, key), "finding a key");
        let (admins, customers) =
            tokio::try_join!(alias(KeyKind::Admin), alias(KeyKind::Customer))?;
        // The admin key comes first, so that no customer's key can take its place.
        let admins = admins.map(|alias| (KeyKind::Admin, alias));
        let found = admins.or_else(|| customers.map(|alias| (KeyKind::Customer, alias)));
        let found = found.map(|(kind, alias)| Ok((kind, aliased(kind, &alias)?)));
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
