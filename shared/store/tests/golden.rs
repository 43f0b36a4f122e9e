//! Stored items of each operation, compared with the golden copies in `golden/`, which are also read back.
//!
//! A golden file contains the items of all tables of a stack, in DynamoDB JSON. A running stack has
//! items of every earlier release, which must stay readable: when the form of an item changes, its old
//! file is kept under another name, with a test that reads it.

use std::path::{Path, PathBuf};
use std::{env, fs};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tollgate_domain::billing::{BillableCalls, Charge, PeriodLedger};
use tollgate_domain::customer::Customer;
use tollgate_domain::event::{
    Event as DomainEvent, EventKind, NumberedEvent, QuotaThreshold, RunTotals,
};
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::{KeyRecord, Owner};
use tollgate_domain::money::{MicroUsd, SignedCents};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_domain::plan_book::Pins;
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::role::{CustomerRole, Role};
use tollgate_domain::submission::{
    Attempts, ChargeState, ChargeStatus, LedgerCharge, SubmissionFailure,
};
use tollgate_domain::usage::{
    AdjustmentTotals, Aggregate, Cost, Dimension, Latencies, UsageRecord,
};
use tollgate_domain::webhook::{DeliveryFailure, TargetUrl, Webhook, WebhookSecret};
use tollgate_domain::window::Month;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::schema::TABLES;
use tollgate_store::{
    AdmittedCalls, BeginOutcome, CounterTotals, CreateOutcome, CreateWebhookOutcome,
    CustomerChange, Erasure, FailOutcome, FollowOutcome, KeyChange, LoggedAdjustment, PinChange,
    PlanOutcome, QuarantinedContent, ReconciliationSummary, RecordChargeOutcome,
    RecordCheckoutOutcome, RejectedRecord, ReserveOutcome, RotateOutcome, SeedOutcome,
    SettleOutcome, UpdateCustomerOutcome, UsageScope, WriteUsageOutcome,
};
use tollgate_testing::p;
use tollgate_testing::seed::no_older_claims;
use tollgate_testing::stored::stored;

mod common;

use common::{
    Event, Key, NOW, adjustment, all_billable, billable, call, charge, charged, checkout,
    create_customer, create_key, create_linked, customer, customer_to_follow, fixture, follow,
    hour_share, link, once, pinned, plan, put, read_to_follow, recipient, record_checkout, release,
    reserve, reserved, rotate_key, second_version, unpaid, write_usage,
};

/// Checks that `write` stores the items of the golden file into an empty stack, and that `read` succeeds
/// with the items of the golden file.
#[expect(
    clippy::unwrap_used,
    reason = "an unreadable golden file fails the test"
)]
async fn check(name: &str, write: impl AsyncFn(&Fixture), read: impl AsyncFn(&Fixture)) {
    let new = Fixture::at(NOW);
    write(&new).await;
    let stored = stored(&new);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path_of(name), format!("{stored:#}\n")).unwrap();
    }
    let golden = golden(name);

    assert!(
        unpacked(&stored) == unpacked(&golden),
        "shared/store/golden/{name}.json differs from the stored items. Items of its form are in use: \
         if the change is intended, keep the file under another name, with a test that reads it, \
         then run `UPDATE_GOLDEN=1 cargo test -p tollgate-store --test golden`. Stored: {stored:#}",
    );
    let old = fixture();
    put_golden(&old, name);
    read(&old).await;
}

fn path_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{name}.json"))
}

#[expect(
    clippy::unwrap_used,
    reason = "an unreadable golden file fails the test"
)]
fn golden(name: &str) -> Value {
    let golden = fs::read_to_string(path_of(name)).unwrap_or_else(|_| "{}".to_owned());
    serde_json::from_str(&golden).unwrap()
}

/// Puts all items of a golden file.
fn put_golden(at: &Fixture, name: &str) {
    let golden = golden(name);
    for table in TABLES {
        for item in golden[table.name].as_array().into_iter().flatten() {
            put(at, *table, item);
        }
    }
}

/// Returns the value with each binary attribute that is gzip replaced by its decompressed text: the compressed bytes
/// differ between releases of the compressor.
#[expect(clippy::unwrap_used, reason = "an unreadable attribute fails the test")]
fn unpacked(value: &Value) -> Value {
    match value {
        Value::Object(map) => match map.get("B") {
            Some(Value::String(packed)) if packed.starts_with("H4sI") => {
                let gzip = STANDARD.decode(packed).unwrap();
                json!({ "gzip": std::io::read_to_string(GzDecoder::new(&gzip[..])).unwrap() })
            }
            _ => map.iter().map(|(k, v)| (k.clone(), unpacked(v))).collect(),
        },
        Value::Array(list) => list.iter().map(unpacked).collect(),
        other => other.clone(),
    }
}

/// Checks that the key's digest, id and prefix lead to this record.
#[expect(clippy::unwrap_used, reason = "a failed read fails the test")]
async fn finds(at: &Fixture, key: &Key, record: &KeyRecord) {
    let digest = key.secret.digest();
    let found = at.store.key_by_digest(digest).await.unwrap();
    assert_eq!(found.as_ref(), Some(record));
    for name in [key.by_id(), key.by_prefix()] {
        let found = at.store.key(&name).await.unwrap();
        assert_eq!(found.as_ref(), Some(record), "{name:?}");
    }
}

