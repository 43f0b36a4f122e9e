//! Usage that a release before claims were put has counted, or counts still while it is replaced.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{Call, Fault};
use tollgate_store::schema::{QUARANTINE, USAGE_LOG};
use tollgate_store::{EventPart, RejectedRecord, ShardCounts, WriteUsageOutcome};
use tollgate_testing::stored::{items, raw, text};
use tollgate_testing::usage::COUNTING_TIME;
use tollgate_testing::{p, plans};

mod common;

use common::{Event, NOW, call};

/// Times since which claims are put: the release is still being replaced, or was replaced before.
const DEPLOYING: &str = "2026-11-23T10:00:00Z";
const DEPLOYED: &str = "2026-11-22T09:00:00Z";

use WriteUsageOutcome::{Conflict, Counted, Duplicate};

fn at(now: &str, since: &str) -> Fixture {
    let at = Fixture::at(now);
    let since = json!({
        "pk": { "S": "#CLAIMS_SINCE" }, "sk": { "S": "#" }, "since": { "S": since },
    });
    raw(&at, "PutItem", USAGE_LOG, json!({ "Item": since }));
    at
}

fn ping(id: &str) -> Event {
    Event::new("acme", id, &[call(NOW, "pro", "/ping", 200)])
}

/// Returns an event with the same identity as that of [`ping`], and records of two days, as its parts.
fn other(id: &str) -> Vec<Event> {
    let times = ["2026-11-21T10:00:00Z", NOW];
    let parts = times.iter().enumerate().map(|(part, time)| Event {
        part,
        body: b"other".to_vec(),
        ..Event::new("acme", id, &[call(time, "pro", "/ping", 200)])
    });
    parts.collect()
}

/// Returns the log's item of a part, as those releases stored it.
fn logged(event: &Event) -> Value {
    let EventPart { source, id, .. } = event.part();
    let mut item = json!({
        "pk": { "S": format!("{source}#{id}") },
        "sk": { "S": format!("{:02}", event.part) },
        "customer": { "S": event.customer },
        "records": { "N": event.records.to_string() },
        "digest": { "S": hex::encode(Sha256::digest(&event.body)) },
        "written_by": { "S": "a-write" },
        "received_at": { "S": event.received_at },
        "expires": { "N": "1830000000" },
    });
    if let Some(day) = event.aggregates.days.keys().next() {
        item["log_order"] = json!({ "S": format!("{day}#{:.3}", event.received_at) });
    }
    if event.part == 0 {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&event.body).unwrap();
        item["body"] = json!({ "B": BASE64_STANDARD.encode(gzip.finish().unwrap()) });
    }
    item
}

/// Counts an event, as far as the log says, as those releases did.
fn count_before(at: &Fixture, events: &[Event]) {
    for event in events {
        raw(at, "PutItem", USAGE_LOG, json!({ "Item": logged(event) }));
    }
}

/// Counts an event, as those releases did, when the first transaction begins.
fn count_at_first_transaction(at: &Fixture, event: &Event) {
    let put = json!({ "TableName": "test-usage-log", "Item": logged(event) });
    let (aws, mut is_first) = (at.aws.clone(), true);
    at.aws.inject(move |call: &Call| {
        if call.operation() == "TransactWriteItems" && std::mem::take(&mut is_first) {
            let (status, response) = aws.call("DynamoDB_20120810.PutItem", &put.to_string());
            assert_eq!(status, 200, "{response}");
        }
        Fault::None
    });
}

/// Counts parts in one write. Returns the outcomes, `None` for an error.
async fn write(at: &Fixture, events: &[Event]) -> Vec<Option<WriteUsageOutcome>> {
    let parts: Vec<EventPart<'_>> = events.iter().map(Event::part).collect();
    let plans = plans();
    let shard_counts = ShardCounts::default();
    let written = at
        .store
        .write_usage(&parts, &plans, &shard_counts, COUNTING_TIME)
        .await;
    let written = written.iter();
    written.map(|one| one.as_ref().ok().copied()).collect()
}

/// Returns the calls that were counted since.
async fn calls(at: &Fixture) -> u64 {
    let month = at.store.month_usage(&p("acme"), p("2026-11")).await;
    month.unwrap().calls
}

