//! Faults that a network and a busy service produce, and the embedded engine does not.

use serde_json::{Value, json};

/// Decides the fate of a call.
pub(crate) type Injector = Box<dyn FnMut(&Call) -> Fault + Send>;

/// One call of an AWS API, as it goes over the wire.
#[derive(Debug, Clone)]
pub struct Call {
    /// Service and operation, such as `DynamoDB_20120810.UpdateItem`.
    pub target: String,
    /// The request's JSON body.
    pub body: String,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered as it should be.
    None,
    /// It never arrives: no effect, and no answer.
    RequestLost,
    /// It takes effect, and its answer never arrives.
    AnswerLost,
    /// It takes effect, and the connection stays open and silent.
    NoAnswer,
    /// The service has no capacity: no effect, and an answer that says so.
    Throttled,
    /// The service takes it for invalid: no effect, and an answer that is the same each time.
    Refused,
    /// Another transaction is under way on one of the items: no effect, and an answer that says
    /// so. Reads, which do not conflict, are throttled instead.
    Conflict,
}

/// Status and body of the answer to any call for which there is no capacity.
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

    /// The operation, such as `UpdateItem`.
    #[must_use]
    pub fn operation(&self) -> &str {
        self.target.split_once('.').map_or("", |(_, name)| name)
    }

    /// Status and body of the answer to a call for which there is no capacity.
    #[must_use]
    pub fn throttled(&self) -> (u16, String) {
        throttled()
    }

    pub(crate) fn refused(&self) -> (u16, String) {
        let body = json!({
            "__type": "com.amazon.coral.validate#ValidationException",
            "message": "injected: invalid",
        });
        (400, body.to_string())
    }

    /// The same of one that meets a transaction on one of its items.
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
