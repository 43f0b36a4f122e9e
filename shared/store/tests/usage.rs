//! Entries that are counted together, large ones, tallies that are spread, and the log.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

mod common;

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tollgate_domain::key::hex;
use tollgate_domain::usage::UsageRecord;
use tollgate_domain::window::Day;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{Call, Fault};
use tollgate_store::schema::{USAGE, USAGE_LOG};
use tollgate_store::{EventPart, Logged, Outcome, RefusedRecord, ShardCounts, Written};

use common::{Entry, NOW, adjustment, call, fixture, p, plans, raw, write_usage};

const TRANSACTION: &str = "TransactWriteItems";

/// Counts these entries together.
async fn write(at: &Fixture, entries: &[Entry], spread: &ShardCounts) -> Vec<Outcome> {
    let parts: Vec<EventPart> = entries.iter().map(Entry::part).collect();
    at.store.write_usage(&parts, &plans(), spread).await
}

/// What became of them, if it is known.
fn known(outcomes: &[Outcome]) -> Vec<Option<Written>> {
    let outcomes = outcomes.iter();
    outcomes
        .map(|outcome| outcome.as_ref().ok().copied())
        .collect()
}

fn all(written: Written, count: usize) -> Vec<Option<Written>> {
    vec![Some(written); count]
}

fn ping(id: &str) -> Entry {
    Entry::new("acme", id, &[call(NOW, "pro", "/ping", 200)])
}

async fn calls(at: &Fixture) -> u64 {
    let month = at.store.month_usage(&p("acme"), p("2026-11")).await;
    month.unwrap().calls
}

/// Has a fault meet each transaction that `fault` says, and notes how many actions each has.
fn transactions(
    at: &Fixture,
    mut fault: impl FnMut(&Call) -> Fault + Send + 'static,
) -> Arc<Mutex<Vec<usize>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    at.aws.inject(move |call| {
        if call.operation() != TRANSACTION {
            return Fault::None;
        }
        let body: Value = serde_json::from_str(&call.body).unwrap();
        let actions = body["TransactItems"].as_array().unwrap().len();
        noted.lock().unwrap().push(actions);
        fault(call)
    });
    seen
}

