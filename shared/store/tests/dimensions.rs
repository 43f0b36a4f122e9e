//! Aggregates by dimensions: slots in the item of a day, items of single values, and bundles.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tollgate_domain::usage::{Aggregate, Cost, DimensionValue, UsageRecord};
use tollgate_domain::window::Day;
use tollgate_local_aws::Fault;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::schema::USAGE;
use tollgate_store::{EventPart, ShardCounts, Store, UsageScope, WriteUsageOutcome};
use tollgate_testing::stored::items;
use tollgate_testing::usage::COUNTING_TIME;
use tollgate_testing::{p, plans};

mod common;

use common::{Event, NOW, call, fixture};

const DAY: &str = "2026-11-22";

/// Returns the store of another instance, which remembers nothing.
fn instance(at: &Fixture) -> Store {
    Store::new(&at.aws.sdk_config(), "test", at.clock(), at.entropy.clone())
}

async fn count(store: &Store, events: &[Event]) {
    let parts: Vec<EventPart> = events.iter().map(Event::part).collect();
    let (plans, shard_counts) = (plans(), ShardCounts::default());
    let written = store.write_usage(&parts, &plans, &shard_counts, COUNTING_TIME);
    for outcome in written.await {
        assert_eq!(outcome.unwrap(), WriteUsageOutcome::Counted);
    }
}

/// Returns an event of `acme` with a call of each of these endpoints.
fn calls_of(id: &str, endpoints: &[&str]) -> Event {
    let calls: Vec<UsageRecord> = endpoints
        .iter()
        .map(|endpoint| call(NOW, "pro", endpoint, 200))
        .collect();
    Event::new("acme", id, &calls)
}

fn scopes() -> [UsageScope; 2] {
    [UsageScope::All, UsageScope::Customer(p("acme"))]
}

/// Reads the calls by endpoint. They are the same for the customer as for all customers.
async fn calls_by_endpoint(at: &Fixture) -> BTreeMap<String, u64> {
    let mut by_scope = Vec::new();
    for scope in scopes() {
        let values = instance(at).dimension_usage(&scope, p(DAY)).await.unwrap();
        let endpoints = values.into_iter().filter_map(|(value, sum)| match value {
            DimensionValue::Endpoint(endpoint) => Some((endpoint.route, sum.calls)),
            _ => None,
        });
        by_scope.push(endpoints.collect::<BTreeMap<_, _>>());
    }
    assert_eq!(by_scope[0], by_scope[1]);
    by_scope.pop().unwrap()
}

fn expected(calls: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let calls = calls.iter();
    calls
        .map(|(route, calls)| ((*route).to_owned(), *calls))
        .collect()
}

/// Counts the requests of an operation from now on.
fn requests(at: &Fixture, operation: &'static str) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    at.aws.inject(move |call| {
        count.fetch_add(
            usize::from(call.operation() == operation),
            Ordering::Relaxed,
        );
        Fault::None
    });
    seen
}

