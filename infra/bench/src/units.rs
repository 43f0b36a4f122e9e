//! DynamoDB's capacity units, computed from requests and items as DynamoDB charges them. Neither the embedded engine nor
//! DynamoDB Local rounds each item of a transaction up.
//!
//! The rules are those of
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html> and
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html>.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tollgate_local_aws::LocalAws;
use tollgate_store::schema::{Index, Projection, TABLES, Table};

use crate::tables::STACK;

const WRITE_UNIT: usize = 1_024;
const READ_UNIT: usize = 4_096;
/// A transaction prepares each write, and then commits it.
const TRANSACTION_FACTOR: f64 = 2.0;

/// Units that requests consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Units {
    pub(crate) read: f64,
    pub(crate) write: f64,
}

impl Units {
    pub(crate) fn add(&mut self, other: Units) {
        self.read += other.read;
        self.write += other.write;
    }
}

/// Calls the tables. Returns the response, and the units that the request consumed.
pub(crate) fn metered_call(aws: &LocalAws, target: &str, body: &str) -> ((u16, String), Units) {
    let operation = target.rsplit('.').next().unwrap_or_default();
    let request: Value = serde_json::from_str(body).unwrap_or_default();
    let writes = writes(operation, &request);
    let before: Vec<Item> = writes.iter().map(|write| write.read(aws)).collect();
    let response = aws.call(target, body);
    let mut units = Units::default();
    let factor = match operation {
        "TransactWriteItems" => TRANSACTION_FACTOR,
        _ => 1.0,
    };
    for (write, before) in writes.iter().zip(before) {
        let after = write.read(aws);
        units.write += factor * write.units(&before, &after);
    }
    if writes.is_empty() {
        let found: Value = serde_json::from_str(&response.1).unwrap_or_default();
        units.read = read_units(operation, &request, &found);
    }
    (response, units)
}

/// Returns the bytes of all items of a table that DynamoDB charges storage for: 100 for each item besides its attributes.
pub(crate) fn stored_bytes(aws: &LocalAws, table: Table) -> usize {
    let mut bytes = 0;
    let mut request = json!({ "TableName": format!("{STACK}-{}", table.name) });
    loop {
        let (_, found) = aws.call("DynamoDB_20120810.Scan", &request.to_string());
        let mut found: Value = serde_json::from_str(&found).unwrap_or_default();
        let items = found["Items"].as_array().into_iter().flatten();
        let items = items.filter_map(Value::as_object);
        bytes += items.map(|item| size(item) + 100).sum::<usize>();
        match found["LastEvaluatedKey"].take() {
            Value::Null => return bytes,
            last => request["ExclusiveStartKey"] = last,
        }
    }
}

type Item = Map<String, Value>;

/// One item that a request writes.
struct Write<'a> {
    /// The definition of the table.
    table: Option<&'static Table>,
    table_name: &'a str,
    key: Value,
}

impl Write<'_> {
    fn read(&self, aws: &LocalAws) -> Item {
        let get = json!({ "TableName": self.table_name, "Key": self.key, "ConsistentRead": true });
        let (_, found) = aws.call("DynamoDB_20120810.GetItem", &get.to_string());
        let mut found: Value = serde_json::from_str(&found).unwrap_or_default();
        match found["Item"].take() {
            Value::Object(item) => item,
            _ => Item::new(),
        }
    }

    /// Returns the units of the write, those of the indexes included: for the item before or after it, whichever is
    /// larger. A rejected write is charged for the item as it is.
    fn units(&self, before: &Item, after: &Item) -> f64 {
        let indexes = self.table.map_or(&[][..], |table| table.indexes);
        let of_indexes = indexes.iter().map(|index| {
            let projected = |item| projected(self.table, index, item);
            match (projected(before), projected(after)) {
                (before, after) if before == after => 0.0,
                (None, Some(projected)) | (Some(projected), None) => write_units(size(&projected)),
                (Some(before), Some(after)) => {
                    let is_same_key = [index.hash, index.range]
                        .iter()
                        .all(|key| before.get(*key) == after.get(*key));
                    match is_same_key {
                        true => write_units(size(&before).max(size(&after))),
                        false => write_units(size(&before)) + write_units(size(&after)),
                    }
                }
                (None, None) => 0.0,
            }
        });
        write_units(size(before).max(size(after))) + of_indexes.sum::<f64>()
    }
}