#[tokio::test]
async fn a_customer() {
    let create = async |at: &Fixture, id: &str, request: &str| {
        let (customer, request) = (customer(id), once(request));
        let created = at.store.create_customer(&customer, Some(&request)).await;
        created.unwrap()
    };
    check(
        "customer",
        async |at| {
            assert_eq!(create(at, "acme", "this request").await, CreateOutcome::New);
        },
        async |at| {
            let acme = customer("acme");
            let stored = at.store.customer(&acme.id).await.unwrap();
            assert_eq!(stored.as_ref(), Some(&acme));
            let page = at.store.list_customers(None, 10).await.unwrap();
            assert_eq!(page.items, [("acme".to_owned(), acme.clone())]);
            let again = create(at, "acme-2", "this request").await;
            assert_eq!(again, CreateOutcome::Replayed(acme));
            let other = create(at, "acme-2", "another request").await;
            assert_eq!(other, CreateOutcome::KeyReused);
        },
    )
    .await;
}

#[tokio::test]
async fn plans() {
    let pro = plan("pro");
    let version = second_version("pro", "Pro 2");
    check(
        "plans",
        async |at| {
            let seeded = at.store.seed_plans(&Catalog::shipped().unwrap()).await;
            assert_eq!(seeded.unwrap(), SeedOutcome::Seeded);
            let added = at.store.add_plan_version(&version).await.unwrap();
            assert_eq!(added, PlanOutcome::Written);
            assert!(
                at.store
                    .retire_plan(&p("free"), Some(p(NOW)))
                    .await
                    .unwrap()
            );
        },
        async |at| {
            let plans = at.store.plans().await.unwrap();
            let stored = plans.get(&p("pro")).unwrap();
            let expected = [pro.latest().clone(), version.clone()];
            assert!(stored.iter().eq(&expected), "{stored:#?}");
            assert_eq!(stored.retired_at, None);
            assert_eq!(plans.get(&p("free")).unwrap().retired_at, Some(p(NOW)));
            assert_eq!(plans.iter().len(), 3);
        },
    )
    .await;
}

#[tokio::test]
async fn a_pinned_customer() {
    let pins = pinned(1, "2026-12");
    check(
        "customer_pinned",
        async |at| {
            create_customer(at, "acme").await;
            let change = CustomerChange {
                pins: Some(PinChange {
                    before: Pins::default(),
                    after: pins.clone(),
                }),
                ..CustomerChange::default()
            };
            let updated = at.store.update_customer(&p("acme"), &change).await;
            assert!(matches!(updated.unwrap(), UpdateCustomerOutcome::Done(_)));
        },
        async |at| {
            let stored = at.store.customer(&p("acme")).await.unwrap();
            assert_eq!(stored.unwrap().pins, pins);
        },
    )
    .await;
}

#[tokio::test]
async fn a_customer_linked_to_a_stripe_customer() {
    let linked = Customer {
        recipient: Some(recipient()),
        ..customer("acme")
    };
    check(
        "customer_linked",
        async |at| {
            create_customer(at, "acme").await;
            let change = link(recipient());
            let updated = at.store.update_customer(&linked.id, &change);
            let expected = UpdateCustomerOutcome::Done(linked.clone());
            assert_eq!(updated.await.unwrap(), expected);
        },
        async |at| {
            let stored = at.store.customer(&linked.id).await.unwrap();
            assert_eq!(stored.as_ref(), Some(&linked));
            let found = at.store.customer_of_stripe("cus_acme").await.unwrap();
            assert_eq!(found, Some(p("acme")));
            let found = at.store.customer_of_stripe("cus_other").await.unwrap();
            assert_eq!(found, None);
        },
    )
    .await;
}

#[tokio::test]
async fn an_unpaid_customer_with_follow_ups_and_a_handled_event() {
    let due = p("2026-11-29T10:00:00Z");
    let invoice = p("2026-12-04T00:00:00Z");
    check(
        "customer_followed",
        async |at| {
            let before = customer_to_follow(at).await;
            let after = unpaid(&before.customer);
            let followed = follow(at, &before, &after, Some(due)).await;
            assert_eq!(followed, FollowOutcome::Followed);
            let acme = p("acme");
            let scheduled = at.store.schedule_invoice(&acme, "cus_acme", invoice);
            scheduled.await.unwrap();
            at.store.mark_handled("evt_1").await.unwrap();
        },
        async |at| {
            let stored = read_to_follow(at).await.customer;
            assert_eq!(stored, unpaid(&stored));
            let page = at.store.follow_ups(None).await.unwrap();
            let found = page
                .items
                .iter()
                .map(|(_, it)| (it.customer.clone(), it.due));
            let expected = [(p("acme"), due), (p("acme"), invoice)];
            assert_eq!(found.collect::<Vec<_>>(), expected);
            let scheduled = at.store.scheduled_invoice("cus_acme").await.unwrap();
            assert_eq!(scheduled.map(|it| it.due), Some(invoice));
            assert_eq!(at.store.scheduled_invoice("cus_bolt").await.unwrap(), None);
            assert!(at.store.is_handled("evt_1").await.unwrap());
            assert!(!at.store.is_handled("evt_2").await.unwrap());
        },
    )
    .await;
}

#[tokio::test]
async fn a_checkout_session() {
    let request = once("digest of the request");
    check(
        "checkout",
        async |at| {
            create_linked(at).await;
            let recorded = record_checkout(at, &checkout(), None, Some(&request)).await;
            assert_eq!(recorded, RecordCheckoutOutcome::Recorded);
        },
        async |at| {
            let stored = at.store.checkout("cs_1").await.unwrap();
            assert_eq!(stored, Some(checkout()));
            assert_eq!(at.store.checkout("cs_2").await.unwrap(), None);
            let repeated = at.store.repeated_checkout(&request).await.unwrap();
            assert_eq!(repeated, Some(RecordCheckoutOutcome::Repeated(checkout())));
            let other = at.store.repeated_checkout(&once("another request")).await;
            assert_eq!(other.unwrap(), Some(RecordCheckoutOutcome::KeyReused));
            let open = at.store.open_checkout(&p("acme")).await.unwrap();
            assert_eq!(open.as_deref(), Some("cs_1"));
        },
    )
    .await;
}

