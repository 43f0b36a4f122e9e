//! Regression tests for faults that were found in trials of the running program. They use only HTTP and the
//! program's output, so that they can run against the program of any commit: `infra/local/trials-of COMMIT`
//! does that, and lists the tests that fail there.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod support;

/// The tests, by subject.
mod trials {
    mod ledger;
    mod lifecycle;
    mod local;
    mod money;
    mod plans;
    mod responses;
    mod usage;
}

use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use support::program::{self, Dir, Process, program};
use support::{calls, raw};
use tollgate_local::client::{Client, Response};

const NOW: &str = "2026-11-22T10:00:10Z";
const ADMIN_KEY: &str = "an-admin-key-of-mine";
const PING: &str = "/api/secure/ping";
const USAGE: &str = "/api/usage/current";
/// Seconds after which a changed key is in effect: longer than the key cache's TTL.
const KEY_CACHE_S: i64 = 6;

/// A running local stack for one test.
struct LocalStack {
    process: Process,
    /// Client without a key.
    anyone: Client,
    /// Client with the admin key.
    admin: Client,
}

impl LocalStack {
    /// Starts a stack in memory whose clock is set to `now`.
    async fn at(now: &str) -> Self {
        Self::with_plans(None, now).await
    }

    /// Starts a stack in memory with these plans, or the shipped ones, whose clock is set to `now`.
    async fn with_plans(plans: Option<&Value>, now: &str) -> Self {
        let mut command = program();
        if let Some(plans) = plans {
            command.env("TOLLGATE_PLANS", plans.to_string());
        }
        let stack = Self::start(command.arg("--in-memory"));
        stack.set_clock(now).await;
        stack
    }

    /// Starts a stack with its state in a directory.
    fn in_dir(dir: &Dir) -> Self {
        Self::start(program().arg("--data").arg(&dir.0))
    }

    fn start(command: &mut std::process::Command) -> Self {
        let process = Process::start(command.args(["--admin-key", ADMIN_KEY]));
        let anyone = process.client();
        Self {
            admin: anyone.with_key(ADMIN_KEY),
            anyone,
            process,
        }
    }

    /// Stops the program cleanly; returns its output.
    fn stop(self) -> String {
        let (code, printed) = self.process.terminate();
        assert_eq!(code, Some(0), "{printed}");
        printed
    }

    async fn set_clock(&self, now: &str) {
        calls::local(&self.anyone, "clock", json!({ "now": now })).await;
    }

    async fn advance(&self, seconds: i64) {
        calls::local(&self.anyone, "clock", json!({ "advance_s": seconds })).await;
    }

    /// Delivers all queued usage.
    async fn drain(&self) {
        let drained = calls::local(&self.anyone, "drain", json!({})).await;
        assert_eq!(
            (&drained["failed"], &drained["dead_letters"]),
            (&json!(0), &json!(0))
        );
    }

    /// Delivers all queued usage, sets the clock, and runs billing and reconciliation.
    async fn nightly(&self, now: &str) -> Value {
        self.drain().await;
        self.set_clock(now).await;
        calls::local(&self.anyone, "nightly", json!({})).await
    }

    /// Creates a customer and a key; returns a client with the key and the response.
    async fn customer_with_key(&self, plan: &str, overrides: Value) -> (Client, Value) {
        calls::customer(&self.admin, "acme", plan).await;
        let body = json!({ "customer_id": "acme", "overrides": overrides });
        calls::key(&self.admin, body).await
    }

    /// Reports calls of the customer on a plan, as a producer outside the stack does.
    async fn report(&self, id: &str, plan: &str, time: &str, calls: usize) {
        let response = self.send_usage(&[usage(id, plan, time, calls)]).await;
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        assert_eq!(response.json()["data"][0]["outcome"], "counted");
    }

    /// Sends usage events to the admin API.
    async fn send_usage(&self, events: &[Value]) -> Response {
        let body = json!({ "events": events });
        let response = self.admin.post("/admin/usage/events", body).await;
        response.unwrap()
    }

    /// Runs billing over the admin API.
    async fn bill(&self, dry_run: bool) -> Value {
        let body = json!({ "dry_run": dry_run });
        let response = self.admin.post("/admin/billing/run", body).await.unwrap();
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        response.json()
    }

    /// Returns the customer's charges for November.
    async fn charges(&self) -> Vec<Value> {
        let list = get_json(&self.admin, "/admin/customers/acme/charges?month=2026-11").await;
        list["data"].as_array().unwrap().clone()
    }

    /// Applies a merge patch, and waits until the authorizer's key cache has expired.
    async fn patch(&self, path: &str, patch: Value) -> Value {
        let response = self.admin.json(Method::PATCH, path, patch).await.unwrap();
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        self.advance(KEY_CACHE_S).await;
        response.json()
    }
}

/// Builds a usage event with calls of the customer on a plan.
fn usage(id: &str, plan: &str, time: &str, calls: usize) -> Value {
    let mut event = calls::usage_event(id, "acme", time, calls);
    for record in event["data"]["records"].as_array_mut().unwrap() {
        record["plan"] = plan.into();
    }
    event
}

/// Builds an event that adjusts the customer's calls on a plan.
fn adjustment(id: &str, plan: &str, billable_calls: i64) -> Value {
    let mut event = usage(id, plan, NOW, 0);
    event["type"] = "tollgate.adjustment.v1".into();
    event["data"] = json!({ "adjustments": [{
        "time": NOW, "plan": plan, "billable_calls": billable_calls, "reason": "an outage of ours",
    }] });
    event
}

/// Returns a plan that charges one cent for each call beyond the included ones.
fn cent_a_call(id: &str, included: u64) -> Value {
    json!({
        "id": id, "name": id, "requests_per_hour": 1_000, "fail_mode": "closed",
        "month": {
            "kind": "overage", "included": included,
            "prices": [{ "from": "2026-01-01", "micro_usd_per_call": 10_000 }],
        },
    })
}

/// Makes calls, and checks that all are served.
async fn make_calls(client: &Client, calls: usize) {
    for _ in 0..calls {
        let pong = client.get(PING).await.unwrap();
        assert_eq!(pong.status, StatusCode::OK, "{}", pong.text);
    }
}

/// Makes a call, and checks that the response is a problem with this status and type.
async fn expect_problem(client: &Client, path: &str, status: StatusCode, slug: &str) -> Response {
    let response = client.get(path).await.unwrap();
    calls::assert_problem(&response, status, slug);
    response
}

/// Sends a `GET` request that must succeed; returns the body.
async fn get_json(client: &Client, path: &str) -> Value {
    let response = client.get(path).await.unwrap();
    assert_eq!(response.status, StatusCode::OK, "{path}: {}", response.text);
    response.json()
}

/// Sends a `POST` request with header fields.
async fn create(admin: &Client, path: &str, fields: &[(&str, &str)], body: &Value) -> Response {
    let body = Body::from(body.to_string());
    let response = admin.send(Method::POST, path, fields, body).await;
    response.unwrap()
}
