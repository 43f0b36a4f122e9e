//! What the tables know of people: all of it is on the list, and all that is on the list goes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::schema::{TABLES, Table};
use tollgate_store::{CONTENTS, Contents};

mod common;

use common::{NOW, create_customer, everything, fixture, p, put};

/// Who somebody is.
const SOMEBODY: &str = "Ada Lovelace";

/// Every item of every golden copy: one of each form that is stored, or was.
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

/// The place on the list of an item of that table.
fn contents_of(table: Table, item: &Value) -> &'static Contents {
    let pk = item["pk"]["S"].as_str().unwrap();
    let of =
        |contents: &&Contents| contents.table.name == table.name && pk.starts_with(contents.pk);
    let mut found = CONTENTS.iter().filter(of);
    let contents = found.next();
    let contents = contents.unwrap_or_else(|| panic!("{} {pk} is not in CONTENTS", table.name));
    assert!(found.next().is_none(), "{pk} is in CONTENTS twice");
    contents
}

/// What is wrong with the list, as far as these items show.
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
    assert_eq!(seen, all, "there is a golden copy of everything");
    for table in TABLES {
        let mut tables = CONTENTS.iter().map(|contents| contents.table.name);
        assert!(tables.any(|name| name == table.name), "{}", table.name);
    }
}

/// The check above can fail.
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

/// All that is on the list is stored of `acme`, and of another customer. Returns what says who
/// they are: the attributes by kind of item.
fn store_somebody(at: &Fixture) -> BTreeSet<(&'static str, &'static str)> {
    let mut stored = BTreeSet::new();
    for (table, mut item) in golden_items() {
        let contents = contents_of(table, &item);
        if contents.name == "key" && item["customer"]["S"] != "acme" {
            continue;
        }
        for personal in contents.personal {
            let attribute = personal.attribute();
            item[attribute] = json!({ "S": SOMEBODY });
            stored.insert((contents.name, attribute));
        }
        put(at, table, &item);
    }
    stored
}

#[tokio::test]
async fn an_erasure_reaches_all_that_is_on_the_list() {
    let at = fixture();
    create_customer(&at, "bolt").await;
    let bolt = at.store.customer(&p("bolt")).await.unwrap();
    let stored = store_somebody(&at);
    let listed = CONTENTS.iter().flat_map(|contents| {
        let personal = contents.personal.iter();
        personal.map(|personal| (contents.name, personal.attribute()))
    });
    assert_eq!(stored, listed.collect(), "all of it is stored");
    assert!(everything(&at).to_string().contains(SOMEBODY));

    let erasure = at.store.erase_customer(&p("acme"), p(NOW)).await.unwrap();
    assert!(erasure.unwrap().keys > 1);
    let left = everything(&at).to_string();
    assert!(!left.contains(SOMEBODY), "{left}");
    assert!(left.contains("CUSTOMER#acme"), "the id stays");
    assert_eq!(at.store.customer(&p("bolt")).await.unwrap(), bolt);
}
