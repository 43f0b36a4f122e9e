//! What trials of the whole product found, each as a case that knows a running program alone: over
//! HTTP, and by what it prints. So the same cases run against the program of any commit, whatever
//! it is made of: `infra/local/trials-of COMMIT` does that, and says which of them fail there.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test they are called from"
)]

mod answers;
#[path = "../support/calls.rs"]
mod calls;
mod leave;
mod ledger;
mod local;
mod money;
mod plans;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/raw.rs"]
mod raw;
mod usage;

use axum::body::Body;
use http::{Method, StatusCode};
use program::{Dir, Process, program};
use serde_json::{Value, json};
use tollgate_local::client::{Answer, Client};

const NOW: &str = "2026-11-22T10:00:10Z";
const ADMIN_KEY: &str = "an-admin-key-of-mine";
const PING: &str = "/api/secure/ping";
const USAGE: &str = "/api/usage/current";
/// Longer than the authorizer goes by what it has read of a key.
const A_WHILE: i64 = 6;

/// A running product of one case's own.
struct Product {
    process: Process,
    /// Without a key.
    anyone: Client,
    /// With the admin key.
    admin: Client,
}

impl Product {
    /// Starts a product in memory whose clock stands near `now`.
    async fn at(now: &str) -> Self {
        Self::with_plans(None, now).await
    }

    /// The same, with these plans.
    async fn with_plans(plans: Option<&Value>, now: &str) -> Self {
        let mut command = program();
        if let Some(plans) = plans {
            command.env("TOLLGATE_PLANS", plans.to_string());
        }
        let product = Self::of(command.arg("--in-memory"));
        product.set_clock(now).await;
        product
    }

    /// Starts a product that keeps its state in a directory.
    fn in_dir(dir: &Dir) -> Self {
        Self::of(program().arg("--data").arg(&dir.0))
    }

    fn of(command: &mut std::process::Command) -> Self {
        let process = Process::start(command.args(["--admin-key", ADMIN_KEY]));
        let anyone = process.client();
        Self {
            admin: anyone.with_key(ADMIN_KEY),
            anyone,
            process,
        }
    }

    /// Stops it cleanly; returns what it has printed.
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

    /// Delivers all usage.
    async fn drain(&self) {
        let drained = calls::local(&self.anyone, "drain", json!({})).await;
        assert_eq!(
            (&drained["failed"], &drained["dead_letters"]),
            (&json!(0), &json!(0))
        );
    }

    /// Delivers all usage, and runs a night at `now`.
    async fn night(&self, now: &str) -> Value {
        self.drain().await;
        self.set_clock(now).await;
        calls::local(&self.anyone, "night", json!({})).await
    }

    /// Makes a customer and a key, and a client with it.
    async fn holder(&self, plan: &str, overrides: Value) -> (Client, Value) {
        calls::customer(&self.admin, "acme", plan).await;
        let body = json!({ "customer_id": "acme", "overrides": overrides });
        calls::key(&self.admin, body).await
    }

    /// Reports calls of the customer on a plan, from elsewhere.
    async fn report(&self, id: &str, plan: &str, time: &str, calls: usize) {
        let answer = self.count(&[usage(id, plan, time, calls)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(answer.json()["data"][0]["outcome"], "counted");
    }

    /// Sends usage events to the admin API.
    async fn count(&self, events: &[Value]) -> Answer {
        let body = json!({ "events": events });
        let answer = self.admin.post("/admin/usage/events", body).await;
        answer.unwrap()
    }

    /// Runs billing over the admin API.
    async fn bill(&self, dry_run: bool) -> Value {
        let body = json!({ "dry_run": dry_run });
        let answer = self.admin.post("/admin/billing/run", body).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }

    /// The charges of the customer for November.
    async fn charges(&self) -> Vec<Value> {
        let list = found(&self.admin, "/admin/customers/acme/charges?month=2026-11").await;
        list["data"].as_array().unwrap().clone()
    }

    /// Changes something by a merge patch, and lets the authorizer learn of it.
    async fn patch(&self, path: &str, patch: Value) -> Value {
        let answer = self.admin.json(Method::PATCH, path, patch).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        self.advance(A_WHILE).await;
        answer.json()
    }
}

/// An event of the customer's calls on a plan.
fn usage(id: &str, plan: &str, time: &str, calls: usize) -> Value {
    let mut event = calls::entry(id, "acme", time, calls);
    for record in event["data"]["records"].as_array_mut().unwrap() {
        record["plan"] = plan.into();
    }
    event
}

/// A correction of the customer's calls on a plan.
fn adjustment(id: &str, plan: &str, billable_calls: i64) -> Value {
    let mut event = usage(id, plan, NOW, 0);
    event["type"] = "tollgate.adjustment.v1".into();
    event["data"] = json!({ "adjustments": [{
        "time": NOW, "plan": plan, "billable_calls": billable_calls, "reason": "an outage of ours",
    }] });
    event
}

/// A plan that charges a cent for each call beyond these.
fn cent_a_call(id: &str, included: u64) -> Value {
    json!({
        "id": id, "name": id, "requests_per_hour": 1_000, "fail_mode": "closed",
        "month": {
            "kind": "overage", "included": included,
            "prices": [{ "from": "2026-01-01", "micro_usd_per_call": 10_000 }],
        },
    })
}

/// Makes calls, all of which are served.
async fn make_calls(client: &Client, calls: usize) {
    for _ in 0..calls {
        let pong = client.get(PING).await.unwrap();
        assert_eq!(pong.status, StatusCode::OK, "{}", pong.text);
    }
}

/// Makes a call, and expects a refusal.
async fn refused(client: &Client, path: &str, status: StatusCode, slug: &str) -> Answer {
    let answer = client.get(path).await.unwrap();
    calls::assert_problem(&answer, status, slug);
    answer
}

/// What is to be had at a path.
async fn found(client: &Client, path: &str) -> Value {
    let answer = client.get(path).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
    answer.json()
}

/// A creation with header fields of its own.
async fn create(admin: &Client, path: &str, fields: &[(&str, &str)], body: &Value) -> Answer {
    let body = Body::from(body.to_string());
    let answer = admin.send(Method::POST, path, fields, body).await;
    answer.unwrap()
}
