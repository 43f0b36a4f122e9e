//! Publication: each event on the bus and in the queue at least once, under one number.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::sync::{Arc, Mutex};

use events::{Delivery, PublishError, Published};
use serde_json::{Value, json};
use tollgate_domain::event::EventKind;
use tollgate_local_aws::{Call, Fault};
use tollgate_runtime::metrics::PUBLISHED_EVENTS;

mod common;

use common::{NOW, Stack, p};

const PUT: &str = "PutEvents";
const SEND: &str = "SendMessageBatch";

type Items = Arc<Mutex<Vec<Value>>>;

/// Records the items of all further requests to the bus, each with the fault that `fault` returns.
fn record_bus(stack: &Stack, fault: impl Fn(&Call) -> Fault + Send + 'static) -> Items {
    let items = Items::default();
    let recorded = Arc::clone(&items);
    stack.at.aws.inject(move |call| {
        if call.operation() == PUT {
            let body: Value = serde_json::from_str(&call.body).unwrap();
            let items = body["Entries"].as_array().unwrap().clone();
            recorded.lock().unwrap().extend(items);
        }
        fault(call)
    });
    items
}

fn details(items: &Items) -> Vec<Value> {
    let items = items.lock().unwrap();
    let details = items.iter().map(|item| item["Detail"].as_str().unwrap());
    details
        .map(|detail| serde_json::from_str(detail).unwrap())
        .collect()
}

/// Returns the numbers of the events in recorded items.
fn numbers(items: &Items) -> Vec<u64> {
    let details = details(items);
    let numbers = details
        .iter()
        .map(|detail| detail["number"].as_u64().unwrap());
    numbers.collect()
}

#[tokio::test]
async fn an_event_is_put_on_the_bus_and_queued_for_the_webhooks_that_want_it() {
    let stack = Stack::new();
    let event = stack.record(EventKind::ChargeFailed, "1").await;
    stack.record(EventKind::QuotaThreshold, "2").await;
    let url = "https://hooks.example";
    stack.webhook("wh_all", url, &[]).await;
    stack
        .webhook("wh_one", url, &[EventKind::QuotaThreshold])
        .await;
    stack.webhook("wh_gone", url, &[]).await;
    let gone = p("wh_gone");
    let store = &stack.at.store;
    store.disable_webhook(&gone, p(NOW)).await.unwrap();
    let bus = record_bus(&stack, |_| Fault::None);
    let published = stack.publisher.publish(None).await.unwrap();
    let expected = Published {
        events: 2,
        deliveries: 3,
    };
    assert_eq!(published, expected);
    let item = bus.lock().unwrap()[0].clone();
    assert_eq!(item["Source"], "tollgate.events");
    assert_eq!(item["EventBusName"], "test-usage");
    let detail = details(&bus).remove(0);
    assert_eq!(detail["type"], item["DetailType"]);
    let by_number = stack.at.store.numbered_events(0, 10).await.unwrap();
    let number = by_number
        .iter()
        .find(|it| it.event == event)
        .unwrap()
        .number;
    let of_event = details(&bus).into_iter().find(|it| it["number"] == number);
    let expected = json!({
        "id": event.id.as_str(), "type": "charge.failed", "number": number, "timestamp": NOW,
        "customer_id": "acme", "data": { "cause": "1" },
    });
    assert_eq!(of_event, Some(expected));
    // It is no usage, so that the rule of usage does not match.
    assert_eq!(stack.at.aws.queue().counts().unwrap().queued, 0);
    let mut deliveries = stack.take();
    deliveries.sort_by_key(|it| (it.event, it.webhook.clone()));
    let first = |webhook: &str, event| Delivery {
        webhook: p(webhook),
        event,
        attempt: 1,
        not_before: None,
    };
    let threshold = 3 - number;
    let mut expected = vec![
        first("wh_all", number),
        first("wh_all", threshold),
        first("wh_one", threshold),
    ];
    expected.sort_by_key(|it| (it.event, it.webhook.clone()));
    assert_eq!(deliveries, expected);
    assert_eq!(stack.cloudwatch.sum(PUBLISHED_EVENTS, &[]), 2);
    // Nothing is left.
    let again = stack.publisher.publish(None).await.unwrap();
    assert_eq!(again, Published::default());
    assert_eq!(numbers(&bus).len(), 2);
}

