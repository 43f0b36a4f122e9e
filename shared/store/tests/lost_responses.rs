//! Writes with lost requests and responses, conflicts and throttling: each takes effect once, or fails with
//! a transient error.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_types::region::Region;
use serde_json::{Value, json};
use tollgate_domain::customer::Customer;
use tollgate_domain::id::CustomerId;
use tollgate_domain::idempotency::Idempotency;
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::Pins;
use tollgate_domain::submission::{Recipient, SubmissionFailure};
use tollgate_domain::window::Month;
use tollgate_local_aws::Fault;
use tollgate_local_aws::fixture::Fixture;
use tollgate_runtime::Chain;
use tollgate_store::schema::REGISTRY;
use tollgate_store::{
    CreateOutcome, CustomerChange, FailOutcome, FollowOutcome, KeyChange, PinChange,
    RecordChargeOutcome, RecordCheckoutOutcome, RejectedRecord, RotateOutcome, SettleOutcome,
    Store, StoreError, UpdateCustomerOutcome, WriteUsageOutcome,
};
use tollgate_testing::p;
use tollgate_testing::stored::stored;

mod common;

use common::{
    Event, Key, NOW, call, charge, charged, checkout, create_customer, create_key, create_linked,
    customer, customer_to_follow, edit, fixture, follow, hour, link, once, paid, pinned, plan,
    read_to_follow, recipient, record, record_checkout, relink, rotate_key, second_version, spent,
    try_to_write, unpaid, update_customer, update_key, with_keys, write_usage,
};

const TRANSACTION: &str = "TransactWriteItems";
const WRITES: [&str; 3] = ["PutItem", "UpdateItem", TRANSACTION];

/// Fault of the first call of an operation.
#[derive(Debug, Clone, Copy)]
enum FirstCall {
    /// No fault.
    Succeeds,
    /// A fault of the embedded AWS.
    Meets(Fault),
    /// Its response is lost, and when it is repeated its token is no longer valid, as after ten minutes.
    ExpiresToken,
}

/// Injects the fault into the next call of `operation`. Returns a counter of all its calls.
fn inject_first(at: &Fixture, operation: &'static str, first: FirstCall) -> Arc<AtomicUsize> {
    let calls = Arc::new(AtomicUsize::new(0));
    let (counter, aws) = (Arc::clone(&calls), at.aws.clone());
    at.aws.inject(move |call| {
        if call.operation() != operation || counter.fetch_add(1, Ordering::Relaxed) > 0 {
            return Fault::None;
        }
        match first {
            FirstCall::Succeeds => Fault::None,
            FirstCall::Meets(fault) => fault,
            FirstCall::ExpiresToken => {
                let body: Result<Value, _> = serde_json::from_str(&call.body);
                let mut body = body.unwrap_or_default();
                body["ClientRequestToken"] = "expired".into();
                let (status, response) = aws.call(&call.target, &body.to_string());
                assert_eq!(status, 200, "{response}");
                Fault::RequestLost
            }
        }
    });
    calls
}

/// Checks that with any fault of the first call of `operation` in `act`, the call is repeated, and the
/// outcome and the stored items are those without a fault.
async fn check<T: Debug + PartialEq>(
    operation: &'static str,
    prepare: impl AsyncFn(&Fixture),
    act: impl AsyncFn(&Fixture) -> T,
) {
    let expected = run(FirstCall::Succeeds, operation, &prepare, &act).await;
    assert!(expected.calls > 0, "{operation} is not called");
    let mut faults = vec![Fault::RequestLost, Fault::ResponseLost, Fault::Throttled];
    if WRITES.contains(&operation) {
        faults.push(Fault::Conflict);
    }
    for fault in faults {
        let met = run(FirstCall::Meets(fault), operation, &prepare, &act).await;
        assert_eq!(met.outcome, expected.outcome, "{fault:?}");
        assert_eq!(met.stored, expected.stored, "{fault:?}");
        assert_eq!(met.calls, expected.calls + 1, "{fault:?}");
    }
}