fn guards(at: &Fixture) -> usize {
    let items = items(at, USAGE_LOG);
    let is_guard = |item: &&Value| !text(item, "pk").starts_with('#');
    items.iter().filter(is_guard).count()
}

#[tokio::test]
async fn what_an_earlier_release_counted_is_a_duplicate() {
    for since in [DEPLOYING, DEPLOYED] {
        let at = at(NOW, since);
        count_before(&at, &[ping("e-1")]);
        assert_eq!(write(&at, &[ping("e-1")]).await, [Some(Duplicate)]);
        let mut in_another_text = ping("e-1");
        in_another_text.body = br#"{ "subject": "acme", "id": "e-1" }"#.to_vec();
        assert_eq!(write(&at, &[in_another_text]).await, [Some(Duplicate)]);
        assert_eq!(calls(&at).await, 0);
    }
}

#[tokio::test]
async fn the_counted_parts_of_an_event_are_those_of_all_releases() {
    let at = at(NOW, DEPLOYED);
    let counted = async |event: &Event| {
        let EventPart {
            source, id, body, ..
        } = event.part();
        let counted = at.store.counted_parts(source, id, body).await.unwrap();
        counted.map(Vec::from_iter)
    };
    let parts = other("e-1");
    assert_eq!(counted(&parts[0]).await, Some(vec![]));
    count_before(&at, &parts[..1]);
    assert_eq!(counted(&parts[0]).await, Some(vec![0]));
    assert_eq!(write(&at, &parts).await, [Some(Duplicate), Some(Counted)]);
    assert_eq!(counted(&parts[0]).await, Some(vec![0, 1]));
    assert_eq!(counted(&ping("e-1")).await, None);
    // Of claims alone.
    assert_eq!(write(&at, &[ping("e-2")]).await, [Some(Counted)]);
    assert_eq!(counted(&ping("e-2")).await, Some(vec![0]));
    assert_eq!(counted(&other("e-2")[0]).await, None);
}

/// The first part's item has the body, by which another text of the event is recognised.
#[tokio::test]
async fn the_parts_that_an_earlier_release_left_are_counted() {
    for since in [DEPLOYING, DEPLOYED] {
        let at = at(NOW, since);
        let mut parts = other("e-1");
        for part in &mut parts {
            part.body = br#"{"id":"e-1","time":1}"#.to_vec();
        }
        count_before(&at, &parts[..1]);
        for part in &mut parts {
            part.body = br#"{"time":1,"id":"e-1"}"#.to_vec();
        }
        assert_eq!(write(&at, &parts).await, [Some(Duplicate), Some(Counted)]);
        assert_eq!(write(&at, &parts).await, [Some(Duplicate); 2]);
        assert_eq!(calls(&at).await, 1);
    }
}

#[tokio::test]
async fn no_part_of_another_event_is_counted() {
    for since in [DEPLOYING, DEPLOYED] {
        let at = at(NOW, since);
        count_before(&at, &[ping("e-1")]);
        assert_eq!(write(&at, &other("e-1")).await, [Some(Conflict); 2]);
        assert_eq!(calls(&at).await, 0);
    }
}

#[tokio::test]
async fn an_event_behind_another_of_its_identity_is_a_duplicate() {
    for since in [DEPLOYING, DEPLOYED] {
        let at = at(NOW, since);
        count_before(&at, &[ping("e-1")]);
        let mut both = other("e-1");
        both.push(ping("e-1"));
        let expected = [Conflict, Conflict, Duplicate].map(Some);
        assert_eq!(write(&at, &both).await, expected);
        both.rotate_right(1);
        let expected = [Duplicate, Conflict, Conflict].map(Some);
        assert_eq!(write(&at, &both).await, expected);
        assert_eq!(calls(&at).await, 0);
    }
}

/// An instance of the earlier release counts an event after it was looked for.
#[tokio::test]
async fn what_an_earlier_release_counts_meanwhile_is_not_counted_again() {
    for (written, expected) in [
        (vec![ping("e-1")], vec![Some(Duplicate)]),
        (other("e-1"), vec![Some(Conflict); 2]),
    ] {
        let at = at(NOW, DEPLOYING);
        count_at_first_transaction(&at, &ping("e-1"));
        let mut events = written;
        events.push(ping("e-2"));
        let mut expected = expected;
        expected.push(Some(Counted));
        assert_eq!(write(&at, &events).await, expected);
        assert_eq!(calls(&at).await, 1);
    }
}

