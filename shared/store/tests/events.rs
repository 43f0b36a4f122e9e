//! Events and webhooks: one order without gaps, whoever publishes, and each clause of their conditions failing once.

#![allow(clippy::unwrap_used, reason = "a failed set-up or read fails the test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::json;
use tokio::task::JoinSet;
use tollgate_domain::event::{Event, EventKind, NumberedEvent};
use tollgate_domain::webhook::{DeliveryFailure, MAX_WEBHOOKS, TargetUrl, Webhook, WebhookSecret};
use tollgate_local_aws::Fault;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::CreateWebhookOutcome;
use tollgate_store::schema::EVENTS;
use tollgate_testing::p;
use tollgate_testing::stored::{items, raw, stored, text};

mod common;

use common::{NOW, edit, fixture};

fn event(n: u64) -> Event {
    let cause = format!("cause {n}");
    let at = p::<jiff::Timestamp>(NOW) + SignedDuration::from_secs(i64::try_from(n).unwrap());
    let data = json!({ "n": n });
    Event::new(EventKind::ChargeFailed, &cause, Some(p("acme")), at, data)
}

async fn record(at: &Fixture, numbers: impl IntoIterator<Item = u64>) {
    for n in numbers {
        at.store.record_event(&event(n)).await.unwrap();
    }
}

async fn number(at: &Fixture) -> Vec<NumberedEvent> {
    at.store.number_events().await.unwrap()
}

/// Returns number and cause of each event.
fn short(events: &[NumberedEvent]) -> Vec<(u64, u64)> {
    let cause = |event: &NumberedEvent| event.event.data["n"].as_u64().unwrap();
    events
        .iter()
        .map(|event| (event.number, cause(event)))
        .collect()
}

