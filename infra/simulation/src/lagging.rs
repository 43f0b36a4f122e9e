//! Tables whose inconsistent reads lag behind: what was written in the last second is missing from them. Expired items
//! are deleted within two days, in any order.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tollgate_local_aws::LocalAws;
use tollgate_runtime::Clock;
use tollgate_store::schema::attr;

use crate::network::Endpoint;

const LAG: Duration = Duration::from_secs(1);
/// Most seconds from the expiry of an item to its deletion.
const MAX_DELETION_DELAY_S: u64 = 2 * 24 * 3_600;

/// Table, partition key and sort key of an item.
type Key = (String, String, String);

/// Returns the endpoint of tables that lag, on this clock.
pub(crate) fn lagging_tables(aws: &LocalAws, clock: Clock) -> Endpoint {
    let aws = aws.clone();
    let written: Mutex<HashMap<Key, Instant>> = Mutex::default();
    let expiring: Mutex<Expiring> = Mutex::default();
    Endpoint::new(move |target, body| {
        let mut expiring = expiring.lock().unwrap_or_else(PoisonError::into_inner);
        expiring.delete(&aws, clock.now().as_second());
        let (status, response) = aws.call(target, body);
        if status != 200 {
            return (status, response);
        }
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|_, at| at.elapsed() < LAG);
        match target.rsplit_once('.').map(|(_, operation)| operation) {
            Some("PutItem" | "UpdateItem") => {
                written.insert(key_of(&request), Instant::now());
                expiring.add(&text(&request["TableName"]), &request["Item"]);
            }
            Some("TransactWriteItems") => {
                let actions = request["TransactItems"].as_array().into_iter().flatten();
                let writes =
                    actions.filter_map(|action| action.get("Put").or(action.get("Update")));
                for write in writes {
                    written.insert(key_of(write), Instant::now());
                    expiring.add(&text(&write["TableName"]), &write["Item"]);
                }
            }
            Some("BatchWriteItem") => {
                let tables = request["RequestItems"].as_object().into_iter().flatten();
                for (table, writes) in tables {
                    for write in writes.as_array().into_iter().flatten() {
                        let item = &write["PutRequest"]["Item"];
                        written.insert(key_in(table, item), Instant::now());
                        expiring.add(table, item);
                    }
                }
            }
            Some("Query") if request["ConsistentRead"] != true => {
                let mut found: Value = serde_json::from_str(&response).unwrap_or_default();
                let table = text(&request["TableName"]);
                if let Some(items) = found["Items"].as_array_mut() {
                    items.retain(|item| !written.contains_key(&key_in(&table, item)));
                }
                return (status, found.to_string());
            }
            Some("BatchGetItem") => {
                let mut found: Value = serde_json::from_str(&response).unwrap_or_default();
                let responses = found["Responses"].as_object_mut().into_iter().flatten();
                for (table, items) in responses {
                    let is_consistent = request["RequestItems"][table]["ConsistentRead"] == true;
                    if let Some(items) = items.as_array_mut().filter(|_| !is_consistent) {
                        items.retain(|item| !written.contains_key(&key_in(table, item)));
                    }
                }
                return (status, found.to_string());
            }
            _ => {}
        }
        (status, response)
    })
}

/// Keys of items by the Unix second at which they are deleted.
#[derive(Default)]
struct Expiring(BTreeMap<i64, Vec<Key>>);

impl Expiring {
    fn add(&mut self, table: &str, item: &Value) {
        let expires = item[attr::EXPIRES]["N"].as_str().unwrap_or_default();
        let Ok(expires) = expires.parse::<i64>() else {
            return;
        };
        let key = key_in(table, item);
        // Hashed, so that every run of a seed is the same.
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let delay = hasher.finish() % MAX_DELETION_DELAY_S;
        let delay = i64::try_from(delay).unwrap_or(0);
        self.0.entry(expires + delay).or_default().push(key);
    }

    /// Deletes the items that are due, unless they were replaced by others that expire later.
    fn delete(&mut self, aws: &LocalAws, now: i64) {
        let later = self.0.split_off(&(now + 1));
        let due = std::mem::replace(&mut self.0, later);
        for (table, pk, sk) in due.into_values().flatten() {
            let delete = json!({
                "TableName": table, "Key": { "pk": { "S": pk }, "sk": { "S": sk } },
                "ConditionExpression": "#e <= :now",
                "ExpressionAttributeNames": { "#e": attr::EXPIRES },
                "ExpressionAttributeValues": { ":now": { "N": now.to_string() } },
            });
            // Whoever reads an expired item is right if it is there, too.
            let _ = aws.call("DynamoDB_20120810.DeleteItem", &delete.to_string());
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn key_of(write: &Value) -> Key {
    let table = text(&write["TableName"]);
    key_in(&table, write.get("Item").unwrap_or(&write["Key"]))
}

fn key_in(table: &str, item: &Value) -> Key {
    let part = |name: &str| text(&item[name]["S"]);
    (table.to_owned(), part("pk"), part("sk"))
}