/// Returns what an index contains of an item, if anything.
fn projected(table: Option<&Table>, index: &Index, item: &Item) -> Option<Item> {
    let keys = [index.hash, index.range];
    if !keys.iter().all(|key| item.contains_key(*key)) {
        return None;
    }
    if index.projection == Projection::All {
        return Some(item.clone());
    }
    let of_table = table.map(|table| [Some(table.hash), table.range]);
    let names = of_table.into_iter().flatten().flatten().chain(keys);
    let attributes = names.filter_map(|name| Some((name.to_owned(), item.get(name)?.clone())));
    Some(attributes.collect())
}

/// Returns the items that a request writes.
fn writes<'a>(operation: &str, request: &'a Value) -> Vec<Write<'a>> {
    match operation {
        "PutItem" | "UpdateItem" | "DeleteItem" => vec![write(request)],
        "TransactWriteItems" => {
            let actions = request["TransactItems"].as_array().into_iter().flatten();
            let actions = actions.filter_map(|action| action.as_object()?.values().next());
            actions.map(write).collect()
        }
        "BatchWriteItem" => {
            let tables = request["RequestItems"].as_object().into_iter().flatten();
            let writes = tables.flat_map(|(table_name, requests)| {
                let requests = requests.as_array().into_iter().flatten();
                let requests = requests.filter_map(|request| request.as_object()?.values().next());
                requests.map(move |request| in_table(table_name, request))
            });
            writes.collect()
        }
        _ => Vec::new(),
    }
}

fn write(request: &Value) -> Write<'_> {
    in_table(request["TableName"].as_str().unwrap_or_default(), request)
}

fn in_table<'a>(table_name: &'a str, request: &Value) -> Write<'a> {
    let table = TABLES.iter().find(|table| {
        let prefix = table_name.strip_suffix(table.name);
        prefix.is_some_and(|prefix| prefix.ends_with('-'))
    });
    let key = match (request.get("Item"), table) {
        (Some(item), Some(table)) => {
            let names = [Some(table.hash), table.range].into_iter().flatten();
            let key: Item = names
                .map(|name| (name.to_owned(), item[name].clone()))
                .collect();
            key.into()
        }
        _ => request["Key"].clone(),
    };
    Write {
        table,
        table_name,
        key,
    }
}

/// Returns the units of a read. An eventually consistent one costs half.
fn read_units(operation: &str, request: &Value, found: &Value) -> f64 {
    let consistency = |request: &Value| match request["ConsistentRead"] == true {
        true => 1.0,
        false => 0.5,
    };
    let sizes = |items: &Value| -> Vec<usize> {
        let items = items.as_array().into_iter().flatten();
        let items = items.filter_map(Value::as_object);
        items.map(size).collect()
    };
    match operation {
        "GetItem" => {
            let item = found["Item"].as_object();
            consistency(request) * units(item.map_or(0, size), READ_UNIT)
        }
        // Each item is rounded up, and the absent ones cost one unit each.
        "BatchGetItem" => {
            let requests = request["RequestItems"].as_object().into_iter().flatten();
            let of_tables = requests.map(|(table, request)| {
                let found = sizes(&found["Responses"][table]);
                let wanted = request["Keys"].as_array().map_or(0, Vec::len);
                let absent = wanted.saturating_sub(found.len());
                let of_found = found.into_iter().map(|size| units(size, READ_UNIT));
                consistency(request) * (of_found.sum::<f64>() + absent as f64)
            });
            of_tables.sum()
        }
        // The sum of what was read is rounded up.
        "Query" | "Scan" => {
            let read = sizes(&found["Items"]).into_iter().sum();
            consistency(request) * units(read, READ_UNIT)
        }
        _ => 0.0,
    }
}

fn write_units(size: usize) -> f64 {
    units(size, WRITE_UNIT)
}

fn units(size: usize, of: usize) -> f64 {
    size.div_ceil(of).max(1) as f64
}

/// Returns the size of an item: the bytes of its attributes' names and values.
fn size(item: &Item) -> usize {
    let attributes = item.iter();
    attributes
        .map(|(name, value)| name.len() + size_of(value))
        .sum()
}

