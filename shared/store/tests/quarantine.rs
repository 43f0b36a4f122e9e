//! Quarantined items: listed, read back complete, and resolved once.

#![allow(clippy::unwrap_used, reason = "a failed set-up or read fails the test")]

mod common;

use jiff::SignedDuration;
use tollgate_domain::id::random_base62;
use tollgate_local_aws::Fault;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::{
    QuarantineId, QuarantineKind, QuarantinedItem, RejectedRecord, Resolution, ResolveOutcome,
    StoreError,
};
use tollgate_testing::p;

use common::{Event, NOW, call, fixture, write_usage};

fn rejected(index: usize, reason: &str) -> RejectedRecord {
    RejectedRecord {
        index,
        reason: reason.into(),
    }
}

/// Returns an event with a valid record and a rejected one.
fn partly_rejected(id: &str) -> Event {
    let mut event = Event::new("acme", id, &[call(NOW, "pro", "/ping", 200)]);
    event.rejected = vec![rejected(1, "there is no plan platinum")];
    event
}

async fn all_open(at: &Fixture) -> Vec<QuarantinedItem> {
    let page = at.store.list_quarantined(None).await.unwrap();
    assert_eq!(page.next, None);
    page.items
}

#[tokio::test]
async fn open_items_are_listed_oldest_first_and_read_back_complete() {
    let at = fixture();
    at.store
        .quarantine_message(b"junk", "not JSON", p("2026-11-22T09:59:00Z"))
        .await
        .unwrap();
    write_usage(&at, &partly_rejected("e-1")).await;
    let mut rival = partly_rejected("e-1");
    rival.body = b"{\"rival\": true}".to_vec();
    rival.received_at = p("2026-11-22T10:01:00Z");
    let conflict = at.store.quarantine_conflict(&rival.part()).await;
    conflict.unwrap();
    let found = all_open(&at).await;
    let kinds: Vec<QuarantineKind> = found.iter().map(|item| item.kind).collect();
    assert_eq!(
        kinds,
        [
            QuarantineKind::Message,
            QuarantineKind::Items,
            QuarantineKind::Conflict
        ]
    );
    assert_eq!(found[0].customer, None);
    assert_eq!(found[1].customer, Some(p("acme")));
    assert_eq!(
        found[1].rejected,
        [rejected(1, "there is no plan platinum")]
    );
    let bodies = [b"junk".to_vec(), partly_rejected("e-1").body, rival.body];
    for (item, body) in found.into_iter().zip(bodies) {
        let id: QuarantineId = p(&item.id.to_string());
        assert_eq!(
            at.store.quarantined_item(&id).await.unwrap(),
            Some((item, body))
        );
    }
}

#[tokio::test]
async fn the_quarantined_items_of_an_event_are_found_by_source_and_id() {
    let at = fixture();
    let event = partly_rejected("e-1");
    write_usage(&at, &event).await;
    let mut rival = partly_rejected("e-1");
    // Its body takes several items.
    rival.body = at.entropy.with(|rng| random_base62(rng, 600_000)).into();
    let conflict = at.store.quarantine_conflict(&rival.part()).await;
    conflict.unwrap();
    write_usage(&at, &partly_rejected("e-10")).await;
    let of_event = async || {
        let source = event.part().source;
        let found = at.store.quarantined_refs_of_event(source, "e-1", 2).await;
        let (found, has_more) = found.unwrap();
        assert!(!has_more);
        found
    };
    let found = of_event().await;
    let open = all_open(&at).await;
    let kinds = found.iter().map(|found| {
        let item = open.iter().find(|item| item.id == found.id).unwrap();
        (item.kind, found.resolution)
    });
    let expected = [
        (QuarantineKind::Items, None),
        (QuarantineKind::Conflict, None),
    ];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
    let source = event.part().source;
    let first = at
        .store
        .quarantined_refs_of_event(source, "e-1", 1)
        .await
        .unwrap();
    assert_eq!(first, (vec![found[0].clone()], true));
    let discarded = at.store.discard(&found[0].id, None).await.unwrap();
    assert_eq!(discarded, ResolveOutcome::Made);
    assert_eq!(of_event().await[0].resolution, Some(Resolution::Discarded));
}

