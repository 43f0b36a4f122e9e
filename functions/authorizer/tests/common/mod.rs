//! A stack with an authorizer, and the events that invoke it.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::fmt::Debug;
use std::str::FromStr;
use std::time::Duration;

use authorizer::{App, Request, Settings, handle, single_requests};
use serde_json::{Value, json};
use tollgate_domain::customer::Customer;
use tollgate_domain::key::{ApiKey, KeyRecord, Owner};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{Call, CloudWatch, Fault, template};
use tollgate_runtime::{Env, Metrics, config};
use tollgate_store::{CreateOutcome, NewKey, Store};

/// Initial time of all stacks, and time of the events.
pub(crate) const NOW: &str = "2026-11-22T10:40:00Z";

/// Parses a literal of any type, such as an id, an instant or a month.
pub(crate) fn p<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// Loads an event of `events/authorizer`.
pub(crate) fn event(case: &str) -> Value {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../events/authorizer");
    let text = std::fs::read_to_string(format!("{dir}/{case}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Returns the environment variables that the template sets.
fn variables() -> Env {
    let stack = template::Stack::built_in("test").unwrap();
    Env::from_vars(stack.variables("AuthorizerFunction").unwrap())
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

/// Returns a store with the authorizer's client configuration.
fn store(at: &Fixture) -> Store {
    let sdk = single_requests(at.aws.sdk_config());
    Store::new(&sdk, "test", at.clock(), at.entropy.clone())
}

pub(crate) struct Stack {
    pub(crate) at: Fixture,
    pub(crate) app: App,
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
        let cloudwatch = CloudWatch::default();
        let settings = Settings {
            plans,
            uncounted: config::uncounted_routes(&variables()).unwrap(),
            key_cache,
            stale_keys: config::stale_keys(&variables()).unwrap(),
            cors_origin: None,
        };
        let metrics = cloudwatch.metrics("test", at.clock());
        let store = store(&at);
        let app = App::new(store, settings.clone(), at.clock(), metrics.clone());
        Self {
            at,
            app,
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
        let (clock, metrics) = (self.at.clock(), self.metrics.clone());
        App::new(store(&self.at), self.settings.clone(), clock, metrics)
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
        let customer = Customer {
            id: p(id),
            name: id.into(),
            email: None,
            plan: p(plan),
            created_at: p("2026-11-01T08:30:00Z"),
            suspended_at: None,
            erased_at: None,
        };
        let created = self.at.store.create_customer(&customer, None).await;
        assert_eq!(created.unwrap(), CreateOutcome::New);
    }

    pub(crate) async fn add_key(
        &self,
        secret: &ApiKey,
        id: &str,
        owner: Owner,
        change: impl FnOnce(&mut KeyRecord),
    ) {
        let mut record = KeyRecord {
            id: p(id),
            prefix: secret.prefix(),
            name: "test".into(),
            owner,
            created_at: p("2026-11-20T09:00:00Z"),
            expires_at: None,
            revoked_at: None,
            suspended_at: None,
            overrides: Overrides::default(),
            rotated_to: None,
            hour_counter_id: None,
        };
        change(&mut record);
        let new = NewKey {
            secret,
            record: &record,
        };
        let created = self.at.store.create_key(&new, None).await;
        assert_eq!(created.unwrap(), CreateOutcome::New);
    }

    /// Deletes an item from the registry table.
    pub(crate) fn delete_registry_item(&self, pk: &str) {
        let key = json!({ "pk": { "S": pk } });
        let request = json!({ "TableName": "test-registry", "Key": key });
        self.raw("DeleteItem", &request);
    }

    /// Adds a key of `acme`, even if that customer does not exist.
    pub(crate) async fn add_orphan_key(&self, secret: &ApiKey, id: &str) {
        let other = Stack::empty();
        other.add_customer("acme", "pro").await;
        other.add_key(secret, id, acme(), |_| ()).await;
        let found = other.raw("Scan", &json!({ "TableName": "test-registry" }));
        let items = found["Items"].as_array().unwrap().iter();
        for item in items.filter(|item| item["pk"]["S"] != "CUSTOMER#acme") {
            self.raw(
                "PutItem",
                &json!({ "TableName": "test-registry", "Item": item }),
            );
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
        let hit = move |call: &Call| call.operation() == operation;
        self.at
            .aws
            .inject(move |call| if hit(call) { fault } else { Fault::None });
    }

    /// Calls DynamoDB directly.
    fn raw(&self, operation: &str, request: &Value) -> Value {
        let target = format!("DynamoDB_20120810.{operation}");
        let (status, response) = self.at.aws.call(&target, &request.to_string());
        assert_eq!(status, 200, "{operation}: {response}");
        serde_json::from_str(&response).unwrap()
    }

    /// Returns all counters, as `(key, used)` in the order of their keys.
    pub(crate) fn counters(&self) -> Vec<(String, u64)> {
        let found = self.raw("Scan", &json!({ "TableName": "test-counters" }));
        assert!(found.get("LastEvaluatedKey").is_none(), "one page is read");
        let mut counters: Vec<(String, u64)> = found["Items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                let used = item["used"]["N"].as_str().unwrap();
                (item["pk"]["S"].as_str().unwrap().to_owned(), p(used))
            })
            .collect();
        counters.sort();
        counters
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
        let found = self.raw(
            "GetItem",
            &json!({ "TableName": "test-counters", "Key": key, "ConsistentRead": true }),
        );
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
