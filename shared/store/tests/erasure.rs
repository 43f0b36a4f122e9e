//! Personal data: the list is complete, and an erasure reaches everything on it.

#![allow(clippy::unwrap_used, reason = "a failed set-up or read fails the test")]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tollgate_domain::key::KeyRecord;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::schema::{REGISTRY, TABLES, Table};
use tollgate_store::{CONTENTS, Contents, CreateOutcome};
use tollgate_testing::p;
use tollgate_testing::stored::{items, stored};

mod common;

use common::{Key, NOW, create_customer, create_key, fixture, put};

/// Personal data of a test.
const PERSONAL: &str = "Ada Lovelace";

/// Returns every item of every golden copy: one of each form that is stored, or was.
fn golden_items() -> Vec<(Table, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut items = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let golden = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let golden: Value = serde_json::from_str(&golden).unwrap();
        for table in TABLES {
            let of_table = golden[table.name].as_array().into_iter().flatten();
            items.extend(of_table.map(|item| (*table, item.clone())));
        }
    }
    items
}

/// Returns the list's description of an item of this table.
fn contents_of(table: Table, item: &Value) -> &'static Contents {
    let pk = item["pk"]["S"].as_str().unwrap();
    let of =
        |contents: &&Contents| contents.table.name == table.name && pk.starts_with(contents.pk);
    let found = CONTENTS.iter().filter(of);
    let mut found: Vec<&Contents> = found.collect();
    found.sort_by_key(|contents| contents.pk.len());
    let contents = found.pop();
    let contents = contents.unwrap_or_else(|| panic!("{} {pk} is not in CONTENTS", table.name));
    let is_ambiguous = found.pop().is_some_and(|other| other.pk == contents.pk);
    assert!(!is_ambiguous, "{pk} is in CONTENTS twice");
    contents
}

/// Returns the attributes of these items that are missing in the list.
fn unlisted(items: &[(Table, Value)]) -> BTreeSet<String> {
    let mut unlisted = BTreeSet::new();
    for (table, item) in items {
        let contents = contents_of(*table, item);
        let personal = contents.personal.iter().map(|it| it.attribute());
        let listed: Vec<&str> = personal.chain(contents.others.iter().copied()).collect();
        let is_listed = |name: &str| {
            let keys = [Some(table.hash), table.range];
            let is = |listed: &&str| match listed.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => *listed == name,
            };
            keys.contains(&Some(name)) || listed.iter().any(is)
        };
        for (name, _) in item.as_object().unwrap() {
            if !is_listed(name) {
                unlisted.insert(format!("{} of {}", name, contents.name));
            }
        }
    }
    unlisted
}

#[test]
fn every_table_and_attribute_is_on_the_list() {
    let items = golden_items();
    assert_eq!(unlisted(&items), BTreeSet::new());
    let seen: BTreeSet<&str> = items
        .iter()
        .map(|(table, item)| contents_of(*table, item).name)
        .collect();
    let all: BTreeSet<&str> = CONTENTS.iter().map(|contents| contents.name).collect();
    assert_eq!(seen, all, "there is a golden copy of every kind of item");
    for table in TABLES {
        let mut tables = CONTENTS.iter().map(|contents| contents.table.name);
        assert!(tables.any(|name| name == table.name), "{}", table.name);
    }
}

/// Personal data that no erasure reaches is in items that DynamoDB deletes.
#[test]
fn items_with_expiring_personal_data_have_a_ttl() {
    let mut seen = 0;
    for (table, item) in golden_items() {
        let mut personal = contents_of(table, &item).personal.iter();
        if personal.any(|personal| !personal.is_erased()) {
            let ttl = table.ttl.unwrap();
            assert!(item[ttl]["N"].is_string(), "{item}");
            seen += 1;
        }
    }
    assert!(seen > 0);
}