#[tokio::test]
async fn more_events_than_one_transaction_numbers_are_published_at_once() {
    let stack = Stack::new();
    for n in 0..60 {
        stack.record(EventKind::ChargeSettled, &n.to_string()).await;
    }
    let bus = record_bus(&stack, |_| Fault::None);
    let published = stack.publisher.publish(None).await.unwrap();
    assert_eq!(published.events, 60);
    assert_eq!(numbers(&bus), (1..=60).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_publisher_whose_time_is_over_leaves_the_rest_to_the_next() {
    let stack = Stack::new();
    for n in 0..60 {
        stack.record(EventKind::ChargeSettled, &n.to_string()).await;
    }
    let published = stack.publisher.publish(Some(p(NOW))).await.unwrap();
    assert_eq!(published, Published::default());
    let published = stack.publisher.publish(None).await.unwrap();
    assert_eq!(published.events, 60);
}

#[tokio::test(start_paused = true)]
async fn all_events_that_the_bus_rejected_are_published_once_it_accepts_them() {
    let stack = Stack::new();
    for n in 0..60 {
        stack.record(EventKind::ChargeSettled, &n.to_string()).await;
    }
    let bus = record_bus(&stack, |call| match call.operation() == PUT {
        true => Fault::Invalid,
        false => Fault::None,
    });
    let failed = stack.publisher.publish(None).await.unwrap_err();
    assert!(matches!(failed, PublishError::Bus(_)), "{failed}");
    // Each of them once, although they remain.
    assert_eq!(numbers(&bus), (1..=60).collect::<Vec<u64>>());
    let bus = record_bus(&stack, |_| Fault::None);
    let published = stack.publisher.publish(None).await.unwrap();
    assert_eq!(published.events, 60);
    assert_eq!(numbers(&bus).len(), 60);
}

/// Each request in turn fails, or its response is lost.
#[tokio::test(start_paused = true)]
async fn what_a_failed_publication_leaves_the_next_one_publishes_under_the_same_numbers() {
    let operations = [
        "TransactWriteItems",
        PUT,
        SEND,
        "UpdateItem",
        "BatchGetItem",
        "Query",
    ];
    for operation in operations {
        for fault in [Fault::RequestLost, Fault::ResponseLost, Fault::Throttled] {
            let stack = Stack::new();
            let event = stack.record(EventKind::ChargeFailed, "1").await;
            stack.webhook("wh_1", "https://hooks.example", &[]).await;
            // Longer than the client repeats it.
            record_bus(&stack, move |call| match call.operation() == operation {
                true => fault,
                false => Fault::None,
            });
            let at = format!("{operation} {fault:?}");
            let _ = stack.publisher.publish(None).await;
            let bus = record_bus(&stack, |_| Fault::None);
            let _ = stack.publisher.publish(None).await.unwrap();
            let listed = stack.at.store.numbered_events(0, 10).await.unwrap();
            assert_eq!(listed.len(), 1, "{at}");
            assert_eq!((listed[0].number, &listed[0].event), (1, &event), "{at}");
            assert!(numbers(&bus).iter().all(|number| *number == 1), "{at}");
            assert_eq!(stack.at.store.unsent_events().await.unwrap(), [], "{at}");
            let deliveries = stack.take();
            assert!(!deliveries.is_empty(), "{at}");
            let expected = Delivery::first(p("wh_1"), 1);
            assert!(deliveries.iter().all(|it| *it == expected), "{at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_bus_rejects_does_not_hold_up_later_ones() {
    let stack = Stack::new();
    stack.record(EventKind::ChargeFailed, "rejected").await;
    let rejecting = |call: &Call| match call.operation() == PUT && call.body.contains("rejected") {
        true => Fault::Invalid,
        false => Fault::None,
    };
    record_bus(&stack, rejecting);
    let failed = stack.publisher.publish(None).await.unwrap_err();
    assert!(matches!(failed, PublishError::Bus(1)), "{failed}");
    stack.record(EventKind::ChargeFailed, "later").await;
    let bus = record_bus(&stack, rejecting);
    let failed = stack.publisher.publish(None).await.unwrap_err();
    assert!(matches!(failed, PublishError::Bus(1)), "{failed}");
    assert_eq!(numbers(&bus), [1, 2]);
    let unsent = stack.at.store.unsent_events().await.unwrap();
    assert_eq!(unsent.len(), 1);
    stack.at.aws.heal();
    assert_eq!(stack.publisher.publish(None).await.unwrap().events, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn publishers_at_the_same_time_publish_each_event_under_one_number() {
    let stack = Arc::new(Stack::new());
    for n in 0..50 {
        stack.record(EventKind::ChargeSettled, &n.to_string()).await;
    }
    let bus = record_bus(&stack, |_| Fault::None);
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let publisher = stack.publisher.clone();
        publishers.spawn(async move { publisher.publish(None).await });
    }
    let _ = publishers.join_all().await;
    let _ = stack.publisher.publish(None).await.unwrap();
    let details = details(&bus);
    let mut ids: Vec<(u64, String)> = details
        .iter()
        .map(|it| (it["number"].as_u64().unwrap(), it["id"].to_string()))
        .collect();
    ids.sort();
    ids.dedup();
    let numbers: Vec<u64> = ids.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=50).collect::<Vec<u64>>());
}