fn items(at: &Fixture, table: tollgate_store::schema::Table) -> Vec<Value> {
    let found = raw(at, "Scan", table, json!({}));
    found["Items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn entries_of_a_customer_share_a_transaction_and_its_tallies() {
    let at = fixture();
    let sizes = transactions(&at, |_| Fault::None);
    let entries: Vec<Entry> = (0..97).map(|n| ping(&format!("e-{n}"))).collect();
    let outcomes = write(&at, &entries, &ShardCounts::default()).await;
    assert_eq!(known(&outcomes), all(Written::Counted, 97));
    // Ninety-seven claims, and the day, the endpoint and the month once.
    assert_eq!(*sizes.lock().unwrap(), [100]);
    assert_eq!(calls(&at).await, 97);
    assert_eq!(items(&at, USAGE).len(), 3);
}

#[tokio::test]
async fn what_does_not_fit_into_one_transaction_goes_into_the_next() {
    let at = fixture();
    let sizes = transactions(&at, |_| Fault::None);
    let mut entries: Vec<Entry> = (0..97).map(|n| ping(&format!("e-{n}"))).collect();
    entries.push(Entry::new(
        "acme",
        "e-97",
        &[call(NOW, "pro", "/other", 200)],
    ));
    entries.push(Entry::new(
        "globex",
        "e-98",
        &[call(NOW, "pro", "/ping", 200)],
    ));
    let outcomes = write(&at, &entries, &ShardCounts::default()).await;
    assert_eq!(known(&outcomes), all(Written::Counted, 99));
    // The claims of one of each customer, and three tallies of each.
    assert_eq!(*sizes.lock().unwrap(), [100, 8]);
    assert_eq!(calls(&at).await, 98);
}

#[tokio::test]
async fn those_that_were_counted_before_do_not_keep_the_others_from_it() {
    let at = fixture();
    write_usage(&at, &ping("e-1")).await;
    let mut rival = ping("e-2");
    rival.body = b"other".to_vec();
    write_usage(&at, &rival).await;
    let entries = ["e-0", "e-1", "e-2", "e-3", "e-3"].map(ping);
    let sizes = transactions(&at, |_| Fault::None);
    let outcomes = write(&at, &entries, &ShardCounts::default()).await;
    let expected = [
        Written::Counted,
        Written::Duplicate,
        Written::Conflict,
        Written::Counted,
        Written::Duplicate,
    ];
    assert_eq!(known(&outcomes), expected.map(Some));
    // The first finds two in the log, the second counts the rest; the last is a copy within the batch.
    assert_eq!(*sizes.lock().unwrap(), [7, 5, 4]);
    assert_eq!(calls(&at).await, 4);
    let again = write(&at, &entries, &ShardCounts::default()).await;
    let expected = [
        Written::Duplicate,
        Written::Duplicate,
        Written::Conflict,
        Written::Duplicate,
        Written::Duplicate,
    ];
    assert_eq!(known(&again), expected.map(Some));
    assert_eq!(calls(&at).await, 4);
}

#[tokio::test]
async fn an_entry_that_cannot_be_written_fails_alone() {
    let at = fixture();
    let entries: Vec<Entry> = (0..20).map(|n| ping(&format!("e-{n}"))).collect();
    let sizes = transactions(&at, |call| match call.body.contains("#e-13\"") {
        true => Fault::Refused,
        false => Fault::None,
    });
    let outcomes = write(&at, &entries, &ShardCounts::default()).await;
    let mut expected = all(Written::Counted, 20);
    expected[13] = None;
    assert_eq!(known(&outcomes), expected);
    assert_eq!(calls(&at).await, 19);
    assert!(sizes.lock().unwrap().len() < 12);
}

#[tokio::test(start_paused = true)]
async fn the_parts_after_one_that_fails_are_not_counted() {
    let at = fixture();
    let mut parts = [ping("e-1"), ping("e-1"), ping("e-2")];
    parts[1].part = 1;
    transactions(&at, |call| match call.body.contains(r#"{"S":"00"}"#) {
        true => Fault::Refused,
        false => Fault::None,
    });
    let outcomes = write(&at, &parts, &ShardCounts::default()).await;
    assert_eq!(known(&outcomes), [None, None, None]);
    assert!(items(&at, USAGE_LOG).is_empty());
    at.aws.heal();
    let mut rival = parts[0].part();
    rival.body = b"rival";
    let (plans, spread) = (plans(), ShardCounts::default());
    let counted = at.store.write_usage(&[rival], &plans, &spread).await;
    assert_eq!(known(&counted), all(Written::Counted, 1));
    // Were the second part counted now, an entry would be made of two.
    let outcomes = write(&at, &parts[..2], &ShardCounts::default()).await;
    assert_eq!(known(&outcomes), all(Written::Conflict, 2));
    assert_eq!(calls(&at).await, 1);
}

#[tokio::test(start_paused = true)]
async fn writers_that_meet_go_to_items_of_their_own() {
    let at = fixture();
    let spread = ShardCounts::default();
    let mut conflicts = 5;
    transactions(&at, move |_| {
        if conflicts == 0 {
            return Fault::None;
        }
        conflicts -= 1;
        Fault::Conflict
    });
    for n in 0..40 {
        let outcomes = write(&at, &[ping(&format!("e-{n}"))], &spread).await;
        assert_eq!(known(&outcomes), all(Written::Counted, 1));
    }
    // By now over sixteen: the month, the day and the endpoint.
    let items = items(&at, USAGE);
    let shards = items.len() / 3;
    assert!((9..=16).contains(&shards), "{shards}");
    // A partition takes a thousand writes a second; no item has most of them.
    let most = items
        .iter()
        .map(|item| item["calls"]["N"].as_str().unwrap());
    let most = most.map(|calls| calls.parse::<u64>().unwrap()).max();
    assert!(most.unwrap() < 12, "{most:?}");

    let (acme, november) = (p("acme"), p("2026-11"));
    assert_eq!(calls(&at).await, 40);
    let days = at.store.day_usage(&acme, november).await.unwrap();
    let days = days.into_iter().map(|(day, tally)| (day, tally.calls));
    let today: Day = p("2026-11-22");
    assert_eq!(days.collect::<Vec<_>>(), [(today, 40)]);
    let endpoints = at.store.endpoint_usage(&acme, today).await.unwrap();
    let endpoints = endpoints.into_iter();
    let endpoints = endpoints.map(|(endpoint, tally)| (endpoint.route, tally.calls));
    assert_eq!(endpoints.collect::<Vec<_>>(), [("/ping".to_owned(), 40)]);
    assert_eq!(common::all_billable(&at.store, november).await, [acme]);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_try_has_counted_is_known_to_be_its_own() {
    let at = fixture();
    write_usage(&at, &ping("e-0")).await;
    let mut faults = vec![Fault::Conflict, Fault::AnswerLost];
    // The one that is lost is repeated, and meets another at its items.
    transactions(&at, move |_| faults.pop().unwrap_or(Fault::None));
    let entries = ["e-1", "e-2"].map(ping);
    let outcomes = write(&at, &entries, &ShardCounts::default()).await;
    assert_eq!(known(&outcomes), all(Written::Counted, 2));
    assert_eq!(calls(&at).await, 3);
}

/// Text that hardly compresses.
fn noise(length: usize) -> Vec<u8> {
    let entropy = tollgate_runtime::Entropy::seeded(7);
    let text = entropy.with(|rng| tollgate_domain::id::random_base62(rng, length));
    text.into_bytes()
}

#[tokio::test]
async fn an_entry_as_large_as_a_message_is_counted_and_kept_whole() {
    let at = fixture();
    let mut large = ping("e-1");
    large.body = noise(1_040_000);
    large.refused.push(RefusedRecord {
        index: 1,
        reason: "too late".into(),
    });
    let entries = [ping("e-0"), large];
    let outcomes = write(&at, &entries, &ShardCounts::default()).await;
    assert_eq!(known(&outcomes), all(Written::Counted, 2));
    let set_aside = at.store.quarantined_of_event("tollgate:ping", "e-1").await;
    let set_aside = set_aside.unwrap();
    assert_eq!((set_aside.len(), &set_aside[0].body), (1, &entries[1].body));
    let logged = logged(&at, "2026-11-22", "2026-11-22").await;
    assert_eq!(logged.len(), 2);
    assert!(logged.iter().any(|entry| entry.body == entries[1].body));

    at.store
        .quarantine_conflict(&entries[1].part())
        .await
        .unwrap();
    at.store
        .quarantine_message(&entries[1].body, "junk", p(NOW))
        .await
        .unwrap();
    let set_aside = at.store.quarantined_of_event("tollgate:ping", "e-1").await;
    let bodies = set_aside.unwrap().into_iter().map(|q| q.body);
    assert_eq!(bodies.collect::<Vec<_>>(), [&entries[1].body[..]; 2]);
    let set_aside = at.store.quarantined_message(&entries[1].body).await;
    assert_eq!(set_aside.unwrap()[0].body, entries[1].body);
}

#[tokio::test]
async fn a_page_of_large_entries_is_short_and_leaves_none_out() {
    let at = fixture();
    let entries = ["e-0", "e-1", "e-2", "e-3"].map(|id| {
        let mut entry = ping(id);
        entry.body = noise(if id == "e-0" { 10 } else { 900_000 });
        entry
    });
    let outcomes = write(&at, &entries, &ShardCounts::default()).await;
    assert_eq!(known(&outcomes), all(Written::Counted, 4));
    let days = (p("2026-11-22"), p("2026-11-22"));
    let first = at.store.logged(&p("acme"), days, None).await.unwrap();
    let after = first.next.as_deref();
    let rest = at.store.logged(&p("acme"), days, after).await.unwrap();
    assert_eq!((first.items.len(), rest.items.len()), (3, 1));
    assert_eq!(rest.next, None);
    let all = first.items.iter().chain(&rest.items);
    let bytes: usize = all.map(|logged| logged.body.len()).sum();
    assert_eq!(bytes, 10 + 3 * 900_000);
}

/// All pages of the log of `acme`.
async fn logged(at: &Fixture, from: &str, to: &str) -> Vec<Logged> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let days = (p(from), p(to));
        let page = at.store.logged(&p("acme"), days, after.as_deref()).await;
        let page = page.unwrap();
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

#[tokio::test]
async fn the_same_entry_in_another_text_is_no_conflict() {
    let at = fixture();
    let entry = |id: &str, body: &[u8]| {
        let mut entry = ping(id);
        entry.body = body.to_vec();
        entry
    };
    let big = "0".repeat(500_000) + &hex(&noise(300_000));
    let written = format!(r#"{{"data": [1, {{"b": "{big}"}}]}}"#);
    let carried = format!(r#"{{ "x":1, "data":[1,{{"b":"{big}"}}] }}"#);
    let other = format!(r#"{{"data":[2,{{"b":"{big}"}}]}}"#);
    write_usage(&at, &entry("e-1", written.as_bytes())).await;
    let again = [
        entry("e-1", carried.as_bytes()),
        entry("e-1", other.as_bytes()),
        entry("e-1", b"no JSON"),
    ];
    let outcomes = write(&at, &again, &ShardCounts::default()).await;
    let expected = [Written::Duplicate, Written::Conflict, Written::Conflict];
    assert_eq!(known(&outcomes), expected.map(Some));
    assert_eq!(calls(&at).await, 1);
}

#[tokio::test]
async fn adjustments_are_listed_by_day_whatever_else_was_counted() {
    let at = fixture();
    write_usage(&at, &ping("e-1")).await;
    for (n, day) in [30, 2, 14].into_iter().enumerate() {
        let times = [
            format!("2026-11-{day:02}T12:00:00Z"),
            format!("2026-11-{day:02}T13:00:00Z"),
        ];
        let adjustments = times.map(|time| adjustment(&time, day));
        let entry = Entry::of_adjustments("acme", &format!("a-{n}"), &adjustments);
        // The same again changes nothing.
        for written in [Written::Counted, Written::Duplicate] {
            assert_eq!(write_usage(&at, &entry).await, written);
        }
    }
    let other = [adjustment("2026-12-01T00:00:00Z", 1)];
    write_usage(&at, &Entry::of_adjustments("acme", "a-9", &other)).await;
    write_usage(&at, &Entry::of_adjustments("acme-2", "a-9", &other)).await;
    let (acme, november) = (p("acme"), p("2026-11"));
    let page = at.store.adjustments(&acme, november, None).await.unwrap();
    let calls = page
        .items
        .iter()
        .map(|counted| counted.adjustment.billable_calls);
    assert_eq!(calls.collect::<Vec<_>>(), [2, 2, 14, 14, 30, 30]);
    let month = at.store.month_usage(&acme, november).await.unwrap();
    assert_eq!(
        (month.adjusted.count, month.adjusted.billable_calls()),
        (6, 92)
    );
    assert_eq!(month.calls, 1);
}

#[tokio::test]
async fn many_adjustments_come_in_pages() {
    let at = fixture();
    for n in 0..3 {
        let adjustments: Vec<_> = (0..20).map(|_| adjustment(NOW, 1)).collect();
        let entry = Entry::of_adjustments("acme", &format!("a-{n}"), &adjustments);
        write_usage(&at, &entry).await;
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
    // Thirty entries of one day take two pages.
    let mut entries: Vec<Entry> = (0..30)
        .map(|n| Entry::new("acme", &format!("e-{n}"), &on(20)))
        .collect();
    for (n, entry) in entries.iter_mut().enumerate() {
        entry.received_at = p(&format!("2026-11-22T10:00:{n:02}Z"));
    }
    let mut other_days = [19, 21, 22].map(|day| Entry::new("acme", &format!("d-{day}"), &on(day)));
    // Its second day is a part of its own, and its body is with the first.
    let mut second = Entry::new("acme", "d-21", &on(22));
    second.part = 1;
    other_days[1].records = 1;
    entries.extend(other_days);
    entries.push(second);
    entries.push(Entry::new("globex", "g-1", &on(20)));
    for entry in &entries {
        write_usage(&at, entry).await;
    }
    let bodies = async |from: &str, to: &str| {
        let logged = logged(&at, from, to).await;
        let days = logged.iter().map(|entry| entry.day.to_string());
        let bodies = logged.iter().map(|entry| entry.body.clone());
        (days.collect::<Vec<_>>(), bodies.collect::<Vec<_>>())
    };
    let (days, found) = bodies("2026-11-20", "2026-11-20").await;
    assert_eq!(days, ["2026-11-20"; 30]);
    let expected: Vec<&Vec<u8>> = entries[..30].iter().map(|entry| &entry.body).collect();
    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    let (days, found) = bodies("2026-11-21", "2026-11-30").await;
    assert_eq!(days, ["2026-11-21", "2026-11-22", "2026-11-22"]);
    assert_eq!(found[0], entries[31].body);
    assert!(found[1..].contains(&entries[31].body));
    assert!(found[1..].contains(&entries[32].body));
    assert_eq!(bodies("2026-11-01", "2026-11-18").await.0, [""; 0]);
}
