//! Faults on request.

use serde::{Deserialize, Serialize};

/// Fault of a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// The connection is lost before the request is executed.
    RequestLost,
    /// The request is executed, and the connection is lost before the response.
    ResponseLost,
    /// The connection is lost, and the request is executed later, by the stand-in's clock. Until then its
    /// idempotency key is in use.
    Late {
        /// Seconds after which the request is executed.
        seconds: i64,
    },
    /// 429, before the request is executed.
    RateLimited {
        /// Header `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// 500, before the request is executed: it is not stored under the idempotency key.
    ServerError,
    /// 500 that is stored under the idempotency key, and replayed.
    StoredServerError {
        /// Whether the request takes effect all the same.
        executes: bool,
    },
    /// 409, as if a request with the same idempotency key were in progress. Nothing is executed.
    KeyInUse,
    /// The request is executed, and the response is late by tokio's clock. Until then its idempotency key is
    /// in use, by the stand-in's clock.
    Slow {
        /// Milliseconds until the response.
        milliseconds: u64,
    },
    /// The request is executed, and the response is cut off JSON with status 200.
    Malformed,
}

/// Requests that have a fault.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Method, such as `POST`; any if `None`.
    #[serde(default)]
    pub method: Option<String>,
    /// Path, such as `/v1/invoiceitems`; a `*` at its end matches any rest.
    pub path: String,
    /// Number of requests that have the fault.
    #[serde(default = "once")]
    pub times: u32,
    /// The fault.
    pub fault: Fault,
    /// Header `Stripe-Should-Retry` of an error response.
    #[serde(default)]
    pub should_retry: Option<bool>,
}

fn once() -> u32 {
    1
}

impl FaultRule {
    /// Creates a rule for the next `times` requests of a method and path.
    #[must_use]
    pub fn new(method: &str, path: &str, times: u32, fault: Fault) -> Self {
        Self {
            method: Some(method.to_owned()),
            path: path.to_owned(),
            times,
            fault,
            should_retry: None,
        }
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        let is_path = match self.path.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == self.path,
        };
        is_path && self.method.as_deref().is_none_or(|wanted| wanted == method)
    }
}

/// Fault of one request, with the header of its error response.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) fault: Fault,
    pub(crate) should_retry: Option<bool>,
}

/// Takes the fault of a request from the first rule that matches.
pub(crate) fn choose(rules: &mut Vec<FaultRule>, method: &str, path: &str) -> Option<Chosen> {
    let at = rules
        .iter()
        .position(|rule| rule.times > 0 && rule.matches(method, path))?;
    let rule = &mut rules[at];
    rule.times -= 1;
    let chosen = Chosen {
        fault: rule.fault.clone(),
        should_retry: rule.should_retry,
    };
    if rule.times == 0 {
        rules.remove(at);
    }
    Some(chosen)
}
