//! A product of one test's own, and shorthands for calling it.

pub(crate) mod calls;
pub(crate) mod raw;

use http::StatusCode;
use serde_json::{Value, json};
use tollgate_local::client::{Answer, Client};
use tollgate_local::product::{self, Options, Running};

pub(crate) use calls::send;

/// A running product, in memory, on a port of its own.
pub(crate) struct Target {
    /// Without a key.
    pub(crate) anyone: Client,
    /// With the admin key.
    pub(crate) admin: Client,
    /// What runs.
    pub(crate) running: Running,
}

impl Target {
    /// Starts a product whose clock stands near `now`.
    pub(crate) async fn at(now: &str) -> Self {
        Self::of(Options::default(), now).await
    }

    /// The same, started in another way.
    pub(crate) async fn of(options: Options, now: &str) -> Self {
        let running = product::start(options).await.unwrap();
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

    /// Moves the clock.
    pub(crate) async fn set_clock(&self, to: Value) {
        calls::local(&self.anyone, "clock", to).await;
    }

    /// Makes a customer.
    pub(crate) async fn customer(&self, id: &str, plan: &str) {
        calls::customer(&self.admin, id, plan).await;
    }

    /// Makes a key, and a client with it.
    pub(crate) async fn key(&self, body: Value) -> (Client, Value) {
        calls::key(&self.admin, body).await
    }

    /// Delivers all usage.
    pub(crate) async fn drain(&self) -> Value {
        calls::local(&self.anyone, "drain", json!({})).await
    }

    /// Runs a night.
    pub(crate) async fn night(&self) -> Value {
        calls::local(&self.anyone, "night", json!({})).await
    }
}

/// Checks that an answer is a problem with these members, and that it names its request.
pub(crate) fn assert_problem(answer: &Answer, status: StatusCode, slug: &str) {
    calls::assert_problem(answer, status, slug);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(
        answer.json()["request_id"],
        answer.header("x-amzn-requestid")
    );
}
