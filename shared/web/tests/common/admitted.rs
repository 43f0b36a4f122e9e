//! Calls through the real authorizer, so that tests have a real admission ledger.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot call the authorizer has failed"
)]

use std::time::Duration;

use authorizer::{App, Settings, handle, single_requests};
use serde_json::json;
use tollgate_domain::key::ApiKey;
use tollgate_local_aws::fixture::Fixture;
use tollgate_runtime::Metrics;
use tollgate_store::Store;

use crate::stored::plans;

/// Creates an authorizer instance.
pub(crate) fn authorizer(at: &Fixture) -> App {
    let settings = Settings {
        plans: plans(),
        uncounted: Vec::new(),
        key_cache: Duration::from_secs(5),
        stale_keys: Duration::ZERO,
        cors_origin: None,
    };
    let sdk = single_requests(at.aws.sdk_config());
    let store = Store::new(&sdk, "test", at.clock(), at.entropy.clone());
    App::new(store, settings, at.clock(), Metrics::none())
}

/// Makes `calls` calls with a key and returns the number that the instance allows.
pub(crate) async fn make_calls(instance: &App, key: &ApiKey, calls: u64) -> u64 {
    let event = json!({
        "methodArn": "arn:aws:execute-api:us-east-1:000000000000:api/v1/GET/api/secure/ping",
        "resource": "/api/secure/ping",
        "headers": { "x-api-key": key.expose() },
    });
    let event = event.to_string();
    let request = serde_json::from_str(&event).unwrap();
    let mut allowed = 0;
    for _ in 0..calls {
        let response = handle(instance, &request).await.unwrap();
        let response = serde_json::to_value(response).unwrap();
        let effect = &response["policyDocument"]["Statement"][0]["Effect"];
        allowed += u64::from(effect == "Allow");
    }
    allowed
}

/// Makes `calls` calls, all of which must be allowed, with an instance that then shuts down.
pub(crate) async fn admit(at: &Fixture, key: &ApiKey, calls: u64) {
    let instance = authorizer(at);
    assert_eq!(make_calls(&instance, key, calls).await, calls);
    instance.shut_down().await;
}