/// Only the guard of the first part says what was counted, besides the item of a later part, which has no body.
#[tokio::test]
async fn a_part_that_an_earlier_release_counted_after_this_one_is_a_duplicate_in_any_text() {
    for now in [NOW, "2026-11-25T10:00:00Z"] {
        let at = at(NOW, DEPLOYING);
        let mut parts = other("e-1");
        for part in &mut parts {
            part.body = br#"{"id":"e-1","time":1}"#.to_vec();
        }
        assert_eq!(write(&at, &parts[..1]).await, [Some(Counted)]);
        count_before(&at, &parts[1..]);
        at.time.set(p(now));
        for part in &mut parts {
            part.body = br#"{"time":1,"id":"e-1"}"#.to_vec();
            part.received_at = p(now);
        }
        assert_eq!(write(&at, &parts).await, [Some(Duplicate); 2]);
        let mut rival = other("e-1");
        rival.truncate(2);
        assert_eq!(write(&at, &rival).await, [Some(Conflict); 2]);
        assert_eq!(calls(&at).await, 1);
    }
}

/// The earlier release recognised another text of the event by the body in the first part's item.
#[tokio::test]
async fn parts_that_an_earlier_release_counted_from_two_texts_are_duplicates() {
    let in_text = |text: &str| {
        let mut parts = other("e-1");
        for part in &mut parts {
            part.body = text.as_bytes().to_vec();
        }
        parts
    };
    let texts = [r#"{"id":"e-1","time":1}"#, r#"{"time":1,"id":"e-1"}"#];
    for since in [DEPLOYING, DEPLOYED] {
        let at = at(NOW, since);
        count_before(&at, &in_text(texts[0])[..1]);
        count_before(&at, &in_text(texts[1])[1..]);
        for text in texts {
            assert_eq!(write(&at, &in_text(text)).await, [Some(Duplicate); 2]);
        }
        assert_eq!(write(&at, &other("e-1")).await, [Some(Conflict); 2]);
        assert_eq!(calls(&at).await, 0);
    }
}

/// Returns an event whose two parts are in two transactions.
fn wide(id: &str) -> Vec<Event> {
    let times = ["2026-11-21T10:00:00Z", NOW];
    let parts = times.iter().enumerate().map(|(part, time)| {
        let calls = (0..60).map(|n| call(time, "pro", &format!("/{n}"), 200));
        Event {
            part,
            body: b"wide".to_vec(),
            ..Event::new("acme", id, &calls.collect::<Vec<_>>())
        }
    });
    parts.collect()
}

/// The earlier release counts another event under the first part meanwhile.
#[tokio::test]
async fn no_transaction_counts_a_part_beside_another_event() {
    let at = at(NOW, DEPLOYING);
    count_at_first_transaction(&at, &ping("e-1"));
    assert_eq!(write(&at, &wide("e-1")).await, [Some(Conflict); 2]);
    assert_eq!(calls(&at).await, 0);
}

#[tokio::test]
async fn a_part_waits_for_the_first_one_of_its_event() {
    let at = at(NOW, DEPLOYING);
    at.aws.inject(|call: &Call| {
        let is_first = call.operation() == "TransactWriteItems" && call.body.contains("2026-11-21");
        match is_first {
            true => Fault::Invalid,
            false => Fault::None,
        }
    });
    assert_eq!(write(&at, &wide("e-1")).await, [None, None]);
    assert_eq!(calls(&at).await, 0);
    at.aws.heal();
    assert_eq!(write(&at, &wide("e-1")).await, [Some(Counted); 2]);
    assert_eq!(calls(&at).await, 120);
}

/// Another attempt may still count the first part.
#[tokio::test(start_paused = true)]
async fn a_part_waits_for_the_first_one_in_the_same_transaction() {
    let at = at(NOW, DEPLOYING);
    at.aws.inject(|call: &Call| {
        let is_abort_of_first = call.operation() == "PutItem"
            && call.body.contains("#ATTEMPT#")
            && call.body.contains("#0\"");
        match call.operation() == "TransactWriteItems" || is_abort_of_first {
            true => Fault::RequestLost,
            false => Fault::None,
        }
    });
    assert_eq!(write(&at, &wide("e-1")).await, [None, None]);
    at.aws.heal();
    // The same event, whose parts fit into one transaction.
    let mut narrow = other("e-1");
    for part in &mut narrow {
        part.body = b"wide".to_vec();
    }
    assert_eq!(write(&at, &narrow).await, [None, None]);
    assert_eq!(calls(&at).await, 0);
    at.time.advance(SignedDuration::from_secs(21));
    assert_eq!(write(&at, &narrow).await, [Some(Counted); 2]);
    assert_eq!(calls(&at).await, 2);
}

#[tokio::test(start_paused = true)]
async fn customers_whose_writes_hang_do_not_hold_up_others() {
    let at = at(NOW, DEPLOYING);
    let mut events = Vec::new();
    for customer in ["a", "b", "c", "z"] {
        let calls = (0..60).map(|n| call(NOW, "pro", &format!("/{n}"), 200));
        events.push(Event::new(
            customer,
            &format!("e-{customer}"),
            &calls.collect::<Vec<_>>(),
        ));
    }
    at.aws.inject(|call: &Call| {
        let is_transaction = call.operation() == "TransactWriteItems";
        match is_transaction && !call.body.contains(r#""S":"z""#) {
            true => Fault::NoResponse,
            false => Fault::None,
        }
    });
    assert_eq!(write(&at, &events).await, [Some(Counted); 4]);
}

#[tokio::test]
async fn an_event_that_cannot_be_looked_for_fails_alone() {
    for since in [DEPLOYING, DEPLOYED] {
        let at = at(NOW, since);
        let mut damaged = logged(&ping("e-1"));
        damaged["body"] = json!({ "B": "AAAA" });
        raw(&at, "PutItem", USAGE_LOG, json!({ "Item": damaged }));
        let events = [ping("e-1"), ping("e-2")];
        assert_eq!(write(&at, &events).await, [None, Some(Counted)]);
        assert_eq!(calls(&at).await, 1);
    }
}

/// Days without usage of an earlier release take no reads of their own.
#[tokio::test]
async fn the_log_of_all_days_is_read_with_few_requests() {
    let at = at(NOW, DEPLOYING);
    let mut early = Event::new(
        "acme",
        "e-0",
        &[call("2026-10-20T10:00:00Z", "pro", "/a", 200)],
    );
    early.received_at = p("2026-10-20T10:00:00Z");
    count_before(&at, &[early, ping("e-1")]);
    assert_eq!(write(&at, &[ping("e-2")]).await, [Some(Counted)]);
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    at.aws.inject(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Fault::None
    });
    let days = (p("0001-01-01"), p("2026-12-31"));
    let mut listed = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let customer = p("acme");
        let page = at.store.list_logged(&customer, days, after.as_deref());
        let page = page.await.unwrap();
        listed.extend(page.items.into_iter().map(|part| part.body));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected = ["e-0", "e-1", "e-2"];
    let bodies = expected.map(|id| ping(id).body);
    assert_eq!(listed, bodies);
    let requests = requests.load(Ordering::Relaxed);
    assert!(requests < 20, "{requests}");
}

