//! Usage events in shared transactions, large events, sharded aggregates, and the log.

#![allow(clippy::unwrap_used, reason = "a failed set-up or read fails the test")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tollgate_domain::usage::UsageRecord;
use tollgate_domain::window::Day;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{Call, Fault};
use tollgate_store::schema::USAGE;
use tollgate_store::{
    EventPart, LoggedPart, RejectedRecord, ShardCounts, WriteUsageOutcome, WriteUsageResult,
};
use tollgate_testing::stored::items;
use tollgate_testing::usage::{COUNTING_TIME, endpoint_usage};
use tollgate_testing::{p, plans};

use common::{Event, NOW, adjustment, call, fixture, write_usage};

const TRANSACTION: &str = "TransactWriteItems";

/// Counts these events in one call.
async fn write(
    at: &Fixture,
    events: &[Event],
    shard_counts: &ShardCounts,
) -> Vec<WriteUsageResult> {
    let parts: Vec<EventPart> = events.iter().map(Event::part).collect();
    let plans = plans();
    let written = at
        .store
        .write_usage(&parts, &plans, shard_counts, COUNTING_TIME);
    written.await
}

/// Returns the outcomes, `None` for an error.
fn outcomes_of(results: &[WriteUsageResult]) -> Vec<Option<WriteUsageOutcome>> {
    let results = results.iter();
    results
        .map(|result| result.as_ref().ok().copied())
        .collect()
}

fn all(outcome: WriteUsageOutcome, count: usize) -> Vec<Option<WriteUsageOutcome>> {
    vec![Some(outcome); count]
}

fn ping(id: &str) -> Event {
    Event::new("acme", id, &[call(NOW, "pro", "/ping", 200)])
}

async fn calls(at: &Fixture) -> u64 {
    let month = at.store.month_usage(&p("acme"), p("2026-11")).await;
    month.unwrap().calls
}

/// Injects the fault that `fault` returns for each transaction. Returns their numbers of actions.
fn transactions(
    at: &Fixture,
    mut fault: impl FnMut(&Call) -> Fault + Send + 'static,
) -> Arc<Mutex<Vec<usize>>> {
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sizes);
    at.aws.inject(move |call| {
        if call.operation() != TRANSACTION {
            return Fault::None;
        }
        let body: Value = serde_json::from_str(&call.body).unwrap();
        let actions = body["TransactItems"].as_array().unwrap().len();
        seen.lock().unwrap().push(actions);
        fault(call)
    });
    sizes
}

#[tokio::test]
async fn events_of_a_customer_share_a_transaction_and_its_aggregates() {
    let at = fixture();
    let sizes = transactions(&at, |_| Fault::None);
    let events: Vec<Event> = (0..97).map(|n| ping(&format!("e-{n}"))).collect();
    let results = write(&at, &events, &ShardCounts::default()).await;
    assert_eq!(outcomes_of(&results), all(WriteUsageOutcome::Counted, 97));
    // The marker, and one update each of the day and the endpoint.
    assert_eq!(*sizes.lock().unwrap(), [3]);
    assert_eq!(calls(&at).await, 97);
    assert_eq!(items(&at, USAGE).len(), 2);
}

#[tokio::test]
async fn events_that_do_not_fit_in_a_transaction_share_the_next() {
    let at = fixture();
    let sizes = transactions(&at, |_| Fault::None);
    let event = |customer: &str, n: usize| {
        let call = call(NOW, "pro", &format!("/{n}"), 200);
        Event::new(customer, &format!("{customer}-{n}"), &[call])
    };
    let mut events = vec![event("globex", 0)];
    events.extend((0..99).map(|n| event("acme", n)));
    let results = write(&at, &events, &ShardCounts::default()).await;
    assert_eq!(outcomes_of(&results), all(WriteUsageOutcome::Counted, 100));
    // The marker, the day of the customer and of all customers, and for both of them the endpoints beyond those that their
    // items have slots for: 49 of the customer, whose key takes a slot. Then the rest, and the day of another customer.
    assert_eq!(*sizes.lock().unwrap(), [100, 74]);
    assert_eq!(calls(&at).await, 99);
}