#[tokio::test]
async fn events_are_numbered_in_their_order_and_listed_by_number() {
    let at = fixture();
    assert_eq!(short(&number(&at).await), []);
    record(&at, [3, 1, 2]).await;
    let first = number(&at).await;
    assert_eq!(short(&first), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!(first[0].event, event(1));
    // An event that is stored again is not new again.
    record(&at, [2]).await;
    assert_eq!(short(&number(&at).await), []);
    // One that happened earlier and is stored later comes later: nobody has to look back.
    record(&at, [0]).await;
    assert_eq!(short(&number(&at).await), [(4, 0)]);
    let list = async |after, limit| {
        let events = at.store.numbered_events(after, limit).await.unwrap();
        short(&events)
    };
    assert_eq!(list(0, 10).await, [(1, 1), (2, 2), (3, 3), (4, 0)]);
    assert_eq!(list(1, 2).await, [(2, 2), (3, 3)]);
    assert_eq!(list(4, 10).await, []);
    assert_eq!(list(99, 10).await, []);
    let third = at.store.numbered_event(3).await.unwrap();
    assert_eq!(third.unwrap().event, event(3));
    assert_eq!(at.store.numbered_event(5).await.unwrap(), None);
}

#[tokio::test]
async fn an_event_is_unsent_until_it_is_marked_and_expires_later() {
    let at = fixture();
    record(&at, [1, 2]).await;
    // Without a number, it is not sent.
    at.store.mark_sent(&event(1).id).await.unwrap();
    assert_eq!(at.store.unsent_events().await.unwrap(), []);
    let numbered = number(&at).await;
    assert_eq!(at.store.unsent_events().await.unwrap(), numbered);
    for _ in 0..2 {
        at.store.mark_sent(&event(1).id).await.unwrap();
        assert_eq!(at.store.unsent_events().await.unwrap(), numbered[1..]);
    }
    let expires = p::<jiff::Timestamp>(NOW) + SignedDuration::from_hours(90 * 24);
    let expires = json!({ "N": expires.as_second().to_string() });
    for item in items(&at, EVENTS) {
        let expected = match text(&item, "pk").as_str() {
            "SEQUENCE" => None,
            _ => Some(&expires),
        };
        assert_eq!(item.get("expires"), expected, "{item}");
    }
    // One that has expired is not created.
    at.store.mark_sent(&event(9).id).await.unwrap();
    assert_eq!(items(&at, EVENTS).len(), 5);
}

#[tokio::test]
async fn an_event_that_is_numbered_meanwhile_is_not_numbered_again() {
    let at = fixture();
    record(&at, [1, 2]).await;
    // Another publisher numbers them between this one's reads and its transaction.
    let (other, mut is_first) = (at.clone(), true);
    let rival = move |call: &tollgate_local_aws::Call| {
        if call.operation() != "TransactWriteItems" || !std::mem::take(&mut is_first) {
            return Fault::None;
        }
        let mut body: serde_json::Value = serde_json::from_str(&call.body).unwrap();
        body["ClientRequestToken"] = "another".into();
        let (status, response) = other.aws.call(&call.target, &body.to_string());
        assert_eq!(status, 200, "{response}");
        Fault::None
    };
    at.aws.inject(rival);
    assert_eq!(short(&number(&at).await), []);
    at.aws.heal();
    assert_eq!(
        short(&at.store.unsent_events().await.unwrap()),
        [(1, 1), (2, 2)]
    );
    record(&at, [3]).await;
    assert_eq!(short(&number(&at).await), [(3, 3)]);
}

/// The last number can be wrong only if someone else has changed the table.
#[tokio::test]
async fn a_number_is_not_given_twice_even_if_the_last_number_is_wrong() {
    let at = fixture();
    record(&at, [1, 2]).await;
    number(&at).await;
    record(&at, [3]).await;
    edit(&at, EVENTS, "SEQUENCE", |item| {
        item["last_number"] = json!({ "N": "1" });
    });
    let before = stored(&at);
    at.store.number_events().await.unwrap_err();
    assert_eq!(stored(&at), before);
    let key = json!({ "pk": { "S": "SEQUENCE" }, "sk": { "S": "#" } });
    raw(&at, "DeleteItem", EVENTS, json!({ "Key": key }));
    let before = stored(&at);
    at.store.number_events().await.unwrap_err();
    assert_eq!(stored(&at), before);
}

/// Publishers run at the same time as causes and readers. Each reader sees each number once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_concurrent_publishers_no_number_is_skipped_repeated_or_late() {
    const EVENTS_OF_EACH: u64 = 40;
    const CAUSES: u64 = 3;
    let all = EVENTS_OF_EACH * CAUSES;
    let at = Arc::new(fixture());
    let mut causes = JoinSet::new();
    for cause in 0..CAUSES {
        let at = Arc::clone(&at);
        causes.spawn(async move {
            for n in 0..EVENTS_OF_EACH {
                record(&at, [cause * EVENTS_OF_EACH + n]).await;
                tokio::task::yield_now().await;
            }
        });
    }
    let mut publishers = JoinSet::new();
    for _ in 0..4 {
        let at = Arc::clone(&at);
        publishers.spawn(async move {
            let mut numbered = Vec::new();
            while at.store.numbered_event(all).await.unwrap().is_none() {
                // Others number events all the time, so that an attempt may fail.
                numbered.extend(at.store.number_events().await.unwrap_or_default());
                tokio::task::yield_now().await;
            }
            numbered
        });
    }
    let mut readers = JoinSet::new();
    for limit in [1, 7, 100] {
        let at = Arc::clone(&at);
        readers.spawn(async move {
            let (mut after, mut causes) = (0, BTreeSet::new());
            while after < all {
                for event in at.store.numbered_events(after, limit).await.unwrap() {
                    assert_eq!(event.number, after + 1);
                    after = event.number;
                    assert!(causes.insert(event.event.data["n"].as_u64().unwrap()));
                }
                tokio::task::yield_now().await;
            }
            causes
        });
    }
    causes.join_all().await;
    let numbered: Vec<NumberedEvent> = publishers.join_all().await.concat();
    let numbers: BTreeSet<u64> = numbered.iter().map(|event| event.number).collect();
    assert_eq!(numbers.len(), numbered.len(), "a number was given twice");
    assert!(numbers.iter().all(|number| (1..=all).contains(number)));
    for causes in readers.join_all().await {
        assert_eq!(causes, (0..all).collect());
    }
}

/// A query may see a part of a transaction that is being committed.
#[tokio::test]
async fn a_reader_does_not_go_past_an_event_that_is_not_visible_yet() {
    let at = fixture();
    record(&at, [1, 2, 3]).await;
    number(&at).await;
    let second = items(&at, EVENTS);
    let second = second.iter().find(|item| text(item, "sk").ends_with("02"));
    let second = second.unwrap().clone();
    let key = json!({ "pk": second["pk"], "sk": second["sk"] });
    raw(&at, "DeleteItem", EVENTS, json!({ "Key": key }));
    let list = async |after| {
        let events = at.store.numbered_events(after, 10).await.unwrap();
        short(&events)
    };
    assert_eq!(list(0).await, [(1, 1)]);
    assert_eq!(list(1).await, []);
    raw(&at, "PutItem", EVENTS, json!({ "Item": second }));
    assert_eq!(list(1).await, [(2, 2), (3, 3)]);
    // What is missing for longer has expired.
    raw(&at, "DeleteItem", EVENTS, json!({ "Key": key }));
    at.time.advance(SignedDuration::from_secs(61));
    assert_eq!(list(0).await, [(1, 1), (3, 3)]);
}

