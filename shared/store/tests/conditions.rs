//! Every conditional write, with each clause of its condition failing in turn: its outcome, and that
//! nothing has changed.

use std::fmt::Debug;

use serde_json::{Value, json};
use tollgate_domain::billing::{Charge, PeriodLedger};
use tollgate_domain::customer::{Consequence, Customer};
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::{KeyRecord, Owner};
use tollgate_domain::money::{Cents, SignedCents};
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::Pins;
use tollgate_domain::role::{CustomerRole, Role};
use tollgate_domain::submission::{
    ChargeState, ChargeStatus, LedgerCharge, Recipient, SubmissionFailure,
};
use tollgate_local_aws::Fault;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::schema::{BILLING, EVENTS, QUARANTINE, REGISTRY, USAGE_LOG};
use tollgate_store::{
    BeginOutcome, CreateOutcome, CustomerChange, FailOutcome, FollowOutcome, KeyChange, KeyRef,
    PinChange, PlanOutcome, RecordChargeOutcome, RecordCheckoutOutcome, RejectedRecord,
    RotateOutcome, SeedOutcome, SettleOutcome, StartedCheckout, UpdateCustomerOutcome,
    UpdateOutcome, WriteUsageOutcome,
};
use tollgate_testing::p;
use tollgate_testing::stored::{items, raw, stored, text};

mod common;

use common::{
    Event, Key, NOW, call, charge, charged, checkout, create_customer, create_key, create_linked,
    customer, customer_to_follow, delete, edit, fixture, follow, link, once, paid, pinned, plan,
    put, read_to_follow, recipient, record, record_checkout, relink, rotate_key, second_version,
    the_one, unpaid, update_customer, update_key, with_keys, write_usage,
};

/// Checks that the operation has this outcome, and does not change the tables.
async fn unchanged<T: Debug + PartialEq>(
    at: &Fixture,
    operation: impl Future<Output = T>,
    expected: T,
) {
    let before = without_claims(stored(at));
    assert_eq!(operation.await, expected);
    let after = without_claims(stored(at));
    assert!(
        after == before,
        "{expected:?}, but the tables changed from {before:#} to {after:#}"
    );
}

/// Returns stored items without claims, which are put before it is known whether there is anything to count, and without
/// the marks that there was nothing.
fn without_claims(mut stored: Value) -> Value {
    if let Some(log) = stored.get_mut(USAGE_LOG.name).and_then(Value::as_array_mut) {
        log.retain(|item| {
            !["#CLAIMS#", "#ATTEMPT#"]
                .iter()
                .any(|kind| text(item, "pk").starts_with(kind))
        });
    }
    stored
}

/// Returns keys with the digest, the prefix or the id of the key of seed 1.
fn rivals_of_the_first() -> [Key; 3] {
    let first = Key::of_acme(1);
    let mut digest = Key::of_acme(2);
    digest.secret = Key::of_acme(1).secret;
    let mut prefix = Key::of_acme(2);
    prefix.record.prefix = first.record.prefix;
    let mut id = Key::of_acme(2);
    id.record.id = first.record.id;
    [digest, prefix, id]
}

#[tokio::test]
async fn a_key_with_a_taken_digest_prefix_or_id_is_not_created() {
    let at = with_keys(&[&Key::of_acme(1)]).await;
    let request = once("request");
    for rival in rivals_of_the_first() {
        unchanged(&at, create_key(&at, &rival, None), CreateOutcome::Taken).await;
        let idempotent = create_key(&at, &rival, Some(&request));
        unchanged(&at, idempotent, CreateOutcome::Taken).await;
    }
}

#[tokio::test]
async fn a_key_of_an_unknown_customer_is_not_created() {
    let at = fixture();
    let (key, request) = (Key::of_acme(1), once("request"));
    unchanged(&at, create_key(&at, &key, None), CreateOutcome::NoCustomer).await;
    let idempotent = create_key(&at, &key, Some(&request));
    unchanged(&at, idempotent, CreateOutcome::NoCustomer).await;
}

#[tokio::test]
async fn a_key_created_twice_is_stored_once() {
    let (first, second) = (Key::of_acme(1), Key::of_acme(2));
    let at = with_keys(&[&first]).await;
    unchanged(&at, create_key(&at, &first, None), CreateOutcome::New).await;

    let request = once("request");
    let created = create_key(&at, &second, Some(&request)).await;
    assert_eq!(created, CreateOutcome::New);
    let again = create_key(&at, &second, Some(&request));
    unchanged(&at, again, CreateOutcome::New).await;
}

#[tokio::test]
async fn a_repeated_request_creates_no_second_key() {
    let (first, second) = (Key::of_acme(1), Key::of_acme(2));
    let at = with_keys(&[]).await;
    let request = once("request");
    create_key(&at, &first, Some(&request)).await;

    let replayed = CreateOutcome::Replayed(first.record);
    let repeat = create_key(&at, &second, Some(&request));
    unchanged(&at, repeat, replayed.clone()).await;
    let other = once("another request");
    let reuse = create_key(&at, &second, Some(&other));
    unchanged(&at, reuse, CreateOutcome::KeyReused).await;

    at.time.set(p("2026-11-23T09:59:59Z"));
    let late = create_key(&at, &second, Some(&request));
    unchanged(&at, late, replayed).await;
    at.time.set(p("2026-11-23T10:00:00Z"));
    let after_a_day = create_key(&at, &second, Some(&other)).await;
    assert_eq!(after_a_day, CreateOutcome::New);
}

#[tokio::test]
async fn equal_idempotency_keys_in_different_scopes_are_independent() {
    let at = with_keys(&[]).await;
    let (ours, mut theirs) = (once("request"), once("request"));
    theirs.scope = "others".into();
    let created = create_key(&at, &Key::of_acme(1), Some(&ours)).await;
    assert_eq!(created, CreateOutcome::New);
    let created = create_key(&at, &Key::of_acme(2), Some(&theirs)).await;
    assert_eq!(created, CreateOutcome::New);
}

/// Checks that a key, changed by `change`, is not rotated by a caller that read it before.
async fn check_changed_key_is_not_rotated(old: Key, change: impl AsyncFn(&Fixture)) {
    let at = with_keys(&[&old]).await;
    change(&at).await;
    let (successor, request) = (Key::of_acme(2), once("request"));
    let plain = rotate_key(&at, &old, &successor, None);
    unchanged(&at, plain, RotateOutcome::Changed).await;
    let idempotent = rotate_key(&at, &old, &successor, Some(&request));
    unchanged(&at, idempotent, RotateOutcome::Changed).await;
}

/// End of the grace period in all rotations of these tests.
const GRACE_ENDS: &str = "2026-11-23T10:00:00Z";

/// Returns a key that expires with the grace period of its rotation, so that the rotation does not
/// change its expiry.
fn expiring() -> Key {
    let mut key = Key::of_acme(1);
    key.record.expires_at = Some(p(GRACE_ENDS));
    key
}

#[tokio::test]
async fn a_revoked_key_is_not_rotated() {
    for old in [Key::of_acme(1), expiring()] {
        check_changed_key_is_not_rotated(old, async |at| {
            let revoked = at.store.revoke_key(&Key::of_acme(1).by_id(), p(NOW)).await;
            assert!(revoked.unwrap());
        })
        .await;
    }
}

#[tokio::test]
async fn a_rotated_key_is_not_rotated_again() {
    let rotate = async |at: &Fixture, old: &Key| {
        let rotated = rotate_key(at, old, &Key::of_acme(3), None).await;
        assert_eq!(rotated, RotateOutcome::New);
    };
    check_changed_key_is_not_rotated(expiring(), async |at| rotate(at, &expiring()).await).await;
    check_changed_key_is_not_rotated(Key::of_acme(1), async |at| {
        rotate(at, &Key::of_acme(1)).await;
        // Without the expiry, only the clause for the successor fails.
        edit(at, REGISTRY, &pk_of(&Key::of_acme(1)), |item| {
            item.as_object_mut().unwrap().remove("expires_at").unwrap();
        });
    })
    .await;
}

#[tokio::test]
async fn a_key_whose_expiry_has_changed_is_not_rotated() {
    let expire = async |at: &Fixture, expires_at: Option<&str>| {
        let change = KeyChange {
            expires_at: Some(expires_at.map(p)),
            ..KeyChange::default()
        };
        let updated = at.store.update_key(&Key::of_acme(1).by_id(), &change).await;
        assert!(matches!(updated.unwrap(), UpdateOutcome::Done(_)));
    };
    let sooner = Some("2026-11-22T11:00:00Z");
    check_changed_key_is_not_rotated(Key::of_acme(1), async |at| expire(at, sooner).await).await;
    check_changed_key_is_not_rotated(expiring(), async |at| expire(at, sooner).await).await;
    let later = Some("2027-01-01T00:00:00Z");
    check_changed_key_is_not_rotated(expiring(), async |at| expire(at, later).await).await;
    check_changed_key_is_not_rotated(expiring(), async |at| expire(at, None).await).await;
}