/// As [`check`], for a transaction with this outcome, and also with an expired token.
async fn check_transaction<T: Debug + PartialEq>(
    prepare: impl AsyncFn(&Fixture),
    act: impl AsyncFn(&Fixture) -> T,
    outcome: T,
) {
    check(TRANSACTION, &prepare, &act).await;
    let expected = run(FirstCall::Succeeds, TRANSACTION, &prepare, &act).await;
    let expired = run(FirstCall::ExpiresToken, TRANSACTION, &prepare, &act).await;
    assert_eq!(expired.outcome, outcome);
    assert_eq!(expired.stored, expected.stored);
}

/// Result of running an operation.
struct Run<T> {
    outcome: T,
    stored: Value,
    calls: usize,
}

/// Returns the stored items with the shards of each aggregate summed up in one item.
fn without_shards(mut stored: Value) -> Value {
    let Some(Value::Array(items)) = stored.get_mut("usage").map(Value::take) else {
        return stored;
    };
    let mut aggregates: BTreeMap<(String, String), Value> = BTreeMap::new();
    for mut item in items {
        let text = |name: &str| item[name]["S"].as_str().unwrap_or_default().to_owned();
        let (pk, mut sk) = (text("pk"), text("sk"));
        // `<kind>#<window>`, `/<shard>` if it is sharded, and `#<endpoint>` if it is of one.
        let window = sk.match_indices('#').nth(1).map_or(sk.len(), |(at, _)| at);
        if let Some(shard) = sk[..window].find('/') {
            sk.replace_range(shard..window, "");
        }
        item["sk"] = json!({ "S": sk });
        let number = |value: &Value| value["N"].as_str()?.parse::<u64>().ok();
        match aggregates.entry((pk, sk)) {
            Vacant(entry) => {
                entry.insert(item);
            }
            Occupied(mut entry) => {
                for (name, value) in item.as_object().into_iter().flatten() {
                    let sum = &mut entry.get_mut()[name];
                    if let (Some(one), Some(other)) = (number(sum), number(value)) {
                        *sum = json!({ "N": (one + other).to_string() });
                    }
                }
            }
        }
    }
    stored["usage"] = aggregates.into_values().collect();
    stored
}

async fn run<T>(
    first: FirstCall,
    operation: &'static str,
    prepare: impl AsyncFn(&Fixture),
    act: impl AsyncFn(&Fixture) -> T,
) -> Run<T> {
    let at = fixture();
    prepare(&at).await;
    let calls = inject_first(&at, operation, first);
    let outcome = act(&at).await;
    at.aws.heal();
    Run {
        outcome,
        stored: without_shards(stored(&at)),
        calls: calls.load(Ordering::Relaxed),
    }
}

/// Returns the two cases of a request: without an idempotency key, and with one.
fn requests() -> [Option<Idempotency>; 2] {
    [None, Some(once("request"))]
}

