//! A stack with an authorizer, and the events that invoke it.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::time::Duration;

use authorizer::{App, Request, Settings, handle};
use serde_json::{Value, json};
use tollgate_domain::key::{ApiKey, KeyRecord, Owner};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Fault};
use tollgate_runtime::{Init, Metrics};
use tollgate_store::schema::{COUNTERS, REGISTRY};
use tollgate_testing::customers::{self, key_record, store_key};
use tollgate_testing::event_file;
use tollgate_testing::faults::fail_operation;
use tollgate_testing::init::init;
pub(crate) use tollgate_testing::p;
use tollgate_testing::seed::seed_plans;
use tollgate_testing::stored::{items, raw, text};

/// Initial time of all stacks, and time of the events.
pub(crate) const NOW: &str = "2026-11-22T10:40:00Z";

/// Loads an event of `events/authorizer`.
pub(crate) fn event(case: &str) -> Value {
    event_file::load(&format!("authorizer/{case}"))
}

/// Returns the key in an event.
pub(crate) fn key_in(event: &Value) -> ApiKey {
    let headers = &event["headers"];
    let bearer = headers["Authorization"].as_str();
    let bearer = bearer.and_then(|text| text.strip_prefix("Bearer "));
    ApiKey::parse(headers["x-api-key"].as_str().or(bearer).unwrap()).unwrap()
}

/// Returns the event with these header fields and no others.
pub(crate) fn with_headers(mut event: Value, headers: &[(&str, &str)]) -> Value {
    event["headers"] = headers.iter().copied().collect();
    event["multiValueHeaders"] = headers.iter().map(|(n, v)| (*n, json!([v]))).collect();
    event
}

pub(crate) struct Stack {
    pub(crate) at: Fixture,
    pub(crate) app: App,
    init: Init,
    settings: Settings,
    /// Metrics of the app.
    pub(crate) metrics: Metrics,
    /// Collector of the metrics that the app writes.
    pub(crate) cloudwatch: CloudWatch,
}

impl Stack {
    /// Creates a stack without customers, in which each call reads its key.
    pub(crate) fn empty() -> Self {
        Self::with(Duration::ZERO, Catalog::shipped().unwrap())
    }

    /// Creates a stack without customers, with these plans and this TTL of the key cache.
    pub(crate) fn with(key_cache: Duration, plans: Catalog) -> Self {
        let at = Fixture::at(NOW);
        seed_plans(&at, &plans);
        let cloudwatch = CloudWatch::default();
        let metrics = cloudwatch.metrics("test", at.clock());
        let init = Init {
            metrics: metrics.clone(),
            ..init(&at, "AuthorizerFunction")
        };
        let settings = Settings {
            key_cache,
            ..Settings::from_env(&init.env).unwrap()
        };
        let app = App::with_settings(&init, settings.clone()).unwrap();
        Self {
            at,
            app,
            init,
            settings,
            metrics,
            cloudwatch,
        }
    }