#[tokio::test]
async fn duplicates_and_conflicts_do_not_prevent_the_count_of_the_others() {
    let at = fixture();
    write_usage(&at, &ping("e-1")).await;
    let mut rival = ping("e-2");
    rival.body = b"other".to_vec();
    write_usage(&at, &rival).await;
    let events = ["e-0", "e-1", "e-2", "e-3", "e-3"].map(ping);
    let sizes = transactions(&at, |_| Fault::None);
    let results = write(&at, &events, &ShardCounts::default()).await;
    let expected = [
        WriteUsageOutcome::Counted,
        WriteUsageOutcome::Duplicate,
        WriteUsageOutcome::Conflict,
        WriteUsageOutcome::Counted,
        WriteUsageOutcome::Duplicate,
    ];
    assert_eq!(outcomes_of(&results), expected.map(Some));
    assert_eq!(*sizes.lock().unwrap(), [3]);
    assert_eq!(calls(&at).await, 4);
    let again = write(&at, &events, &ShardCounts::default()).await;
    let expected = [
        WriteUsageOutcome::Duplicate,
        WriteUsageOutcome::Duplicate,
        WriteUsageOutcome::Conflict,
        WriteUsageOutcome::Duplicate,
        WriteUsageOutcome::Duplicate,
    ];
    assert_eq!(outcomes_of(&again), expected.map(Some));
    assert_eq!(sizes.lock().unwrap().len(), 1, "nothing is left to count");
    assert_eq!(calls(&at).await, 4);
}

#[tokio::test]
async fn an_event_that_cannot_be_written_fails_alone() {
    let at = fixture();
    let mut events: Vec<Event> = (0..20).map(|n| ping(&format!("e-{n}"))).collect();
    // Its quarantined record makes it visible in the transaction.
    events[13].rejected.push(RejectedRecord {
        index: 1,
        reason: "too late".into(),
    });
    let sizes = transactions(&at, |call| match call.body.contains("#e-13\"") {
        true => Fault::Invalid,
        false => Fault::None,
    });
    let results = write(&at, &events, &ShardCounts::default()).await;
    let mut expected = all(WriteUsageOutcome::Counted, 20);
    expected[13] = None;
    assert_eq!(outcomes_of(&results), expected);
    assert_eq!(calls(&at).await, 19);
    assert!(sizes.lock().unwrap().len() < 12);
}

#[tokio::test]
async fn no_part_of_another_event_is_counted_beside_one() {
    let at = fixture();
    let mut parts = [ping("e-1"), ping("e-1")];
    parts[1].part = 1;
    // The first part has failed.
    let results = write(&at, &parts[1..], &ShardCounts::default()).await;
    assert_eq!(outcomes_of(&results), all(WriteUsageOutcome::Counted, 1));
    let mut rival = [ping("e-1"), ping("e-1"), ping("e-1")];
    for (number, part) in rival.iter_mut().enumerate() {
        part.part = number;
        part.body = b"rival".to_vec();
    }
    let results = write(&at, &rival, &ShardCounts::default()).await;
    assert_eq!(outcomes_of(&results), all(WriteUsageOutcome::Conflict, 3));
    let results = write(&at, &parts, &ShardCounts::default()).await;
    let expected = [WriteUsageOutcome::Counted, WriteUsageOutcome::Duplicate];
    assert_eq!(outcomes_of(&results), expected.map(Some));
    assert_eq!(calls(&at).await, 2);
}

/// Each customer's part takes most of a transaction. The response of one transaction, and its overage, come too late.
#[tokio::test(start_paused = true)]
async fn outcomes_that_are_known_in_time_are_kept() {
    let at = fixture();
    let of = |customer: &str, id: &str| {
        let calls = (0..60).map(|n| call(NOW, "pro", &format!("/{n}"), 200));
        Event::new(customer, id, &calls.collect::<Vec<_>>())
    };
    let events = [of("acme", "e-1"), of("globex", "e-2"), of("initech", "e-3")];
    at.aws.inject(|call: &Call| {
        let is_late = match call.operation() {
            TRANSACTION => call.body.contains("acme"),
            "Query" => call.body.contains("initech"),
            _ => false,
        };
        match is_late {
            true => Fault::NoResponse,
            false => Fault::None,
        }
    });
    let began = Instant::now();
    let parts: Vec<EventPart> = events.iter().map(Event::part).collect();
    let (plans, shard_counts, within) = (plans(), ShardCounts::default(), Duration::from_secs(4));
    let written = at.store.write_usage(&parts, &plans, &shard_counts, within);
    let expected = [None, Some(WriteUsageOutcome::Counted), None];
    assert_eq!(outcomes_of(&written.await), expected);
    assert!(began.elapsed() <= within);
    at.aws.heal();
    let results = write(&at, &events, &ShardCounts::default()).await;
    assert_eq!(outcomes_of(&results), all(WriteUsageOutcome::Duplicate, 3));
}

