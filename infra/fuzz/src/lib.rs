//! What must hold of whatever anyone sends: one function for each kind of input, which panics if it does
//! not. `infra/fuzz/run` looks for such inputs; the tests run the corpora.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be unwrapped here is what is looked for"
)]

use std::time::Duration;

use authorizer::{Refused, Request, Settings};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tollgate_domain::key::ApiKey;
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::{
    ADJUSTMENT_TYPE, Aggregates, Countable, EVENT_TYPE, EventType, Item, parse_event,
};
use tollgate_local_aws::{LocalAws, Rule};
use tollgate_runtime::{Clock, Entropy, Metrics};
use tollgate_store::{QuarantineId, Store};
use tollgate_web::Cursor;
use usage_writer::Entry;

/// An entry is read or refused, in few words; what is counted of it adds up; and what is written of it
/// again is read the same.
pub fn entry(input: &[u8]) {
    thread_local!(static PLANS: Catalog = Catalog::shipped().unwrap());
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let entry = match Entry::read(text) {
        Ok(entry) => entry,
        Err(defect) => {
            assert!(defect.to_string().len() < 400);
            return;
        }
    };
    let received = entry.received();
    let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let mut sums = Aggregates::default();
    let (mut records, mut adjustments) = (0, 0);
    for item in &received.items {
        match PLANS.with(|plans| item.check(plans, now).map_err(|defect| defect.to_string())) {
            Ok(Countable::Record(record)) => {
                sums.add(record);
                records += 1;
            }
            Ok(Countable::Adjustment(adjustment)) => {
                sums.adjust(adjustment);
                adjustments += 1;
            }
            Err(reason) => assert!(reason.len() < 400),
        }
    }
    let calls: u64 = sums.days.values().map(|tally| tally.calls).sum();
    let corrected: u64 = sums.days.values().map(|tally| tally.adjusted.count).sum();
    assert_eq!((calls, corrected), (records, adjustments));
    let by_endpoint: u64 = sums.endpoints.values().map(|tally| tally.calls).sum();
    let by_month: u64 = sums.months.values().map(|tally| tally.calls).sum();
    assert_eq!((by_endpoint, by_month), (records, records));

    let whole: Option<Vec<Value>> = received.items.iter().map(as_json).collect();
    let Some(whole) = whole else { return };
    let (r#type, data) = match received.r#type {
        EventType::Usage => (EVENT_TYPE, json!({ "records": whole })),
        EventType::Adjustment => (ADJUSTMENT_TYPE, json!({ "adjustments": whole })),
    };
    let again = json!({
        "specversion": "1.0", "id": received.id, "source": received.source, "type": r#type,
        "time": now, "subject": received.customer, "data": data,
    });
    assert_eq!(parse_event(&again.to_string()).as_ref(), Ok(received));
}

fn as_json(item: &Item) -> Option<Value> {
    match item {
        Item::Record(record) => serde_json::to_value(record).ok(),
        Item::Adjustment(adjustment) => serde_json::to_value(adjustment).ok(),
        Item::Unreadable(_) => None,
    }
}

/// While there are no keys, whatever the gateway asks is refused for want of one.
pub fn authorizer_event(input: &[u8]) {
    thread_local!(static AUTHORIZER: (Runtime, authorizer::App) = without_keys());
    let Ok(request) = serde_json::from_slice::<Request<'_>>(input) else {
        return;
    };
    let decided =
        AUTHORIZER.with(|(runtime, app)| runtime.block_on(authorizer::handle(app, &request)));
    match decided {
        Err(Refused::Unauthorized(_)) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a key that nobody made was good"),
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
        plans: Catalog::shipped().unwrap(),
        uncounted: vec!["/admin/".to_owned()],
        key_cache: Duration::from_secs(5),
        stale_keys: Duration::ZERO,
        cors_origin: None,
    };
    let app = authorizer::App::new(store, settings, clock, Metrics::none());
    (runtime, app)
}

/// A text that is a key is one as a whole, and is none with any of its characters changed.
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

/// The list whose cursors are tried.
const LIST: &str = "a list";

/// A cursor comes back as it went, as does the id of what was set aside that may be in it.
pub fn cursor(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(cursor) = text.parse::<Cursor>() {
        if let Ok(place) = cursor.place_in(LIST) {
            id(place);
        }
        assert_eq!(String::from(cursor), text);
    }
    // Whatever is a place has a cursor.
    let cursor = String::from(Cursor::new(LIST, text.to_owned()));
    assert_eq!(cursor.parse::<Cursor>().unwrap().place_in(LIST), Ok(text));
    id(text);
}

fn id(place: &str) {
    if let Ok(id) = place.parse::<QuarantineId>() {
        assert_eq!(id.to_string(), place);
    }
}
