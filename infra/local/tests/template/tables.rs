//! Check that the template has exactly the tables of the schema, with the same keys, indexes and TTL.

use tollgate_local_aws::template::{Node, Stack};
use tollgate_store::schema::{Projection, TABLES, Table};
use yaml_serde::Value;

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    let tables: Vec<Node<'_>> = stack
        .of_type("AWS::DynamoDB::Table")
        .map(|(_, resource)| resource.get("Properties"))
        .collect();
    if tables.len() != TABLES.len() {
        let (found, expected) = (tables.len(), TABLES.len());
        defects.push(format!(
            "there are {found} tables, and the schema has {expected}"
        ));
    }
    for table in TABLES {
        let name = format!("${{AWS::StackName}}-{}", table.name);
        let found = tables.iter().find(|node| {
            matches!(node.get("TableName").0, Value::Tagged(sub) if sub.value == name.as_str())
        });
        match found {
            Some(found) => defects.extend(defects_of(table, *found)),
            None => defects.push(format!("there is no table {}", table.name)),
        }
    }
    defects
}

fn defects_of(table: &Table, found: Node<'_>) -> Vec<String> {
    let mut defects = Vec::new();
    let mut report = |same: bool, what: &str| {
        if !same {
            defects.push(format!("table {} has {what}", table.name));
        }
    };
    let key = key_schema(table.hash, table.range);
    report(found.get("KeySchema").0 == &key, "another key");
    let ttl = found.at("TimeToLiveSpecification.AttributeName").0.as_str();
    report(ttl == table.ttl, "another TTL attribute");
    let billing = found.get("BillingMode").0.as_str();
    report(
        billing == Some("PAY_PER_REQUEST"),
        "capacity that costs money when idle",
    );

    let mut attributes = vec![table.hash];
    attributes.extend(table.range);
    let mut indexes = Vec::new();
    for index in table.indexes {
        attributes.extend([index.hash, index.range]);
        indexes.push((
            index.name.to_owned(),
            key_schema(index.hash, Some(index.range)),
            match index.projection {
                Projection::All => "ALL",
                Projection::KeysOnly => "KEYS_ONLY",
            },
        ));
    }
    let found_indexes = found.get("GlobalSecondaryIndexes").elements();
    let found_indexes: Vec<_> = found_indexes
        .map(|node| {
            let name = node.get("IndexName").0.as_str().unwrap_or_default();
            let projection = node.at("Projection.ProjectionType").0.as_str();
            let key = node.get("KeySchema").0.clone();
            (name.to_owned(), key, projection.unwrap_or_default())
        })
        .collect();
    report(found_indexes == indexes, "other indexes");

    attributes.sort_unstable();
    attributes.dedup();
    let expected: Vec<_> = attributes.into_iter().map(|name| (name, "S")).collect();
    let text = |node: Node<'_>, name| node.get(name).0.as_str().unwrap_or_default().to_owned();
    let mut defined: Vec<(String, String)> = found
        .get("AttributeDefinitions")
        .elements()
        .map(|node| (text(node, "AttributeName"), text(node, "AttributeType")))
        .collect();
    defined.sort_unstable();
    let defined: Vec<_> = defined
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    report(defined == expected, "other attributes in its keys");
    defects
}

fn key_schema(hash: &str, range: Option<&str>) -> Value {
    let mut yaml = format!("[{{AttributeName: {hash}, KeyType: HASH}}");
    if let Some(range) = range {
        yaml.push_str(&format!(", {{AttributeName: {range}, KeyType: RANGE}}"));
    }
    yaml_serde::from_str(&(yaml + "]")).unwrap()
}