fn webhook(n: u64) -> Webhook {
    Webhook {
        id: p(&format!("wh_{n}")),
        url: TargetUrl::stored("https://hooks.example"),
        kinds: BTreeSet::from([EventKind::ChargeFailed]),
        created_at: p(NOW),
        disabled_at: None,
        failure: None,
    }
}

async fn create(at: &Fixture, n: u64) -> CreateWebhookOutcome {
    let secret = WebhookSecret::new(&format!("whsec_{n}"));
    let created = at.store.create_webhook(&webhook(n), &secret).await;
    created.unwrap()
}

#[tokio::test]
async fn there_are_at_most_ten_webhooks() {
    let at = fixture();
    for n in 0..MAX_WEBHOOKS {
        assert_eq!(create(&at, n).await, CreateWebhookOutcome::Created);
    }
    let full = stored(&at);
    assert_eq!(create(&at, 10).await, CreateWebhookOutcome::TooMany);
    assert_eq!(stored(&at), full);
    assert_eq!(at.store.webhooks().await.unwrap().len(), 10);
    assert!(at.store.delete_webhook(&p("wh_3")).await.unwrap());
    assert_eq!(at.store.webhook_secret(&p("wh_3")).await.unwrap(), None);
    assert_eq!(create(&at, 10).await, CreateWebhookOutcome::Created);
    assert_eq!(create(&at, 11).await, CreateWebhookOutcome::TooMany);
}

#[tokio::test]
async fn a_webhook_is_deleted_once_and_does_not_replace_another() {
    let at = fixture();
    create(&at, 1).await;
    create(&at, 2).await;
    let secret = at.store.webhook_secret(&p("wh_1")).await.unwrap();
    assert_eq!(secret.unwrap().expose(), "whsec_1");
    let before = stored(&at);
    let other = WebhookSecret::new("whsec_other");
    let taken = at.store.create_webhook(&webhook(1), &other).await;
    taken.unwrap_err();
    assert_eq!(stored(&at), before);
    assert!(at.store.delete_webhook(&p("wh_1")).await.unwrap());
    let before = stored(&at);
    assert!(!at.store.delete_webhook(&p("wh_1")).await.unwrap());
    assert_eq!(stored(&at), before);
    assert_eq!(at.store.webhooks().await.unwrap(), [webhook(2)]);
}

/// A secret that is left over, which no code of ours leaves, is not adopted.
#[tokio::test]
async fn a_secret_is_not_overwritten() {
    let at = fixture();
    let left = json!({ "pk": { "S": "SECRET#wh_1" }, "sk": { "S": "#" }, "secret": { "S": "x" } });
    raw(&at, "PutItem", EVENTS, json!({ "Item": left }));
    let before = stored(&at);
    assert_eq!(create(&at, 1).await, CreateWebhookOutcome::TooMany);
    assert_eq!(stored(&at), before);
}

#[tokio::test]
async fn what_happened_to_a_webhook_is_recorded_unless_it_was_deleted() {
    let at = fixture();
    create(&at, 1).await;
    let failure = DeliveryFailure {
        event: 7,
        at: p(NOW),
        reason: "no".to_owned(),
    };
    let id = p("wh_1");
    let later = p("2026-11-23T10:00:00Z");
    let record = async || {
        at.store.disable_webhook(&id, p(NOW)).await.unwrap();
        at.store.disable_webhook(&id, later).await.unwrap();
        at.store
            .record_delivery_failure(&id, &failure)
            .await
            .unwrap();
    };
    record().await;
    let expected = Webhook {
        disabled_at: Some(p(NOW)),
        failure: Some(failure.clone()),
        ..webhook(1)
    };
    assert_eq!(at.store.webhook(&id).await.unwrap(), Some(expected.clone()));
    assert_eq!(at.store.webhooks().await.unwrap(), [expected]);
    at.store.delete_webhook(&id).await.unwrap();
    let before = stored(&at);
    record().await;
    assert_eq!(stored(&at), before);
    assert_eq!(at.store.webhook(&id).await.unwrap(), None);
}
