//! A product of one test's own, and shorthands for calling it.

pub(crate) mod calls;

use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate_local::client::{Answer, Client};
use tollgate_local::product::{self, Options, Running};

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
        let answer = self.anyone.post("/_local/clock", to).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
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
        let answer = self.anyone.post("/_local/drain", json!({})).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }

    /// Runs a night.
    pub(crate) async fn night(&self) -> Value {
        let answer = self.anyone.post("/_local/night", json!({})).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }
}

/// A request without a body.
pub(crate) async fn send(client: &Client, method: Method, path: &str) -> Answer {
    let answer = client.send(method, path, &[], Body::empty()).await;
    answer.unwrap()
}

/// Checks that an answer is a problem with these members, and that it names its request.
pub(crate) fn assert_problem(answer: &Answer, status: StatusCode, slug: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("urn:tollgate:problem:{slug}"));
    assert_eq!(problem["status"], status.as_u16());
    assert!(problem["title"].is_string() && problem["detail"].is_string());
    assert_eq!(problem["request_id"], answer.header("x-amzn-requestid"));
}
