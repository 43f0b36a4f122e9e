//! Tables whose inconsistent reads lag behind: what was written in the last second is missing from them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tollgate_local_aws::LocalAws;

use crate::network::Endpoint;

const LAG: Duration = Duration::from_secs(1);

/// Table, partition key and sort key of an item.
type Key = (String, String, String);

/// Returns the endpoint of tables that lag.
pub(crate) fn lagging_tables(aws: &LocalAws) -> Endpoint {
    let aws = aws.clone();
    let written: Mutex<HashMap<Key, Instant>> = Mutex::default();
    Endpoint::new(move |target, body| {
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
            }
            Some("TransactWriteItems") => {
                let actions = request["TransactItems"].as_array().into_iter().flatten();
                let writes =
                    actions.filter_map(|action| action.get("Put").or(action.get("Update")));
                written.extend(writes.map(|write| (key_of(write), Instant::now())));
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
