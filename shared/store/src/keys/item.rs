//! Items of a key: the key itself, and its aliases by id and by prefix.

use std::str::FromStr;

use tollgate_domain::id::{CustomerId, InvalidId, KeyId};
use tollgate_domain::key::{ApiKey, KeyKind, KeyPrefix, KeyRecord, Owner};
use tollgate_domain::plan::Overrides;
use tollgate_domain::role::Role;

use crate::error::StoreError;
use crate::item::{self, Item, Reader, n, s, t};
use crate::listing::KEYS;
use crate::schema::attr;

/// Reference to a key in a URL: its id or its visible prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRef {
    /// `key_…`
    Id(KeyId),
    /// `tg_live_…`
    Prefix(KeyPrefix),
}

impl FromStr for KeyRef {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.parse() {
            Ok(prefix) => Ok(Self::Prefix(prefix)),
            Err(_) => text.parse().map(Self::Id),
        }
    }
}

/// A key that is to be stored. Only a digest of the secret is stored.
#[derive(Debug)]
pub struct NewKey<'a> {
    /// The secret.
    pub secret: &'a ApiKey,
    /// The key's record.
    pub record: &'a KeyRecord,
}

/// Returns the beginning of the partition keys of all items of a key of this kind. No function's IAM
/// role may write an admin key except to revoke it, and a key is of no kind but the one in its text.
fn namespace(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Customer => "",
        KeyKind::Admin => "ADMIN#",
    }
}

pub(super) fn key_pk(kind: KeyKind, digest_hex: &str) -> String {
    format!("{}KEY#{digest_hex}", namespace(kind))
}

pub(super) fn alias_pk(kind: KeyKind, key: &KeyRef) -> String {
    let namespace = namespace(kind);
    match key {
        KeyRef::Id(id) => format!("{namespace}KEYID#{id}"),
        KeyRef::Prefix(prefix) => format!("{namespace}PREFIX#{prefix}"),
    }
}

/// Returns the partition key of the key that an alias refers to.
pub(super) fn aliased(kind: KeyKind, alias: &Item) -> Result<String, StoreError> {
    let digest = Reader::new("key alias", alias).text("digest")?;
    Ok(key_pk(kind, digest))
}

pub(super) fn key_items(key: &NewKey<'_>) -> [Item; 3] {
    let record = key.record;
    let kind = record.owner.kind();
    let digest = key.secret.digest();
    let mut item = item::key(key_pk(kind, &digest.expose_hex()));
    item.insert("id".into(), s(record.id.as_str()));
    item.insert("prefix".into(), s(record.prefix.as_str()));
    item.insert("name".into(), s(&record.name));
    item.insert("created_at".into(), t(record.created_at));
    let customer = record.owner.customer();
    if let Some(customer) = customer {
        item.insert("customer".into(), s(customer.as_str()));
    }
    // `call` is the default, and is not stored.
    if record.role() == Role::Manage {
        item.insert("role".into(), s(Role::Manage.as_str()));
    }
    if let Some(expires_at) = record.expires_at {
        item.insert("expires_at".into(), t(expires_at));
    }
    if let Some(rate) = record.overrides.requests_per_hour {
        item.insert("requests_per_hour".into(), n(rate));
    }
    if let Some(quota) = record.overrides.monthly_quota {
        item.insert("monthly_quota".into(), n(quota));
    }
    if let Some(first) = &record.hour_counter_id {
        item.insert("hour_counter_id".into(), s(first.as_str()));
    }
    let order = format!(
        "{}#{:.3}#{}",
        customer.map_or("", CustomerId::as_str),
        record.created_at,
        record.id
    );
    item.insert(attr::LISTING.into(), s(KEYS));
    item.insert(attr::LISTING_ORDER.into(), s(order));
    let alias = |key: KeyRef| {
        let mut item = item::key(alias_pk(kind, &key));
        item.insert("digest".into(), s(digest.expose_hex()));
        item
    };
    [
        item,
        alias(KeyRef::Prefix(record.prefix.clone())),
        alias(KeyRef::Id(record.id.clone())),
    ]
}

pub(crate) fn read_key(item: &Item) -> Result<KeyRecord, StoreError> {
    let item = Reader::new("key", item);
    Ok(KeyRecord {
        id: item.parsed("id")?,
        prefix: item.parsed("prefix")?,
        name: item.text("name")?.to_owned(),
        owner: match item.opt_parsed("customer")? {
            Some(customer) => Owner::Customer(customer),
            None => Owner::Admin,
        },
        customer_role: item.opt_parsed("role")?.unwrap_or_default(),
        created_at: item.parsed("created_at")?,
        expires_at: item.opt_parsed("expires_at")?,
        revoked_at: item.opt_parsed("revoked_at")?,
        suspended_at: item.opt_parsed("suspended_at")?,
        overrides: Overrides {
            requests_per_hour: item.opt_number("requests_per_hour")?,
            monthly_quota: item.opt_number("monthly_quota")?,
        },
        rotated_to: item.opt_parsed("rotated_to")?,
        hour_counter_id: item.opt_parsed("hour_counter_id")?,
    })
}
