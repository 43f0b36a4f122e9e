//! What was set aside: listed, read back whole, and taken off the list once.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

mod common;

use jiff::SignedDuration;
use tollgate_domain::id::random_base62;
use tollgate_local_aws::Fault;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::{Change, Closed, Kind, QuarantineId, RefusedRecord, QuarantinedItem, StoreError};

use common::{Entry, NOW, call, fixture, p, write_usage};

fn refused(index: usize, reason: &str) -> RefusedRecord {
    RefusedRecord {
        index,
        reason: reason.into(),
    }
}

/// An entry with a good record and a bad one.
fn partly_bad(id: &str) -> Entry {
    let mut entry = Entry::new("acme", id, &[call(NOW, "pro", "/ping", 200)]);
    entry.refused = vec![refused(1, "there is no plan platinum")];
    entry
}

async fn all(at: &Fixture) -> Vec<QuarantinedItem> {
    let page = at.store.waiting(None).await.unwrap();
    assert_eq!(page.next, None);
    page.items
}

#[tokio::test]
async fn what_waits_is_listed_oldest_first_and_read_back_whole() {
    let at = fixture();
    at.store
        .quarantine_message(b"junk", "not JSON", p("2026-11-22T09:59:00Z"))
        .await
        .unwrap();
    write_usage(&at, &partly_bad("e-1")).await;
    let mut rival = partly_bad("e-1");
    rival.body = b"{\"rival\": true}".to_vec();
    rival.received_at = p("2026-11-22T10:01:00Z");
    let conflict = at.store.quarantine_conflict(&rival.part()).await;
    conflict.unwrap();
    let found = all(&at).await;
    let kinds: Vec<Kind> = found.iter().map(|item| item.kind).collect();
    assert_eq!(kinds, [Kind::Message, Kind::Items, Kind::Conflict]);
    assert_eq!(found[0].customer, None);
    assert_eq!(found[1].customer, Some(p("acme")));
    assert_eq!(found[1].refused, [refused(1, "there is no plan platinum")]);
    let bodies = [b"junk".to_vec(), partly_bad("e-1").body, rival.body];
    for (item, body) in found.into_iter().zip(bodies) {
        let id: QuarantineId = p(&item.id.to_string());
        assert_eq!(at.store.set_aside(&id).await.unwrap(), Some((item, body)));
    }
}

#[tokio::test]
async fn what_was_set_aside_of_an_entry_is_found_by_its_identity() {
    let at = fixture();
    let entry = partly_bad("e-1");
    write_usage(&at, &entry).await;
    let mut rival = partly_bad("e-1");
    // Its body takes several items.
    rival.body = at.entropy.with(|rng| random_base62(rng, 600_000)).into();
    let conflict = at.store.quarantine_conflict(&rival.part()).await;
    conflict.unwrap();
    write_usage(&at, &partly_bad("e-10")).await;
    let of_entry = async || {
        let source = entry.part().source;
        let found = at.store.quarantined_refs_of_event(source, "e-1", 2).await;
        let (found, has_more) = found.unwrap();
        assert!(!has_more);
        found
    };
    let found = of_entry().await;
    let waiting = all(&at).await;
    let kinds = found.iter().map(|name| {
        let mut waiting = waiting.iter();
        let item = waiting.find(|item| item.id == name.id).unwrap();
        (item.kind, name.closed)
    });
    let expected = [(Kind::Items, None), (Kind::Conflict, None)];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
    let source = entry.part().source;
    let first = at.store.quarantined_refs_of_event(source, "e-1", 1).await.unwrap();
    assert_eq!(first, (vec![found[0].clone()], true));
    let dismissed = at.store.dismiss(&found[0].id).await.unwrap();
    assert_eq!(dismissed, Change::Made);
    assert_eq!(of_entry().await[0].closed, Some(Closed::Dismissed));
}

#[tokio::test]
async fn a_long_list_is_paged() {
    let at = fixture();
    for n in 0..60 {
        let received_at = at.clock().now() + SignedDuration::from_secs(n / 2);
        let body = format!("junk {n}");
        let set_aside = at
            .store
            .quarantine_message(body.as_bytes(), "", received_at);
        set_aside.await.unwrap();
    }
    let (mut after, mut sizes, mut times) = (None, Vec::new(), Vec::new());
    loop {
        let page = at.store.waiting(after.as_deref()).await.unwrap();
        sizes.push(page.items.len());
        times.extend(page.items.into_iter().map(|item| item.received_at));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [25, 25, 10]);
    assert!(times.is_sorted());
}