/// The check of the list can fail.
#[test]
fn an_attribute_that_is_not_on_the_list_is_found() {
    let mut items = golden_items();
    for (_, item) in &mut items {
        if item["pk"]["S"] == "CUSTOMER#acme" {
            item["phone"] = json!({ "S": "+44 20 7946 0000" });
        }
    }
    let expected = BTreeSet::from(["phone of customer".to_owned()]);
    assert_eq!(unlisted(&items), expected);
}

/// Stores personal data of `acme` in every listed attribute that an erasure erases. Returns those
/// attributes, with the kind of item of each.
fn store_personal_data(at: &Fixture) -> BTreeSet<(&'static str, &'static str)> {
    let mut stored = BTreeSet::new();
    for (table, mut item) in golden_items() {
        let contents = contents_of(table, &item);
        if contents.name == "key" && item["customer"]["S"] != "acme" {
            continue;
        }
        for personal in contents.personal.iter().filter(|it| it.is_erased()) {
            let attribute = personal.attribute();
            item[attribute] = json!({ "S": PERSONAL });
            stored.insert((contents.name, attribute));
        }
        put(at, table, &item);
    }
    stored
}

#[tokio::test]
async fn an_erasure_reaches_everything_on_the_list() {
    let at = fixture();
    create_customer(&at, "bolt").await;
    let bolt = at.store.customer(&p("bolt")).await.unwrap();
    let written = store_personal_data(&at);
    let listed = CONTENTS.iter().flat_map(|contents| {
        let personal = contents.personal.iter().filter(|it| it.is_erased());
        personal.map(|personal| (contents.name, personal.attribute()))
    });
    assert_eq!(
        written,
        listed.collect(),
        "every listed attribute is stored"
    );
    assert!(stored(&at).to_string().contains(PERSONAL));

    let erasure = at.store.erase_customer(&p("acme"), p(NOW)).await.unwrap();
    assert!(erasure.unwrap().keys > 1);
    let left = stored(&at).to_string();
    assert!(!left.contains(PERSONAL), "{left}");
    assert!(left.contains("CUSTOMER#acme"), "the id stays");
    assert_eq!(at.store.customer(&p("bolt")).await.unwrap(), bolt);
}

/// The index does not contain the second key yet, which is simulated by a missing `listing`.
#[tokio::test]
async fn a_repeated_erasure_reaches_a_key_that_was_not_listed_before() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let (shown, late) = (Key::of_acme(1), Key::of_acme(2));
    for key in [&shown, &late] {
        key.create(&at).await;
    }
    let of_late = |item: &&Value| item["id"]["S"] == late.record.id.as_str();
    let mut unlisted = items(&at, REGISTRY).iter().find(of_late).unwrap().clone();
    let in_list = unlisted.clone();
    unlisted.as_object_mut().unwrap().remove("listing");
    put(&at, REGISTRY, &unlisted);

    let erased = async |now: &str| {
        let erasure = at.store.erase_customer(&p("acme"), p(now)).await;
        let erasure = erasure.unwrap().unwrap();
        (erasure.keys, erasure.revoked)
    };
    let key = async || at.store.key(&late.by_id()).await.unwrap().unwrap();
    assert_eq!(erased(NOW).await, (1, 1));
    assert_eq!(key().await, late.record);
    // No further key can be created meanwhile.
    let third = Key::of_acme(3);
    assert_eq!(
        create_key(&at, &third, None).await,
        CreateOutcome::NoCustomer
    );

    put(&at, REGISTRY, &in_list);
    let again = "2026-11-22T10:00:01Z";
    assert_eq!(erased(again).await, (2, 1));
    let KeyRecord {
        name, revoked_at, ..
    } = key().await;
    assert_eq!((name.as_str(), revoked_at), ("", Some(p(again))));
    let first = at.store.key(&shown.by_id()).await.unwrap().unwrap();
    assert_eq!(first.revoked_at, Some(p(NOW)));
}
