//! A local stack for one test, with helpers for requests.

use http::StatusCode;
use serde_json::{Value, json};
use tollgate_local::client::{Client, Response};
use tollgate_local::local_stack::{self, Options, Running};

use super::calls;

/// A running local stack, in memory, on its own port.
pub(crate) struct Target {
    /// Client without a key.
    pub(crate) anyone: Client,
    /// Client with the admin key.
    pub(crate) admin: Client,
    /// Handle of the stack.
    pub(crate) running: Running,
}

impl Target {
    /// Starts a stack whose clock is set to `now`.
    pub(crate) async fn at(now: &str) -> Self {
        Self::with_options(Options::default(), now).await
    }

    /// Starts a stack with these options, with its clock set to `now`.
    pub(crate) async fn with_options(options: Options, now: &str) -> Self {
        let running = local_stack::start(options).await.unwrap();
        let anyone = Client::new(&running.url).unwrap();
        let admin = anyone.with_key(running.admin.expose().unwrap());
        let target = Self {
            anyone,
            admin,
            running,
        };
        target.set_clock(json!({ "now": now })).await;
        target
    }

    /// Changes the clock.
    pub(crate) async fn set_clock(&self, to: Value) {
        calls::local(&self.anyone, "clock", to).await;
    }

    /// Creates a customer.
    pub(crate) async fn customer(&self, id: &str, plan: &str) {
        calls::customer(&self.admin, id, plan).await;
    }

    /// Creates a key; returns a client with it and the response.
    pub(crate) async fn key(&self, body: Value) -> (Client, Value) {
        calls::key(&self.admin, body).await
    }

    /// Delivers all queued usage.
    pub(crate) async fn drain(&self) -> Value {
        calls::local(&self.anyone, "drain", json!({})).await
    }

    /// Runs the nightly functions: billing, then reconciliation.
    pub(crate) async fn nightly(&self) -> Value {
        calls::local(&self.anyone, "nightly", json!({})).await
    }
}

/// Checks that a response is a problem with this status and type, with the request's id.
pub(crate) fn assert_problem(response: &Response, status: StatusCode, slug: &str) {
    calls::assert_problem(response, status, slug);
    assert_eq!(response.header("cache-control"), "no-store");
    assert_eq!(
        response.json()["request_id"],
        response.header("x-amzn-requestid")
    );
}