fn pk_of(key: &Key) -> String {
    format!("KEY#{}", key.secret.digest().expose_hex())
}

#[tokio::test]
async fn a_deleted_key_is_not_rotated() {
    for old in [Key::of_acme(1), expiring()] {
        check_changed_key_is_not_rotated(old, async |at| {
            delete(at, REGISTRY, &pk_of(&Key::of_acme(1)));
        })
        .await;
    }
    let (unknown, successor) = (Key::of_acme(1), Key::of_acme(2));
    let at = with_keys(&[]).await;
    let rotation = rotate_key(&at, &unknown, &successor, None);
    unchanged(&at, rotation, RotateOutcome::Changed).await;
}

#[tokio::test]
async fn a_successor_with_a_taken_digest_prefix_or_id_is_not_created() {
    let old = Key::of_acme(4);
    let at = with_keys(&[&Key::of_acme(1), &old]).await;
    let request = once("request");
    for rival in rivals_of_the_first() {
        unchanged(
            &at,
            rotate_key(&at, &old, &rival, None),
            RotateOutcome::Taken,
        )
        .await;
        let idempotent = rotate_key(&at, &old, &rival, Some(&request));
        unchanged(&at, idempotent, RotateOutcome::Taken).await;
    }
}

#[tokio::test]
async fn a_rotation_made_twice_happens_once() {
    for (old, request) in [
        (Key::of_acme(1), None),
        (Key::of_acme(1), Some(once("request"))),
        (expiring(), None),
        (expiring(), Some(once("request"))),
    ] {
        let (at, successor) = (with_keys(&[&old]).await, Key::of_acme(2));
        let rotated = rotate_key(&at, &old, &successor, request.as_ref()).await;
        assert_eq!(rotated, RotateOutcome::New);
        let again = rotate_key(&at, &old, &successor, request.as_ref());
        unchanged(&at, again, RotateOutcome::New).await;
    }
}

#[tokio::test]
async fn a_repeated_request_creates_no_second_successor() {
    let (old, first, second) = (Key::of_acme(1), Key::of_acme(2), Key::of_acme(3));
    let at = with_keys(&[&old]).await;
    let request = once("request");
    rotate_key(&at, &old, &first, Some(&request)).await;

    let replayed = RotateOutcome::Replayed(Box::new(first.record));
    let repeat = rotate_key(&at, &old, &second, Some(&request));
    unchanged(&at, repeat, replayed).await;
    let other = once("another request");
    let reuse = rotate_key(&at, &old, &second, Some(&other));
    unchanged(&at, reuse, RotateOutcome::KeyReused).await;
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_as_it_was() {
    let key = Key::of_acme(1);
    let at = with_keys(&[&key]).await;
    let revoke = async |name: KeyRef, now: &str| {
        let revoked = at.store.revoke_key(&name, p(now)).await;
        revoked.unwrap()
    };
    assert!(revoke(key.by_id(), NOW).await);
    unchanged(&at, revoke(key.by_id(), "2026-11-22T11:00:00Z"), true).await;
    unchanged(&at, revoke(key.by_prefix(), "2026-11-22T09:00:00Z"), true).await;
    let stored = at.store.key(&key.by_id()).await.unwrap().unwrap();
    assert_eq!(stored.revoked_at, Some(p(NOW)));
}

#[tokio::test]
async fn an_unknown_key_is_not_revoked() {
    let key = Key::of_acme(1);
    let at = with_keys(&[&key]).await;
    let revoke = async |key: &Key| {
        let revoked = at.store.revoke_key(&key.by_id(), p(NOW)).await;
        revoked.unwrap()
    };
    unchanged(&at, revoke(&Key::of_acme(2)), false).await;
    delete(&at, REGISTRY, &pk_of(&key));
    unchanged(&at, revoke(&key), false).await;
}

/// Returns one change for each attribute of a key that can be changed.
fn key_changes() -> [KeyChange; 5] {
    let none = KeyChange::default;
    [
        KeyChange {
            name: Some("Other".into()),
            ..none()
        },
        KeyChange {
            expires_at: Some(Some(p("2027-06-01T00:00:00Z"))),
            ..none()
        },
        KeyChange {
            requests_per_hour: Some(Some(7)),
            ..none()
        },
        KeyChange {
            monthly_quota: Some(None),
            ..none()
        },
        KeyChange {
            suspended_at: Some(None),
            ..none()
        },
    ]
}

#[tokio::test]
async fn an_unknown_key_is_not_changed() {
    let key = Key::of_acme(1);
    let at = with_keys(&[&key]).await;
    delete(&at, REGISTRY, &pk_of(&key));
    for change in key_changes() {
        let unknown = Key::of_acme(2);
        unchanged(
            &at,
            update_key(&at, &unknown, &change),
            UpdateOutcome::Unknown,
        )
        .await;
        unchanged(&at, update_key(&at, &key, &change), UpdateOutcome::Unknown).await;
    }
}

#[tokio::test]
async fn an_admin_key_is_not_changed() {
    let key = Key::of(Owner::Admin, 1);
    let at = with_keys(&[&key]).await;
    for change in key_changes() {
        unchanged(&at, update_key(&at, &key, &change), UpdateOutcome::Admins).await;
    }
}

/// A function that may change customers' keys could remove the customer of one.
#[tokio::test]
async fn a_customers_key_without_a_customer_authorizes_nothing() {
    let key = Key::of_acme(1);
    let at = with_keys(&[&key]).await;
    edit(&at, REGISTRY, &pk_of(&key), |item| {
        item.as_object_mut().unwrap().remove("customer").unwrap();
    });
    let found = at.store.key_by_digest(key.secret.digest()).await.unwrap();
    assert_eq!(found, None);
}

/// A function that may write customers' keys could store any role in one.
#[tokio::test]
async fn a_customers_key_is_of_no_role_that_a_customers_key_cannot_have() {
    let key = Key::of_acme(1);
    for role in [
        json!({ "S": "admin" }),
        json!({ "S": "root" }),
        json!({ "N": "1" }),
    ] {
        let at = with_keys(&[&key]).await;
        edit(&at, REGISTRY, &pk_of(&key), |item| {
            item["role"] = role.clone();
        });
        let found = at.store.key_by_digest(key.secret.digest()).await;
        assert!(found.is_err(), "{role}: {found:?}");
    }
    let admins = Key::of(Owner::Admin, 1);
    let at = with_keys(&[&admins]).await;
    edit(
        &at,
        REGISTRY,
        &format!("ADMIN#{}", pk_of(&admins)),
        |item| {
            item["role"] = json!({ "S": "manage" });
        },
    );
    let found = at.store.key_by_digest(admins.secret.digest()).await;
    assert_eq!(found.unwrap().unwrap().role(), Role::Admin);
}

#[tokio::test]
async fn no_change_of_a_key_changes_its_role() {
    for role in [CustomerRole::Call, CustomerRole::Manage] {
        let mut key = Key::of_acme(1);
        key.record.customer_role = role;
        let at = with_keys(&[&key]).await;
        for change in key_changes() {
            let updated = update_key(&at, &key, &change).await;
            let UpdateOutcome::Done(updated) = updated else {
                panic!("{updated:?}");
            };
            assert_eq!(updated.customer_role, role);
        }
        at.store.revoke_key(&key.by_id(), p(NOW)).await.unwrap();
        let stored = at.store.key(&key.by_id()).await.unwrap().unwrap();
        assert_eq!(stored.customer_role, role);
    }
}

/// A function that may write customers' keys could store aliases with the id and the prefix of an admin
/// key.
#[tokio::test]
async fn a_customers_key_cannot_take_the_aliases_of_an_admin_key() {
    let (admins, customers) = (Key::of(Owner::Admin, 1), Key::of_acme(2));
    let at = with_keys(&[&admins, &customers]).await;
    let digest = customers.secret.digest().expose_hex();
    let (id, prefix) = (&admins.record.id, &admins.record.prefix);
    for pk in [format!("KEYID#{id}"), format!("PREFIX#{prefix}")] {
        let alias = json!({ "pk": { "S": pk }, "digest": { "S": digest } });
        put(&at, REGISTRY, &alias);
    }
    for name in [admins.by_id(), admins.by_prefix()] {
        let found = at.store.key(&name).await.unwrap();
        assert_eq!(found.as_ref(), Some(&admins.record), "{name:?}");
    }
    let owners = at.store.key_owners(vec![id.clone()]).await.unwrap();
    assert_eq!(owners, [(id.clone(), Owner::Admin)].into());
    assert!(at.store.revoke_key(&admins.by_id(), p(NOW)).await.unwrap());
    let found = at.store.key(&customers.by_id()).await.unwrap();
    assert_eq!(found.as_ref(), Some(&customers.record));
}

#[tokio::test]
async fn a_revoked_key_is_not_changed() {
    let (key, rotated) = (Key::of_acme(1), Key::of_acme(2));
    let at = with_keys(&[&key, &rotated]).await;
    rotate_key(&at, &rotated, &Key::of_acme(3), None).await;
    for key in [key, rotated] {
        at.store.revoke_key(&key.by_id(), p(NOW)).await.unwrap();
        for change in key_changes() {
            unchanged(&at, update_key(&at, &key, &change), UpdateOutcome::Revoked).await;
        }
    }
}

#[tokio::test]
async fn the_expiry_of_a_rotated_key_is_not_changed() {
    let key = Key::of_acme(1);
    let at = with_keys(&[&key]).await;
    rotate_key(&at, &key, &Key::of_acme(2), None).await;
    for expires_at in [None, Some(p("2027-06-01T00:00:00Z"))] {
        let change = KeyChange {
            name: Some("Other".into()),
            expires_at: Some(expires_at),
            ..KeyChange::default()
        };
        unchanged(&at, update_key(&at, &key, &change), UpdateOutcome::Rotated).await;
    }
    let change = KeyChange {
        name: Some("Old".into()),
        ..KeyChange::default()
    };
    let expected = KeyRecord {
        name: "Old".into(),
        expires_at: Some(p(GRACE_ENDS)),
        rotated_to: Some(Key::of_acme(2).record.id),
        ..key.record.clone()
    };
    let updated = update_key(&at, &key, &change).await;
    assert_eq!(updated, UpdateOutcome::Done(expected));
}

#[tokio::test]
async fn each_attribute_of_a_key_changes_alone_and_can_be_removed() {
    let key = Key::of_acme(1);
    let at = with_keys(&[&key]).await;
    let mut expected = key.record.clone();
    let mut check = async |change: KeyChange, apply: fn(&mut KeyRecord)| {
        apply(&mut expected);
        let updated = update_key(&at, &key, &change).await;
        assert_eq!(updated, UpdateOutcome::Done(expected.clone()));
        let stored = at.store.key(&key.by_id()).await.unwrap();
        assert_eq!(stored.as_ref(), Some(&expected));
    };
    let [name, expiry, rate, no_quota, _] = key_changes();
    let none = KeyChange::default;
    check(name, |key| key.name = "Other".into()).await;
    check(expiry, |key| {
        key.expires_at = Some(p("2027-06-01T00:00:00Z"));
    })
    .await;
    check(rate, |key| key.overrides.requests_per_hour = Some(7)).await;
    let quota = KeyChange {
        monthly_quota: Some(Some(0)),
        ..none()
    };
    check(quota, |key| key.overrides.monthly_quota = Some(0)).await;
    let no_rate_nor_expiry = KeyChange {
        expires_at: Some(None),
        requests_per_hour: Some(None),
        ..none()
    };
    check(no_rate_nor_expiry, |key| {
        key.expires_at = None;
        key.overrides.requests_per_hour = None;
    })
    .await;
    check(no_quota, |key| key.overrides.monthly_quota = None).await;
    let suspended = |since: Option<&str>| KeyChange {
        suspended_at: Some(since.map(p)),
        ..none()
    };
    let suspend = |key: &mut KeyRecord| key.suspended_at = Some(p(NOW));
    check(suspended(Some(NOW)), suspend).await;
    check(suspended(Some("2026-11-22T11:00:00Z")), suspend).await;
    check(suspended(None), |key| key.suspended_at = None).await;
    check(none(), |_| ()).await;
}

#[tokio::test]
async fn an_unknown_customer_is_not_changed() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let change = CustomerChange {
        plan: Some(p("free")),
        ..CustomerChange::default()
    };
    let update = update_customer(&at, "acme-2", &change);
    unchanged(&at, update, UpdateCustomerOutcome::Unknown).await;
}

