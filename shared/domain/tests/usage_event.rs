//! Checks the schema and examples of `docs/usage-event.md` against the parser.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot read the page has failed"
)]

use jiff::Timestamp;
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::usage::{Defect, parse_event};

const PAGE: &str = include_str!("../../../docs/usage-event.md");

/// Returns the JSON blocks of the page: an event of each type, and the schema.
fn json_blocks() -> [Value; 3] {
    let blocks = PAGE.split("```json\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let blocks: Vec<Value> = blocks
        .map(|block| serde_json::from_str(block).unwrap())
        .collect();
    blocks.try_into().unwrap()
}

fn validator() -> Validator {
    let [_, _, schema] = json_blocks();
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap()
}

fn now() -> Timestamp {
    "2026-11-22T10:00:02Z".parse().unwrap()
}

/// Returns the first defect of an event, if any.
fn defect(event: &str) -> Option<Defect> {
    let plans = PlanBook::from_catalog(&Catalog::shipped().unwrap(), now());
    match parse_event(event) {
        Err(defect) => Some(defect),
        Ok(received) => {
            let mut items = received.items.iter();
            items.find_map(|item| item.check(&plans, now()).err())
        }
    }
}

/// Whether a JSON schema can express the defect.
fn is_schema_defect(defect: &Defect) -> bool {
    match defect {
        Defect::Future | Defect::Ancient | Defect::Plan(_) | Defect::Key(_) | Defect::Conflict => {
            false
        }
        // The limit is in bytes, and a schema counts characters.
        Defect::Text(..) => false,
        _ => true,
    }
}

#[test]
fn the_events_on_the_page_are_valid() {
    let validator = validator();
    let [usage, adjustment, _] = json_blocks();
    for event in [usage, adjustment] {
        assert_eq!(defect(&event.to_string()), None);
        assert!(validator.is_valid(&event), "{event}");
    }
}

#[test]
fn the_parser_and_the_schema_have_the_same_bounds() {
    let validator = validator();
    let [mut usage, adjustment, _] = json_blocks();
    // As of a complete response.
    usage["data"]["records"][0]["truncated"] = Value::Null;
    let check = |event: &Value, pointer: &str, value: Value, is_accepted: bool| {
        let mut event = event.clone();
        let target = event.pointer_mut(pointer);
        *target.unwrap_or_else(|| panic!("no {pointer}")) = value.clone();
        assert_eq!(validator.is_valid(&event), is_accepted, "{pointer} {value}");
        let found = defect(&event.to_string());
        assert_eq!(found.is_none(), is_accepted, "{pointer} {value}: {found:?}");
    };
    let text = |length: usize| json!("x".repeat(length));
    let envelope = [
        ("/id", text(128), text(129)),
        ("/source", text(1), text(0)),
        ("/subject", text(64), json!("a#b")),
        ("/subject", json!("..."), json!("..")),
        (
            "/time",
            json!("2026-11-22t10:00:00.123456789-00:00"),
            json!("2026-11-22T10:00Z"),
        ),
        (
            "/time",
            json!("2026-11-22T10:00:00z"),
            json!("2026-11-22T10:00:00.1234567890Z"),
        ),
        ("/traceparent", text(1_000), json!("00-4bf9\n")),
        (
            "/traceparent",
            json!(i32::MIN),
            json!(i64::from(i32::MIN) - 1),
        ),
        ("/traceparent", json!(i32::MAX), json!(0.5)),
        ("/traceparent", json!(true), json!([true])),
        ("/traceparent", json!(null), json!({})),
        ("/specversion", json!("1.0"), json!("0.3")),
        (
            "/type",
            json!("tollgate.usage.v1"),
            json!("tollgate.usage.v2"),
        ),
        ("/datacontenttype", json!(null), json!(1)),
    ];
    for (pointer, valid, invalid) in envelope {
        check(&usage, pointer, valid, true);
        check(&usage, pointer, invalid, false);
    }
    let record = [
        ("status", json!(599), json!(600)),
        ("latency_ms", json!(100_000_000), json!(100_000_001)),
        ("request_bytes", json!(1_000_000_000_000_u64), json!(-1)),
        ("method", text(16), json!("GET /")),
        ("endpoint", text(256), json!("/a\n")),
        ("billable", json!(null), json!("yes")),
        ("truncated", json!("interrupted"), json!("completed")),
        ("truncated", json!(null), json!(true)),
        ("costs/1/tokens", json!(100_000_000), json!(1e308)),
        ("costs/1/provider", text(64), text(65)),
        ("costs/1/micro_usd", json!(100_000_000_000_u64), json!(0.5)),
    ];
    for (member, valid, invalid) in record {
        let pointer = format!("/data/records/0/{member}");
        check(&usage, &pointer, valid, true);
        check(&usage, &pointer, invalid, false);
    }
    let members = [
        ("reason", text(512), text(513)),
        (
            "billable_calls",
            json!(-10_000_000_000_i64),
            json!(-10_000_000_001_i64),
        ),
        (
            "micro_usd",
            json!(1_000_000_000_000_000_i64),
            json!(i64::MAX),
        ),
    ];
    for (member, valid, invalid) in members {
        let pointer = format!("/data/adjustments/0/{member}");
        check(&adjustment, &pointer, valid, true);
        check(&adjustment, &pointer, invalid, false);
    }
    let named = |name: &str| {
        let mut event = usage.clone();
        event[name] = json!("x");
        event
    };
    for name in [
        "dataschema",
        "sequence",
        "0",
        "anextensionwithaverylongname",
    ] {
        check(&named(name), &format!("/{name}"), json!("y"), true);
    }
    for name in ["data_base64", "traceParent", "a-b", "", "\u{e9}"] {
        check(&named(name), &format!("/{name}"), json!("y"), false);
    }
    let mut of_record = usage.clone();
    of_record["data"]["records"][0]["traceparent"] = json!("x");
    check(&of_record, "/id", json!("e-1"), false);
    let one = &usage["data"]["records"][0];
    check(&usage, "/data/records", json!(vec![one; 100]), true);
    check(&usage, "/data/records", json!(vec![one; 101]), false);
    check(&usage, "/data/records", json!([]), false);
    let one = &adjustment["data"]["adjustments"][0];
    check(&adjustment, "/data/adjustments", json!(vec![one; 20]), true);
    check(
        &adjustment,
        "/data/adjustments",
        json!(vec![one; 21]),
        false,
    );
    let mut nothing = adjustment.clone();
    nothing["data"]["adjustments"][0]["micro_usd"] = json!(0);
    check(
        &nothing,
        "/data/adjustments/0/billable_calls",
        json!(0),
        false,
    );
}

/// Generates arbitrary JSON, with frequent edge cases of parsers.
fn any_json() -> impl Strategy<Value = Value> {
    let times = [
        "2026-11-22T10:00:00Z",
        "2026-11-22T10:00:00.123456789+01:00",
        "9999-12-30T22:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0_u64..1_000).prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(vec![json!(1e308), json!(-0.5), json!(u64::MAX)]),
        ".{0,40}".prop_map(Value::from),
        "[a-z]{1,20}".prop_map(Value::from),
        (1_usize..2_000).prop_map(|length| json!("\u{e9}".repeat(length))),
        prop::sample::select(times.map(Value::from).to_vec()),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,12}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Collects the JSON pointers of all values in an event.
fn pointers(json: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match json {
        Value::Object(members) => {
            for (name, value) in members {
                pointers(value, &format!("{at}/{name}"), out);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                pointers(value, &format!("{at}/{index}"), out);
            }
        }
        _ => {}
    }
}

/// Whether a whole number is written with a fraction, which a schema does not distinguish.
fn has_whole_float(json: &Value) -> bool {
    match json {
        Value::Number(number) => {
            number.is_f64() && number.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        Value::Array(values) => values.iter().any(has_whole_float),
        Value::Object(members) => members.values().any(has_whole_float),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Any value at any position of an event is accepted or rejected; and an event that the schema
    /// allows is not rejected for a defect that a schema can express.
    #[test]
    fn the_schema_allows_no_event_that_the_parser_rejects_for_its_form(
        which in 0_usize..2,
        at in any::<prop::sample::Index>(),
        value in any_json(),
        is_removed in prop::bool::weighted(0.1),
    ) {
        let mut event = json_blocks()[which].clone();
        let mut all = Vec::new();
        pointers(&event, "", &mut all);
        let pointer = at.get(&all);
        let skipped = has_whole_float(&value) && !is_removed;
        match pointer.rsplit_once('/') {
            Some((parent, name)) if is_removed => {
                if let Some(Value::Object(members)) = event.pointer_mut(parent) {
                    members.remove(name);
                }
            }
            _ => *event.pointer_mut(pointer).unwrap() = value,
        }
        thread_local!(static VALIDATOR: Validator = validator());
        let is_valid = VALIDATOR.with(|validator| validator.is_valid(&event)) && !skipped;
        if let Some(found) = defect(&event.to_string()) {
            prop_assert!(found.to_string().len() < 300);
            prop_assert!(!is_valid || !is_schema_defect(&found), "{pointer}: {found}\n{event}");
        }
    }
}
