//! IAM roles of the functions: checks calls against their grants, and records which grants are used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tollgate_store::schema::{TABLES, attr};

use crate::Call;

/// Supported condition keys, by
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html> and
/// <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-conditions.html>.
const LEADING_KEYS: &str = "dynamodb:LeadingKeys";
const ATTRIBUTES: &str = "dynamodb:Attributes";
const SELECT: &str = "dynamodb:Select";
const SOURCE: &str = "events:source";
const DETAIL_TYPE: &str = "events:detail-type";

/// One action on one resource, or one value of a condition of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// IAM action, for example `dynamodb:GetItem`.
    pub action: String,
    /// Last part of the resource's ARN, such as `table/prod-registry/index/listing`.
    pub resource: String,
    /// Condition key with one of its values or patterns.
    pub with: Option<(String, String)>,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.action, self.resource)?;
        match &self.with {
            Some((key, value)) => write!(f, " with {key} {value}"),
            None => Ok(()),
        }
    }
}

/// An action on a resource that a role allows if all conditions hold.
#[derive(Debug, Clone)]
pub struct Grant {
    /// IAM action, for example `dynamodb:GetItem`.
    pub action: String,
    /// Last part of the resource's ARN.
    pub resource: String,
    /// Conditions that must all hold.
    pub conditions: Vec<Condition>,
}

/// Condition on the values that a call has for a condition key.
#[derive(Debug, Clone)]
pub struct Condition {
    key: &'static str,
    /// `ForAllValues`: every value of the call must match; holds for no values as well.
    for_all: bool,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equals,
    Like,
    NotLike,
}

impl Condition {
    /// Creates a condition. `None` if the operator, or the key in combination with the action, is not
    /// supported.
    #[must_use]
    pub fn new(action: &str, operator: &str, key: &str, values: Vec<String>) -> Option<Self> {
        let of_set = operator.strip_prefix("ForAllValues:");
        let key = match action.split_once(':')? {
            ("dynamodb", "UpdateItem" | "Scan") if key == ATTRIBUTES => ATTRIBUTES,
            ("dynamodb", "Scan") if key == SELECT => SELECT,
            ("dynamodb", action) if key == LEADING_KEYS && action != "Scan" => LEADING_KEYS,
            ("events", "PutEvents") if key == SOURCE => SOURCE,
            ("events", "PutEvents") if key == DETAIL_TYPE => DETAIL_TYPE,
            _ => return None,
        };
        let operator = match of_set.unwrap_or(operator) {
            "StringEquals" => Operator::Equals,
            "StringLike" => Operator::Like,
            "StringNotLike" => Operator::NotLike,
            _ => return None,
        };
        Some(Self {
            key,
            for_all: of_set.is_some(),
            operator,
            values,
        })
    }

    /// Returns the call's values of the key that violate the condition.
    fn violations<'a>(&self, call: &'a RequiredPermission) -> impl Iterator<Item = &'a String> {
        call.values(self.key).iter().filter(|value| {
            self.values.iter().any(|one| self.matches(one, value)) == self.negates()
        })
    }

    fn holds(&self, call: &RequiredPermission) -> bool {
        (self.for_all || !call.values(self.key).is_empty())
            && self.violations(call).next().is_none()
    }

    fn negates(&self) -> bool {
        self.operator == Operator::NotLike
    }

    fn matches(&self, one: &str, value: &str) -> bool {
        match self.operator {
            Operator::Equals => one == value,
            Operator::Like | Operator::NotLike => is_like(one, value),
        }
    }
}

/// Returns whether `text` matches `pattern`, in which `*` matches any characters and `?` matches one.
fn is_like(pattern: &str, text: &str) -> bool {
    let Some(at) = pattern.find(['*', '?']) else {
        return pattern == text;
    };
    let (start, rest) = (&pattern[..at], &pattern[at + 1..]);
    text.strip_prefix(start).is_some_and(|text| {
        let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        if pattern[at..].starts_with('?') {
            return ends.nth(1).is_some_and(|end| is_like(rest, &text[end..]));
        }
        ends.any(|at| is_like(rest, &text[at..]))
    })
}