/// The guard is the item by which those releases recognise an event.
#[tokio::test]
async fn an_earlier_release_finds_what_this_one_counts_while_it_is_replaced() {
    for (since, expected) in [(DEPLOYING, 1), (DEPLOYED, 0)] {
        let at = at(NOW, since);
        assert_eq!(write(&at, &[ping("e-1")]).await, [Some(Counted)]);
        assert_eq!(guards(&at), expected);
        let put = json!({
            "Item": logged(&ping("e-1")),
            "ConditionExpression": "attribute_not_exists(pk)",
            "TableName": "test-usage-log",
        });
        let put = at.aws.call("DynamoDB_20120810.PutItem", &put.to_string());
        assert_eq!(put.0 == 400, expected == 1, "{}", put.1);
        // Redelivered to this one.
        assert_eq!(write(&at, &[ping("e-1")]).await, [Some(Duplicate)]);
        assert_eq!(calls(&at).await, 1);
    }
}

/// Its records are of a day on which those releases counted nothing.
#[tokio::test]
async fn an_id_that_is_used_again_weeks_later_is_found() {
    let now = "2026-12-20T10:00:00Z";
    let at = at(now, DEPLOYED);
    count_before(&at, &[ping("e-1")]);
    let later = |id: &str| Event {
        body: b"later".to_vec(),
        received_at: p(now),
        ..Event::new("acme", id, &[call(now, "pro", "/ping", 200)])
    };
    assert_eq!(write(&at, &[later("e-1")]).await, [Some(Conflict)]);
    assert_eq!(write(&at, &[later("e-2")]).await, [Some(Counted)]);
}