#[tokio::test]
async fn each_attribute_of_a_customer_changes_alone() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let mut expected = customer("acme");
    let mut check = async |change: CustomerChange, apply: fn(&mut Customer)| {
        apply(&mut expected);
        let updated = update_customer(&at, "acme", &change).await;
        assert_eq!(updated, UpdateCustomerOutcome::Done(expected.clone()));
        let stored = at.store.customer(&expected.id).await.unwrap();
        assert_eq!(stored.as_ref(), Some(&expected));
    };
    let none = CustomerChange::default;
    let name = CustomerChange {
        name: Some("Acme Inc".into()),
        ..none()
    };
    check(name, |customer| customer.name = "Acme Inc".into()).await;
    let no_email = CustomerChange {
        email: Some(None),
        ..none()
    };
    check(no_email, |customer| customer.email = None).await;
    let email = CustomerChange {
        email: Some(Some("a@b.example".into())),
        ..none()
    };
    check(email, |customer| {
        customer.email = Some("a@b.example".into());
    })
    .await;
    let plan = CustomerChange {
        plan: Some(p("free")),
        ..none()
    };
    check(plan, |customer| customer.plan = p("free")).await;
    let suspended = |since: Option<&str>| CustomerChange {
        suspended_at: Some(since.map(p)),
        ..none()
    };
    let suspend = |customer: &mut Customer| customer.suspended_at = Some(p(NOW));
    check(suspended(Some(NOW)), suspend).await;
    check(suspended(Some("2026-11-22T11:00:00Z")), suspend).await;
    check(suspended(None), |customer| customer.suspended_at = None).await;
}

#[tokio::test]
async fn an_erased_customer_is_not_changed() {
    let at = with_keys(&[&Key::of_acme(1)]).await;
    let erase = async |now: &str| {
        let erased = at.store.erase_customer(&p("acme"), p(now)).await;
        erased.unwrap().map(|erasure| erasure.customer.erased_at)
    };
    assert_eq!(erase(NOW).await, Some(Some(p(NOW))));
    let again = erase("2026-11-22T11:00:00Z");
    unchanged(&at, again, Some(Some(p(NOW)))).await;
    let change = CustomerChange {
        name: Some("Acme".into()),
        ..CustomerChange::default()
    };
    let update = update_customer(&at, "acme", &change);
    unchanged(&at, update, UpdateCustomerOutcome::Erased).await;
    let late = Key::of_acme(2);
    let create = create_key(&at, &late, None);
    unchanged(&at, create, CreateOutcome::NoCustomer).await;
}

#[tokio::test]
async fn an_unknown_customer_is_not_erased() {
    let at = with_keys(&[]).await;
    let erase = async || at.store.erase_customer(&p("nobody"), p(NOW)).await.unwrap();
    unchanged(&at, erase(), None).await;
}

/// The key is deleted during the erasure, which must not create an incomplete key.
#[tokio::test]
async fn a_deleted_key_is_not_erased() {
    let key = Key::of_acme(1);
    let at = with_keys(&[&key]).await;
    let (aws, pk) = (at.aws.clone(), pk_of(&key));
    at.aws.inject(move |call| {
        if call.operation() == "UpdateItem" && call.body.contains(&pk) {
            let key = json!({ "TableName": "test-registry", "Key": { "pk": { "S": pk } } });
            let (status, response) = aws.call("DynamoDB_20120810.DeleteItem", &key.to_string());
            assert_eq!(status, 200, "{response}");
        }
        Fault::None
    });
    let erased = at.store.erase_customer(&p("acme"), p(NOW)).await;
    assert_eq!(erased.unwrap().unwrap().keys, 1);
    at.aws.heal();
    assert!(!stored(&at).to_string().contains(&pk_of(&key)));
}

/// The customer is erased between the read of the key and its rotation, before the key is revoked.
#[tokio::test]
async fn a_key_of_an_erased_customer_is_not_rotated() {
    let old = Key::of_acme(1);
    let at = with_keys(&[&old]).await;
    edit(&at, REGISTRY, "CUSTOMER#acme", |item| {
        item["erased_at"] = json!({ "S": "2026-11-22T10:00:00.000Z" });
    });
    for request in [None, Some(once("request"))] {
        let successor = Key::of_acme(2);
        let rotate = rotate_key(&at, &old, &successor, request.as_ref());
        unchanged(&at, rotate, RotateOutcome::NoCustomer).await;
    }
}

