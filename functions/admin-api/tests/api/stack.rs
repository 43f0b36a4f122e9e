//! The function, with tables of its own for each test.

#![allow(clippy::unwrap_used, reason = "a test that cannot begin has failed")]

use admin_api::App;
use axum::Router;
use serde_json::{Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_testing::event::Event;
use tollgate_testing::init::init;
use tollgate_testing::response::{ApiResponse, call};

/// Time at which all tests begin.
pub(crate) const NOW: &str = "2026-11-22T10:00:00Z";

pub(crate) struct Stack {
    pub(crate) at: Fixture,
    pub(crate) function: Router,
}

impl Stack {
    pub(crate) fn new() -> Self {
        let at = Fixture::at(NOW);
        let init = init(&at, "AdminApiFunction");
        let function = admin_api::routes(App::build(&init).unwrap());
        Self { at, function }
    }

    /// Calls an operation with its event file, changed by `change`.
    pub(crate) async fn call(
        &self,
        operation: &str,
        change: impl FnOnce(Event) -> Event,
    ) -> ApiResponse {
        let event = change(Event::load(&format!("admin-api/{operation}")));
        call(&self.function, &event).await
    }

    pub(crate) async fn create(&self, body: Value) -> ApiResponse {
        self.call("create-customer", |event| event.body(&body))
            .await
    }

    pub(crate) async fn list(&self, query: &[(&str, &str)]) -> ApiResponse {
        self.call("list-customers", |event| event.query(query))
            .await
    }

    pub(crate) async fn get(&self, customer: &str) -> ApiResponse {
        self.call("get-customer", |event| event.param("customer", customer))
            .await
    }

    pub(crate) async fn update(&self, customer: &str, patch: Value) -> ApiResponse {
        let change = |event: Event| event.param("customer", customer).body(&patch);
        self.call("update-customer", change).await
    }

    pub(crate) async fn charges(&self, customer: &str, query: &[(&str, &str)]) -> ApiResponse {
        let change = |event: Event| event.param("customer", customer).query(query);
        self.call("charges", change).await
    }

    /// Sends usage events as a producer outside AWS does.
    pub(crate) async fn count(&self, events: &[Value]) -> ApiResponse {
        let body = json!({ "events": events });
        self.call("count-usage", |event| event.body(&body)).await
    }

    pub(crate) async fn run(&self, dry_run: bool) -> Value {
        let body = json!({ "dry_run": dry_run });
        let response = self.call("run-billing", |event| event.body(&body));
        response.await.json(200)
    }
}