    /// Changes the settings, and replaces the app by a new instance.
    pub(crate) fn with_settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self.app = self.instance();
        self
    }

    /// Creates another instance of the authorizer.
    pub(crate) fn instance(&self) -> App {
        App::with_settings(&self.init, self.settings.clone()).unwrap()
    }

    /// Creates a stack with the customer `acme` on `plan`, whose key `key_1` is the one in the event
    /// `api-key-header`.
    pub(crate) async fn with_acme(plan: &str, overrides: Overrides) -> Self {
        Self::empty().and_acme(plan, overrides).await
    }

    /// Adds the customer and key of [`Self::with_acme`].
    pub(crate) async fn and_acme(self, plan: &str, overrides: Overrides) -> Self {
        let stack = self;
        stack.add_customer("acme", plan).await;
        let key = key_in(&event("api-key-header"));
        stack
            .add_key(&key, "key_1", acme(), |key| key.overrides = overrides)
            .await;
        stack
    }

    pub(crate) async fn add_customer(&self, id: &str, plan: &str) {
        customers::add_customer(&self.at, id, plan).await;
    }

    pub(crate) async fn add_key(
        &self,
        secret: &ApiKey,
        id: &str,
        owner: Owner,
        change: impl FnOnce(&mut KeyRecord),
    ) {
        let mut record = key_record(secret, p(id), owner);
        change(&mut record);
        store_key(&self.at, secret, &record).await;
    }

    /// Deletes an item from the registry table.
    pub(crate) fn delete_registry_item(&self, pk: &str) {
        let key = json!({ "pk": { "S": pk } });
        raw(&self.at, "DeleteItem", REGISTRY, json!({ "Key": key }));
    }

    /// Adds a key of `acme`, even if that customer does not exist.
    pub(crate) async fn add_orphan_key(&self, secret: &ApiKey, id: &str) {
        let other = Stack::empty();
        other.add_customer("acme", "pro").await;
        other.add_key(secret, id, acme(), |_| ()).await;
        let mut items = items(&other.at, REGISTRY);
        items.retain(|item| item["pk"]["S"] != "CUSTOMER#acme");
        for item in items {
            raw(&self.at, "PutItem", REGISTRY, json!({ "Item": item }));
        }
    }

    /// Returns the response to an event as the gateway receives it: a policy, or the text of the error.
    pub(crate) async fn authorize(&self, event: &Value) -> Result<Value, String> {
        let event = event.to_string();
        let request = Request::from_json(&event).unwrap();
        match handle(&self.app, &request).await {
            Ok(response) => Ok(serde_json::to_value(response).unwrap()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Shuts the instance down: units left are released, and the calls reported.
    pub(crate) async fn shut_down(&self) {
        self.app.shut_down().await;
    }

    /// Returns the admitted calls of a key on the initial day of the stacks.
    pub(crate) async fn admitted(&self, key: &str) -> u64 {
        let keys = [p(key)].into();
        let admitted = self.at.store.admitted_calls(&keys, p("2026-11-22"));
        admitted.await.unwrap()
    }

    /// Returns the outcome of a call with the key of `acme`.
    pub(crate) async fn call(&self) -> Outcome {
        Outcome::of(self.authorize(&event("api-key-header")).await)
    }

    /// Injects a fault into every call of an operation from now on.
    pub(crate) fn fail(&self, operation: &'static str, fault: Fault) {
        fail_operation(&self.at.aws, operation, fault);
    }

    /// Returns all counters, as `(key, used)` in the order of their keys.
    pub(crate) fn counters(&self) -> Vec<(String, u64)> {
        let counters = items(&self.at, COUNTERS).into_iter();
        let used = |item: &Value| p(item["used"]["N"].as_str().unwrap());
        counters
            .map(|item| (text(&item, "pk"), used(&item)))
            .collect()
    }

    /// Returns the reserved units of a key in an hour such as `2026-11-22T10`.
    pub(crate) fn in_hour(&self, key: &str, hour: &str) -> u64 {
        self.reserved(&format!("HOUR#{key}#{hour}"))
    }

    /// Returns the reserved units of `acme` in a month such as `2026-11`.
    pub(crate) fn in_month(&self, month: &str) -> u64 {
        self.reserved(&format!("MONTH#acme#{month}"))
    }

    /// Returns the reserved units of a counter, and checks that no more are reported as spent.
    fn reserved(&self, pk: &str) -> u64 {
        let key = json!({ "pk": { "S": pk } });
        let request = json!({ "Key": key, "ConsistentRead": true });
        let found = raw(&self.at, "GetItem", COUNTERS, request);
        let number = |name: &str| found["Item"][name]["N"].as_str().map_or(0, p);
        let (used, spent): (u64, u64) = (number("used"), number("spent"));
        assert!(spent <= used, "{found}");
        assert!(
            found["Item"].get("b1").is_none(),
            "the counter has branches, which are not summed here"
        );
        used
    }
}

pub(crate) fn limits(requests_per_hour: Option<u64>, monthly_quota: Option<u64>) -> Overrides {
    Overrides {
        requests_per_hour,
        monthly_quota,
    }
}

pub(crate) fn acme() -> Owner {
    Owner::Customer(p("acme"))
}

/// Outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Allowed,
    /// Denied by the limit of this window.
    Denied(String),
    /// No policy, but an error with this text.
    Error(String),
}

impl Outcome {
    pub(crate) fn of(response: Result<Value, String>) -> Self {
        let response = match response {
            Ok(response) => response,
            Err(text) => return Self::Error(text),
        };
        let effect = &response["policyDocument"]["Statement"][0]["Effect"];
        if effect == "Allow" {
            Self::Allowed
        } else {
            assert_eq!(effect, "Deny");
            Self::Denied(response["context"]["window"].as_str().unwrap().to_owned())
        }
    }
}

pub(crate) fn denied_by(window: &str) -> Outcome {
    Outcome::Denied(window.to_owned())
}

pub(crate) fn unavailable() -> Outcome {
    Outcome::Error("Unavailable".to_owned())
}