#[tokio::test]
async fn a_place_that_no_page_has_named_is_refused() {
    let at = fixture();
    let long = format!("2026\n{}\n00", "x".repeat(2_049));
    for place in ["", "a", "a\nb", "\na\nb", "a\nb\n", "a\nb\nc\nd", &long] {
        let error: StoreError = at.store.waiting(Some(place)).await.unwrap_err();
        assert!(error.is_invalid_cursor(), "{place}: {error}");
    }
}

#[tokio::test]
async fn what_is_closed_waits_no_more_and_stays_what_it_was_closed_as() {
    let at = fixture();
    for id in ["e-1", "e-2", "e-3"] {
        write_usage(&at, &partly_bad(id)).await;
    }
    let found = all(&at).await;
    let [replayed, dismissed, _] = &found[..] else {
        panic!("{found:?}");
    };
    let (replayed, dismissed) = (&replayed.id, &dismissed.id);
    let store = &at.store;
    assert_eq!(store.begin_replay(replayed).await.unwrap(), Change::Made);
    assert_eq!(store.finish_replay(replayed).await.unwrap(), Change::Made);
    assert_eq!(store.dismiss(dismissed).await.unwrap(), Change::Made);
    // The condition that it is not closed fails from now on.
    for (id, how) in [(replayed, Closed::Replayed), (dismissed, Closed::Dismissed)] {
        let closed = Change::Closed(how);
        assert_eq!(store.begin_replay(id).await.unwrap(), closed);
        assert_eq!(store.finish_replay(id).await.unwrap(), closed);
        assert_eq!(store.dismiss(id).await.unwrap(), closed);
        let (item, _) = store.set_aside(id).await.unwrap().unwrap();
        assert_eq!(item.closed, Some(how));
    }
    assert_eq!(all(&at).await, found[2..]);
    let (_, body) = store.set_aside(replayed).await.unwrap().unwrap();
    assert_eq!(body, partly_bad("e-1").body);
}

#[tokio::test]
async fn what_a_replay_may_have_counted_is_not_dismissed() {
    let at = fixture();
    write_usage(&at, &partly_bad("e-1")).await;
    let id = &all(&at).await[0].id;
    let store = &at.store;
    for _ in 0..2 {
        assert_eq!(store.begin_replay(id).await.unwrap(), Change::Made);
        assert_eq!(store.dismiss(id).await.unwrap(), Change::Replaying);
        assert_eq!(all(&at).await.len(), 1);
    }
    assert_eq!(store.finish_replay(id).await.unwrap(), Change::Made);
    assert_eq!(all(&at).await, []);
}

#[tokio::test]
async fn nothing_is_made_of_an_id_that_names_nothing() {
    let at = fixture();
    let id: QuarantineId = p("tollgate:ping#e-1\n00");
    assert_eq!(at.store.begin_replay(&id).await.unwrap(), Change::Missing);
    assert_eq!(at.store.finish_replay(&id).await.unwrap(), Change::Missing);
    assert_eq!(at.store.dismiss(&id).await.unwrap(), Change::Missing);
    assert_eq!(at.store.set_aside(&id).await.unwrap(), None);
    // Nor of the beginning of one.
    write_usage(&at, &partly_bad("e-1")).await;
    let id: QuarantineId = p("tollgate:ping#e-1\n0");
    assert_eq!(at.store.set_aside(&id).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_was_lost_is_found_done() {
    let at = fixture();
    write_usage(&at, &partly_bad("e-1")).await;
    write_usage(&at, &partly_bad("e-2")).await;
    let found = all(&at).await;
    let lose_one = || {
        let mut is_first = true;
        at.aws.inject(move |call| {
            let loses = call.operation() == "UpdateItem" && std::mem::take(&mut is_first);
            if loses {
                Fault::AnswerLost
            } else {
                Fault::None
            }
        });
    };
    lose_one();
    let begun = at.store.begin_replay(&found[0].id).await;
    assert_eq!(begun.unwrap(), Change::Made);
    lose_one();
    let closed = at.store.finish_replay(&found[0].id).await;
    assert_eq!(closed.unwrap(), Change::Closed(Closed::Replayed));
    lose_one();
    let closed = at.store.dismiss(&found[1].id).await;
    assert_eq!(closed.unwrap(), Change::Closed(Closed::Dismissed));
    assert_eq!(all(&at).await, []);
}