fn sort_keys(at: &Fixture, partition: &str) -> BTreeSet<String> {
    let items = items(at, USAGE);
    let of_partition = items.iter().filter(|item| item["pk"]["S"] == partition);
    of_partition
        .map(|item| item["sk"]["S"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_slot_that_another_instance_has_given_is_not_given_again() {
    let at = fixture();
    let (one, other) = (instance(&at), instance(&at));
    count(&one, &[calls_of("e-1", &["/a"])]).await;
    count(&other, &[calls_of("e-2", &["/a"])]).await;
    count(&one, &[calls_of("e-3", &["/b"])]).await;
    let transactions = requests(&at, "TransactWriteItems");
    count(&other, &[calls_of("e-4", &["/c"])]).await;
    assert_eq!(
        transactions.load(Ordering::Relaxed),
        2,
        "the first is cancelled"
    );
    count(&other, &[calls_of("e-5", &["/b", "/c"])]).await;
    assert_eq!(
        transactions.load(Ordering::Relaxed),
        3,
        "it has learnt the slots"
    );
    let expected = expected(&[("/a", 2), ("/b", 2), ("/c", 2)]);
    assert_eq!(calls_by_endpoint(&at).await, expected);
    let day = format!("DAY#{DAY}");
    for partition in ["acme", "ALL#2026-11"] {
        assert_eq!(sort_keys(&at, partition), [day.clone()].into());
    }
}

#[tokio::test]
async fn a_transaction_that_failed_with_a_taken_slot_may_have_been_tried_before() {
    let at = fixture();
    let (one, other) = (instance(&at), instance(&at));
    count(&one, &[calls_of("e-1", &["/a"])]).await;
    count(&other, &[calls_of("e-2", &["/a"])]).await;
    count(&one, &[calls_of("e-3", &["/b"])]).await;
    // The second try, with a slot that is free, takes effect without a response.
    let mut number = 0;
    at.aws.inject(move |call| {
        number += usize::from(call.operation() == "TransactWriteItems");
        match number == 2 && call.operation() == "TransactWriteItems" {
            true => Fault::ResponseLost,
            false => Fault::None,
        }
    });
    count(&other, &[calls_of("e-4", &["/c"])]).await;
    at.aws.heal();
    let expected = expected(&[("/a", 2), ("/b", 1), ("/c", 1)]);
    assert_eq!(calls_by_endpoint(&at).await, expected);
}

#[tokio::test(start_paused = true)]
async fn slots_that_cannot_be_read_are_learnt_from_the_cancelled_transaction() {
    let at = fixture();
    count(&instance(&at), &[calls_of("e-1", &["/a"])]).await;
    for fault in [Fault::RequestLost, Fault::NoResponse] {
        at.aws.inject(move |call| {
            let is_read = call.operation() == "BatchGetItem" && call.body.contains("test-usage\"");
            if is_read { fault } else { Fault::None }
        });
        let id = format!("{fault:?}");
        count(&instance(&at), &[calls_of(&id, &["/b"])]).await;
    }
    at.aws.heal();
    let expected = expected(&[("/a", 1), ("/b", 2)]);
    assert_eq!(calls_by_endpoint(&at).await, expected);
}

#[tokio::test]
async fn the_slots_of_an_item_are_read_once() {
    let at = fixture();
    let store = instance(&at);
    let reads = requests(&at, "BatchGetItem");
    for n in 0..5 {
        count(&store, &[calls_of(&format!("e-{n}"), &["/a", "/b"])]).await;
    }
    // For the first event, those of the claims too.
    let read = reads.load(Ordering::Relaxed);
    assert!(read <= 2, "{read}");
}

/// Sixteen values have slots in the item of a day, and the others an item each.
#[tokio::test]
async fn values_beyond_the_slots_have_items_of_their_own() {
    let at = fixture();
    let store = instance(&at);
    let routes: Vec<String> = (0..20).map(|n| format!("/{n:02}")).collect();
    for (n, route) in routes.iter().enumerate() {
        count(&store, &[calls_of(&format!("e-{n}"), &[route])]).await;
        count(&store, &[calls_of(&format!("again-{n}"), &[route])]).await;
    }
    let own = |routes: &[String]| {
        let own = routes.iter();
        let own = own.map(|route| format!("BY#2026-11#ENDPOINT#GET {route}#{DAY}"));
        own.chain([format!("DAY#{DAY}")]).collect::<BTreeSet<_>>()
    };
    // The customer's key has a slot.
    assert_eq!(sort_keys(&at, "acme"), own(&routes[15..]));
    assert_eq!(sort_keys(&at, "ALL#2026-11"), own(&routes[16..]));
    let found = calls_by_endpoint(&at).await;
    assert_eq!(found, routes.into_iter().map(|route| (route, 2)).collect());
}

/// Returns a call with so many costs, each of a model of its own.
fn costly(number: usize) -> UsageRecord {
    let cost = |n: usize| Cost {
        provider: Some(format!("provider-{}", n % 3)),
        model: Some(format!("model-{number}-{n}")),
        tokens: 7,
        ..Cost::default()
    };
    UsageRecord {
        key_id: p(&format!("key_{number}")),
        costs: (0..16).map(cost).collect(),
        ..call(NOW, "pro", &format!("/{}", number % 90), 200)
    }
}

/// A hundred calls of ninety endpoints with a hundred keys and 1,600 models: more than a transaction has actions.
#[tokio::test]
async fn the_values_of_an_event_that_has_too_many_are_bundled() {
    let at = fixture();
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sizes);
    at.aws.inject(move |call| {
        if call.operation() == "TransactWriteItems" {
            let body: Value = serde_json::from_str(&call.body).unwrap();
            let actions = body["TransactItems"].as_array().unwrap();
            let longest = actions.iter().map(longest_expression).max().unwrap();
            seen.lock().unwrap().push((actions.len(), longest));
        }
        Fault::None
    });
    let records: Vec<UsageRecord> = (0..100).map(costly).collect();
    let event = Event::new("acme", "wide", &records);
    count(&instance(&at), std::slice::from_ref(&event)).await;
    at.aws.heal();
    let sizes = sizes.lock().unwrap().clone();
    let [(actions, expression)] = sizes[..] else {
        panic!("{sizes:?}");
    };
    assert!(actions <= 100, "{actions} actions");
    // DynamoDB's bound.
    assert!(expression <= 4_096, "{expression} bytes");
    for scope in scopes() {
        let found = instance(&at).dimension_usage(&scope, p(DAY)).await.unwrap();
        assert_eq!(found, by_dimension(&event, &scope));
    }
    let bundles = sort_keys(&at, "acme");
    let bundles = bundles.iter().filter(|sk| sk.starts_with("BUNDLED#"));
    assert_eq!(bundles.count(), 4);
}

fn longest_expression(action: &Value) -> usize {
    let update = &action["Update"];
    let lengths = ["UpdateExpression", "ConditionExpression"]
        .map(|name| update[name].as_str().map_or(0, str::len));
    lengths.into_iter().max().unwrap()
}

/// Returns what an event adds to the aggregates of a scope.
fn by_dimension(event: &Event, scope: &UsageScope) -> BTreeMap<DimensionValue, Aggregate> {
    let day: Day = p(DAY);
    let values = event.aggregates.dimensions.iter();
    let of_scope = values.filter(|((of, value), _)| {
        let is_key = matches!(value, DimensionValue::Key(_));
        *of == day && !(is_key && *scope == UsageScope::All)
    });
    of_scope
        .map(|((_, value), sum)| (value.clone(), sum.clone()))
        .collect()
}

/// Sixteen values, each with many latencies, would make an expression that DynamoDB rejects.
#[tokio::test]
async fn an_update_is_never_longer_than_dynamodb_allows() {
    let at = fixture();
    let longest = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&longest);
    at.aws.inject(move |call| {
        if call.operation() == "TransactWriteItems" {
            let body: Value = serde_json::from_str(&call.body).unwrap();
            for action in body["TransactItems"].as_array().unwrap() {
                seen.fetch_max(longest_expression(action), Ordering::Relaxed);
            }
        }
        Fault::None
    });
    let events: Vec<Event> = (0..15)
        .map(|n| {
            let calls = (0..100).map(|bucket| UsageRecord {
                latency_ms: (5_u64 << (bucket / 4)) + ((bucket % 4) << (bucket / 4)),
                ..call(NOW, "pro", &format!("/{n}"), 200)
            });
            Event::new("acme", &format!("e-{n}"), &calls.collect::<Vec<_>>())
        })
        .collect();
    count(&instance(&at), &events).await;
    at.aws.heal();
    let longest = longest.load(Ordering::Relaxed);
    assert!((2_000..=4_096).contains(&longest), "{longest} bytes");
    let found = calls_by_endpoint(&at).await;
    assert_eq!(found.values().collect::<BTreeSet<_>>(), [&100].into());
    assert_eq!(found.len(), 15);
}
