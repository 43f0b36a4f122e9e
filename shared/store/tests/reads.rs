//! Reads: their consistency, the bounds of windows, and batches.

use std::future::ready;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tollgate_domain::usage::Aggregate;
use tollgate_local_aws::{Fault, wire};
use tollgate_store::{Store, UsageScope};
use tollgate_testing::p;

mod common;

use common::{Event, Key, billable, call, fixture, with_keys, write_usage};

/// The embedded engine makes every read consistent, so the test inspects the requests.
#[tokio::test]
async fn reads_for_decisions_and_charges_are_consistent() {
    let key = Key::of_acme(1);
    let at = with_keys(&[&key]).await;
    let inconsistent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&inconsistent);
    at.aws.inject(move |call| {
        let request: Value = serde_json::from_str(&call.body).unwrap();
        let mut of_batch = request["RequestItems"].as_object().into_iter().flatten();
        let is_consistent = of_batch.any(|(_, batch)| batch["ConsistentRead"] == true);
        if request["ConsistentRead"] != true && !is_consistent {
            seen.lock().unwrap().push(call.body.clone());
        }
        Fault::None
    });
    let (store, acme, november) = (&at.store, p("acme"), p("2026-11"));
    store.key_by_digest(key.secret.digest()).await.unwrap();
    store.key(&key.by_id()).await.unwrap();
    store.key(&key.by_prefix()).await.unwrap();
    store.customer(&acme).await.unwrap();
    store.key_owners(vec![p("key_0001")]).await.unwrap();
    store.month_counter(&acme, november).await.unwrap();
    store.month_usage(&acme, november).await.unwrap();
    store.day_usage(&acme, november).await.unwrap();
    store.billable_days(&acme, november).await.unwrap();
    store.adjustments(&acme, november, None).await.unwrap();
    let today = p("2026-11-22");
    let scope = UsageScope::Customer(acme.clone());
    store.dimension_usage(&scope, today).await.unwrap();
    store.period_ledger(&acme, november).await.unwrap();
    store.charges(&acme, november, 1).await.unwrap();
    store.closed_at(november).await.unwrap();
    store.months_left_open().await.unwrap();
    store.quarantined_of_event("a", "b").await.unwrap();
    store.quarantined_message(b"junk").await.unwrap();
    assert_eq!(*inconsistent.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_days_of_a_month_exclude_other_months_and_customers() {
    let at = fixture();
    let times = [
        "2026-10-31T23:59:59.999Z",
        "2026-11-01T00:00:00Z",
        "2026-11-30T23:59:59.999Z",
        "2026-12-01T00:00:00Z",
    ];
    for customer in ["acme", "acme-2"] {
        let calls = times.map(|time| call(time, "pro", "/ping", 200));
        write_usage(&at, &Event::new(customer, customer, &calls)).await;
    }
    let days = at.store.day_usage(&p("acme"), p("2026-11")).await.unwrap();
    let one = Aggregate {
        calls: 1,
        billable: [(p("pro"), 1)].into(),
        latency_ms: 5,
        latencies: [5].into_iter().collect(),
        ..Aggregate::default()
    };
    let expected = [(p("2026-11-01"), one.clone()), (p("2026-11-30"), one)];
    assert_eq!(days, expected.into());
}

#[tokio::test]
async fn a_day_without_billable_calls_is_not_billed() {
    let at = fixture();
    let calls = [
        call("2026-11-01T12:00:00Z", "pro", "/ping", 500),
        call("2026-11-02T12:00:00Z", "pro", "/ping", 200),
    ];
    write_usage(&at, &Event::new("acme", "e-1", &calls)).await;
    let days = at.store.billable_days(&p("acme"), p("2026-11")).await;
    let expected = [(p("2026-11-02"), [(p("pro"), billable(1))].into())];
    assert_eq!(days.unwrap(), expected.into());
}

/// All but one key of the first batch are left unread, as by a throttled table.
#[tokio::test(start_paused = true)]
async fn keys_that_a_batch_leaves_unread_are_read_by_the_next() {
    let keys: Vec<Key> = (1..=3).map(Key::of_acme).collect();
    let at = with_keys(&keys.iter().collect::<Vec<_>>()).await;
    let (aws, batches) = (at.aws.clone(), Arc::new(Mutex::new(Vec::new())));
    let sizes = Arc::clone(&batches);
    let client = wire::http_client(move |call| {
        let mut request: Value = serde_json::from_str(&call.body).unwrap();
        let of_table = &mut request["RequestItems"]["test-registry"]["Keys"];
        let mut unread = of_table.as_array().unwrap().clone();
        let mut sizes = sizes.lock().unwrap();
        sizes.push(unread.len());
        let read = if sizes.len() == 1 { 1 } else { unread.len() };
        *of_table = unread.drain(..read).collect();
        let (status, response) = aws.call(&call.target, &request.to_string());
        let mut response: Value = serde_json::from_str(&response).unwrap();
        if !unread.is_empty() {
            response["UnprocessedKeys"] = json!({ "test-registry": { "Keys": unread } });
        }
        ready(Some((status, response.to_string())))
    });
    let sdk = at
        .aws
        .sdk_config()
        .into_builder()
        .http_client(client)
        .build();
    let store = Store::new(&sdk, "test", at.clock(), at.entropy.clone());
    let ids = keys.iter().map(|key| key.record.id.clone());
    let owners = store.key_owners(ids.collect()).await.unwrap();
    assert_eq!(owners.len(), 3);
    // Two possible aliases per id, in two batches, and then the keys.
    assert_eq!(*batches.lock().unwrap(), [6, 5, 3]);
}