#[tokio::test(start_paused = true)]
async fn after_conflicts_writers_use_different_shards() {
    let at = fixture();
    let shard_counts = ShardCounts::default();
    let mut conflicts = 5;
    transactions(&at, move |_| {
        if conflicts == 0 {
            return Fault::None;
        }
        conflicts -= 1;
        Fault::Conflict
    });
    for n in 0..40 {
        let results = write(&at, &[ping(&format!("e-{n}"))], &shard_counts).await;
        assert_eq!(outcomes_of(&results), all(WriteUsageOutcome::Counted, 1));
    }
    // By now sixteen shards are in use.
    let items = items(&at, USAGE);
    let items: Vec<&Value> = items
        .iter()
        .filter(|item| item["pk"]["S"] == "acme")
        .collect();
    let shards = items.len();
    assert!((9..=16).contains(&shards), "{shards}");
    // A partition takes 1,000 writes per second, so no item may take most of the writes.
    let most = items
        .iter()
        .map(|item| item["calls"]["N"].as_str().unwrap());
    let most = most.map(|calls| calls.parse::<u64>().unwrap()).max();
    assert!(most.unwrap() < 12, "{most:?}");

    let (acme, november) = (p("acme"), p("2026-11"));
    assert_eq!(calls(&at).await, 40);
    let days = at.store.day_usage(&acme, november).await.unwrap();
    let days = days.into_iter();
    let days = days.map(|(day, aggregate)| (day, aggregate.calls));
    let today: Day = p("2026-11-22");
    assert_eq!(days.collect::<Vec<_>>(), [(today, 40)]);
    let endpoints = endpoint_usage(&at.store, "acme", "2026-11-22").await;
    let endpoints = endpoints.into_iter();
    let endpoints = endpoints.map(|(endpoint, aggregate)| (endpoint.route, aggregate.calls));
    assert_eq!(endpoints.collect::<Vec<_>>(), [("/ping".to_owned(), 40)]);
    assert_eq!(common::all_billable(&at.store, november).await, [acme]);
}

#[tokio::test(start_paused = true)]
async fn a_write_recognises_what_its_earlier_try_counted() {
    let at = fixture();
    write_usage(&at, &ping("e-0")).await;
    let mut faults = vec![Fault::Conflict, Fault::ResponseLost];
    // The response of the first try is lost, and the second try meets a conflict.
    transactions(&at, move |_| faults.pop().unwrap_or(Fault::None));
    let events = ["e-1", "e-2"].map(ping);
    let results = write(&at, &events, &ShardCounts::default()).await;
    assert_eq!(outcomes_of(&results), all(WriteUsageOutcome::Counted, 2));
    assert_eq!(calls(&at).await, 3);
}

/// Returns text that hardly compresses.
fn noise(length: usize) -> Vec<u8> {
    let entropy = tollgate_runtime::Entropy::seeded(7);
    let text = entropy.with(|rng| tollgate_domain::id::random_base62(rng, length));
    text.into_bytes()
}

#[tokio::test]
async fn an_event_as_large_as_a_message_is_counted_and_stored_complete() {
    let at = fixture();
    let mut large = ping("e-1");
    large.body = noise(1_040_000);
    large.rejected.push(RejectedRecord {
        index: 1,
        reason: "too late".into(),
    });
    let events = [ping("e-0"), large];
    let results = write(&at, &events, &ShardCounts::default()).await;
    assert_eq!(outcomes_of(&results), all(WriteUsageOutcome::Counted, 2));
    let quarantined = at.store.quarantined_of_event("tollgate:ping", "e-1").await;
    let quarantined = quarantined.unwrap();
    assert_eq!(
        (quarantined.len(), &quarantined[0].body),
        (1, &events[1].body)
    );
    let logged = logged(&at, "2026-11-22", "2026-11-22").await;
    assert_eq!(logged.len(), 2);
    assert!(logged.iter().any(|event| event.body == events[1].body));

    at.store
        .quarantine_conflict(&events[1].part())
        .await
        .unwrap();
    at.store
        .quarantine_message(&events[1].body, "junk", p(NOW))
        .await
        .unwrap();
    let quarantined = at.store.quarantined_of_event("tollgate:ping", "e-1").await;
    let bodies = quarantined.unwrap().into_iter().map(|q| q.body);
    assert_eq!(bodies.collect::<Vec<_>>(), [&events[1].body[..]; 2]);
    let quarantined = at.store.quarantined_message(&events[1].body).await;
    assert_eq!(quarantined.unwrap()[0].body, events[1].body);
}