#[tokio::test]
async fn a_suspended_key_is_not_rotated() {
    let suspend = KeyChange {
        suspended_at: Some(Some(p(NOW))),
        ..KeyChange::default()
    };
    for old in [Key::of_acme(1), expiring()] {
        check_changed_key_is_not_rotated(old, async |at| {
            update_key(at, &Key::of_acme(1), &suspend).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_customer_with_a_taken_id_is_not_created() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let rival = Customer {
        name: "Another Acme".into(),
        ..customer("acme")
    };
    let create = async |request| {
        let created = at.store.create_customer(&rival, request).await;
        created.unwrap()
    };
    unchanged(&at, create(None), CreateOutcome::Taken).await;
    unchanged(&at, create(Some(&once("request"))), CreateOutcome::Taken).await;
}

/// Only one of two concurrent requests for the same customer creates it.
#[tokio::test]
async fn an_equal_customer_of_another_write_is_taken() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let acme = customer("acme");
    for request in [None, Some(once("request"))] {
        let created = async {
            let created = at.store.create_customer(&acme, request.as_ref()).await;
            created.unwrap()
        };
        unchanged(&at, created, CreateOutcome::Taken).await;
    }
}

#[tokio::test]
async fn a_month_is_closed_once() {
    let at = fixture();
    let month = p("2026-08");
    let close = async || at.store.close(month).await.unwrap();
    assert!(close().await);
    unchanged(&at, close(), false).await;
    at.time.set(p("2026-11-23T10:00:00Z"));
    unchanged(&at, close(), false).await;
    let closed_at = at.store.closed_at(month).await;
    assert_eq!(closed_at.unwrap(), Some(p(NOW)));
}

#[tokio::test]
async fn a_repeated_request_creates_no_second_customer() {
    let at = fixture();
    let create = async |id: &str, request: &str| {
        let (customer, request) = (customer(id), once(request));
        let created = at.store.create_customer(&customer, Some(&request)).await;
        created.unwrap()
    };
    assert_eq!(create("acme", "request").await, CreateOutcome::New);
    for id in ["acme", "acme-2"] {
        let replayed = CreateOutcome::Replayed(customer("acme"));
        unchanged(&at, create(id, "request"), replayed).await;
        unchanged(&at, create(id, "another request"), CreateOutcome::KeyReused).await;
    }
    at.time.set(p("2026-11-23T10:00:00Z"));
    assert_eq!(
        create("acme-2", "another request").await,
        CreateOutcome::New
    );
}

fn event() -> Event {
    let mut event = Event::new("acme", "e-1", &[call(NOW, "pro", "/ping", 200)]);
    event.rejected.push(RejectedRecord {
        index: 1,
        reason: "too late".into(),
    });
    event
}

#[tokio::test]
async fn an_event_delivered_again_is_not_counted_again() {
    let at = fixture();
    assert_eq!(write_usage(&at, &event()).await, WriteUsageOutcome::Counted);
    unchanged(
        &at,
        write_usage(&at, &event()),
        WriteUsageOutcome::Duplicate,
    )
    .await;
    // The log keeps the claim for 400 days.
    at.time.set(p("2027-11-22T10:00:00Z"));
    let mut later = event();
    later.received_at = p("2027-11-22T10:00:00Z");
    later.body = br#"{ "subject": "acme", "id": "e-1" }"#.to_vec();
    unchanged(&at, write_usage(&at, &later), WriteUsageOutcome::Duplicate).await;
}

#[tokio::test]
async fn another_event_with_the_same_source_and_id_is_not_counted() {
    let at = fixture();
    assert_eq!(write_usage(&at, &event()).await, WriteUsageOutcome::Counted);
    for customer in ["acme", "acme-2"] {
        let mut other = event();
        other.customer = p(customer);
        other.body = br#"{"id":"e-1","subject":"acme-2"}"#.to_vec();
        unchanged(&at, write_usage(&at, &other), WriteUsageOutcome::Conflict).await;
        other.body = b"not JSON".to_vec();
        unchanged(&at, write_usage(&at, &other), WriteUsageOutcome::Conflict).await;
    }
}

#[tokio::test]
async fn parts_and_other_events_are_each_counted() {
    let at = fixture();
    let mut events = [event(), event(), event(), event()];
    events[1].part = 1;
    events[2].id = "e-2".into();
    events[3].source = "tollgate:analyze".into();
    for event in &events {
        assert_eq!(write_usage(&at, event).await, WriteUsageOutcome::Counted);
    }
    let month = at.store.month_usage(&p("acme"), p("2026-11")).await;
    assert_eq!(month.unwrap().calls, 4);
}

#[tokio::test]
async fn a_separator_in_a_source_or_an_id_is_not_ambiguous() {
    let at = fixture();
    let (mut one, mut two) = (event(), event());
    (one.source, one.id) = ("a#b".into(), "c".into());
    (two.source, two.id) = ("a".into(), "b#c".into());
    for event in [&one, &two] {
        assert_eq!(write_usage(&at, event).await, WriteUsageOutcome::Counted);
    }
    for event in [&one, &two] {
        let quarantined = at.store.quarantined_of_event(&event.source, &event.id);
        assert_eq!(quarantined.await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_repeated_quarantining_changes_nothing() {
    let at = fixture();
    let (first, later) = (p(NOW), p("2026-11-22T11:00:00Z"));
    let message = async |received_at| {
        let done = at
            .store
            .quarantine_message(b"junk", "not JSON", received_at);
        done.await.unwrap();
    };
    message(first).await;
    unchanged(&at, message(later), ()).await;

    let conflict = async |received_at| {
        let mut event = event();
        event.received_at = received_at;
        at.store.quarantine_conflict(&event.part()).await.unwrap();
    };
    conflict(first).await;
    // An attribute that an operator has added stays.
    edit(&at, QUARANTINE, "tollgate:ping#e-1", |item| {
        item["seen_by"] = json!({ "S": "operator" });
    });
    unchanged(&at, conflict(later), ()).await;
    let stored = at.store.quarantined_of_event("tollgate:ping", "e-1");
    assert_eq!(stored.await.unwrap().len(), 1);
}

#[tokio::test]
async fn each_conflicting_event_is_quarantined_beside_the_first() {
    let at = fixture();
    write_usage(&at, &event()).await;
    for body in ["one", "two", "two"] {
        let mut other = event();
        other.body = body.into();
        at.store.quarantine_conflict(&other.part()).await.unwrap();
    }
    let stored = at.store.quarantined_of_event("tollgate:ping", "e-1").await;
    let bodies: Vec<Vec<u8>> = stored.unwrap().into_iter().map(|q| q.body).collect();
    assert_eq!(bodies.len(), 3);
    for body in [&event().body[..], b"one", b"two"] {
        assert!(bodies.iter().any(|stored| stored == body));
    }
}

/// Returns a fixture whose ledger has this number of charges for November.
async fn with_charges(n: u64) -> Fixture {
    let at = fixture();
    for number in 1..=n {
        let recorded = record(&at, &charge(number), charged(number - 1)).await;
        assert_eq!(recorded, RecordChargeOutcome::Written);
    }
    at
}

#[tokio::test]
async fn the_first_charge_of_a_month_needs_an_empty_ledger() {
    let at = with_charges(1).await;
    let rival = Charge {
        cents: SignedCents(24),
        ..charge(1)
    };
    unchanged(
        &at,
        record(&at, &rival, charged(0)),
        RecordChargeOutcome::Raced,
    )
    .await;
    // There is no charge of its number, but the period ledger is not empty.
    unchanged(
        &at,
        record(&at, &charge(7), charged(0)),
        RecordChargeOutcome::Raced,
    )
    .await;
}

#[tokio::test]
async fn a_charge_needs_the_period_ledger_it_was_computed_from() {
    let at = with_charges(2).await;
    let check = async |number: u64, before: PeriodLedger| {
        let charge = charge(number);
        unchanged(
            &at,
            record(&at, &charge, before),
            RecordChargeOutcome::Raced,
        )
        .await;
    };
    check(3, charged(1)).await;
    let fewer = PeriodLedger {
        charge_count: 1,
        ..charged(2)
    };
    check(3, fewer).await;
    let cheaper = PeriodLedger {
        cents: Cents(45),
        ..charged(2)
    };
    check(3, cheaper).await;
    let december = Charge {
        month: p("2026-12"),
        ..charge(3)
    };
    unchanged(
        &at,
        record(&at, &december, charged(2)),
        RecordChargeOutcome::Raced,
    )
    .await;
    let recorded = record(&at, &charge(3), charged(2)).await;
    assert_eq!(recorded, RecordChargeOutcome::Written);
}

#[tokio::test]
async fn a_recorded_charge_is_not_overwritten() {
    let at = with_charges(1).await;
    delete_ledger(&at);
    let rival = Charge {
        cents: SignedCents(1),
        ..charge(1)
    };
    unchanged(
        &at,
        record(&at, &rival, charged(0)),
        RecordChargeOutcome::Raced,
    )
    .await;

    let at = with_charges(2).await;
    put_ledger(&at, charged(1));
    let rival = Charge {
        cents: SignedCents(1),
        ..charge(2)
    };
    unchanged(
        &at,
        record(&at, &rival, charged(1)),
        RecordChargeOutcome::Raced,
    )
    .await;
}

fn delete_ledger(at: &Fixture) {
    let key = json!({ "pk": { "S": "acme#2026-11" }, "sk": { "S": "PERIOD" } });
    raw(at, "DeleteItem", BILLING, json!({ "Key": key }));
}

fn put_ledger(at: &Fixture, ledger: PeriodLedger) {
    let n = |number: u64| json!({ "N": number.to_string() });
    let item = json!({
        "pk": { "S": "acme#2026-11" },
        "sk": { "S": "PERIOD" },
        "charges": n(ledger.charge_count),
        "cents": n(ledger.cents.0),
        "overage_calls": n(ledger.overage_calls),
    });
    put(at, BILLING, &item);
}

/// Only one of two concurrent billing runs that compute the same charge records it.
#[tokio::test]
async fn an_equal_charge_of_another_write_is_raced() {
    for number in 1..=2 {
        let at = with_charges(number).await;
        let (charge, before) = (charge(number), charged(number - 1));
        unchanged(
            &at,
            record(&at, &charge, before),
            RecordChargeOutcome::Raced,
        )
        .await;
        let acme: CustomerId = p("acme");
        let ledger = at.store.period_ledger(&acme, p("2026-11")).await.unwrap();
        assert_eq!(ledger, charged(number));
    }
}

#[tokio::test]
async fn plans_are_seeded_into_an_empty_store_only() {
    let shipped = Catalog::shipped().unwrap();
    let other = Catalog::from_json(
        r#"[{"id":"other","name":"","requests_per_hour":1,"fail_mode":"open","month":{"kind":"unlimited"}}]"#,
    )
    .unwrap();
    let seed = async |at: &Fixture, plans: &Catalog| at.store.seed_plans(plans).await.unwrap();
    let at = Fixture::at(NOW);
    assert_eq!(seed(&at, &shipped).await, SeedOutcome::Seeded);
    unchanged(&at, seed(&at, &shipped), SeedOutcome::Unchanged).await;
    unchanged(&at, seed(&at, &other), SeedOutcome::Differs).await;

    // A plan that was created before the seed is not overwritten, and the others are not added.
    let at = Fixture::at(NOW);
    let created = at.store.create_plan(&plan("pro")).await.unwrap();
    assert_eq!(created, PlanOutcome::Written);
    assert_eq!(seed(&at, &shipped).await, SeedOutcome::Differs);
    unchanged(&at, seed(&at, &shipped), SeedOutcome::Differs).await;
    let plans = at.store.plans().await.unwrap();
    assert_eq!(
        plans
            .iter()
            .map(|plan| plan.id().as_str())
            .collect::<Vec<_>>(),
        ["pro"]
    );
}

/// The first decides, of two seeds at the same time, or of two tries of one whose response was lost.
#[tokio::test]
async fn the_time_of_claims_is_written_once() {
    let shipped = Catalog::shipped().unwrap();
    for fault in [Fault::None, Fault::ResponseLost] {
        let at = Fixture::at(NOW);
        let (aws, mut is_first) = (at.aws.clone(), true);
        at.aws.inject(move |call| {
            let is_put = call.operation() == "PutItem" && call.body.contains("#CLAIMS_SINCE");
            if !is_put || !std::mem::take(&mut is_first) {
                return Fault::None;
            }
            if fault == Fault::None {
                let other = call.body.replace("1970-01-01", "2026-11-23");
                assert_ne!(other, call.body);
                let (status, response) = aws.call(&call.target, &other);
                assert_eq!(status, 200, "{response}");
            }
            fault
        });
        let seeded = at.store.seed_plans(&shipped).await.unwrap();
        assert_eq!(seeded, SeedOutcome::Seeded);
        let [since] = &items(&at, USAGE_LOG)[..] else {
            panic!("one item");
        };
        let expected = match fault {
            Fault::None => "2026-11-23T00:00:00.000Z",
            _ => "1970-01-01T00:00:00.000Z",
        };
        assert_eq!(text(since, "since"), expected);
    }
}

#[tokio::test]
async fn a_plan_that_exists_is_not_created() {
    let at = fixture();
    let create = async || at.store.create_plan(&plan("pro")).await.unwrap();
    assert_eq!(create().await, PlanOutcome::Written);
    unchanged(&at, create(), PlanOutcome::Changed).await;
    // A version without its plan, as no release leaves it, is not overwritten either.
    let key = json!({ "pk": { "S": "PLANS" }, "sk": { "S": "pro" } });
    raw(&at, "DeleteItem", BILLING, json!({ "Key": key }));
    unchanged(&at, create(), PlanOutcome::Changed).await;
}

#[tokio::test]
async fn a_version_is_not_added_to_a_plan_with_another_latest_version() {
    let at = fixture();
    let add = async |name: &str| {
        let version = second_version("pro", name);
        at.store.add_plan_version(&version).await.unwrap()
    };
    unchanged(&at, add("of no plan"), PlanOutcome::Changed).await;
    let created = at.store.create_plan(&plan("pro")).await.unwrap();
    assert_eq!(created, PlanOutcome::Written);
    assert_eq!(add("first").await, PlanOutcome::Written);
    unchanged(&at, add("second"), PlanOutcome::Changed).await;
    // The plan and its versions disagree, as no release leaves them: the version is not overwritten.
    let plan = json!({ "pk": { "S": "PLANS" }, "sk": { "S": "pro" }, "latest": { "N": "1" } });
    put(&at, BILLING, &plan);
    unchanged(&at, add("third"), PlanOutcome::Changed).await;
}

#[tokio::test]
async fn a_plan_that_does_not_exist_is_not_retired() {
    let at = fixture();
    let retire = async || at.store.retire_plan(&p("pro"), Some(p(NOW))).await.unwrap();
    unchanged(&at, retire(), false).await;
}

#[tokio::test]
async fn pins_are_changed_only_from_the_pins_they_were_made_from() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let pin = async |before: Pins, after: Pins| {
        let change = CustomerChange {
            name: Some("Acme Inc".into()),
            pins: Some(PinChange { before, after }),
            ..CustomerChange::default()
        };
        update_customer(&at, "acme", &change).await
    };
    let (december, january) = (pinned(1, "2026-12"), pinned(1, "2027-01"));
    // The customer has none yet.
    let rejected = UpdateCustomerOutcome::Changed;
    unchanged(
        &at,
        pin(january.clone(), december.clone()),
        rejected.clone(),
    )
    .await;
    let pinned = pin(Pins::default(), december.clone()).await;
    let UpdateCustomerOutcome::Done(customer) = pinned else {
        panic!("{pinned:?}");
    };
    assert_eq!(customer.pins, december);
    // It has some now, or others.
    unchanged(&at, pin(Pins::default(), january.clone()), rejected.clone()).await;
    unchanged(&at, pin(january.clone(), Pins::default()), rejected).await;
    // A repetition finds its own effect.
    let repeated = UpdateCustomerOutcome::Done(customer);
    unchanged(&at, pin(Pins::default(), december.clone()), repeated).await;
}

/// Returns a recipient with this Stripe customer.
fn recipient_of(customer: &str, subscription: Option<&str>) -> Recipient {
    Recipient {
        customer: customer.to_owned(),
        subscription: subscription.map(str::to_owned),
    }
}

#[tokio::test]
async fn a_customer_that_does_not_exist_or_is_erased_is_not_linked() {
    let at = fixture();
    unchanged(
        &at,
        update_customer(&at, "acme", &link(recipient())),
        UpdateCustomerOutcome::Unknown,
    )
    .await;
    create_customer(&at, "acme").await;
    at.store.erase_customer(&p("acme"), p(NOW)).await.unwrap();
    unchanged(
        &at,
        update_customer(&at, "acme", &link(recipient())),
        UpdateCustomerOutcome::Erased,
    )
    .await;
}

/// An erasure keeps the link: charges of the customer may still be due.
#[tokio::test]
async fn an_erased_customer_stays_linked() {
    let at = fixture();
    create_customer(&at, "acme").await;
    update_customer(&at, "acme", &link(recipient())).await;
    at.store.erase_customer(&p("acme"), p(NOW)).await.unwrap();
    let stored = at.store.customer(&p("acme")).await.unwrap().unwrap();
    assert_eq!(stored.recipient, Some(recipient()));
    let found = at.store.customer_of_stripe("cus_acme").await.unwrap();
    assert_eq!(found, Some(p("acme")));
}

/// Once nothing is due any more, or the Stripe customer is deleted.
#[tokio::test]
async fn the_link_of_an_erased_customer_can_only_be_removed() {
    let at = fixture();
    create_linked(&at).await;
    at.store.erase_customer(&p("acme"), p(NOW)).await.unwrap();
    let unlink = relink(Some(recipient()), None);
    let with_a_name = CustomerChange {
        name: Some("Acme".into()),
        ..unlink.clone()
    };
    let another = relink(Some(recipient()), Some(recipient_of("cus_2", None)));
    for change in [with_a_name, another] {
        let update = update_customer(&at, "acme", &change);
        unchanged(&at, update, UpdateCustomerOutcome::Erased).await;
    }
    let stale = relink(Some(recipient_of("cus_2", None)), None);
    let update = update_customer(&at, "acme", &stale);
    unchanged(&at, update, UpdateCustomerOutcome::Changed).await;
    let done = update_customer(&at, "acme", &unlink).await;
    let UpdateCustomerOutcome::Done(customer) = done else {
        panic!("{done:?}");
    };
    assert_eq!(
        (customer.recipient, customer.erased_at),
        (None, Some(p(NOW)))
    );
    let found = at.store.customer_of_stripe("cus_acme").await.unwrap();
    assert_eq!(found, None);
}

#[tokio::test]
async fn a_link_is_changed_only_from_the_link_it_was_made_from() {
    let linked = recipient_of("cus_1", Some("sub_1"));
    let after = recipient_of("cus_3", None);
    let others = [
        None,
        Some(recipient_of("cus_2", Some("sub_1"))),
        Some(recipient_of("cus_1", Some("sub_2"))),
        Some(recipient_of("cus_1", None)),
    ];
    let at = fixture();
    create_customer(&at, "acme").await;
    update_customer(&at, "acme", &link(linked.clone())).await;
    for before in others {
        for after in [Some(after.clone()), None] {
            let change = relink(before.clone(), after);
            unchanged(
                &at,
                update_customer(&at, "acme", &change),
                UpdateCustomerOutcome::Changed,
            )
            .await;
        }
    }
    // Linked without a subscription.
    create_customer(&at, "cato").await;
    update_customer(&at, "cato", &link(recipient_of("cus_4", None))).await;
    unchanged(
        &at,
        update_customer(&at, "cato", &relink(None, Some(after.clone()))),
        UpdateCustomerOutcome::Changed,
    )
    .await;
    // Of a customer that is not linked.
    create_customer(&at, "bolt").await;
    for before in [linked.clone(), recipient_of("cus_1", None)] {
        let change = relink(Some(before), Some(after.clone()));
        unchanged(
            &at,
            update_customer(&at, "bolt", &change),
            UpdateCustomerOutcome::Changed,
        )
        .await;
    }
}

#[tokio::test]
async fn two_links_of_a_customer_to_one_stripe_customer_are_one() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let acme = Customer {
        recipient: Some(recipient()),
        ..customer("acme")
    };
    let done = UpdateCustomerOutcome::Done(acme);
    assert_eq!(update_customer(&at, "acme", &link(recipient())).await, done);
    unchanged(
        &at,
        update_customer(&at, "acme", &link(recipient())),
        done.clone(),
    )
    .await;
    let same = relink(Some(recipient()), Some(recipient()));
    unchanged(&at, update_customer(&at, "acme", &same), done).await;
}

#[tokio::test]
async fn a_stripe_customer_is_linked_to_one_customer() {
    let at = fixture();
    create_customer(&at, "acme").await;
    create_customer(&at, "bolt").await;
    update_customer(&at, "acme", &link(recipient())).await;
    let rival = link(recipient_of("cus_acme", None));
    unchanged(
        &at,
        update_customer(&at, "bolt", &rival),
        UpdateCustomerOutcome::RecipientTaken,
    )
    .await;
    let own = recipient_of("cus_bolt", None);
    update_customer(&at, "bolt", &link(own.clone())).await;
    let change = relink(Some(own), Some(recipient()));
    unchanged(
        &at,
        update_customer(&at, "bolt", &change),
        UpdateCustomerOutcome::RecipientTaken,
    )
    .await;
    // Once the link is removed, another customer can have it.
    update_customer(&at, "acme", &relink(Some(recipient()), None)).await;
    assert_eq!(at.store.customer_of_stripe("cus_acme").await.unwrap(), None);
    let updated = update_customer(&at, "bolt", &change).await;
    assert!(matches!(updated, UpdateCustomerOutcome::Done(_)));
    let found = async |id: &str| at.store.customer_of_stripe(id).await.unwrap();
    assert_eq!(found("cus_acme").await, Some(p("bolt")));
    assert_eq!(found("cus_bolt").await, None);
}

#[tokio::test]
async fn a_new_subscription_keeps_the_link() {
    let at = fixture();
    create_customer(&at, "acme").await;
    update_customer(&at, "acme", &link(recipient_of("cus_acme", None))).await;
    let change = relink(Some(recipient_of("cus_acme", None)), Some(recipient()));
    let updated = update_customer(&at, "acme", &change).await;
    assert!(matches!(updated, UpdateCustomerOutcome::Done(_)));
    let found = at.store.customer_of_stripe("cus_acme").await.unwrap();
    assert_eq!(found, Some(p("acme")));
}

/// The link of another customer, which only a fault of ours could have stored, is not removed.
#[tokio::test]
async fn a_link_that_is_another_customers_is_not_removed() {
    let at = fixture();
    create_customer(&at, "acme").await;
    update_customer(&at, "acme", &link(recipient())).await;
    edit(&at, REGISTRY, "STRIPE#CUSTOMER#cus_acme", |item| {
        item["customer"] = json!({ "S": "bolt" });
    });
    for after in [None, Some(recipient_of("cus_2", None))] {
        let before = stored(&at);
        let change = relink(Some(recipient()), after);
        let updated = at.store.update_customer(&p("acme"), &change).await;
        updated.unwrap_err();
        assert_eq!(stored(&at), before);
    }
    // One that is missing is no hindrance.
    delete(&at, REGISTRY, "STRIPE#CUSTOMER#cus_acme");
    let updated = update_customer(&at, "acme", &relink(Some(recipient()), None)).await;
    assert!(matches!(updated, UpdateCustomerOutcome::Done(_)));
}

/// The first of two who have read a subscription decides, also if it has changed nothing.
#[tokio::test]
async fn a_subscription_that_someone_else_has_followed_is_read_again() {
    let at = fixture();
    let before = customer_to_follow(&at).await;
    for after in [before.customer.clone(), paid(&before.customer)] {
        let first = read_to_follow(&at).await;
        let second = first.clone();
        assert_eq!(
            follow(&at, &first, &after, None).await,
            FollowOutcome::Followed
        );
        let other = unpaid(&second.customer);
        unchanged(
            &at,
            follow(&at, &second, &other, Some(p(NOW))),
            FollowOutcome::Raced,
        )
        .await;
    }
}

#[tokio::test]
async fn a_customer_that_was_changed_meanwhile_does_not_follow_what_was_read() {
    let suspension = |since| CustomerChange {
        suspended_at: Some(since),
        ..CustomerChange::default()
    };
    let plan = CustomerChange {
        plan: Some(p("enterprise")),
        ..CustomerChange::default()
    };
    let linked = recipient_of("cus_acme", None);
    let changes = [
        plan,
        suspension(Some(p(NOW))),
        relink(Some(linked.clone()), None),
        relink(Some(linked.clone()), Some(recipient_of("cus_2", None))),
        relink(Some(linked), Some(recipient())),
    ];
    for change in changes {
        let at = fixture();
        let before = customer_to_follow(&at).await;
        update_customer(&at, "acme", &change).await;
        let after = paid(&before.customer);
        unchanged(
            &at,
            follow(&at, &before, &after, None),
            FollowOutcome::Raced,
        )
        .await;
    }
    // Linked to another Stripe customer and back, whose events in between nobody has followed.
    let at = fixture();
    let before = customer_to_follow(&at).await;
    let (first, second) = (recipient_of("cus_acme", None), recipient_of("cus_2", None));
    at.time.set(p("2026-11-22T11:00:00Z"));
    update_customer(
        &at,
        "acme",
        &relink(Some(first.clone()), Some(second.clone())),
    )
    .await;
    update_customer(&at, "acme", &relink(Some(second), Some(first))).await;
    unchanged(
        &at,
        follow(&at, &before, &paid(&before.customer), None),
        FollowOutcome::Raced,
    )
    .await;
    // Suspended for an outstanding payment, and enabled and suspended again by an admin, in the same millisecond.
    let at = fixture();
    let before = customer_to_follow(&at).await;
    follow(&at, &before, &unpaid(&before.customer), None).await;
    let before = read_to_follow(&at).await;
    update_customer(&at, "acme", &suspension(Some(p(NOW)))).await;
    let after = paid(&before.customer);
    unchanged(
        &at,
        follow(&at, &before, &after, None),
        FollowOutcome::Raced,
    )
    .await;
    let waived = read_to_follow(&at).await.customer.unpaid.unwrap();
    assert_eq!(waived.consequence, Some(Consequence::Waived));
    // Given the plan that the customer is on.
    let before = read_to_follow(&at).await;
    let same = CustomerChange {
        plan: Some(before.customer.plan.clone()),
        ..CustomerChange::default()
    };
    update_customer(&at, "acme", &same).await;
    let after = paid(&before.customer);
    unchanged(
        &at,
        follow(&at, &before, &after, None),
        FollowOutcome::Raced,
    )
    .await;
}

#[tokio::test]
async fn a_customer_that_was_erased_meanwhile_or_is_missing_follows_nothing() {
    let at = fixture();
    let before = customer_to_follow(&at).await;
    edit(&at, REGISTRY, "CUSTOMER#acme", |item| {
        item["erased_at"] = json!({ "S": "2026-11-22T10:00:00.000Z" });
    });
    let after = paid(&before.customer);
    unchanged(
        &at,
        follow(&at, &before, &after, None),
        FollowOutcome::Raced,
    )
    .await;
    // Once it is erased, the link still follows the subscription.
    let erased = read_to_follow(&at).await;
    let mut linked = erased.customer.clone();
    linked.recipient = Some(recipient());
    let followed = follow(&at, &erased, &linked, None).await;
    assert_eq!(followed, FollowOutcome::Followed);
    delete(&at, REGISTRY, "CUSTOMER#acme");
    unchanged(&at, follow(&at, &before, &after, None), FollowOutcome::Gone).await;
    assert!(
        at.store
            .customer_to_follow(&p("acme"))
            .await
            .unwrap()
            .is_none()
    );
}

/// Only a decision about the same thing waives a consequence.
#[tokio::test]
async fn a_plan_waives_no_suspension_and_a_suspension_no_plan() {
    let plan = CustomerChange {
        plan: Some(p("enterprise")),
        ..CustomerChange::default()
    };
    let enabled = CustomerChange {
        suspended_at: Some(None),
        ..CustomerChange::default()
    };
    let (suspended, moved) = (Consequence::Suspended, Consequence::Moved);
    for (consequence, change, expected) in [
        (suspended, &plan, suspended),
        (suspended, &enabled, Consequence::Waived),
        (moved, &plan, Consequence::Waived),
        (moved, &enabled, moved),
    ] {
        let at = fixture();
        let before = customer_to_follow(&at).await;
        let mut after = unpaid(&before.customer);
        after.unpaid.as_mut().unwrap().consequence = Some(consequence);
        follow(&at, &before, &after, None).await;
        update_customer(&at, "acme", change).await;
        let stored = read_to_follow(&at).await.customer;
        assert_eq!(stored.unpaid.unwrap().consequence, Some(expected));
    }
}

/// An admin's decision about an earlier outstanding payment, or without one, says nothing about the next.
#[tokio::test]
async fn a_new_outstanding_payment_has_no_consequence_yet() {
    let at = fixture();
    let before = customer_to_follow(&at).await;
    let mut after = unpaid(&before.customer);
    after.suspended_at = None;
    after.unpaid.as_mut().unwrap().consequence = None;
    let followed = follow(&at, &before, &after, Some(p(NOW))).await;
    assert_eq!(followed, FollowOutcome::Followed);
    let stored = read_to_follow(&at).await;
    assert_eq!(stored.customer, after);
    follow(&at, &stored, &paid(&after), None).await;
    let stored = read_to_follow(&at).await;
    assert_eq!(stored.customer, paid(&after));
    let item = the_one(&at, REGISTRY, "CUSTOMER#acme");
    for attribute in ["unpaid_consequence", "plan_waiver", "suspension_waiver"] {
        assert_eq!(item.get(attribute), None, "{attribute}");
    }
    assert!(at.store.follow_ups(None).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn an_invoice_that_is_scheduled_again_stays_scheduled_for_the_earliest_time() {
    let at = fixture();
    let acme: CustomerId = p("acme");
    let schedule = async |due: &str| {
        let scheduled = at.store.schedule_invoice(&acme, "cus_acme", p(due));
        scheduled.await.unwrap();
    };
    let scheduled = async || at.store.scheduled_invoice("cus_acme").await.unwrap();
    schedule("2026-12-04T00:00:00Z").await;
    let first = scheduled().await.unwrap();
    schedule("2027-01-04T00:00:00Z").await;
    at.store.end_scheduled_invoice(&first).await.unwrap();
    let second = scheduled().await.unwrap();
    assert_eq!(second.due, p("2026-12-04T00:00:00Z"));
    schedule("2026-11-22T10:00:00Z").await;
    at.store.end_scheduled_invoice(&second).await.unwrap();
    let third = scheduled().await.unwrap();
    assert_eq!(third.due, p("2026-11-22T10:00:00Z"));
    at.store.end_scheduled_invoice(&third).await.unwrap();
    assert_eq!(scheduled().await, None);
}

/// The invoice of the other Stripe customer, who has the items, stays scheduled.
#[tokio::test]
async fn the_invoices_of_two_stripe_customers_of_a_customer_are_two() {
    let at = fixture();
    let acme: CustomerId = p("acme");
    for stripe_customer in ["cus_1", "cus_2"] {
        let scheduled = at.store.schedule_invoice(&acme, stripe_customer, p(NOW));
        scheduled.await.unwrap();
    }
    let first = at.store.scheduled_invoice("cus_1").await.unwrap();
    at.store
        .end_scheduled_invoice(&first.unwrap())
        .await
        .unwrap();
    let second = at.store.scheduled_invoice("cus_2").await.unwrap();
    assert_eq!(second.unwrap().stripe_customer.as_deref(), Some("cus_2"));
}

/// An invoice that is made between the two writes ends the schedule, and the item is scheduled anew.
#[tokio::test]
async fn an_invoice_that_is_made_while_it_is_scheduled_again_is_scheduled() {
    let at = fixture();
    let acme: CustomerId = p("acme");
    let due = "2026-12-04T00:00:00Z";
    let schedule = async || at.store.schedule_invoice(&acme, "cus_acme", p(due)).await;
    schedule().await.unwrap();
    let aws = at.aws.clone();
    let mut ended = false;
    at.aws.inject(move |call| {
        let replaces = call.body.contains(":stored");
        if replaces && !std::mem::replace(&mut ended, true) {
            let key = json!({ "pk": { "S": "FOLLOWUP#INVOICE#cus_acme" } });
            let request = json!({ "TableName": "test-registry", "Key": key });
            let (status, response) = aws.call("DynamoDB_20120810.DeleteItem", &request.to_string());
            assert_eq!(status, 200, "{response}");
        }
        Fault::None
    });
    schedule().await.unwrap();
    let scheduled = at.store.scheduled_invoice("cus_acme").await.unwrap();
    assert_eq!(scheduled.unwrap().due, p(due));
}

#[tokio::test]
async fn a_checkout_session_is_stored_as_it_was_first() {
    let at = fixture();
    create_linked(&at).await;
    create_customer(&at, "bolt").await;
    assert_eq!(
        record_checkout(&at, &checkout(), None, None).await,
        RecordCheckoutOutcome::Recorded
    );
    let later = StartedCheckout {
        plan: p("enterprise"),
        created_at: p("2026-11-22T11:00:00Z"),
        ..checkout()
    };
    let request = once("request");
    for (session, request) in [
        (&checkout(), None),
        (&later, None),
        (&later, Some(&request)),
    ] {
        for earlier in [None, Some("cs_1")] {
            unchanged(
                &at,
                record_checkout(&at, session, earlier, request),
                RecordCheckoutOutcome::Repeated(checkout()),
            )
            .await;
        }
    }
    let relinked = relink(Some(recipient()), None);
    update_customer(&at, "acme", &relinked).await;
    update_customer(&at, "bolt", &link(recipient())).await;
    let of_another = StartedCheckout {
        customer: p("bolt"),
        ..checkout()
    };
    unchanged(
        &at,
        record_checkout(&at, &of_another, None, None),
        RecordCheckoutOutcome::Taken,
    )
    .await;
}

#[tokio::test]
async fn a_checkout_session_of_no_customer_is_not_stored() {
    let at = fixture();
    let request = once("request");
    for request in [None, Some(&request)] {
        unchanged(
            &at,
            record_checkout(&at, &checkout(), None, request),
            RecordCheckoutOutcome::NoCustomer,
        )
        .await;
    }
    create_linked(&at).await;
    at.store.erase_customer(&p("acme"), p(NOW)).await.unwrap();
    for request in [None, Some(&request)] {
        unchanged(
            &at,
            record_checkout(&at, &checkout(), None, request),
            RecordCheckoutOutcome::NoCustomer,
        )
        .await;
    }
}

#[tokio::test]
async fn a_checkout_session_of_another_stripe_customer_is_not_stored() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let request = once("request");
    let check = async || {
        for request in [None, Some(&request)] {
            unchanged(
                &at,
                record_checkout(&at, &checkout(), None, request),
                RecordCheckoutOutcome::Relinked,
            )
            .await;
        }
    };
    check().await;
    update_customer(&at, "acme", &link(recipient_of("cus_2", None))).await;
    check().await;
}

/// Two requests at the same time have read the same last session.
#[tokio::test]
async fn a_checkout_session_is_stored_only_after_the_one_that_was_read() {
    let at = fixture();
    create_linked(&at).await;
    let session = |id: &str| StartedCheckout {
        session: id.to_owned(),
        ..checkout()
    };
    let open = async || at.store.open_checkout(&p("acme")).await.unwrap();
    assert_eq!(open().await, None);
    let not_stored = async |session: &StartedCheckout, earlier: Option<&str>| {
        for request in [None, Some(&once("request"))] {
            unchanged(
                &at,
                record_checkout(&at, session, earlier, request),
                RecordCheckoutOutcome::Overtaken,
            )
            .await;
        }
    };
    // Read before it expired.
    not_stored(&session("cs_1"), Some("cs_0")).await;
    for (id, earlier) in [("cs_1", None), ("cs_2", Some("cs_1"))] {
        let recorded = record_checkout(&at, &session(id), earlier, None).await;
        assert_eq!(recorded, RecordCheckoutOutcome::Recorded);
        assert_eq!(open().await.as_deref(), Some(id));
        not_stored(&session("cs_3"), None).await;
        not_stored(&session("cs_3"), Some("cs_0")).await;
    }
    // Those of other customers do not matter.
    assert_eq!(at.store.open_checkout(&p("bolt")).await.unwrap(), None);
}

#[tokio::test]
async fn a_repeated_request_stores_no_second_checkout_session() {
    let at = fixture();
    create_linked(&at).await;
    let request = once("request");
    let second = StartedCheckout {
        session: "cs_2".to_owned(),
        ..checkout()
    };
    assert_eq!(
        record_checkout(&at, &checkout(), None, Some(&request)).await,
        RecordCheckoutOutcome::Recorded
    );
    for session in [&checkout(), &second] {
        for earlier in [None, Some("cs_1")] {
            unchanged(
                &at,
                record_checkout(&at, session, earlier, Some(&request)),
                RecordCheckoutOutcome::Repeated(checkout()),
            )
            .await;
            let other = once("another request");
            unchanged(
                &at,
                record_checkout(&at, session, earlier, Some(&other)),
                RecordCheckoutOutcome::KeyReused,
            )
            .await;
        }
    }
    at.time.set(p("2026-11-23T10:00:00Z"));
    assert_eq!(at.store.repeated_checkout(&request).await.unwrap(), None);
    let after_a_day = record_checkout(&at, &second, Some("cs_1"), Some(&request)).await;
    assert_eq!(after_a_day, RecordCheckoutOutcome::Recorded);
}

/// Returns a stack with one charge, and the charge as it is in the ledger.
#[expect(clippy::unwrap_used, reason = "a failed read fails the test")]
async fn with_pending_charge() -> (Fixture, LedgerCharge) {
    let at = with_charges(1).await;
    let stored = at.store.charge(&charge(1).name()).await.unwrap().unwrap();
    (at, stored)
}

#[tokio::test]
async fn of_two_attempts_to_submit_a_charge_one_begins() {
    let (at, pending) = with_pending_charge().await;
    let begin = async |charge: &LedgerCharge| {
        let begun = at.store.begin_submission(charge, &recipient()).await;
        begun.unwrap()
    };
    let BeginOutcome::Begun(first) = begin(&pending).await else {
        panic!("the first attempt did not begin");
    };
    unchanged(&at, begin(&pending), BeginOutcome::Raced).await;
    let BeginOutcome::Begun(second) = begin(&first).await else {
        panic!("the second attempt did not begin");
    };
    assert_eq!(second.attempts.count, 2);
    unchanged(&at, begin(&first), BeginOutcome::Raced).await;
    let settled = at.store.settle_charge(&charge(1), "ii_1").await;
    assert_eq!(settled.unwrap(), SettleOutcome::Settled);
    for read in [&pending, &first, &second] {
        unchanged(&at, begin(read), BeginOutcome::Raced).await;
    }
    // A charge that does not exist is not created.
    let mut other = pending;
    other.charge.number = 2;
    unchanged(&at, begin(&other), BeginOutcome::Raced).await;
}

#[tokio::test]
async fn a_settled_charge_keeps_its_first_item() {
    let (at, _) = with_pending_charge().await;
    let settle = async |item: &str| at.store.settle_charge(&charge(1), item).await.unwrap();
    assert_eq!(settle("ii_1").await, SettleOutcome::Settled);
    unchanged(&at, settle("ii_1"), SettleOutcome::Settled).await;
    let other = SettleOutcome::OtherItem("ii_1".to_owned());
    unchanged(&at, settle("ii_2"), other).await;
}

#[tokio::test]
async fn a_charge_that_does_not_exist_is_not_settled() {
    let at = fixture();
    let before = stored(&at);
    let settled = at.store.settle_charge(&charge(1), "ii_1").await;
    assert!(settled.is_err());
    assert_eq!(stored(&at), before);
}

#[tokio::test]
async fn an_attempt_that_was_superseded_does_not_fail_the_charge() {
    let (at, pending) = with_pending_charge().await;
    let fail = async |charge: &LedgerCharge| {
        let failed = at
            .store
            .fail_charge(charge, SubmissionFailure::Rejected, "no", p(NOW));
        failed.await.unwrap()
    };
    let begin = async |charge: &LedgerCharge| match at
        .store
        .begin_submission(charge, &recipient())
        .await
        .unwrap()
    {
        BeginOutcome::Begun(begun) => begun,
        BeginOutcome::Raced => panic!("the attempt did not begin"),
    };
    let first = begin(&pending).await;
    unchanged(&at, fail(&pending), FailOutcome::Superseded).await;
    let second = begin(&first).await;
    unchanged(&at, fail(&first), FailOutcome::Superseded).await;
    assert_eq!(fail(&second).await, FailOutcome::Failed);
    let failed = at.store.charge(&charge(1).name()).await.unwrap().unwrap();
    let reason = "no".to_owned();
    assert_eq!(failed.state, ChargeState::Failed { reason });
    assert_eq!(failed.attempts.rejected, 1);
    let third = begin(&failed).await;
    let settled = at.store.settle_charge(&charge(1), "ii_1").await;
    assert_eq!(settled.unwrap(), SettleOutcome::Settled);
    unchanged(&at, fail(&third), FailOutcome::Superseded).await;
    let mut other = pending;
    other.charge.number = 2;
    unchanged(&at, fail(&other), FailOutcome::Superseded).await;
}

/// Returns the events in the tables.
fn events(at: &Fixture) -> Vec<Value> {
    items(at, EVENTS)
}

/// The ledger of charges may be restored to a time before the event.
#[tokio::test]
async fn an_event_that_exists_stays_as_it_is_and_does_not_prevent_its_cause() {
    let (at, pending) = with_pending_charge().await;
    let mut charges = items(&at, BILLING).into_iter();
    let unsettled = charges.find(|item| item["sk"]["S"] == "CHARGE#000001");
    let unsettled = unsettled.unwrap();
    let settled = at.store.settle_charge(&pending.charge, "ii_1").await;
    assert_eq!(settled.unwrap(), SettleOutcome::Settled);
    let [event] = &events(&at)[..] else {
        panic!("{:?}", events(&at));
    };
    let pk = event["pk"]["S"].as_str().unwrap();
    edit(&at, EVENTS, pk, |item| {
        item.as_object_mut().unwrap().remove("outbox");
    });
    let published = events(&at);
    put(&at, BILLING, &unsettled);
    let settled = at.store.settle_charge(&pending.charge, "ii_2").await;
    assert_eq!(settled.unwrap(), SettleOutcome::Settled);
    assert_eq!(events(&at), published);
    let stored = at.store.charge(&charge(1).name()).await.unwrap().unwrap();
    assert_eq!(stored.state.status(), ChargeStatus::Settled);
}

#[tokio::test]
async fn a_charge_announces_its_first_failure_and_no_unavailable_provider() {
    let (at, pending) = with_pending_charge().await;
    let fail = async |failure, reason: &str| {
        let failed = at.store.fail_charge(&pending, failure, reason, p(NOW));
        assert_eq!(failed.await.unwrap(), FailOutcome::Failed);
    };
    fail(SubmissionFailure::Unavailable, "later").await;
    assert_eq!(events(&at), Vec::<Value>::new());
    fail(SubmissionFailure::NoRecipient, "nobody").await;
    let announced = events(&at);
    assert_eq!(announced.len(), 1);
    assert!(announced[0].to_string().contains("nobody"), "{announced:?}");
    fail(SubmissionFailure::Rejected, "no").await;
    assert_eq!(events(&at), announced);
    let failed = at.store.charge(&charge(1).name()).await.unwrap().unwrap();
    let reason = "no".to_owned();
    assert_eq!(failed.state, ChargeState::Failed { reason });
}