/// A function's role. Cheap to clone; clones share the recorded use.
#[derive(Debug, Clone)]
pub struct Role(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    function: String,
    grants: Vec<Grant>,
    recorded: Mutex<Recorded>,
}

/// Permissions that the function's calls required so far.
#[derive(Debug, Default)]
struct Recorded {
    used: BTreeSet<Permission>,
    denied: BTreeSet<Permission>,
}

impl Role {
    /// Creates the role of a function.
    pub fn new(function: &str, grants: impl IntoIterator<Item = Grant>) -> Self {
        Self(Arc::new(Inner {
            function: function.to_owned(),
            grants: grants.into_iter().collect(),
            recorded: Mutex::default(),
        }))
    }

    /// Returns the logical id of the function.
    #[must_use]
    pub fn function(&self) -> &str {
        &self.0.function
    }

    /// Returns the permissions that calls required and the role does not grant. For a violated condition,
    /// this is the first violating value, cut after its last `#`.
    #[must_use]
    pub fn denied(&self) -> Vec<Permission> {
        self.recorded().denied.iter().cloned().collect()
    }

    /// Returns the granted permissions that no call used: actions on resources, and values that
    /// conditions allow and no call had. Limited to the services that are emulated here.
    #[must_use]
    pub fn unused(&self) -> Vec<Permission> {
        let recorded = self.recorded();
        let mut unused = BTreeSet::new();
        for grant in &self.0.grants {
            let plain = grant.permission(None);
            if !matches!(grant.action.split(':').next(), Some("dynamodb" | "events")) {
                continue;
            }
            if recorded.used.contains(&plain) {
                let values = grant.allowed_values().map(|(_, permission)| permission);
                unused.extend(values.filter(|value| !recorded.used.contains(value)));
            } else {
                unused.insert(plain);
            }
        }
        unused.into_iter().collect()
    }

    /// Checks a call and records the permissions that it requires. Returns AWS's response if the role
    /// does not allow it, `None` if it does.
    pub(crate) fn check(&self, call: &Call) -> Option<(u16, String)> {
        let mut denied = None;
        for required in required_permissions(call) {
            let used = self.0.grants.iter().find(|grant| grant.allows(&required));
            let mut recorded = self.recorded();
            match used {
                Some(grant) => recorded.used.extend(grant.used_by(&required)),
                None => {
                    recorded.denied.insert(self.missing(&required));
                    denied.get_or_insert(required);
                }
            }
        }
        let RequiredPermission {
            action, resource, ..
        } = denied?;
        let function = &self.0.function;
        let body = json!({
            "__type": "com.amazon.coral.service#AccessDeniedException",
            "Message":
                format!("{function} is not authorized to perform: {action} on resource: {resource}"),
        });
        Some((400, body.to_string()))
    }