#[tokio::test]
async fn a_changed_customer_without_an_address() {
    let changed = Customer {
        name: "Acme Inc".into(),
        email: None,
        plan: p("enterprise"),
        ..customer("acme")
    };
    check(
        "customer_changed",
        async |at| {
            create_customer(at, "acme").await;
            let change = CustomerChange {
                name: Some("Acme Inc".into()),
                email: Some(None),
                plan: Some(p("enterprise")),
                ..CustomerChange::default()
            };
            let updated = at.store.update_customer(&changed.id, &change).await;
            assert_eq!(
                updated.unwrap(),
                UpdateCustomerOutcome::Done(changed.clone())
            );
        },
        async |at| {
            let stored = at.store.customer(&changed.id).await.unwrap();
            assert_eq!(stored.as_ref(), Some(&changed));
        },
    )
    .await;
}

#[tokio::test]
async fn a_suspended_customer_that_was_erased() {
    let (since, now) = (p("2026-11-21T10:00:00Z"), p(NOW));
    let key = Key::of_acme(8);
    let erased = Customer {
        name: String::new(),
        email: None,
        suspended_at: Some(since),
        erased_at: Some(now),
        ..customer("acme")
    };
    check(
        "customer_erased",
        async |at| {
            create_customer(at, "acme").await;
            key.create(at).await;
            let change = CustomerChange {
                suspended_at: Some(Some(since)),
                ..CustomerChange::default()
            };
            at.store.update_customer(&erased.id, &change).await.unwrap();
            let erasure = at.store.erase_customer(&erased.id, now).await.unwrap();
            let expected = Erasure {
                customer: erased.clone(),
                keys: 1,
                revoked: 1,
            };
            assert_eq!(erasure, Some(expected));
        },
        async |at| {
            let stored = at.store.customer(&erased.id).await.unwrap();
            assert_eq!(stored.as_ref(), Some(&erased));
            let revoked = KeyRecord {
                name: String::new(),
                revoked_at: Some(now),
                ..key.record.clone()
            };
            finds(at, &key, &revoked).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_suspended_successor_of_another_key() {
    let mut key = Key::of_acme(9);
    key.record.hour_counter_id = Some(p("key_0001"));
    check(
        "key_suspended",
        async |at| {
            create_customer(at, "acme").await;
            key.create(at).await;
            let change = KeyChange {
                suspended_at: Some(Some(p(NOW))),
                ..KeyChange::default()
            };
            at.store.update_key(&key.by_id(), &change).await.unwrap();
        },
        async |at| {
            let suspended = KeyRecord {
                suspended_at: Some(p(NOW)),
                ..key.record.clone()
            };
            finds(at, &key, &suspended).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_key_with_every_attribute() {
    let mut key = Key::of_acme(1);
    key.record.customer_role = CustomerRole::Manage;
    key.record.expires_at = Some(p("2027-01-01T00:00:00Z"));
    key.record.overrides = Overrides {
        requests_per_hour: Some(500),
        monthly_quota: Some(20_000),
    };
    let request = once("digest of the request");
    check(
        "key",
        async |at| {
            create_customer(at, "acme").await;
            let created = create_key(at, &key, Some(&request)).await;
            assert_eq!(created, CreateOutcome::New);
        },
        async |at| {
            finds(at, &key, &key.record).await;
            let (acme, cursor) = (p("acme"), "acme#2026-11-20T09:00:00.250Z#key_0001");
            let page = at.store.list_keys(Some(&acme), None, 10).await.unwrap();
            assert_eq!(page.items, [(cursor.to_owned(), key.record.clone())]);
            let again = create_key(at, &Key::of_acme(2), Some(&request)).await;
            assert_eq!(again, CreateOutcome::Replayed(key.record.clone()));
        },
    )
    .await;
}

/// Earlier releases stored no role. This file is also how a key with the role `call` is stored now.
#[tokio::test]
async fn a_key_without_a_role_may_call() {
    let key = Key::of_acme(7);
    let at = fixture();
    put_golden(&at, "key_revoked");
    let stored = at.store.key(&key.by_id()).await.unwrap().unwrap();
    assert_eq!(stored.role(), Role::Call);
}

#[tokio::test]
async fn an_admin_key() {
    let key = Key::of(Owner::Admin, 3);
    check(
        "key_admin",
        async |at| key.create(at).await,
        async |at| finds(at, &key, &key.record).await,
    )
    .await;
}

/// An earlier release stored admin keys among customers' keys, where functions that create keys for
/// customers may write.
#[tokio::test]
async fn an_admin_key_among_customers_keys_authorizes_nothing() {
    let key = Key::of(Owner::Admin, 3);
    let at = fixture();
    put_golden(&at, "key_admin_among_customers");
    let found = at.store.key_by_digest(key.secret.digest()).await.unwrap();
    assert_eq!(found, None);
    let listed = at.store.list_keys(None, None, 10).await.unwrap().items;
    assert_eq!(listed[0].1, key.record);
    assert!(!at.store.is_admin_key(&key.by_id()).await.unwrap());
    assert!(at.store.revoke_key(&key.by_id(), p(NOW)).await.unwrap());
    let now = Key::of(Owner::Admin, 4);
    now.create(&at).await;
    assert!(at.store.is_admin_key(&now.by_prefix()).await.unwrap());
}

#[tokio::test]
async fn a_rotated_key_and_its_successor() {
    let (old, new) = (Key::of_acme(4), Key::of_acme(5));
    let request = once("digest of the request");
    check(
        "key_rotated",
        async |at| {
            create_customer(at, "acme").await;
            old.create(at).await;
            let rotated = rotate_key(at, &old, &new, Some(&request)).await;
            assert_eq!(rotated, RotateOutcome::New);
        },
        async |at| {
            let ending = KeyRecord {
                expires_at: Some(p("2026-11-23T10:00:00Z")),
                rotated_to: Some(new.record.id.clone()),
                ..old.record.clone()
            };
            finds(at, &old, &ending).await;
            finds(at, &new, &new.record).await;
            let replayed = RotateOutcome::Replayed(Box::new(new.record.clone()));
            let again = rotate_key(at, &old, &Key::of_acme(6), Some(&request)).await;
            assert_eq!(again, replayed);
        },
    )
    .await;
}

#[tokio::test]
async fn a_revoked_key() {
    let key = Key::of_acme(7);
    check(
        "key_revoked",
        async |at| {
            create_customer(at, "acme").await;
            key.create(at).await;
            let revoked = at.store.revoke_key(&key.by_prefix(), p(NOW)).await;
            assert!(revoked.unwrap());
        },
        async |at| {
            let revoked = KeyRecord {
                revoked_at: Some(p(NOW)),
                ..key.record.clone()
            };
            finds(at, &key, &revoked).await;
        },
    )
    .await;
}

#[tokio::test]
async fn the_counters_of_an_hour_and_a_month() {
    let month_share = |at: &Fixture| at.store.month_share(&p("acme"), p("2026-11"));
    check(
        "counters",
        async |at| {
            let mut hour = hour_share(at);
            assert_eq!(
                reserve(at, &mut hour, 20, Some(100), 1).await,
                reserved(20, 20)
            );
            let mut month = month_share(at);
            assert_eq!(reserve(at, &mut month, 1, None, 1).await, reserved(1, 1));
            reserve(at, &mut month, 2, None, 2).await;
            let mut uncounted = month_share(at);
            let calls = AdmittedCalls {
                spent: 1,
                uncounted: 7,
            };
            at.store
                .reserve(&mut uncounted, 2, None, calls, 0)
                .await
                .unwrap();
            // The tombstone of an ended share.
            release(at, &mut month, 1, 2).await;
        },
        async |at| {
            let totals = at.store.month_counter(&p("acme"), p("2026-11")).await;
            let expected = CounterTotals {
                reserved: 4,
                spent: 3,
                uncounted: 7,
            };
            assert_eq!(totals.unwrap(), expected);
            // All fixtures draw the same ids, unlike instances.
            let _ = at.entropy.below(2);
            let mut hour = hour_share(at);
            assert_eq!(
                reserve(at, &mut hour, 1, Some(21), 1).await,
                reserved(1, 21)
            );
            let exhausted = reserve(at, &mut hour, 1, Some(21), 1).await;
            assert_eq!(exhausted, ReserveOutcome::Exhausted);
        },
    )
    .await;
}

/// Instances of an earlier release no longer use their shares.
#[tokio::test]
async fn counters_with_shares_of_an_earlier_release_are_still_used() {
    let at = fixture();
    put_golden(&at, "counters-earlier-shares");
    let mut hour = hour_share(&at);
    assert_eq!(
        reserve(&at, &mut hour, 5, Some(21), 1).await,
        reserved(1, 21)
    );
    let exhausted = reserve(&at, &mut hour, 1, Some(21), 1).await;
    assert_eq!(exhausted, ReserveOutcome::Exhausted);
    let totals = at.store.month_counter(&p("acme"), p("2026-11")).await;
    let expected = CounterTotals {
        reserved: 4,
        spent: 3,
        uncounted: 0,
    };
    assert_eq!(totals.unwrap(), expected);
}

/// More instances use the counter than its root has room for.
#[tokio::test]
async fn the_branches_of_a_counter() {
    check(
        "counters-branches",
        async |at| {
            for calls in 0..22 {
                let mut share = at.store.month_share(&p("acme"), p("2026-11"));
                reserve(at, &mut share, 2, Some(1_000), calls % 2).await;
            }
            // For this one, a branch returns units to the root.
            let mut share = at.store.month_share(&p("acme"), p("2026-11"));
            reserve(at, &mut share, 1, Some(100), 1).await;
        },
        async |at| {
            let totals = at.store.month_counter(&p("acme"), p("2026-11")).await;
            let expected = CounterTotals {
                reserved: 45,
                spent: 12,
                uncounted: 0,
            };
            assert_eq!(totals.unwrap(), expected);
        },
    )
    .await;
}

/// Returns calls with all values that an aggregate sums up.
fn calls() -> Vec<UsageRecord> {
    let tokens = |provider: &str, tokens, micro_usd, unpriced| Cost {
        provider: Some(provider.into()),
        tokens,
        micro_usd: MicroUsd(micro_usd),
        unpriced,
        ..Cost::default()
    };
    let analysed = UsageRecord {
        method: "POST".into(),
        latency_ms: 1_200,
        costs: vec![
            tokens("anthropic", 1_000, 3_000, false),
            tokens("nobody", 40, 0, true),
        ],
        ..call("2026-11-21T23:59:59.999Z", "pro", "/api/analyze", 200)
    };
    vec![
        analysed,
        call("2026-11-22T09:00:00Z", "pro", "/ping", 200),
        call("2026-11-22T09:00:01Z", "free", "/ping", 404),
        call("2026-11-22T09:00:02Z", "pro", "/ping", 503),
    ]
}

#[tokio::test]
async fn the_aggregates_of_an_event_and_its_claim() {
    let event = Event::new("acme", "e-1", &calls());
    check(
        "usage",
        async |at| {
            no_older_claims(at);
            assert_eq!(write_usage(at, &event).await, WriteUsageOutcome::Counted);
        },
        async |at| {
            let (acme, november): (CustomerId, Month) = (p("acme"), p("2026-11"));
            let store = &at.store;
            let month = Aggregate {
                calls: 4,
                billable: [(p("free"), 1), (p("pro"), 2)].into(),
                client_errors: 1,
                server_errors: 1,
                latency_ms: 1_215,
                latencies: calls().iter().map(|call| call.latency_ms).collect(),
                tokens: 1_040,
                unpriced_tokens: 40,
                cost: MicroUsd(3_000),
                adjusted: AdjustmentTotals::default(),
            };
            assert_eq!(store.month_usage(&acme, november).await.unwrap(), month);
            let days = store.day_usage(&acme, november).await.unwrap();
            assert_eq!(days, event.aggregates.days);
            let billable = [
                (p("2026-11-21"), [(p("pro"), billable(1))].into()),
                (
                    p("2026-11-22"),
                    [(p("free"), billable(1)), (p("pro"), billable(1))].into(),
                ),
            ];
            let stored = store.billable_days(&acme, november).await.unwrap();
            assert_eq!(stored, billable.into());
            for scope in [UsageScope::All, UsageScope::Customer(acme.clone())] {
                let is_all = scope == UsageScope::All;
                for day in event.aggregates.days.keys() {
                    let dimensions = event.aggregates.dimensions.iter();
                    let dimensions = dimensions.filter(|((of, value), _)| {
                        of == day && !(is_all && value.dimension() == Dimension::Key)
                    });
                    let expected = dimensions.map(|((_, value), sum)| (value.clone(), sum.clone()));
                    let stored = store.dimension_usage(&scope, *day).await.unwrap();
                    assert_eq!(stored, expected.collect(), "{scope:?}");
                }
            }
            assert_eq!(all_billable(store, november).await, [acme]);
            // The golden file was written by another instance, with other random numbers.
            let _ = at.entropy.below(2);
            assert_eq!(write_usage(at, &event).await, WriteUsageOutcome::Duplicate);
        },
    )
    .await;
}

/// Earlier releases had an item for each endpoint, and neither other dimensions nor the usage of all customers.
#[tokio::test]
async fn the_aggregates_of_a_release_before_dimensions() {
    let event = Event::new("acme", "e-1", &calls());
    let at = fixture();
    put_golden(&at, "usage_of_endpoints");
    // The golden file was written by another instance, with other random numbers.
    let _ = at.entropy.below(2);
    for _ in 0..2 {
        let (acme, november): (CustomerId, Month) = (p("acme"), p("2026-11"));
        let month = at.store.month_usage(&acme, november).await.unwrap();
        assert_eq!((month.calls, month.latency_ms), (4, 1_215));
        assert_eq!(month.latencies, Latencies::default());
        for day in event.aggregates.days.keys() {
            let scope = UsageScope::Customer(acme.clone());
            let values = at.store.dimension_usage(&scope, *day).await.unwrap();
            let expected = event.aggregates.dimensions.iter();
            let expected = expected
                .filter(|((of, value), _)| of == day && value.dimension() == Dimension::Endpoint);
            let expected = expected.map(|((_, value), sum)| (value, sum.calls));
            let found = values.iter().map(|(value, sum)| (value, sum.calls));
            assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
        assert_eq!(write_usage(&at, &event).await, WriteUsageOutcome::Duplicate);
    }
}

#[tokio::test]
async fn adjustments_and_the_aggregates_that_include_them() {
    let adjustments = [
        adjustment("2026-11-20T12:00:00Z", -12),
        adjustment("2026-11-20T13:00:00.5Z", 0),
    ];
    let event = Event::of_adjustments("acme", "a-1", &adjustments);
    check(
        "adjustments",
        async |at| {
            no_older_claims(at);
            assert_eq!(write_usage(at, &event).await, WriteUsageOutcome::Counted);
        },
        async |at| {
            let (acme, november): (CustomerId, Month) = (p("acme"), p("2026-11"));
            let store = &at.store;
            let month = Aggregate {
                adjusted: AdjustmentTotals {
                    count: 2,
                    billable: [(p("pro"), -12)].into(),
                    micro_usd: -2_000,
                },
                ..Aggregate::default()
            };
            assert_eq!(store.month_usage(&acme, november).await.unwrap(), month);
            let days = store.day_usage(&acme, november).await.unwrap();
            assert_eq!(days, [(p("2026-11-20"), month)].into());
            let of_day = BillableCalls {
                calls: 0,
                adjusted: -12,
            };
            let stored = store.billable_days(&acme, november).await.unwrap();
            let expected = [(p("2026-11-20"), [(p("pro"), of_day)].into())];
            assert_eq!(stored, expected.into());
            let billable = all_billable(store, november).await;
            assert_eq!(billable, std::slice::from_ref(&acme));
            let page = store.adjustments(&acme, november, None).await.unwrap();
            let counted = adjustments.clone().map(|adjustment| LoggedAdjustment {
                adjustment,
                source: "admin".into(),
                id: "a-1".into(),
                received_at: p(NOW),
            });
            assert_eq!((page.items, page.next), (counted.to_vec(), None));
        },
    )
    .await;
}

/// Written before claims were put: the log's items were the claims, and months had aggregates of their own.
#[tokio::test]
async fn usage_that_was_counted_by_items_is_not_counted_again() {
    let event = Event::new("acme", "e-1", &calls());
    let adjustments = [
        adjustment("2026-11-20T12:00:00Z", -12),
        adjustment("2026-11-20T13:00:00.5Z", 0),
    ];
    let correction = Event::of_adjustments("acme", "a-1", &adjustments);
    for is_seeded in [false, true] {
        let at = Fixture::at(NOW);
        put_golden(&at, "usage_of_items");
        put_golden(&at, "adjustments_of_items");
        if is_seeded {
            at.store
                .seed_plans(&Catalog::shipped().unwrap())
                .await
                .unwrap();
        }
        let (acme, november): (CustomerId, Month) = (p("acme"), p("2026-11"));
        let month = at.store.month_usage(&acme, november).await.unwrap();
        assert_eq!((month.calls, month.adjusted.count), (4, 2));
        for event in [&event, &correction] {
            assert_eq!(write_usage(&at, event).await, WriteUsageOutcome::Duplicate);
            let mut other = Event {
                body: b"other".to_vec(),
                ..event.clone()
            };
            assert_eq!(write_usage(&at, &other).await, WriteUsageOutcome::Conflict);
            other.id = "new".to_owned() + &other.id;
            assert_eq!(write_usage(&at, &other).await, WriteUsageOutcome::Counted);
        }
        let month = at.store.month_usage(&acme, november).await.unwrap();
        assert_eq!((month.calls, month.adjusted.count), (8, 4));
        assert_eq!(
            all_billable(&at.store, november).await,
            std::slice::from_ref(&acme)
        );
        let days = (p("2026-11-01"), p("2026-11-30"));
        let logged = at.store.list_logged(&acme, days, None).await.unwrap();
        let found = logged
            .items
            .iter()
            .map(|part| (part.day.to_string(), part.body.as_slice()));
        let found: Vec<_> = found.collect();
        let (calls, corrections) = (&event.body[..], &correction.body[..]);
        let expected = [
            ("2026-11-20".to_owned(), corrections),
            ("2026-11-20".to_owned(), b"other"),
            ("2026-11-21".to_owned(), calls),
            ("2026-11-21".to_owned(), b"other"),
        ];
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn the_month_of_a_plan_without_overage() {
    let event = Event::new("acme", "e-2", &[call(NOW, "free", "/ping", 200)]);
    check(
        "usage_without_overage",
        async |at| {
            no_older_claims(at);
            assert_eq!(write_usage(at, &event).await, WriteUsageOutcome::Counted);
        },
        async |at| {
            let month = at
                .store
                .month_usage(&p("acme"), p("2026-11"))
                .await
                .unwrap();
            assert_eq!(month.billable, [(p("free"), 1)].into());
            assert_eq!(all_billable(&at.store, p("2026-11")).await, []);
        },
    )
    .await;
}

#[tokio::test]
async fn the_reconciliation_of_a_day() {
    let comparison = LedgerComparison {
        admitted: 100,
        metered: 90,
    };
    let summary = ReconciliationSummary {
        customers: 2,
        total: comparison,
        discrepancies: 1,
    };
    check(
        "reconciliation",
        async |at| {
            let (store, day, acme) = (&at.store, p("2026-11-21"), p("acme"));
            let recorded = store.record_discrepancy(day, &acme, comparison).await;
            recorded.unwrap();
            store.record_reconciled(day, &summary).await.unwrap();
        },
        async |at| {
            let day = p("2026-11-21");
            let stored = at.store.reconciled(day).await.unwrap();
            assert_eq!(stored, Some((summary, p(NOW))));
            let page = at.store.list_discrepancies(day, None).await.unwrap();
            assert_eq!(page.items, [(p("acme"), comparison)]);
        },
    )
    .await;
}

fn rejected(index: usize, reason: &str) -> RejectedRecord {
    RejectedRecord {
        index,
        reason: reason.into(),
    }
}

#[tokio::test]
async fn rejected_records_in_quarantine() {
    let mut event = Event::new("acme", "e-3", &[call(NOW, "pro", "/ping", 200)]);
    event.part = 1;
    event.rejected = vec![
        rejected(1, "there is no plan platinum"),
        rejected(12, "status is out of bounds"),
    ];
    check(
        "quarantined_records",
        async |at| {
            assert_eq!(write_usage(at, &event).await, WriteUsageOutcome::Counted);
        },
        async |at| {
            let stored = at.store.quarantined_of_event("tollgate:ping", "e-3").await;
            let expected = QuarantinedContent {
                rejected: event.rejected.clone(),
                body: event.body.clone(),
                received_at: p(NOW),
            };
            assert_eq!(stored.unwrap(), [expected]);
        },
    )
    .await;
}

#[tokio::test]
async fn a_conflicting_event_in_quarantine() {
    let mut event = Event::new("acme", "e-4", &[]);
    event.rejected = vec![rejected(0, "another usage event has its source and id")];
    check(
        "quarantined_conflict",
        async |at| at.store.quarantine_conflict(&event.part()).await.unwrap(),
        async |at| {
            let stored = at.store.quarantined_of_event("tollgate:ping", "e-4").await;
            let expected = QuarantinedContent {
                rejected: event.rejected.clone(),
                body: event.body.clone(),
                received_at: p(NOW),
            };
            assert_eq!(stored.unwrap(), [expected]);
        },
    )
    .await;
}

#[tokio::test]
async fn a_message_in_quarantine() {
    let (body, reason) = (b"not a usage event", "not of the documented shape");
    check(
        "quarantined_message",
        async |at| {
            let store = &at.store;
            store
                .quarantine_message(body, reason, p(NOW))
                .await
                .unwrap();
        },
        async |at| {
            let stored = at.store.quarantined_message(body).await.unwrap();
            let expected = QuarantinedContent {
                rejected: vec![rejected(0, reason)],
                body: body.to_vec(),
                received_at: p(NOW),
            };
            assert_eq!(stored, [expected]);
        },
    )
    .await;
}

/// Checks that the ledger of `acme` has two charges of November, with these period ledgers after each.
#[expect(clippy::unwrap_used, reason = "a failed read fails the test")]
async fn has_two_charges(
    at: &Fixture,
    ledger_after: impl Fn(u64) -> PeriodLedger,
    read: impl Fn(Charge) -> Charge,
) {
    let (acme, november) = (p("acme"), p("2026-11"));
    let ledger = at.store.period_ledger(&acme, november).await.unwrap();
    assert_eq!(ledger, ledger_after(2));
    let in_ledger = |number| LedgerCharge {
        charge: read(Charge {
            overage_by_plan: ledger_after(number).overage_by_plan,
            ..charge(number)
        }),
        state: ChargeState::Pending,
        attempts: Attempts::default(),
        next_try: Some(charge(number).created_at),
    };
    let page = at.store.charges(&acme, november, 1).await.unwrap();
    assert_eq!(page.items, [in_ledger(1), in_ledger(2)]);
    let page = at.store.charges(&acme, november, 2).await.unwrap();
    assert_eq!(page.items, [in_ledger(2)]);
}

#[tokio::test]
async fn the_ledger_and_the_charges_of_a_billing_period() {
    check(
        "charges",
        async |at| {
            for number in [1, 2] {
                let before = charged(number - 1);
                let recorded = at.store.record_charge(&charge(number), &before).await;
                assert_eq!(recorded.unwrap(), RecordChargeOutcome::Written);
            }
        },
        async |at| has_two_charges(at, charged, |charge| charge).await,
    )
    .await;
}

/// Returns a charge as it is read if an earlier release stored it, without its description and its calls.
fn of_an_earlier_release(charge: Charge) -> Charge {
    let Charge {
        from_call, to_call, ..
    } = charge;
    Charge {
        description: format!("API calls {from_call} to {to_call} beyond the included ones"),
        usage: String::new(),
        ..charge
    }
}

/// An earlier release had no payment provider.
#[tokio::test]
async fn charges_of_a_release_without_a_payment_provider_are_pending() {
    let at = fixture();
    put_golden(&at, "charges_ledger_only");
    has_two_charges(&at, charged, of_an_earlier_release).await;
    let pending = at.store.charge(&charge(2).name()).await.unwrap().unwrap();
    let begun = at.store.begin_submission(&pending, &recipient()).await;
    assert!(matches!(begun.unwrap(), BeginOutcome::Begun(_)));
}

/// Begins to submit a charge that is in the ledger.
#[expect(clippy::unwrap_used, reason = "a failed read fails the test")]
async fn begin(at: &Fixture, number: u64) -> LedgerCharge {
    let stored = at
        .store
        .charge(&charge(number).name())
        .await
        .unwrap()
        .unwrap();
    match at
        .store
        .begin_submission(&stored, &recipient())
        .await
        .unwrap()
    {
        BeginOutcome::Begun(begun) => begun,
        BeginOutcome::Raced => panic!("the attempt did not begin"),
    }
}

#[tokio::test]
async fn submitted_failed_and_settled_charges() {
    let in_ledger = |number, state, attempts, next_try| LedgerCharge {
        charge: charge(number),
        state,
        attempts,
        next_try,
    };
    let attempts = |rejected| Attempts {
        count: 1,
        rejected,
        last_at: Some(p(NOW)),
        recipient: Some(recipient()),
    };
    let reason = "the card has no heart";
    check(
        "charges_submitted",
        async |at| {
            for number in [1, 2, 3] {
                let before = charged(number - 1);
                let recorded = at.store.record_charge(&charge(number), &before).await;
                assert_eq!(recorded.unwrap(), RecordChargeOutcome::Written);
                begin(at, number).await;
            }
            let failed = at.store.charge(&charge(2).name()).await.unwrap().unwrap();
            let failed = at.store.fail_charge(
                &failed,
                SubmissionFailure::Rejected,
                reason,
                p("2026-11-23T06:00:00Z"),
            );
            assert_eq!(failed.await.unwrap(), FailOutcome::Failed);
            let settled = at.store.settle_charge(&charge(3), "ii_3").await;
            assert_eq!(settled.unwrap(), SettleOutcome::Settled);
        },
        async |at| {
            let page = at.store.charges(&p("acme"), p("2026-11"), 1).await.unwrap();
            let expected = [
                in_ledger(
                    1,
                    ChargeState::Submitted,
                    attempts(0),
                    Some(p("2026-11-22T10:05:00Z")),
                ),
                in_ledger(
                    2,
                    ChargeState::Failed {
                        reason: reason.to_owned(),
                    },
                    attempts(1),
                    Some(p("2026-11-23T06:00:00Z")),
                ),
                in_ledger(
                    3,
                    ChargeState::Settled {
                        item: "ii_3".to_owned(),
                        at: p(NOW),
                    },
                    attempts(0),
                    None,
                ),
            ];
            assert_eq!(page.items, expected);
            let open = async |status| {
                let (mut all, mut after) = (Vec::new(), None::<String>);
                loop {
                    let due = p("2027-01-01T00:00:00Z");
                    let page = at
                        .store
                        .open_charges(status, Some(due), after.as_deref(), None)
                        .await;
                    let page = page.unwrap();
                    all.extend(page.items.iter().map(|charge| charge.number));
                    after = page.next;
                    if after.is_none() {
                        return all;
                    }
                }
            };
            assert_eq!(open(ChargeStatus::Pending).await, [0_u64; 0]);
            assert_eq!(open(ChargeStatus::Submitted).await, [1]);
            assert_eq!(open(ChargeStatus::Failed).await, [2]);
        },
    )
    .await;
}

/// An earlier release stored neither the overage by plan nor the id of the write.
#[tokio::test]
async fn a_ledger_without_plans_can_be_continued() {
    let at = fixture();
    put_golden(&at, "charges_without_plans");
    let without_plans = |number| PeriodLedger {
        overage_by_plan: [].into(),
        ..charged(number)
    };
    has_two_charges(&at, without_plans, of_an_earlier_release).await;
    let again = at.store.record_charge(&charge(2), &without_plans(1)).await;
    assert_eq!(again.unwrap(), RecordChargeOutcome::Raced);
    let next = at.store.record_charge(&charge(3), &without_plans(2)).await;
    assert_eq!(next.unwrap(), RecordChargeOutcome::Written);
    let ledger = at.store.period_ledger(&p("acme"), p("2026-11")).await;
    assert_eq!(ledger.unwrap(), charged(3));
}

#[tokio::test]
async fn customers_and_closed_months_without_a_write_id_are_read() {
    let at = fixture();
    put_golden(&at, "customer_without_writer");
    put_golden(&at, "month_closed_without_writer");
    let acme = customer("acme");
    let stored = at.store.customer(&acme.id).await.unwrap();
    assert_eq!(stored.as_ref(), Some(&acme));
    let again = at.store.create_customer(&acme, None).await;
    assert_eq!(again.unwrap(), CreateOutcome::Taken);
    let closed_at = at.store.closed_at(p("2026-08")).await;
    assert_eq!(closed_at.unwrap(), Some(p(NOW)));
    assert!(!at.store.close(p("2026-08")).await.unwrap());
}

#[tokio::test]
async fn a_closed_month() {
    check(
        "month_closed",
        async |at| assert!(at.store.close(p("2026-08")).await.unwrap()),
        async |at| {
            let closed_at = async |month| at.store.closed_at(p(month)).await.unwrap();
            assert_eq!(closed_at("2026-08").await, Some(p(NOW)));
            assert_eq!(closed_at("2026-09").await, None);
        },
    )
    .await;
}

#[tokio::test]
async fn a_month_left_open() {
    check(
        "month_left_open",
        async |at| at.store.leave_open(p("2026-08")).await.unwrap(),
        async |at| {
            let left_open = at.store.months_left_open().await;
            assert_eq!(left_open.unwrap(), [p("2026-08")]);
        },
    )
    .await;
}

fn events() -> [DomainEvent; 3] {
    let threshold = QuotaThreshold {
        customer: p("acme"),
        month: p("2026-11"),
        plan: p("free"),
        included: 1_000,
        percent: 80,
        calls: 801,
    };
    let totals = RunTotals {
        scheduled_at: p("2026-11-22T02:00:00Z"),
        billing_periods: 3,
        charge_count: 2,
        cents: SignedCents(1_234),
        failed: 1,
    };
    let later = p("2026-11-22T10:00:01Z");
    [
        DomainEvent::quota_threshold(&threshold, p(NOW)),
        DomainEvent::billing_run_completed(&totals, later),
        DomainEvent::charge_failed(&charge(1), "no", p("2026-11-22T10:00:02Z")),
    ]
}

#[tokio::test]
async fn events_before_and_after_their_publication() {
    let [first, second, third] = events();
    check(
        "events",
        async |at| {
            for event in [&first, &second] {
                at.store.record_event(event).await.unwrap();
            }
            assert_eq!(at.store.number_events().await.unwrap().len(), 2);
            at.store.mark_sent(&first.id).await.unwrap();
            at.store.record_event(&third).await.unwrap();
        },
        async |at| {
            let listed = at.store.numbered_events(0, 10).await.unwrap();
            let expected = [(1, &first), (2, &second)].map(|(number, event)| NumberedEvent {
                number,
                published_at: p(NOW),
                event: event.clone(),
            });
            assert_eq!(listed, expected);
            assert_eq!(at.store.unsent_events().await.unwrap(), expected[1..]);
            let numbered = at.store.number_events().await.unwrap();
            assert_eq!((numbered[0].number, &numbered[0].event), (3, &third));
        },
    )
    .await;
}

#[tokio::test]
async fn webhooks_with_and_without_failures() {
    let webhook = |id: &str| Webhook {
        id: p(id),
        url: TargetUrl::stored("https://hooks.example/tollgate"),
        kinds: [].into(),
        created_at: p(NOW),
        disabled_at: None,
        failure: None,
    };
    let failed = Webhook {
        kinds: [EventKind::ChargeFailed, EventKind::PaymentFailed].into(),
        disabled_at: Some(p("2026-11-23T10:00:00Z")),
        failure: Some(DeliveryFailure {
            event: 7,
            at: p("2026-11-22T10:00:01Z"),
            reason: "the target responded with status 500".to_owned(),
        }),
        ..webhook("wh_2")
    };
    check(
        "webhooks",
        async |at| {
            for (created, secret) in [(&webhook("wh_1"), "whsec_1"), (&failed, "whsec_2")] {
                let secret = WebhookSecret::new(secret);
                let created = at.store.create_webhook(created, &secret).await;
                assert_eq!(created.unwrap(), CreateWebhookOutcome::Created);
            }
            let (id, failure) = (&failed.id, failed.failure.as_ref().unwrap());
            at.store.record_delivery_failure(id, failure).await.unwrap();
            let at_once = failed.disabled_at.unwrap();
            at.store.disable_webhook(id, at_once).await.unwrap();
        },
        async |at| {
            let listed = at.store.webhooks().await.unwrap();
            assert_eq!(listed, [webhook("wh_1"), failed.clone()]);
            let secret = at.store.webhook_secret(&p("wh_2")).await.unwrap();
            assert_eq!(secret.unwrap().expose(), "whsec_2");
            assert!(at.store.delete_webhook(&p("wh_1")).await.unwrap());
        },
    )
    .await;
}
