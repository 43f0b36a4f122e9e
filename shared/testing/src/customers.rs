//! Customers and their keys.

use tollgate_domain::customer::Customer;
use tollgate_domain::id::KeyId;
use tollgate_domain::key::{ApiKey, KeyFormat, KeyRecord, Owner};
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::{CreateOutcome, NewKey};

use crate::p;

/// Creates a customer on a plan.
pub async fn add_customer(at: &Fixture, id: &str, plan: &str) {
    let customer = Customer {
        name: format!("{id} Ltd"),
        ..Customer::new(p(id), p(plan), p("2026-11-01T08:30:00Z"))
    };
    let outcome = at.store.create_customer(&customer, None).await.unwrap();
    assert_eq!(outcome, CreateOutcome::New);
}

/// Creates a key with that id, for an existing customer or an admin.
pub async fn add_key(at: &Fixture, owner: Owner, id: &str) -> ApiKey {
    add_key_with(at, owner, id, |_| ()).await
}

/// Creates a key whose record is changed by `change` before it is stored.
pub async fn add_key_with(
    at: &Fixture,
    owner: Owner,
    id: &str,
    change: impl FnOnce(&mut KeyRecord),
) -> ApiKey {
    let format = KeyFormat::new("tg", "live").unwrap();
    let secret = at.entropy.with(|rng| format.generate(owner.kind(), rng));
    let mut record = key_record(&secret, p(id), owner);
    change(&mut record);
    store_key(at, &secret, &record).await;
    secret
}

/// Returns the record of a key that is active, without limits of its own.
pub fn key_record(secret: &ApiKey, id: KeyId, owner: Owner) -> KeyRecord {
    KeyRecord::new(id, secret.prefix(), owner, p("2026-11-01T09:00:00Z"))
}

/// Stores a new key.
pub async fn store_key(at: &Fixture, secret: &ApiKey, record: &KeyRecord) {
    let key = NewKey { secret, record };
    let outcome = at.store.create_key(&key, None).await.unwrap();
    assert_eq!(outcome, CreateOutcome::New);
}