#[tokio::test]
async fn a_long_list_is_paged() {
    let at = fixture();
    for n in 0..60 {
        let received_at = at.clock().now() + SignedDuration::from_secs(n / 2);
        let body = format!("junk {n}");
        let quarantined = at
            .store
            .quarantine_message(body.as_bytes(), "", received_at);
        quarantined.await.unwrap();
    }
    let (mut after, mut sizes, mut times) = (None, Vec::new(), Vec::new());
    loop {
        let page = at.store.list_quarantined(after.as_deref()).await.unwrap();
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
async fn an_invalid_cursor_is_rejected() {
    let at = fixture();
    let long = format!("2026\n{}\n00", "x".repeat(2_049));
    for cursor in ["", "a", "a\nb", "\na\nb", "a\nb\n", "a\nb\nc\nd", &long] {
        let error: StoreError = at.store.list_quarantined(Some(cursor)).await.unwrap_err();
        assert!(error.is_invalid_cursor(), "{cursor}: {error}");
    }
}

#[tokio::test]
async fn a_resolved_item_is_no_longer_listed_and_keeps_its_resolution() {
    let at = fixture();
    for id in ["e-1", "e-2", "e-3"] {
        write_usage(&at, &partly_rejected(id)).await;
    }
    let found = all_open(&at).await;
    let [replayed, discarded, _] = &found[..] else {
        panic!("{found:?}");
    };
    let (replayed, discarded) = (&replayed.id, &discarded.id);
    let store = &at.store;
    assert_eq!(
        store.begin_replay(replayed).await.unwrap(),
        ResolveOutcome::Made
    );
    assert_eq!(
        store.finish_replay(replayed).await.unwrap(),
        ResolveOutcome::Made
    );
    assert_eq!(
        store.discard(discarded, None).await.unwrap(),
        ResolveOutcome::Made
    );
    // From now on, the condition that the item is not resolved fails.
    for (id, resolution) in [
        (replayed, Resolution::Replayed),
        (discarded, Resolution::Discarded),
    ] {
        let closed = ResolveOutcome::Closed(resolution);
        assert_eq!(store.begin_replay(id).await.unwrap(), closed);
        assert_eq!(store.finish_replay(id).await.unwrap(), closed);
        assert_eq!(store.discard(id, None).await.unwrap(), closed);
        let (item, _) = store.quarantined_item(id).await.unwrap().unwrap();
        assert_eq!(item.resolution, Some(resolution));
    }
    assert_eq!(all_open(&at).await, found[2..]);
    let (_, body) = store.quarantined_item(replayed).await.unwrap().unwrap();
    assert_eq!(body, partly_rejected("e-1").body);
}

#[tokio::test]
async fn an_item_whose_replay_has_begun_is_not_discarded() {
    let at = fixture();
    write_usage(&at, &partly_rejected("e-1")).await;
    let id = &all_open(&at).await[0].id;
    let store = &at.store;
    for _ in 0..2 {
        assert_eq!(store.begin_replay(id).await.unwrap(), ResolveOutcome::Made);
        assert_eq!(
            store.discard(id, None).await.unwrap(),
            ResolveOutcome::Replaying
        );
        // Another replay began after the one that failed.
        let failed_replay = Some(p("2026-11-22T09:00:00Z"));
        assert_eq!(
            store.discard(id, failed_replay).await.unwrap(),
            ResolveOutcome::Replaying
        );
        assert_eq!(all_open(&at).await.len(), 1);
    }
    assert_eq!(store.finish_replay(id).await.unwrap(), ResolveOutcome::Made);
    assert_eq!(all_open(&at).await, []);
}

#[tokio::test]
async fn an_unknown_id_creates_no_item() {
    let at = fixture();
    let id: QuarantineId = p("tollgate:ping#e-1\n00");
    assert_eq!(
        at.store.begin_replay(&id).await.unwrap(),
        ResolveOutcome::Missing
    );
    assert_eq!(
        at.store.finish_replay(&id).await.unwrap(),
        ResolveOutcome::Missing
    );
    assert_eq!(
        at.store.discard(&id, None).await.unwrap(),
        ResolveOutcome::Missing
    );
    assert_eq!(at.store.quarantined_item(&id).await.unwrap(), None);
    // Nor does the beginning of an id.
    write_usage(&at, &partly_rejected("e-1")).await;
    let id: QuarantineId = p("tollgate:ping#e-1\n0");
    assert_eq!(at.store.quarantined_item(&id).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_response_was_lost_is_found_made() {
    let at = fixture();
    write_usage(&at, &partly_rejected("e-1")).await;
    write_usage(&at, &partly_rejected("e-2")).await;
    let found = all_open(&at).await;
    let lose_one = || {
        let mut is_first = true;
        at.aws.inject(move |call| {
            let loses = call.operation() == "UpdateItem" && std::mem::take(&mut is_first);
            if loses {
                Fault::ResponseLost
            } else {
                Fault::None
            }
        });
    };
    lose_one();
    let begun = at.store.begin_replay(&found[0].id).await;
    assert_eq!(begun.unwrap(), ResolveOutcome::Made);
    lose_one();
    let closed = at.store.finish_replay(&found[0].id).await;
    assert_eq!(
        closed.unwrap(),
        ResolveOutcome::Closed(Resolution::Replayed)
    );
    lose_one();
    let closed = at.store.discard(&found[1].id, None).await;
    assert_eq!(
        closed.unwrap(),
        ResolveOutcome::Closed(Resolution::Discarded)
    );
    assert_eq!(all_open(&at).await, []);
}