#[tokio::test(start_paused = true)]
async fn a_key_is_created_once() {
    for request in requests() {
        check_transaction(
            async |at| create_customer(at, "acme").await,
            async |at| create_key(at, &Key::of_acme(1), request.as_ref()).await,
            CreateOutcome::New,
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_customer_is_created_once() {
    for request in requests() {
        check_transaction(
            async |_| (),
            async |at| {
                let acme = customer("acme");
                let created = at.store.create_customer(&acme, request.as_ref()).await;
                created.unwrap()
            },
            CreateOutcome::New,
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_rotated_once() {
    let mut expiring = Key::of_acme(1);
    expiring.record.expires_at = Some(p("2027-01-01T00:00:00Z"));
    for old in [Key::of_acme(1), expiring] {
        for request in requests() {
            check_transaction(
                async |at| {
                    create_customer(at, "acme").await;
                    old.create(at).await;
                },
                async |at| rotate_key(at, &old, &Key::of_acme(2), request.as_ref()).await,
                RotateOutcome::New,
            )
            .await;
        }
    }
}

fn event() -> Event {
    let mut event = Event::new("acme", "e-1", &[call(NOW, "pro", "/ping", 200)]);
    event.rejected.push(RejectedRecord {
        index: 1,
        reason: "too late".into(),
    });
    event
}

#[tokio::test(start_paused = true)]
async fn an_event_is_counted_once() {
    check_transaction(
        async |at| {
            let earlier = Event::new("acme", "e-0", &[call(NOW, "pro", "/ping", 200)]);
            write_usage(at, &earlier).await;
        },
        async |at| write_usage(at, &event()).await,
        WriteUsageOutcome::Counted,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_charge_is_recorded_once() {
    check_transaction(
        async |_| (),
        async |at| record(at, &charge(1), charged(0)).await,
        RecordChargeOutcome::Written,
    )
    .await;
    check_transaction(
        async |at| {
            record(at, &charge(1), charged(0)).await;
        },
        async |at| record(at, &charge(2), charged(1)).await,
        RecordChargeOutcome::Written,
    )
    .await;
}

async fn store_first_key(at: &Fixture) {
    create_customer(at, "acme").await;
    Key::of_acme(1).create(at).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_is_revoked_once() {
    check("UpdateItem", store_first_key, async |at| {
        let revoked = at.store.revoke_key(&Key::of_acme(1).by_id(), p(NOW)).await;
        revoked.unwrap()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_to_a_key_is_made() {
    let change = KeyChange {
        name: Some("Other".into()),
        expires_at: Some(Some(p("2027-01-01T00:00:00Z"))),
        requests_per_hour: Some(Some(7)),
        monthly_quota: Some(None),
        suspended_at: Some(Some(p(NOW))),
    };
    check("UpdateItem", store_first_key, async |at| {
        update_key(at, &Key::of_acme(1), &change).await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_to_a_customer_is_made_once() {
    let change = CustomerChange {
        name: Some("Acme Inc".into()),
        email: Some(None),
        plan: Some(p("free")),
        pins: Some(PinChange {
            before: Pins::default(),
            after: pinned(1, "2026-12"),
        }),
        recipient: None,
        suspended_at: Some(Some(p(NOW))),
    };
    check(
        "UpdateItem",
        async |at| create_customer(at, "acme").await,
        async |at| update_customer(at, "acme", &change).await,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_customer_is_linked_relinked_and_unlinked_once() {
    let other = Recipient {
        customer: "cus_other".to_owned(),
        subscription: None,
    };
    let unlinked = async |at: &Fixture| create_customer(at, "acme").await;
    let linked = async |at: &Fixture| {
        create_customer(at, "acme").await;
        update_customer(at, "acme", &link(recipient())).await;
    };
    let done = |recipient: Option<&Recipient>, name: &str| {
        UpdateCustomerOutcome::Done(Customer {
            name: name.to_owned(),
            recipient: recipient.cloned(),
            ..customer("acme")
        })
    };
    let first = CustomerChange {
        name: Some("Acme Inc".into()),
        ..link(recipient())
    };
    check_transaction(
        unlinked,
        async |at| update_customer(at, "acme", &first).await,
        done(Some(&recipient()), "Acme Inc"),
    )
    .await;
    for after in [Some(other), None] {
        let change = relink(Some(recipient()), after.clone());
        check_transaction(
            linked,
            async |at| update_customer(at, "acme", &change).await,
            done(after.as_ref(), "acme Ltd"),
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_followed_once() {
    let to_follow = async |at: &Fixture| {
        customer_to_follow(at).await;
    };
    let unpaid_since = async |at: &Fixture| {
        let before = customer_to_follow(at).await;
        follow(at, &before, &unpaid(&before.customer), Some(p(NOW))).await;
    };
    let become_unpaid = async |at: &Fixture| {
        let before = read_to_follow(at).await;
        follow(at, &before, &unpaid(&before.customer), Some(p(NOW))).await
    };
    let pay = async |at: &Fixture| {
        let before = read_to_follow(at).await;
        follow(at, &before, &paid(&before.customer), None).await
    };
    check_transaction(to_follow, become_unpaid, FollowOutcome::Followed).await;
    check_transaction(to_follow, pay, FollowOutcome::Followed).await;
    check_transaction(unpaid_since, pay, FollowOutcome::Followed).await;
}

#[tokio::test(start_paused = true)]
async fn an_invoice_is_scheduled_and_ended_once() {
    let acme = p("acme");
    let schedule = async |at: &Fixture| {
        let scheduled = at.store.schedule_invoice(&acme, "cus_acme", p(NOW));
        scheduled.await.unwrap();
    };
    check("PutItem", async |_| {}, schedule).await;
    check("PutItem", schedule, schedule).await;
    check("DeleteItem", schedule, async |at| {
        let scheduled = at
            .store
            .scheduled_invoice("cus_acme")
            .await
            .unwrap()
            .unwrap();
        let ended = at.store.end_scheduled_invoice(&scheduled);
        ended.await.unwrap();
        at.store.scheduled_invoice("cus_acme").await.unwrap()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_handled_event_is_recorded_once() {
    check(
        "PutItem",
        async |_| {},
        async |at| {
            at.store.mark_handled("evt_1").await.unwrap();
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_checkout_session_is_stored_once() {
    for request in requests() {
        check_transaction(
            create_linked,
            async |at| record_checkout(at, &checkout(), None, request.as_ref()).await,
            RecordCheckoutOutcome::Recorded,
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_of_a_submission_is_recorded_once() {
    let pending = async |at: &Fixture| {
        record(at, &charge(1), charged(0)).await;
    };
    let with_charge_1 = async || {
        let at = fixture();
        pending(&at).await;
        at
    };
    let stored = async |at: &Fixture| at.store.charge(&charge(1).name()).await.unwrap().unwrap();
    let begin = async |at: &Fixture| {
        let begun = at
            .store
            .begin_submission(&stored(at).await, &recipient())
            .await;
        begun.unwrap()
    };
    let expected = begin(&with_charge_1().await).await;
    check_transaction(pending, begin, expected).await;
    let begun = async |at: &Fixture| {
        pending(at).await;
        begin(at).await;
    };
    let settle = async |at: &Fixture| {
        let settled = at.store.settle_charge(&charge(1), "ii_1").await;
        settled.unwrap()
    };
    check_transaction(begun, settle, SettleOutcome::Settled).await;
    let fail = async |at: &Fixture| {
        let charge = stored(at).await;
        let failed = at
            .store
            .fail_charge(&charge, SubmissionFailure::Rejected, "no", p(NOW));
        failed.await.unwrap()
    };
    check_transaction(begun, fail, FailOutcome::Failed).await;
}

#[tokio::test(start_paused = true)]
async fn the_plans_are_seeded_once() {
    check(
        TRANSACTION,
        async |_| (),
        async |at| {
            at.store
                .seed_plans(&Catalog::shipped().unwrap())
                .await
                .unwrap()
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_its_versions_and_its_retirement_are_each_written_once() {
    let create = async |at: &Fixture| at.store.create_plan(&plan("pro")).await.unwrap();
    check(TRANSACTION, async |_| (), create).await;
    let exists = async |at: &Fixture| {
        create(at).await;
    };
    let version = second_version("pro", "Pro 2");
    let add = async |at: &Fixture| at.store.add_plan_version(&version).await.unwrap();
    check(TRANSACTION, exists, add).await;
    let retire = async |at: &Fixture| at.store.retire_plan(&p("pro"), Some(p(NOW))).await;
    check(TRANSACTION, exists, async |at| retire(at).await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_customer_is_erased_once() {
    check("UpdateItem", store_first_key, async |at| {
        let erased = at.store.erase_customer(&p("acme"), p(NOW)).await;
        erased.unwrap()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_or_conflict_is_quarantined_once() {
    check(
        TRANSACTION,
        async |_| (),
        async |at| {
            let done = at.store.quarantine_message(b"junk", "not JSON", p(NOW));
            done.await.unwrap();
        },
    )
    .await;
    check(
        TRANSACTION,
        async |at| {
            write_usage(at, &event()).await;
        },
        async |at| at.store.quarantine_conflict(&event().part()).await.unwrap(),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_month_is_closed() {
    check(
        "PutItem",
        async |_| (),
        async |at| {
            let is_closed = at.store.close(p("2026-08")).await.unwrap();
            (is_closed, at.store.closed_at(p("2026-08")).await.unwrap())
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_month_is_left_open() {
    check(
        "PutItem",
        async |_| (),
        async |at| {
            at.store.leave_open(p("2026-08")).await.unwrap();
            at.store.months_left_open().await.unwrap()
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_read_is_repeated() {
    check("GetItem", store_first_key, async |at| {
        at.store.key(&Key::of_acme(1).by_id()).await.unwrap()
    })
    .await;
    check("Query", store_first_key, async |at| {
        at.store.list_keys(None, None, 10).await.unwrap()
    })
    .await;
    check("BatchGetItem", store_first_key, async |at| {
        at.store.plans_of(&[p("acme")].into()).await.unwrap()
    })
    .await;
}

/// Returns the fixture with a store in another region, for tests that use up much of the SDK's retry quota,
/// of which there is one per service and region in a process.
fn with_own_retry_quota(at: Fixture, region: &'static str) -> Fixture {
    let sdk = at.aws.sdk_config().into_builder();
    let sdk = sdk.region(Region::from_static(region)).build();
    let store = Store::new(&sdk, "test", at.clock(), at.entropy.clone());
    Fixture { store, ..at }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_outlasts_a_series_of_conflicts_and_throttles() {
    for fault in [Fault::Conflict, Fault::Throttled, Fault::ResponseLost] {
        // The outcome depends on the token's being the same for each try.
        let at = with_own_retry_quota(fixture(), "outlasts");
        // An instance reads this once.
        write_usage(
            &at,
            &Event::new("acme", "e-0", &[call(NOW, "free", "/ping", 200)]),
        )
        .await;
        let mut left = 7;
        at.aws.inject(move |_| {
            if left == 0 {
                return Fault::None;
            }
            left -= 1;
            fault
        });
        let written = write_usage(&at, &event()).await;
        assert_eq!(written, WriteUsageOutcome::Counted, "{fault:?}");
        at.aws.heal();
        let month = at.store.month_usage(&p("acme"), p("2026-11")).await;
        assert_eq!(month.unwrap().calls, 2, "{fault:?}");
    }
}

/// Calls every writing operation of the store, and passes the result of each to `check`. The key of seed 1
/// must exist.
async fn each_write(at: &Fixture, mut check: impl FnMut(&str, Result<(), StoreError>)) {
    let store = &at.store;
    let (old, new) = (Key::of_acme(1), Key::of_acme(2));
    let created = store.create_key(&new.as_new(), None).await;
    check("create_key", created.map(drop));
    let created = store.create_customer(&customer("acme-2"), None).await;
    check("create_customer", created.map(drop));
    let (successor, ends) = (Key::of_acme(3), p("2026-11-23T10:00:00Z"));
    let successor = successor.as_new();
    let rotated = store.rotate_key(&old.record, ends, &successor, None).await;
    check("rotate_key", rotated.map(drop));
    let change = KeyChange {
        name: Some("Other".into()),
        ..KeyChange::default()
    };
    let updated = store.update_key(&old.by_id(), &change).await;
    check("update_key", updated.map(drop));
    let revoked = store.revoke_key(&old.by_id(), p(NOW)).await;
    check("revoke_key", revoked.map(drop));
    let change = CustomerChange::default();
    let updated = store.update_customer(&p("acme"), &change).await;
    check("update_customer", updated.map(drop));
    let written = try_to_write(store, &event().part()).await;
    check("write_usage", written.map(drop));
    let done = store.quarantine_conflict(&event().part()).await;
    check("quarantine_conflict", done);
    let done = store.quarantine_message(b"junk", "not JSON", p(NOW)).await;
    check("quarantine_message", done);
    let recorded = store.record_charge(&charge(1), &charged(0)).await;
    check("record_charge", recorded.map(drop));
    check("close", store.close(p("2026-08")).await.map(drop));
    check("leave_open", store.leave_open(p("2026-08")).await);
    let mut share = store.hour_share(&old.record.id, hour());
    let reserved = store.reserve(&mut share, 1, None, spent(1), 0).await;
    check("reserve", reserved.map(drop));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_never_succeeds_changes_nothing_and_may_be_repeated() {
    for fault in [Fault::Throttled, Fault::Conflict, Fault::RequestLost] {
        let at = with_keys(&[&Key::of_acme(1)]).await;
        let at = with_own_retry_quota(at, "never-succeeds");
        let before = stored(&at);
        at.aws.inject(move |call| {
            if WRITES.contains(&call.operation()) {
                fault
            } else {
                Fault::None
            }
        });
        each_write(&at, |name, outcome| match outcome {
            Ok(()) => panic!("{name} under {fault:?} succeeded"),
            Err(error) => assert!(error.is_transient(), "{name} {fault:?}: {error:?}"),
        })
        .await;
        assert_eq!(stored(&at), before, "{fault:?}");

        at.aws.heal();
        each_write(&at, |name, outcome| {
            assert!(outcome.is_ok(), "{name} after {fault:?}: {outcome:?}");
        })
        .await;
        assert_ne!(stored(&at), before);
    }
}

#[tokio::test(start_paused = true)]
async fn repeating_a_write_that_took_effect_despite_an_error_changes_nothing() {
    let at = with_own_retry_quota(with_keys(&[&Key::of_acme(1)]).await, "despite-an-error");
    at.aws.inject(|call| {
        // Without a response to the put of its claims, usage is not counted; with one to that of a marker, it is known
        // to be.
        let is_claim = call.operation() == "PutItem" && call.body.contains("-usage-log");
        if WRITES.contains(&call.operation()) && !is_claim {
            Fault::ResponseLost
        } else {
            Fault::None
        }
    });
    each_write(&at, |name, outcome| {
        assert_eq!(
            outcome.is_ok(),
            name == "write_usage",
            "{name}: {outcome:?}"
        );
    })
    .await;
    at.aws.heal();
    let month: Month = p("2026-11");
    let acme: CustomerId = p("acme");
    let aggregate = at.store.month_usage(&acme, month).await.unwrap();
    assert_eq!(aggregate.calls, 1);

    let without_counters = || {
        let mut stored = stored(&at);
        // Each reservation reserves a unit of its own, and each write puts claims.
        stored["counters"] = Value::Null;
        stored["usage-log"] = Value::Null;
        stored
    };
    let before = without_counters();
    each_write(&at, |name, outcome| {
        assert!(outcome.is_ok(), "{name}: {outcome:?}");
    })
    .await;
    assert_eq!(without_counters(), before);
    assert_eq!(
        at.store.period_ledger(&acme, month).await.unwrap(),
        charged(1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_is_not_transient() {
    let at = with_keys(&[&Key::of_acme(1)]).await;
    let elsewhere = Store::new(
        &at.aws.sdk_config(),
        "elsewhere",
        at.clock(),
        at.entropy.clone(),
    );
    let missing = Fixture {
        store: elsewhere,
        ..at.clone()
    };
    each_write(&missing, |name, outcome| match outcome {
        Ok(()) => panic!("{name} succeeded without tables"),
        Err(error) => assert!(!error.is_transient(), "{name}: {error:?}"),
    })
    .await;

    edit(&at, REGISTRY, "KEY#", |key| {
        key["created_at"]["S"] = "some day".into();
    });
    let read = at.store.key(&Key::of_acme(1).by_id()).await;
    let error = read.unwrap_err();
    assert!(!error.is_transient());
    assert_eq!(
        Chain(&error).to_string(),
        "reading failed: item key lacks a readable created_at"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_does_not_contain_a_keys_digest() {
    let key = Key::of_acme(1);
    let digest = key.secret.digest().expose_hex();
    for fault in [Fault::Throttled, Fault::Conflict, Fault::ResponseLost] {
        let at = with_keys(&[]).await;
        let at = with_own_retry_quota(at, "no-digest");
        at.aws.inject(move |_| fault);
        let created = at.store.create_key(&key.as_new(), None).await;
        let read = at.store.key_by_digest(key.secret.digest()).await;
        for error in [created.unwrap_err(), read.unwrap_err()] {
            let shown = format!("{error:?} {}", Chain(&error));
            assert!(!shown.contains(&digest), "{fault:?}");
        }
    }
    let at = with_keys(&[&key]).await;
    edit(&at, REGISTRY, "PREFIX#", |alias| {
        alias["digest"] = json!({ "B": "" });
    });
    edit(&at, REGISTRY, "KEY#", |key| {
        key["prefix"]["S"] = digest.as_str().into();
    });
    for name in [key.by_id(), key.by_prefix()] {
        let error = at.store.key(&name).await.unwrap_err();
        let shown = format!("{error:?} {}", Chain(&error));
        assert!(!shown.contains(&digest), "{name:?}");
    }
}

fn failed_charge_event(n: u64) -> tollgate_domain::event::Event {
    let kind = tollgate_domain::event::EventKind::ChargeFailed;
    tollgate_domain::event::Event::new(kind, &n.to_string(), None, p(NOW), json!({}))
}

#[tokio::test(start_paused = true)]
async fn an_event_is_stored_numbered_and_marked_once() {
    let record = async |at: &Fixture| {
        at.store
            .record_event(&failed_charge_event(1))
            .await
            .unwrap();
    };
    check("PutItem", async |_| (), record).await;
    let number = async |at: &Fixture| {
        let numbered = at.store.number_events().await.unwrap();
        numbered.len()
    };
    // With an expired token, the events are numbered, and found as unsent by the next publication.
    check_transaction(record, number, 0).await;
    let numbered = async |at: &Fixture| {
        record(at).await;
        number(at).await;
    };
    let mark = async |at: &Fixture| {
        at.store
            .mark_sent(&failed_charge_event(1).id)
            .await
            .unwrap();
    };
    check("UpdateItem", numbered, mark).await;
}

#[tokio::test(start_paused = true)]
async fn a_webhook_is_created_changed_and_deleted_once() {
    let create = async |at: &Fixture| {
        let webhook = tollgate_domain::webhook::Webhook {
            id: p("wh_1"),
            url: tollgate_domain::webhook::TargetUrl::stored("https://hooks.example"),
            kinds: [].into(),
            created_at: p(NOW),
            disabled_at: None,
            failure: None,
        };
        let secret = tollgate_domain::webhook::WebhookSecret::new("whsec_1");
        at.store.create_webhook(&webhook, &secret).await.unwrap()
    };
    let created = tollgate_store::CreateWebhookOutcome::Created;
    check_transaction(async |_| (), create, created).await;
    let prepare = async |at: &Fixture| {
        create(at).await;
    };
    let disable = async |at: &Fixture| {
        at.store.disable_webhook(&p("wh_1"), p(NOW)).await.unwrap();
    };
    check("UpdateItem", prepare, disable).await;
    let delete = async |at: &Fixture| at.store.delete_webhook(&p("wh_1")).await.unwrap();
    // With an expired token, the repetition finds that there is none.
    check_transaction(prepare, delete, false).await;
}
