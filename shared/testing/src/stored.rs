//! The stored items, read and written without the store.

use serde_json::{Map, Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::schema::{TABLES, Table};

/// Returns the name that a fixture's table has.
pub fn table_name(table: Table) -> String {
    format!("test-{}", table.name)
}

/// Calls DynamoDB directly, and returns the response of a call that succeeds.
#[track_caller]
pub fn raw(at: &Fixture, operation: &str, table: Table, mut request: Value) -> Value {
    request["TableName"] = table_name(table).into();
    let target = format!("DynamoDB_20120810.{operation}");
    let (status, response) = at.aws.call(&target, &request.to_string());
    assert_eq!(status, 200, "{operation}: {response}");
    serde_json::from_str(&response).unwrap()
}

/// Returns the items of a table as DynamoDB JSON, in the order of their keys.
#[track_caller]
pub fn items(at: &Fixture, table: Table) -> Vec<Value> {
    let mut items = Vec::new();
    let mut request = json!({});
    loop {
        let mut page = raw(at, "Scan", table, request);
        items.append(page["Items"].as_array_mut().unwrap());
        match page.get("LastEvaluatedKey") {
            Some(last) => request = json!({ "ExclusiveStartKey": last }),
            None => break,
        }
    }
    let key = |item: &Value| [table.hash, table.range.unwrap_or("")].map(|k| text(item, k));
    items.sort_by_key(key);
    items
}

/// Returns all items of all tables, by table name. Empty tables are left out.
#[track_caller]
pub fn stored(at: &Fixture) -> Value {
    let mut tables = Map::new();
    for table in TABLES {
        let items = items(at, *table);
        if !items.is_empty() {
            tables.insert(table.name.to_owned(), items.into());
        }
    }
    tables.into()
}

/// Returns a text attribute of an item; empty if it has none of that name.
pub fn text(item: &Value, attribute: &str) -> String {
    item[attribute]["S"].as_str().unwrap_or_default().to_owned()
}