    /// Returns the permission that the role would need in order to allow this.
    fn missing(&self, required: &RequiredPermission) -> Permission {
        let mut grants = self.0.grants.iter();
        let unmet = grants
            .find(|grant| grant.is_for(required))
            .and_then(|grant| {
                let mut conditions = grant.conditions.iter();
                let unmet = conditions.find(|condition| !condition.holds(required))?;
                let value = unmet.violations(required).next().cloned();
                Some((unmet.key.to_owned(), kind_of(&value.unwrap_or_default())))
            });
        Permission {
            action: required.action.clone(),
            resource: required.resource.clone(),
            with: unmet,
        }
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0
            .recorded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces the part of a partition key after its last `#`, which identifies the item and may be a digest.
fn kind_of(value: &str) -> String {
    match value.rsplit_once('#') {
        Some((kind, _)) => format!("{kind}#*"),
        None => value.to_owned(),
    }
}

impl Grant {
    fn permission(&self, with: Option<(String, String)>) -> Permission {
        Permission {
            action: self.action.clone(),
            resource: self.resource.clone(),
            with,
        }
    }

    fn is_for(&self, required: &RequiredPermission) -> bool {
        self.action == required.action && is_like(&self.resource, &required.resource)
    }

    fn allows(&self, required: &RequiredPermission) -> bool {
        let mut conditions = self.conditions.iter();
        self.is_for(required) && conditions.all(|condition| condition.holds(required))
    }

    /// Returns each value that a condition allows, with its condition and as a permission.
    fn allowed_values(&self) -> impl Iterator<Item = ((&Condition, &String), Permission)> {
        let allowing = self.conditions.iter().filter(|one| !one.negates());
        allowing.flat_map(move |condition| {
            condition.values.iter().map(move |value| {
                let with = (condition.key.to_owned(), value.clone());
                ((condition, value), self.permission(Some(with)))
            })
        })
    }

    /// Returns the permissions of this grant that an allowed call uses.
    fn used_by(&self, required: &RequiredPermission) -> impl Iterator<Item = Permission> {
        let values = self.allowed_values();
        let used = values.filter(|((condition, one), _)| {
            let mut values = required.values(condition.key).iter();
            values.any(|value| condition.matches(one, value))
        });
        let used = used.map(|(_, permission)| permission);
        used.chain([self.permission(None)])
    }
}

/// An action on a resource that a call requires, with the call's values of condition keys.
#[derive(Debug)]
struct RequiredPermission {
    action: String,
    resource: String,
    context: BTreeMap<&'static str, Vec<String>>,
}

impl RequiredPermission {
    fn values(&self, key: &str) -> &[String] {
        self.context.get(key).map_or(&[], Vec::as_slice)
    }
}

/// Returns the permissions that a call requires, by
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazondynamodb.html>:
/// a transaction requires those of its actions, and a call with several events those of each event.
fn required_permissions(call: &Call) -> Vec<RequiredPermission> {
    let body: Value = serde_json::from_str(&call.body).unwrap_or_default();
    match call.operation() {
        "PutEvents" => {
            let entries = body["Entries"].as_array().into_iter().flatten();
            let texts = |value: &Value| value.as_str().map(str::to_owned).into_iter().collect();
            let required = entries.map(|entry| RequiredPermission {
                action: "events:PutEvents".to_owned(),
                resource: format!(
                    "event-bus/{}",
                    entry["EventBusName"].as_str().unwrap_or_default()
                ),
                context: BTreeMap::from([
                    (SOURCE, texts(&entry["Source"])),
                    (DETAIL_TYPE, texts(&entry["DetailType"])),
                ]),
            });
            required.collect()
        }
        "SendMessageBatch" => {
            let url = body["QueueUrl"].as_str().unwrap_or_default();
            vec![RequiredPermission {
                action: "sqs:SendMessage".to_owned(),
                resource: format!("queue/{}", crate::queue_name(url)),
                context: BTreeMap::new(),
            }]
        }
        "GetSecretValue" => {
            let name = body["SecretId"].as_str().unwrap_or_default();
            // Secrets Manager ends the ARN with a hyphen and six random characters.
            vec![on_secret(
                "secretsmanager:GetSecretValue",
                "secretsmanager",
                &format!("secret:{name}-q1W2e3"),
            )]
        }
        "GetParameter" => {
            let name = body["Name"].as_str().unwrap_or_default();
            let name = name.strip_prefix('/').unwrap_or(name);
            vec![on_secret(
                "ssm:GetParameter",
                "ssm",
                &format!("parameter/{name}"),
            )]
        }
        "BatchGetItem" => {
            let tables = body["RequestItems"].as_object().into_iter().flatten();
            let required = tables.map(|(name, request)| {
                let mut request = request.clone();
                request["TableName"] = name.as_str().into();
                on_table("BatchGetItem", &request)
            });
            required.collect()
        }
        "TransactWriteItems" => {
            let actions = body["TransactItems"].as_array().into_iter().flatten();
            let required = actions.flat_map(|action| {
                let members = action.as_object().into_iter().flatten();
                members.map(|(kind, request)| match kind.as_str() {
                    "Put" => on_table("PutItem", request),
                    "Update" => on_table("UpdateItem", request),
                    "Delete" => on_table("DeleteItem", request),
                    "ConditionCheck" => on_table("ConditionCheckItem", request),
                    other => on_table(other, request),
                })
            });
            required.collect()
        }
        operation => vec![on_table(operation, &body)],
    }
}

/// Returns the permission on a resource that the stack does not declare, and so names by its whole ARN.
fn on_secret(action: &str, service: &str, resource: &str) -> RequiredPermission {
    RequiredPermission {
        action: action.to_owned(),
        resource: format!("arn:aws:{service}:us-east-1:000000000000:{resource}"),
        context: BTreeMap::new(),
    }
}

fn on_table(action: &str, request: &Value) -> RequiredPermission {
    let table = request["TableName"].as_str().unwrap_or_default();
    let index = request["IndexName"].as_str();
    RequiredPermission {
        action: format!("dynamodb:{action}"),
        resource: match index {
            Some(index) => format!("table/{table}/index/{index}"),
            None => format!("table/{table}"),
        },
        context: BTreeMap::from([
            (
                LEADING_KEYS,
                leading_keys(request, partition_key(table, index)),
            ),
            (ATTRIBUTES, attributes(request)),
            (
                SELECT,
                request["Select"]
                    .as_str()
                    .map(str::to_owned)
                    .into_iter()
                    .collect(),
            ),
        ]),
    }
}

/// Returns the partition key's name of a table, or of its index if the call uses one: conditions of an
/// index apply to the index's partition key.
fn partition_key(table: &str, index: Option<&str>) -> &'static str {
    let is_named = |name: &str| {
        let prefix = table.strip_suffix(name);
        prefix.is_some_and(|prefix| prefix.ends_with('-'))
    };
    let table = TABLES.iter().find(|table| is_named(table.name));
    let mut indexes = table.iter().flat_map(|table| table.indexes);
    match index {
        Some(index) => indexes
            .find(|of_table| of_table.name == index)
            .map_or(attr::PK, |of_table| of_table.hash),
        None => table.map_or(attr::PK, |table| table.hash),
    }
}

/// Returns the values of the partition key in a request. A value that cannot be determined is empty.
fn leading_keys(request: &Value, name: &str) -> Vec<String> {
    let text = |value: &Value| value["S"].as_str().unwrap_or_default().to_owned();
    if let Some(keys) = request["Keys"].as_array() {
        return keys.iter().map(|key| text(&key[name])).collect();
    }
    if let Some(condition) = request["KeyConditionExpression"].as_str() {
        let mut clauses = condition.split(" AND ");
        let value =
            clauses.find_map(|clause| clause.trim().strip_prefix(name)?.trim().strip_prefix('='));
        let value = &request["ExpressionAttributeValues"][value.unwrap_or_default().trim()];
        return vec![text(value)];
    }
    let key = ["Key", "Item"]
        .into_iter()
        .find(|part| request[*part].is_object());
    vec![text(&request[key.unwrap_or_default()][name])]
}

/// Returns the attributes of a request: those of its key or item, and those in its expressions.
fn attributes(request: &Value) -> Vec<String> {
    let parts = ["Key", "Item"].into_iter();
    let of_item = parts.filter_map(|part| request[part].as_object());
    let mut attributes: BTreeSet<String> = of_item.flat_map(|item| item.keys().cloned()).collect();
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '#' | ':');
    for part in [
        "UpdateExpression",
        "ConditionExpression",
        "ProjectionExpression",
    ] {
        let expression = request[part].as_str().unwrap_or_default();
        for word in expression.split_inclusive(|c| !is_part(c)) {
            let name = word.trim_end_matches(|c| !is_part(c));
            match name.chars().next() {
                Some('#') => {
                    let name = request["ExpressionAttributeNames"][name].as_str();
                    attributes.extend(name.map(str::to_owned));
                }
                // Keywords are in capitals, and functions are followed by a parenthesis.
                Some(first) if first.is_ascii_lowercase() && !word.ends_with('(') => {
                    attributes.insert(name.to_owned());
                }
                _ => {}
            }
        }
    }
    attributes.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(action: &str, operator: &str, key: &str, values: &[&str]) -> Condition {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Condition::new(action, operator, key, values).unwrap()
    }