/// An event that was created after the earlier release was replaced costs no read of its log.
#[tokio::test]
async fn an_event_that_was_created_later_is_not_looked_for() {
    let now = "2026-11-28T10:00:00Z";
    let at = at(now, DEPLOYED);
    let created = |time: &str| {
        let ms = p::<Timestamp>(time).as_millisecond();
        let hex = format!("{ms:012x}");
        format!("{}-{}-7000-8000-000000000000", &hex[..8], &hex[8..])
    };
    for (time, is_looked_for) in [
        (now, false),
        ("2026-11-22T09:05:00Z", true),
        // A producer whose clock is wrong may have drawn it before.
        ("2126-11-22T09:05:00Z", true),
    ] {
        let id = created(time);
        let event = Event {
            received_at: p(now),
            ..Event::new("acme", &id, &[call(now, "pro", "/ping", 200)])
        };
        let key = format!("tollgate:ping#{id}");
        let is_found = Arc::new(AtomicBool::new(false));
        let found = Arc::clone(&is_found);
        at.aws.inject(move |call: &Call| {
            let is_read = call.operation() == "BatchGetItem" && call.body.contains(&key);
            found.fetch_or(is_read, Ordering::Relaxed);
            Fault::None
        });
        assert_eq!(write(&at, &[event]).await, [Some(Counted)]);
        assert_eq!(is_found.load(Ordering::Relaxed), is_looked_for);
    }
}

/// Without a counted record, a part is of no day.
#[tokio::test]
async fn a_rejected_event_that_comes_again_after_weeks_is_quarantined_once() {
    let now = "2027-01-10T10:00:00Z";
    let at = at(now, DEPLOYED);
    for id in ["e-1", "019b0000-0000-7000-8000-000000000000"] {
        let mut rejected = Event::new("acme", id, &[]);
        rejected.rejected.push(RejectedRecord {
            index: 0,
            reason: "too late".into(),
        });
        count_before(&at, std::slice::from_ref(&rejected));
        rejected.received_at = p(now);
        assert_eq!(write(&at, &[rejected]).await, [Some(Duplicate)]);
        assert!(items(&at, QUARANTINE).is_empty());
    }
}

/// Each page has one part: two have more bytes than a page.
#[tokio::test]
async fn the_log_is_paged_from_one_release_to_the_other() {
    let at = at(NOW, DEPLOYING);
    let large = |id: &str, time: &str| Event {
        body: [id.as_bytes(), &[b' '; 1_500_000]].concat(),
        ..Event::new("acme", id, &[call(time, "pro", "/ping", 200)])
    };
    let days = ["2026-11-20T10:00:00Z", "2026-11-21T10:00:00Z", NOW];
    let [first, second, third] = days;
    let before = [
        large("e-1", first),
        large("e-3", second),
        large("e-4", second),
        large("e-6", third),
    ];
    count_before(&at, &before);
    let since = [
        large("e-2", first),
        large("e-5", second),
        large("e-7", third),
    ];
    assert_eq!(write(&at, &since).await, [Some(Counted); 3]);
    let mut pages = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let customer = p("acme");
        let days = (p("2026-11-20"), p("2026-11-22"));
        let page = at.store.list_logged(&customer, days, after.as_deref());
        let page = page.await.unwrap();
        let ids = page.items.iter().map(|part| part.body[..3].to_vec());
        pages.push(ids.collect::<Vec<_>>());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected = ["e-1", "e-2", "e-3", "e-4", "e-5", "e-6", "e-7"];
    assert_eq!(pages, expected.map(|id| vec![id.as_bytes().to_vec()]));
}