fn size_of(value: &Value) -> usize {
    let of_each = |kind: &str, text: &str| match kind {
        "S" | "SS" => text.len(),
        // Base64 of four characters is three bytes.
        "B" | "BS" => text.trim_end_matches('=').len() * 3 / 4,
        // One byte for two significant digits, and one more.
        _ => {
            text.trim_matches(|it| it == '-' || it == '0')
                .len()
                .div_ceil(2)
                + 1
        }
    };
    let attribute: BTreeMap<&str, &Value> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(kind, value)| (kind.as_str(), value))
        .collect();
    let sizes = attribute.into_iter().map(|(kind, value)| match value {
        Value::String(text) => of_each(kind, text),
        Value::Array(values) if kind == "L" => {
            3 + values.iter().map(|value| 1 + size_of(value)).sum::<usize>()
        }
        Value::Array(values) => {
            let texts = values.iter().filter_map(Value::as_str);
            texts.map(|text| of_each(kind, text)).sum()
        }
        Value::Object(members) => {
            3 + members
                .iter()
                .map(|(name, value)| 1 + name.len() + size_of(value))
                .sum::<usize>()
        }
        _ => 1,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::services;

    fn call(aws: &LocalAws, operation: &str, request: Value) -> Units {
        let target = format!("DynamoDB_20120810.{operation}");
        metered_call(aws, &target, &request.to_string()).1
    }

    fn item(pk: &str, bytes: usize) -> Value {
        json!({ "pk": { "S": pk }, "sk": { "S": "1" }, "x": { "S": "x".repeat(bytes) } })
    }

    /// Bytes of the names and keys of [`item`] with a partition key of one byte.
    const REST: usize = 2 + 1 + 2 + 1 + 1;

    fn put(table: &str, item: &Value) -> Value {
        json!({ "TableName": format!("{STACK}-{table}"), "Item": item })
    }

    #[test]
    fn each_item_of_a_transaction_is_rounded_up_and_doubled() {
        let aws = services().unwrap();
        let puts = ["a", "b", "c"].map(|pk| json!({ "Put": put("usage-log", &item(pk, 10)) }));
        let units = call(&aws, "TransactWriteItems", json!({ "TransactItems": puts }));
        assert_eq!(
            units,
            Units {
                read: 0.0,
                write: 6.0
            }
        );
    }

    #[test]
    fn a_write_costs_the_larger_item_before_or_after_it_even_if_it_is_rejected() {
        let aws = services().unwrap();
        let write = |item: &Value, condition: Option<&str>| {
            let mut request = put("usage-log", item);
            if let Some(condition) = condition {
                request["ConditionExpression"] = condition.into();
            }
            call(&aws, "PutItem", request).write
        };
        assert_eq!(write(&item("a", 2 * 1_024 - REST), None), 2.0);
        assert_eq!(write(&item("a", 2 * 1_024 - REST + 1), None), 3.0);
        assert_eq!(write(&item("a", 1), Some("attribute_not_exists(pk)")), 3.0);
        assert_eq!(write(&item("a", 1), None), 3.0);
        assert_eq!(write(&item("a", 1), None), 1.0);
    }

    #[test]
    fn an_index_is_charged_when_its_item_changes() {
        let aws = services().unwrap();
        let mut day = item("a", 10);
        day["billable_month"] = json!({ "S": "2026-11#1" });
        let write = |day: &Value| call(&aws, "PutItem", put("usage", day)).write;
        assert_eq!(write(&day), 2.0);
        day["x"] = json!({ "S": "other" });
        assert_eq!(write(&day), 1.0);
        day["billable_month"] = json!({ "S": "2026-12#1" });
        assert_eq!(write(&day), 3.0);
    }

    #[test]
    fn a_query_rounds_the_sum_up_and_a_batch_of_gets_each_item() {
        let aws = services().unwrap();
        for pk in ["a", "b", "c"] {
            call(&aws, "PutItem", put("usage-log", &item(pk, 100)));
        }
        let table = format!("{STACK}-usage-log");
        let query = |is_consistent: bool| {
            json!({
                "TableName": table, "ConsistentRead": is_consistent,
                "KeyConditionExpression": "pk = :pk",
                "ExpressionAttributeValues": { ":pk": { "S": "a" } },
            })
        };
        assert_eq!(call(&aws, "Query", query(true)).read, 1.0);
        assert_eq!(call(&aws, "Query", query(false)).read, 0.5);
        let keys = ["a", "b", "d"].map(|pk| json!({ "pk": { "S": pk }, "sk": { "S": "1" } }));
        let gets = json!({ "RequestItems": { &table: { "Keys": keys, "ConsistentRead": true } } });
        assert_eq!(call(&aws, "BatchGetItem", gets).read, 3.0);
    }
}
