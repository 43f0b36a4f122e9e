//! Reads and writes of the items that a function stores.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot read the stored items has failed"
)]
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::fmt::Debug;
use std::str::FromStr;

use serde_json::{Map, Value, json};
use tollgate_domain::customer::Customer;
use tollgate_domain::key::{ApiKey, KeyFormat, KeyRecord, Owner};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_domain::usage::{Adjustment, Aggregate, Aggregates};
use tollgate_domain::window::Day;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::schema::TABLES;
use tollgate_store::{CreateOutcome, EventPart, NewKey, ShardCounts, WriteUsageOutcome};

/// Parses a literal, such as an id, a time or a month.
pub(crate) fn p<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(crate) fn plans() -> Catalog {
    Catalog::shipped().unwrap()
}

/// Returns all stored items: those of each table, in the order of their keys.
pub(crate) fn stored(at: &Fixture) -> Value {
    let mut tables = Map::new();
    for table in TABLES {
        let mut items = Vec::new();
        let mut request = json!({ "TableName": format!("test-{}", table.name) });
        loop {
            let scan = at.aws.call("DynamoDB_20120810.Scan", &request.to_string());
            let mut page: Value = serde_json::from_str(&scan.1).unwrap();
            items.append(page["Items"].as_array_mut().unwrap());
            match page.get("LastEvaluatedKey") {
                Some(last) => request["ExclusiveStartKey"] = last.clone(),
                None => break,
            }
        }
        items.sort_by_key(|item| [item["pk"].to_string(), item["sk"].to_string()]);
        tables.insert(table.name.to_owned(), items.into());
    }
    tables.into()
}

pub(crate) async fn add_customer(at: &Fixture, id: &str, plan: &str) {
    let customer = Customer {
        id: p(id),
        name: format!("{id} Ltd"),
        email: None,
        plan: p(plan),
        created_at: p("2026-11-01T08:30:00Z"),
        suspended_at: None,
        erased_at: None,
    };
    let outcome = at.store.create_customer(&customer, None).await.unwrap();
    assert_eq!(outcome, CreateOutcome::New);
}

/// Creates a key with that id, for an existing customer or an admin.
pub(crate) async fn add_key(at: &Fixture, owner: Owner, id: &str) -> ApiKey {
    add_key_with(at, owner, id, |_| ()).await
}

/// Creates a key whose record is changed by `change` before it is stored.
pub(crate) async fn add_key_with(
    at: &Fixture,
    owner: Owner,
    id: &str,
    change: impl FnOnce(&mut KeyRecord),
) -> ApiKey {
    let format = KeyFormat::new("tg", "live").unwrap();
    let secret = at.entropy.with(|rng| format.generate(owner.role(), rng));
    let mut record = KeyRecord {
        id: p(id),
        prefix: secret.prefix(),
        name: String::new(),
        owner,
        created_at: p("2026-11-01T09:00:00Z"),
        expires_at: None,
        revoked_at: None,
        suspended_at: None,
        overrides: Overrides::default(),
        rotated_to: None,
        hour_counter_id: None,
    };
    change(&mut record);
    let key = NewKey {
        secret: &secret,
        record: &record,
    };
    let outcome = at.store.create_key(&key, None).await.unwrap();
    assert_eq!(outcome, CreateOutcome::New);
    secret
}

/// Counts usage of a customer on a day, as the usage writer does.
pub(crate) async fn add_usage(at: &Fixture, customer: &str, day: &str, aggregate: Aggregate) {
    let day: Day = p(day);
    let mut aggregates = Aggregates::default();
    aggregates.months.insert(day.month(), aggregate.clone());
    aggregates.days.insert(day, aggregate);
    write(at, customer, &aggregates, &[]).await;
}

/// Counts an adjustment of a customer's usage, as the usage writer does.
pub(crate) async fn adjust(at: &Fixture, customer: &str, adjustment: Adjustment) {
    let mut aggregates = Aggregates::default();
    aggregates.adjust(&adjustment);
    write(at, customer, &aggregates, &[(0, adjustment)]).await;
}

async fn write(
    at: &Fixture,
    customer: &str,
    aggregates: &Aggregates,
    adjustments: &[(usize, Adjustment)],
) {
    let (customer, id) = (p(customer), format!("event-{}", at.entropy.below(u64::MAX)));
    let part = EventPart {
        source: "tollgate:tests",
        id: &id,
        part: 0,
        customer: &customer,
        aggregates,
        records: 1,
        adjustments,
        rejected: &[],
        body: b"{}",
        received_at: at.clock().now(),
    };
    let (store, plans, shard_counts) = (&at.store, plans(), ShardCounts::default());
    let outcomes = store.write_usage(&[part], &plans, &shard_counts).await;
    assert_eq!(*outcomes[0].as_ref().unwrap(), WriteUsageOutcome::Counted);
}

/// Returns an aggregate of billable calls on a plan.
pub(crate) fn calls(plan: &str, calls: u64) -> Aggregate {
    Aggregate {
        calls,
        billable: [(p(plan), calls)].into(),
        ..Aggregate::default()
    }
}
