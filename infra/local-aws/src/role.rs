//! What a function may do, held against what it does.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::Call;

/// One action on one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// Such as `dynamodb:GetItem`.
    pub action: String,
    /// The end of its ARN, such as `table/prod-accounts/index/listing`.
    pub resource: String,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.action, self.resource)
    }
}

/// A function's role. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Role(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    function: String,
    granted: BTreeSet<Permission>,
    asked: Mutex<BTreeSet<Permission>>,
}

impl Role {
    /// The role of a function, which grants this.
    pub fn new(function: &str, granted: impl IntoIterator<Item = Permission>) -> Self {
        Self(Arc::new(Inner {
            function: function.to_owned(),
            granted: granted.into_iter().collect(),
            asked: Mutex::default(),
        }))
    }

    /// The logical id of the function.
    #[must_use]
    pub fn function(&self) -> &str {
        &self.0.function
    }

    /// What the function asked for without having it.
    #[must_use]
    pub fn denied(&self) -> Vec<Permission> {
        self.asked().difference(&self.0.granted).cloned().collect()
    }

    /// What the function has and has not asked for, of what a local call can ask for at all.
    #[must_use]
    pub fn unused(&self) -> Vec<Permission> {
        let asked = self.asked();
        let unused = self.0.granted.difference(&asked);
        let called = |permission: &&Permission| {
            let service = permission.action.split(':').next();
            matches!(service, Some("dynamodb" | "events"))
        };
        unused.filter(called).cloned().collect()
    }

    /// AWS's answer to a call that the role does not allow.
    pub(crate) fn refuse(&self, call: &Call) -> Option<(u16, String)> {
        let needed = needed(call);
        let refused = needed
            .iter()
            .find(|needed| !self.0.granted.contains(needed));
        let answer = refused.map(|needed| {
            let message = format!(
                "{} is not authorized to perform: {} on resource: {}",
                self.0.function, needed.action, needed.resource
            );
            let body = json!({
                "__type": "com.amazon.coral.service#AccessDeniedException",
                "Message": message,
            });
            (400, body.to_string())
        });
        self.asked().extend(needed);
        answer
    }

    fn asked(&self) -> MutexGuard<'_, BTreeSet<Permission>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call takes, by
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazondynamodb.html>:
/// a transaction takes the actions that it is made of.
fn needed(call: &Call) -> Vec<Permission> {
    let body: Value = serde_json::from_str(&call.body).unwrap_or_default();
    let table = |action: &str, request: &Value| {
        let name = request["TableName"].as_str().unwrap_or_default();
        let resource = match request["IndexName"].as_str() {
            Some(index) => format!("table/{name}/index/{index}"),
            None => format!("table/{name}"),
        };
        Permission {
            action: format!("dynamodb:{action}"),
            resource,
        }
    };
    match call.operation() {
        "PutEvents" => {
            let entries = body["Entries"].as_array().into_iter().flatten();
            let needed = entries.map(|entry| Permission {
                action: "events:PutEvents".to_owned(),
                resource: format!(
                    "event-bus/{}",
                    entry["EventBusName"].as_str().unwrap_or_default()
                ),
            });
            needed.collect()
        }
        "BatchGetItem" => {
            let tables = body["RequestItems"].as_object().into_iter().flatten();
            let needed =
                tables.map(|(name, _)| table("BatchGetItem", &json!({ "TableName": name })));
            needed.collect()
        }
        "TransactWriteItems" => {
            let actions = body["TransactItems"].as_array().into_iter().flatten();
            let needed = actions.flat_map(|action| {
                let members = action.as_object().into_iter().flatten();
                members.map(|(kind, request)| match kind.as_str() {
                    "Put" => table("PutItem", request),
                    "Update" => table("UpdateItem", request),
                    "Delete" => table("DeleteItem", request),
                    "ConditionCheck" => table("ConditionCheckItem", request),
                    other => table(other, request),
                })
            });
            needed.collect()
        }
        operation => vec![table(operation, &body)],
    }
}
