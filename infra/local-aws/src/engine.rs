//! DynamoDB, called by operation name and JSON body.

use std::path::Path;

use dynoxide::{Database, DynoxideError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tollgate_store::schema::{Projection, Table};

use crate::endpoint::Endpoint;
use crate::{ApiResponse, LocalAwsError};

/// Implementation that DynamoDB calls are sent to.
pub(crate) enum Engine {
    /// The embedded engine.
    Embedded(Database),
    /// A server at an HTTP endpoint.
    Endpoint(Endpoint),
}

impl Engine {
    pub(crate) fn in_memory() -> Result<Self, DynoxideError> {
        Database::memory().map(Self::Embedded)
    }

    pub(crate) fn open(path: &Path) -> Result<Self, DynoxideError> {
        Database::new(&path.to_string_lossy()).map(Self::Embedded)
    }

    /// Rewrites the database file without the deleted and replaced data in its free pages.
    pub(crate) fn vacuum(&self) -> Result<(), DynoxideError> {
        match self {
            Self::Embedded(db) => db.vacuum(),
            Self::Endpoint(_) => Ok(()),
        }
    }

    pub(crate) fn create_table(&self, prefix: &str, table: &Table) -> Result<(), LocalAwsError> {
        let name = format!("{prefix}-{}", table.name);
        let definition = definition(&name, table);
        let created = self.call("CreateTable", &definition.to_string());
        if created.status == 200 {
            return Ok(());
        }
        if !created.body.contains("ResourceInUseException") {
            return Err(LocalAwsError::Table(name, created.body));
        }
        self.add_indexes(&name, &definition)
    }

    /// Adds the indexes that the table of an earlier release lacks, each with an update of its own, as
    /// DynamoDB requires.
    fn add_indexes(&self, name: &str, definition: &Value) -> Result<(), LocalAwsError> {
        let table = json!({ "TableName": name });
        let described = self.call("DescribeTable", &table.to_string());
        let described: Value = serde_json::from_str(&described.body).unwrap_or_default();
        let is_in = |indexes: &Value, index: &Value| {
            let mut indexes = indexes.as_array().into_iter().flatten();
            indexes.any(|other| other["IndexName"] == index["IndexName"])
        };
        let stored = &described["Table"]["GlobalSecondaryIndexes"];
        let indexes = definition["GlobalSecondaryIndexes"].as_array();
        for index in indexes.into_iter().flatten() {
            if is_in(stored, index) {
                continue;
            }
            let update = json!({
                "TableName": name,
                "AttributeDefinitions": definition["AttributeDefinitions"],
                "GlobalSecondaryIndexUpdates": [{ "Create": index }],
            });
            let updated = self.call("UpdateTable", &update.to_string());
            if updated.status != 200 {
                return Err(LocalAwsError::Table(name.to_owned(), updated.body));
            }
        }
        Ok(())
    }

    pub(crate) fn call(&self, operation: &str, body: &str) -> ApiResponse {
        match self {
            Self::Embedded(db) => call_embedded(db, operation, body),
            Self::Endpoint(endpoint) => endpoint.call(operation, body),
        }
    }
}

fn call_embedded(db: &Database, operation: &str, body: &str) -> ApiResponse {
    let outcome = match operation {
        "BatchGetItem" => run(body, |request| db.batch_get_item(request)),
        "BatchWriteItem" => run(body, |request| db.batch_write_item(request)),
        "CreateTable" => run(body, |request| db.create_table(request)),
        "DeleteItem" => run(body, |request| db.delete_item(request)),
        "DescribeTable" => run(body, |request| db.describe_table(request)),
        "GetItem" => run(body, |request| db.get_item(request)),
        "ListTables" => run(body, |request| db.list_tables(request)),
        "PutItem" => run(body, |request| db.put_item(request)),
        "Query" => run(body, |request| db.query(request)),
        "Scan" => run(body, |request| db.scan(request)),
        "TransactGetItems" => run(body, |request| db.transact_get_items(request)),
        "TransactWriteItems" => run(body, |request| db.transact_write_items(request)),
        "UpdateItem" => run(body, |request| db.update_item(request)),
        "UpdateTable" => run(body, |request| db.update_table(request)),
        other => Err(DynoxideError::UnsupportedCapability(other.to_owned())),
    };
    match outcome {
        Ok(body) => ApiResponse { status: 200, body },
        Err(error) => ApiResponse {
            status: error.status_code(),
            body: error.to_json(),
        },
    }
}

fn run<I: DeserializeOwned, O: Serialize>(
    body: &str,
    operation: impl FnOnce(I) -> Result<O, DynoxideError>,
) -> Result<String, DynoxideError> {
    let request = serde_json::from_str(body)
        .map_err(|error| DynoxideError::SerializationException(error.to_string()))?;
    serde_json::to_string(&operation(request)?)
        .map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}

fn definition(name: &str, table: &Table) -> Value {
    let schema = |hash: &str, range: Option<&str>| {
        let mut keys = vec![json!({ "AttributeName": hash, "KeyType": "HASH" })];
        keys.extend(range.map(|range| json!({ "AttributeName": range, "KeyType": "RANGE" })));
        Value::from(keys)
    };
    let mut attributes = vec![table.hash];
    attributes.extend(table.range);
    let mut indexes = Vec::new();
    for index in table.indexes {
        attributes.extend([index.hash, index.range]);
        let projection = match index.projection {
            Projection::All => "ALL",
            Projection::KeysOnly => "KEYS_ONLY",
        };
        indexes.push(json!({
            "IndexName": index.name,
            "KeySchema": schema(index.hash, Some(index.range)),
            "Projection": { "ProjectionType": projection },
        }));
    }
    attributes.sort_unstable();
    attributes.dedup();
    let attributes: Vec<Value> = attributes
        .into_iter()
        .map(|name| json!({ "AttributeName": name, "AttributeType": "S" }))
        .collect();
    let mut definition = json!({
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": attributes,
        "KeySchema": schema(table.hash, table.range),
    });
    if !indexes.is_empty() {
        definition["GlobalSecondaryIndexes"] = indexes.into();
    }
    definition
}