#[tokio::test]
async fn a_page_of_large_events_is_short_and_omits_none() {
    let at = fixture();
    let events = ["e-0", "e-1", "e-2", "e-3"].map(|id| {
        let mut event = ping(id);
        event.body = noise(if id == "e-0" { 10 } else { 900_000 });
        event
    });
    let results = write(&at, &events, &ShardCounts::default()).await;
    assert_eq!(outcomes_of(&results), all(WriteUsageOutcome::Counted, 4));
    let days = (p("2026-11-22"), p("2026-11-22"));
    let first = at.store.list_logged(&p("acme"), days, None).await.unwrap();
    let after = first.next.as_deref();
    let rest = at.store.list_logged(&p("acme"), days, after).await.unwrap();
    assert_eq!((first.items.len(), rest.items.len()), (3, 1));
    assert_eq!(rest.next, None);
    let all = first.items.iter().chain(&rest.items);
    let bytes: usize = all.map(|logged| logged.body.len()).sum();
    assert_eq!(bytes, 10 + 3 * 900_000);
}

/// Lists the log of `acme`, over all pages.
async fn logged(at: &Fixture, from: &str, to: &str) -> Vec<LoggedPart> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let days = (p(from), p(to));
        let page = at
            .store
            .list_logged(&p("acme"), days, after.as_deref())
            .await;
        let page = page.unwrap();
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