    fn role(action: &str, resource: &str, conditions: Vec<Condition>) -> Role {
        let (action, resource) = (action.to_owned(), resource.to_owned());
        Role::new(
            "AFunction",
            [Grant {
                action,
                resource,
                conditions,
            }],
        )
    }

    fn is_allowed(role: &Role, target: &str, body: Value) -> bool {
        role.check(&Call::new(target, body.to_string())).is_none()
    }

    #[test]
    fn a_pattern_matches_the_whole_text() {
        for (pattern, text, expected) in [
            ("KEY#*", "KEY#", true),
            ("KEY#*", "KEY#a#b", true),
            ("KEY#*", "ADMIN#KEY#a", false),
            ("KEY#*", "KEY", false),
            ("*#*", "RECONCILIATION#2026-11-22", true),
            ("*#*", "acme", false),
            ("*", "", true),
            ("a*é*b", "aééb", true),
            ("a*é*b", "aeb", false),
            ("a-??", "a-é1", true),
            ("a-??", "a-1", false),
            ("a-??", "a-123", false),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn each_key_of_a_call_must_be_one_that_the_condition_allows() {
        let keys = ["KEY#*", "KEYID#*"];
        let only = |action| {
            let like = "ForAllValues:StringLike";
            let action = format!("dynamodb:{action}");
            let condition = condition(&action, like, LEADING_KEYS, &keys);
            role(&action, "table/x-registry", vec![condition])
        };
        let key = |pk: &str| json!({ "pk": { "S": pk } });
        let get = |keys: &[&str]| {
            let keys: Vec<Value> = keys.iter().map(|pk| key(pk)).collect();
            let body = json!({ "RequestItems": { "x-registry": { "Keys": keys } } });
            is_allowed(&only("BatchGetItem"), "D.BatchGetItem", body)
        };
        assert!(get(&["KEY#a", "KEYID#b"]));
        assert!(!get(&["KEY#a", "CUSTOMER#b"]));
        let put = |pk: &str| json!({ "TableName": "x-registry", "Item": key(pk) });
        let transact = |pks: [&str; 2]| {
            let puts = pks.map(|pk| json!({ "Put": put(pk) }));
            let body = json!({ "TransactItems": puts });
            is_allowed(&only("PutItem"), "D.TransactWriteItems", body)
        };
        assert!(transact(["KEY#a", "KEYID#b"]));
        assert!(!transact(["KEY#a", "ADMIN#KEY#b"]));
        // A key that cannot be determined is not allowed.
        let role = only("PutItem");
        let body = json!({ "TableName": "x-registry", "Item": {} });
        assert!(!is_allowed(&role, "D.PutItem", body));
    }

    #[test]
    fn conditions_on_a_query_apply_to_the_partition_key_of_its_index() {
        let action = "dynamodb:Query";
        let equals = "ForAllValues:StringEquals";
        let only = condition(action, equals, LEADING_KEYS, &["keys"]);
        let role = role(action, "table/x-registry/index/listing", vec![only]);
        let query = |condition: &str, value: &str| {
            let body = json!({
                "TableName": "x-registry",
                "IndexName": "listing",
                "KeyConditionExpression": condition,
                "ExpressionAttributeValues": { ":a": { "S": value }, ":b": { "S": "keys" } },
            });
            is_allowed(&role, "D.Query", body)
        };
        assert!(query("listing = :a", "keys"));
        assert!(query(
            "listing = :a AND listing_order BETWEEN :b AND :b",
            "keys"
        ));
        assert!(!query("listing = :a AND listing_order > :b", "customers"));
        assert!(!query("listing_order = :b", "keys"));
    }

    #[test]
    fn an_update_may_use_only_the_attributes_that_the_condition_lists() {
        let action = "dynamodb:UpdateItem";
        let equals = "ForAllValues:StringEquals";
        let only = condition(action, equals, ATTRIBUTES, &["pk", "revoked_at"]);
        let role = role(action, "table/x-registry", vec![only]);
        let update = |update: &str, condition: &str| {
            let body = json!({
                "TableName": "x-registry",
                "Key": { "pk": { "S": "KEY#a" } },
                "UpdateExpression": update,
                "ConditionExpression": condition,
                "ExpressionAttributeNames": { "#c": "customer", "#r": "revoked_at" },
            });
            is_allowed(&role, "D.UpdateItem", body)
        };
        let exists = "attribute_exists(pk) AND attribute_not_exists(revoked_at)";
        assert!(update("SET revoked_at = :now", exists));
        assert!(update("SET #r = if_not_exists(#r, :now)", exists));
        assert!(!update("REMOVE customer", exists));
        assert!(!update("SET revoked_at = :now, #c = :c", exists));
        assert!(!update("SET revoked_at = :now", "customer = :c"));
    }

    #[test]
    fn a_scan_may_read_only_the_attributes_that_the_condition_lists() {
        let action = "dynamodb:Scan";
        let attributes = condition(action, "ForAllValues:StringEquals", ATTRIBUTES, &["pk"]);
        let select = condition(action, "StringEquals", SELECT, &["SPECIFIC_ATTRIBUTES"]);
        let role = role(action, "table/x-usage-log", vec![attributes, select]);
        let scan = |select: Value, attributes: Value| {
            let body = json!({
                "TableName": "x-usage-log", "Select": select, "ProjectionExpression": attributes,
            });
            is_allowed(&role, "D.Scan", body)
        };
        assert!(scan(json!("SPECIFIC_ATTRIBUTES"), json!("pk")));
        assert!(!scan(json!("SPECIFIC_ATTRIBUTES"), json!("pk, body")));
        assert!(!scan(json!("ALL_ATTRIBUTES"), json!(null)));
        assert!(!scan(json!(null), json!(null)));
    }

    #[test]
    fn each_event_of_a_call_must_be_of_the_detail_type_and_source() {
        let action = "events:PutEvents";
        let conditions = [(DETAIL_TYPE, "usage"), (SOURCE, "ping")];
        let conditions =
            conditions.map(|(key, value)| condition(action, "StringEquals", key, &[value]));
        let role = role(action, "event-bus/b", conditions.to_vec());
        let event = |detail_type: &str, source: &str| json!({ "EventBusName": "b", "DetailType": detail_type, "Source": source });
        let put = |events: &[Value]| {
            is_allowed(&role, "AWSEvents.PutEvents", json!({ "Entries": events }))
        };
        let good = event("usage", "ping");
        assert!(put(&[good.clone(), good.clone()]));
        assert!(!put(&[good.clone(), event("adjustment", "ping")]));
        assert!(!put(&[event("usage", "pin"), good]));
        assert!(!put(&[
            json!({ "EventBusName": "b", "DetailType": "usage" })
        ]));
        let denied: Vec<String> = role.denied().iter().map(Permission::to_string).collect();
        let expected = [
            "events:PutEvents on event-bus/b with events:detail-type adjustment",
            "events:PutEvents on event-bus/b with events:source ",
            "events:PutEvents on event-bus/b with events:source pin",
        ];
        assert_eq!(denied, expected);
    }

    #[test]
    fn unsupported_conditions_are_rejected() {
        let new = |action, operator, key| Condition::new(action, operator, key, Vec::new());
        let equals = "StringEquals";
        assert!(new("dynamodb:GetItem", equals, "dynamodb:Select").is_none());
        assert!(new("dynamodb:GetItem", equals, ATTRIBUTES).is_none());
        assert!(new("dynamodb:Scan", "ForAllValues:StringLike", LEADING_KEYS).is_none());
        assert!(new("events:PutEvents", "StringEqualsIfExists", SOURCE).is_none());
        assert!(new("sqs:SendMessage", equals, SOURCE).is_none());
    }
}
