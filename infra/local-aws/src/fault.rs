//! Faults of a network and of a busy service, which the embedded engine does not produce by itself.

use serde_json::{Value, json};

/// Chooses the fault of each call.
pub(crate) type Injector = Box<dyn FnMut(&Call) -> Fault + Send>;

/// One call of an AWS API, as sent over HTTP.
#[derive(Debug, Clone)]
pub struct Call {
    /// Service and operation, such as `DynamoDB_20120810.UpdateItem`.
    pub target: String,
    /// The request's JSON body.
    pub body: String,
}

/// Injected fault of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    None,
    /// The request is lost: no effect and no response.
    RequestLost,
    /// The call takes effect, and its response is lost.
    ResponseLost,
    /// The call takes effect, and the connection stays open without a response.
    NoResponse,
    /// No effect; the service responds that it has no capacity.
    Throttled,
    /// No effect; the service responds with a validation error, which is not retried.
    Invalid,
    /// No effect; the service responds that another transaction is in progress on one of the items.
    /// Reads, which do not conflict, are throttled instead.
    Conflict,
}

/// Returns status and body of the response to a throttled call.
#[must_use]
pub fn throttled() -> (u16, String) {
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
        "message": "injected: no capacity",
    });
    (400, body.to_string())
}

impl Call {
    pub(crate) fn new(target: &str, body: String) -> Self {
        Self {
            target: target.to_owned(),
            body,
        }
    }

    /// Returns the operation, such as `UpdateItem`.
    #[must_use]
    pub fn operation(&self) -> &str {
        self.target.split_once('.').map_or("", |(_, name)| name)
    }

    /// Returns status and body of the response to this call when it is throttled.
    #[must_use]
    pub fn throttled(&self) -> (u16, String) {
        throttled()
    }

    pub(crate) fn invalid(&self) -> (u16, String) {
        let body = json!({
            "__type": "com.amazon.coral.validate#ValidationException",
            "message": "injected: invalid",
        });
        (400, body.to_string())
    }

    /// Returns status and body of the response to this call when it conflicts with a transaction.
    #[must_use]
    pub fn conflict(&self) -> (u16, String) {
        let body = match self.operation() {
            "TransactWriteItems" => {
                let request: Value = serde_json::from_str(&self.body).unwrap_or_default();
                let actions = request["TransactItems"].as_array().map_or(0, Vec::len);
                let mut reasons = vec![json!({ "Code": "None" }); actions];
                if let Some(last) = reasons.last_mut() {
                    *last = json!({ "Code": "TransactionConflict", "Message": "injected" });
                }
                json!({
                    "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                    "Message": "injected: Transaction cancelled",
                    "CancellationReasons": reasons,
                })
            }
            "PutItem" | "UpdateItem" | "DeleteItem" => json!({
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionConflictException",
                "message": "injected: Transaction is ongoing for the item",
            }),
            _ => return self.throttled(),
        };
        (400, body.to_string())
    }
}