#[tokio::test]
async fn the_same_event_in_another_text_is_a_duplicate() {
    let at = fixture();
    let event = |id: &str, body: &[u8]| {
        let mut event = ping(id);
        event.body = body.to_vec();
        event
    };
    let big = "0".repeat(500_000) + &hex::encode(noise(300_000));
    let written = format!(r#"{{"data": [1, {{"b": "{big}"}}]}}"#);
    let forwarded = format!(r#"{{ "x":1, "data":[1,{{"b":"{big}"}}] }}"#);
    let other = format!(r#"{{"data":[2,{{"b":"{big}"}}]}}"#);
    write_usage(&at, &event("e-1", written.as_bytes())).await;
    let again = [
        event("e-1", forwarded.as_bytes()),
        event("e-1", other.as_bytes()),
        event("e-1", b"no JSON"),
    ];
    let results = write(&at, &again, &ShardCounts::default()).await;
    let expected = [
        WriteUsageOutcome::Duplicate,
        WriteUsageOutcome::Conflict,
        WriteUsageOutcome::Conflict,
    ];
    assert_eq!(outcomes_of(&results), expected.map(Some));
    assert_eq!(calls(&at).await, 1);
}

#[tokio::test]
async fn adjustments_are_listed_by_day_without_other_items() {
    let at = fixture();
    write_usage(&at, &ping("e-1")).await;
    for (n, day) in [30, 2, 14].into_iter().enumerate() {
        let times = [
            format!("2026-11-{day:02}T12:00:00Z"),
            format!("2026-11-{day:02}T13:00:00Z"),
        ];
        let adjustments = times.map(|time| adjustment(&time, day));
        let event = Event::of_adjustments("acme", &format!("a-{n}"), &adjustments);
        // A duplicate changes nothing.
        for outcome in [WriteUsageOutcome::Counted, WriteUsageOutcome::Duplicate] {
            assert_eq!(write_usage(&at, &event).await, outcome);
        }
    }
    let other = [adjustment("2026-12-01T00:00:00Z", 1)];
    write_usage(&at, &Event::of_adjustments("acme", "a-9", &other)).await;
    write_usage(&at, &Event::of_adjustments("acme-2", "a-9", &other)).await;
    let (acme, november) = (p("acme"), p("2026-11"));
    let page = at.store.adjustments(&acme, november, None).await.unwrap();
    let calls = page
        .items
        .iter()
        .map(|logged| logged.adjustment.billable_calls);
    assert_eq!(calls.collect::<Vec<_>>(), [2, 2, 14, 14, 30, 30]);
    let month = at.store.month_usage(&acme, november).await.unwrap();
    assert_eq!(
        (month.adjusted.count, month.adjusted.billable_calls()),
        (6, 92)
    );
    assert_eq!(month.calls, 1);
}

#[tokio::test]
async fn many_adjustments_are_paged() {
    let at = fixture();
    for n in 0..3 {
        let adjustments: Vec<_> = (0..20).map(|_| adjustment(NOW, 1)).collect();
        let event = Event::of_adjustments("acme", &format!("a-{n}"), &adjustments);
        write_usage(&at, &event).await;
    }
    let (acme, november) = (p("acme"), p("2026-11"));
    let first = at.store.adjustments(&acme, november, None).await.unwrap();
    assert_eq!(first.items.len(), 50);
    let next = first.next.as_deref();
    let rest = at.store.adjustments(&acme, november, next).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (10, None));
    assert_eq!(rest.items[9].id, "a-2");
}

#[tokio::test]
async fn the_log_is_read_by_customer_and_day() {
    let at = fixture();
    let on = |day: u32| -> [UsageRecord; 1] {
        [call(
            &format!("2026-11-{day:02}T10:00:00Z"),
            "pro",
            "/a",
            200,
        )]
    };
    // Thirty events of one day take two pages.
    let mut events: Vec<Event> = (0..30)
        .map(|n| Event::new("acme", &format!("e-{n}"), &on(20)))
        .collect();
    for (n, event) in events.iter_mut().enumerate() {
        event.received_at = p(&format!("2026-11-22T10:00:{n:02}Z"));
    }
    let mut other_days = [19, 21, 22].map(|day| Event::new("acme", &format!("d-{day}"), &on(day)));
    // The second day is a part of its own, and the body is stored with the first.
    let mut second = Event::new("acme", "d-21", &on(22));
    second.part = 1;
    other_days[1].records = 1;
    events.extend(other_days);
    events.push(second);
    events.push(Event::new("globex", "g-1", &on(20)));
    for event in &events {
        write_usage(&at, event).await;
    }
    let bodies = async |from: &str, to: &str| {
        let logged = logged(&at, from, to).await;
        let days = logged.iter().map(|event| event.day.to_string());
        let bodies = logged.iter().map(|event| event.body.clone());
        (days.collect::<Vec<_>>(), bodies.collect::<Vec<_>>())
    };
    let (days, found) = bodies("2026-11-20", "2026-11-20").await;
    assert_eq!(days, ["2026-11-20"; 30]);
    let expected: Vec<&Vec<u8>> = events[..30].iter().map(|event| &event.body).collect();
    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    let (days, found) = bodies("2026-11-21", "2026-11-30").await;
    assert_eq!(days, ["2026-11-21", "2026-11-22", "2026-11-22"]);
    assert_eq!(found[0], events[31].body);
    assert!(found[1..].contains(&events[31].body));
    assert!(found[1..].contains(&events[32].body));
    assert_eq!(bodies("2026-11-01", "2026-11-18").await.0, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn whether_an_event_was_counted_is_unknown_while_it_is_being_counted() {
    let at = fixture();
    at.aws
        .inject(|call: &Call| match call.body.contains("#ATTEMPT#") {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    let event = Event::new("acme", "e-1", &[call(NOW, "pro", "/ping", 200)]);
    let shard_counts = ShardCounts::default();
    let written = write(&at, &[event], &shard_counts).await;
    assert!(written[0].is_err());
    at.aws.heal();
    let event = Event::new("acme", "e-1", &[call(NOW, "pro", "/ping", 200)]);
    let counted = async || {
        let part = event.part();
        at.store
            .counted_parts(part.source, part.id, part.body)
            .await
    };
    assert!(counted().await.is_err());
    at.time.advance(jiff::SignedDuration::from_secs(21));
    assert_eq!(counted().await.unwrap(), Some([].into()));
}
