//! The seven functions, with tables of their own for each test.

#![allow(clippy::unwrap_used, reason = "a test that cannot begin has failed")]

use axum::Router;
use jiff::SignedDuration;
use keys::Issuer;
use serde_json::{Value, json};
use tollgate_domain::id::KeyId;
use tollgate_domain::key::{KeyKind, KeyRecord, Owner};
use tollgate_local_aws::fixture::Fixture;
use tollgate_testing::customers::{add_customer, key_record, store_key};
use tollgate_testing::event::Event;
use tollgate_testing::init::init;
use tollgate_testing::response::{ApiResponse, call};

/// Time at which all tests begin.
pub(crate) const NOW: &str = "2026-11-22T10:00:00Z";

pub(crate) struct Stack {
    pub(crate) at: Fixture,
    issuer: Issuer,
}

impl Stack {
    /// Creates a stack with the customers `acme`, on pro, and `bolt`, on free.
    pub(crate) async fn new() -> Self {
        let at = Fixture::at(NOW);
        let issuer = Issuer::build(&init(&at, "KeysCreateFunction")).unwrap();
        add_customer(&at, "acme", "pro").await;
        add_customer(&at, "bolt", "free").await;
        Self { at, issuer }
    }

    /// Returns the function of an operation.
    pub(crate) fn function(&self, operation: &str) -> Router {
        let app = || self.issuer.app.clone();
        match operation {
            "create" => keys::create::routes(self.issuer.clone()),
            "list" => keys::list::routes(app()),
            "get" => keys::get::routes(app()),
            "update" => keys::update::routes(app()),
            "rotate" => keys::rotate::routes(self.issuer.clone()),
            "revoke" => keys::revoke::routes(app()),
            "stats" => keys::stats::routes(app()),
            other => panic!("no function handles {other}"),
        }
    }

    /// Calls an operation with its event file, changed by `change`.
    pub(crate) async fn call(
        &self,
        operation: &str,
        change: impl FnOnce(Event) -> Event,
    ) -> ApiResponse {
        let event = change(Event::load(&format!("keys/{operation}")));
        call(&self.function(operation), &event).await
    }

    pub(crate) async fn create(&self, body: Value) -> ApiResponse {
        self.call("create", |event| event.body(&body)).await
    }

    /// Creates a key of a customer. Returns the response body, which includes the secret.
    pub(crate) async fn key(&self, customer: &str, name: &str) -> Value {
        let body = json!({ "customer_id": customer, "name": name });
        self.create(body).await.json(201)
    }

    /// Creates an admin key as the command-line tool does. Returns its secret, id, prefix and name.
    pub(crate) async fn admin_key(&self, name: &str) -> Value {
        let Issuer {
            entropy, format, ..
        } = &self.issuer;
        let secret = entropy.with(|rng| format.generate(KeyKind::Admin, rng));
        let record = KeyRecord {
            name: name.to_owned(),
            created_at: self.at.clock().now(),
            ..key_record(&secret, entropy.with(KeyId::random), Owner::Admin)
        };
        store_key(&self.at, &secret, &record).await;
        let KeyRecord { id, prefix, .. } = &record;
        json!({ "key": secret.expose(), "id": id, "prefix": prefix, "name": name })
    }

    pub(crate) async fn get(&self, key: &str) -> Value {
        let response = self.call("get", |event| event.param("key", key)).await;
        response.json(200)
    }

    pub(crate) async fn list(&self, query: &[(&str, &str)]) -> ApiResponse {
        self.call("list", |event| event.query(query)).await
    }

    pub(crate) async fn update(&self, key: &str, patch: Value) -> ApiResponse {
        self.call("update", |event| event.param("key", key).body(&patch))
            .await
    }

    pub(crate) async fn rotate(&self, key: &str, grace_period_s: u64) -> ApiResponse {
        let body = json!({ "grace_period_s": grace_period_s });
        self.call("rotate", |event| event.param("key", key).body(&body))
            .await
    }

    pub(crate) async fn revoke(&self, key: &str) -> ApiResponse {
        self.call("revoke", |event| event.param("key", key)).await
    }

    pub(crate) fn advance_s(&self, seconds: i64) {
        self.at.time.advance(SignedDuration::from_secs(seconds));
    }
}

/// Returns the view of a key in all responses but the one that creates it.
pub(crate) fn view(issued: &Value) -> Value {
    let mut view = issued.clone();
    view.as_object_mut().unwrap().remove("key").unwrap();
    view
}
