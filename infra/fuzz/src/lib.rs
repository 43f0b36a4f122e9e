//! Fuzz targets: one function for each kind of untrusted input, which panics if the input breaks an invariant.
//! `infra/fuzz/run` searches for such inputs; the tests run the corpora.

#![expect(clippy::unwrap_used, reason = "a panic is how a fuzz target fails")]

use std::time::Duration;

use authorizer::{AuthorizeError, Request, Settings};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tollgate_api::Cursor;
use tollgate_domain::key::ApiKey;
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::usage::{
    ADJUSTMENT_TYPE, Aggregates, CountableItem, Dimension, EVENT_TYPE, EventItem, EventType,
    parse_event,
};
use tollgate_ingest::IncomingEvent;
use tollgate_local_aws::{LocalAws, Rule};
use tollgate_runtime::{Clock, Entropy, Metrics};
use tollgate_store::{QuarantineId, Store};

/// Checks that a usage event is either parsed or rejected with a short reason, that its aggregates add up, and
/// that it is the same after a round trip through JSON.
pub fn usage_event(input: &[u8]) {
    thread_local!(static PLANS: PlanBook = {
        PlanBook::from_catalog(&Catalog::shipped().unwrap(), Timestamp::UNIX_EPOCH)
    });
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let event = match IncomingEvent::parse(text) {
        Ok(event) => event,
        Err(defect) => {
            assert!(defect.to_string().len() < 400);
            return;
        }
    };
    let received = event.received();
    let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let mut sums = Aggregates::default();
    let (mut records, mut adjustments) = (0, 0);
    for item in &received.items {
        match PLANS.with(|plans| item.check(plans, now).map_err(|defect| defect.to_string())) {
            Ok(CountableItem::Record(record)) => {
                sums.add(record);
                records += 1;
            }
            Ok(CountableItem::Adjustment(adjustment)) => {
                sums.adjust(adjustment);
                adjustments += 1;
            }
            Err(reason) => assert!(reason.len() < 400),
        }
    }
    let calls: u64 = sums.days.values().map(|sum| sum.calls).sum();
    let adjusted: u64 = sums.days.values().map(|sum| sum.adjusted.count).sum();
    assert_eq!((calls, adjusted), (records, adjustments));
    for dimension in [Dimension::Endpoint, Dimension::Key] {
        let values = sums.dimensions.iter();
        let values = values.filter(|((_, value), _)| value.dimension() == dimension);
        let calls: u64 = values.map(|(_, sum)| sum.calls).sum();
        assert_eq!(calls, records, "{dimension:?}");
    }
    let by_month: u64 = sums.months.values().map(|sum| sum.calls).sum();
    assert_eq!(by_month, records);

    let items: Option<Vec<Value>> = received.items.iter().map(as_json).collect();
    let Some(items) = items else { return };
    let (r#type, data) = match received.r#type {
        EventType::Usage => (EVENT_TYPE, json!({ "records": items })),
        EventType::Adjustment => (ADJUSTMENT_TYPE, json!({ "adjustments": items })),
    };
    let again = json!({
        "specversion": "1.0", "id": received.id, "source": received.source, "type": r#type,
        "time": now, "subject": received.customer, "data": data,
    });
    assert_eq!(parse_event(&again.to_string()).as_ref(), Ok(received));
}

fn as_json(item: &EventItem) -> Option<Value> {
    match item {
        EventItem::Record(record) => serde_json::to_value(record).ok(),
        EventItem::Adjustment(adjustment) => serde_json::to_value(adjustment).ok(),
        EventItem::Unreadable(_) => None,
    }
}

/// Checks that every authorizer event is unauthorised while no keys exist.
pub fn authorizer_event(input: &[u8]) {
    thread_local!(static AUTHORIZER: (Runtime, authorizer::App) = without_keys());
    let Ok(request) = serde_json::from_slice::<Request<'_>>(input) else {
        return;
    };
    let result =
        AUTHORIZER.with(|(runtime, app)| runtime.block_on(authorizer::handle(app, &request)));
    match result {
        Err(AuthorizeError::Unauthorized(_)) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a key that does not exist was accepted"),
    }
}

fn without_keys() -> (Runtime, authorizer::App) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (clock, entropy) = (Clock::system(), Entropy::seeded(0));
    let rule = Rule::new(json!({})).unwrap();
    let aws = LocalAws::in_memory(rule, clock.clone(), entropy.clone()).unwrap();
    aws.create_tables("fuzz").unwrap();
    let store = Store::new(&aws.sdk_config(), "fuzz", clock.clone(), entropy);
    let settings = Settings {
        uncounted: vec!["/admin/".to_owned()],
        key_cache: Duration::from_secs(5),
        stale_keys: Duration::ZERO,
        cors_origin: None,
        upgrade_url: None,
    };
    let app = authorizer::App::new(store, settings, clock, Metrics::none());
    (runtime, app)
}

/// Checks that a parsed key keeps its text, does not print it, and is invalid with any character changed.
pub fn key(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(key) = ApiKey::parse(text) else {
        return;
    };
    assert_eq!(key.expose(), text);
    assert!(text.starts_with(key.prefix().as_str()));
    assert!(!format!("{key:?}").contains(text));
    for at in 0..text.len() {
        let mut other = text.as_bytes().to_vec();
        other[at] = if other[at] == b'7' { b'8' } else { b'7' };
        let other = String::from_utf8(other).unwrap();
        assert!(ApiKey::parse(&other).is_err(), "{at}");
    }
}

/// Name of the list that the cursors belong to.
const LIST: &str = "a list";

/// Checks that cursors, and quarantine ids in them, are the same after a round trip.
pub fn cursor(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(cursor) = text.parse::<Cursor>() {
        if let Ok(position) = cursor.position_in(LIST) {
            quarantine_id(position);
        }
        assert_eq!(String::from(cursor), text);
    }
    // Any text can be a cursor's position.
    let cursor = String::from(Cursor::new(LIST, text.to_owned()));
    assert_eq!(
        cursor.parse::<Cursor>().unwrap().position_in(LIST),
        Ok(text)
    );
    quarantine_id(text);
}

fn quarantine_id(text: &str) {
    if let Ok(id) = text.parse::<QuarantineId>() {
        assert_eq!(id.to_string(), text);
    }
}
