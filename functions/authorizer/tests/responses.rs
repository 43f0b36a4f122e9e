//! Responses of the authorizer to API Gateway's events.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use serde_json::{Value, json};
use tollgate_domain::key::{ApiKey, KeyRecord, Owner};
use tollgate_domain::plan::Overrides;
use tollgate_domain::role::CustomerRole;
use tollgate_local_aws::Fault;
use tollgate_store::{CustomerChange, KeyChange, KeyRef, UpdateCustomerOutcome, UpdateOutcome};

mod common;

use common::{NOW, Outcome, Stack, acme, denied_by, event, key_in, limits, p, with_headers};

/// Returns the expected response to an event.
fn policy(event: &Value, effect: &str, key: &str, context: &Value) -> Value {
    json!({
        "principalId": key,
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [{
                "Action": "execute-api:Invoke",
                "Effect": effect,
                "Resource": event["methodArn"],
            }],
        },
        "context": context,
    })
}

#[tokio::test]
async fn a_key_in_x_api_key_is_allowed_with_its_limits_in_the_context() {
    let event = event("api-key-header");
    let stack = Stack::with_acme("free", Overrides::default()).await;
    let context = json!({
        "role": "call",
        "customerId": "acme",
        "keyId": "key_1",
        "keyPrefix": "tg_live_ZOmPcQgC",
        "plan": "free",
        "rateLimitLimit": "100",
        "rateLimitRemaining": "99",
        "rateLimitReset": "1795345200",
        "rateLimit": r#""hour";r=99;t=1200, "month";r=999;t=739200"#,
        "rateLimitPolicy": r#""hour";q=100;w=3600, "month";q=1000;w=2592000"#,
    });
    let allowed = policy(&event, "Allow", "key_1", &context);
    assert_eq!(stack.authorize(&event).await, Ok(allowed));
    let counters = [
        ("HOUR#key_1#2026-11-22T10".to_owned(), 1),
        ("MONTH#acme#2026-11".to_owned(), 1),
    ];
    assert_eq!(stack.counters(), counters);
}

#[tokio::test]
async fn a_bearer_key_is_allowed_with_its_limits_in_the_context() {
    let event = event("bearer");
    let stack = Stack::empty();
    stack.add_customer("acme", "pro").await;
    stack
        .add_key(&key_in(&event), "key_2", acme(), |_| ())
        .await;
    let context = json!({
        "role": "call",
        "customerId": "acme",
        "keyId": "key_2",
        "keyPrefix": "tg_live_V4EKrFTE",
        "plan": "pro",
        "rateLimitLimit": "10000",
        "rateLimitRemaining": "9999",
        "rateLimitReset": "1795345200",
        "rateLimit": r#""hour";r=9999;t=1200"#,
        "rateLimitPolicy": r#""hour";q=10000;w=3600"#,
    });
    let allowed = policy(&event, "Allow", "key_2", &context);
    assert_eq!(stack.authorize(&event).await, Ok(allowed));
}

#[tokio::test]
async fn the_headers_describe_the_month_once_it_is_closer_to_its_limit() {
    let quota = Overrides {
        requests_per_hour: Some(5),
        monthly_quota: Some(4),
    };
    let stack = Stack::with_acme("free", quota).await;
    let response = stack.authorize(&event("api-key-header")).await.unwrap();
    let context = &response["context"];
    assert_eq!(context["rateLimitLimit"], "4");
    assert_eq!(context["rateLimitRemaining"], "3");
    assert_eq!(context["rateLimitReset"], "1796083200");
    assert_eq!(
        context["rateLimit"],
        r#""hour";r=4;t=1200, "month";r=3;t=739200"#
    );
}

#[tokio::test]
async fn a_call_over_the_hourly_limit_is_denied_with_all_members_of_the_429() {
    let event = event("api-key-header");
    let rate = Overrides {
        requests_per_hour: Some(1),
        monthly_quota: None,
    };
    let stack = Stack::with_acme("free", rate).await;
    stack.authorize(&event).await.unwrap();
    let context = json!({
        "role": "call",
        "customerId": "acme",
        "keyId": "key_1",
        "keyPrefix": "tg_live_ZOmPcQgC",
        "plan": "free",
        "rateLimitLimit": "1",
        "rateLimitRemaining": "0",
        "rateLimitReset": "1795345200",
        "rateLimit": r#""hour";r=0;t=1200"#,
        "rateLimitPolicy": r#""hour";q=1;w=3600"#,
        "window": "hour",
        "retryAfter": "1200",
        "problem": r#","type":"urn:tollgate:problem:rate-limited","title":"Hourly rate limit exceeded","status":429,"detail":"The limit of 1 calls in a UTC hour is reached; the count starts again at 2026-11-22T11:00:00Z.","window":"hour","limit":1,"remaining":0,"resets_at":"2026-11-22T11:00:00Z","retry_after_s":1200"#,
    });
    let denied = policy(&event, "Deny", "key_1", &context);
    assert_eq!(stack.authorize(&event).await, Ok(denied));
}

#[tokio::test]
async fn a_call_over_the_monthly_quota_is_denied_with_all_members_of_the_429() {
    let event = event("api-key-header");
    let quota = Overrides {
        requests_per_hour: None,
        monthly_quota: Some(2),
    };
    let stack = Stack::with_acme("free", quota).await;
    stack.authorize(&event).await.unwrap();
    stack.authorize(&event).await.unwrap();
    let context = json!({
        "role": "call",
        "customerId": "acme",
        "keyId": "key_1",
        "keyPrefix": "tg_live_ZOmPcQgC",
        "plan": "free",
        "rateLimitLimit": "2",
        "rateLimitRemaining": "0",
        "rateLimitReset": "1796083200",
        "rateLimit": r#""month";r=0;t=739200"#,
        "rateLimitPolicy": r#""month";q=2;w=2592000"#,
        "window": "month",
        "retryAfter": "739200",
        "problem": r#","type":"urn:tollgate:problem:quota-exceeded","title":"Monthly quota exceeded","status":429,"detail":"The limit of 2 calls in a UTC month is reached; the count starts again at 2026-12-01T00:00:00Z.","window":"month","limit":2,"remaining":0,"resets_at":"2026-12-01T00:00:00Z","retry_after_s":739200"#,
    });
    let denied = policy(&event, "Deny", "key_1", &context);
    assert_eq!(stack.authorize(&event).await, Ok(denied));
}

#[tokio::test]
async fn an_admin_is_allowed_and_never_counted() {
    let admin = event("admin-route");
    let stack = Stack::empty();
    stack
        .add_key(&key_in(&admin), "key_3", Owner::Admin, |_| ())
        .await;
    let context = json!({
        "role": "admin",
        "keyId": "key_3",
        "keyPrefix": "tg_admin_pmS5KH1z",
    });
    let elsewhere = with_headers(event("no-key"), &[("x-api-key", key_in(&admin).expose())]);
    for event in [admin, elsewhere] {
        let allowed = policy(&event, "Allow", "key_3", &context);
        assert_eq!(stack.authorize(&event).await, Ok(allowed));
    }
    assert_eq!(stack.counters(), []);
}

/// Routes of customers that count towards no limit, some of which do not exist.
const UNCOUNTED: [&str; 7] = [
    "/api/usage/current",
    "/api/billing/subscription",
    "/api/billing/checkout",
    "/api/billing/invoices/{invoice}",
    "/api/keys",
    "/api/keys/{key}",
    "/api/keys/{key}/rotate",
];

/// Returns the event `api-key-header` for another route.
fn event_of(route: &str) -> Value {
    let mut event = event("api-key-header");
    event["resource"] = route.into();
    event
}

/// The functions require the role that their operations need.
#[tokio::test]
async fn the_role_of_the_key_is_in_the_context_of_every_decision() {
    for (role, text) in [
        (CustomerRole::Call, "call"),
        (CustomerRole::Manage, "manage"),
    ] {
        let stack = Stack::empty();
        stack.add_customer("acme", "pro").await;
        let key = key_in(&event("api-key-header"));
        let set = |key: &mut KeyRecord| {
            key.customer_role = role;
            key.overrides = limits(Some(1), None);
        };
        stack.add_key(&key, "key_1", acme(), set).await;
        let check = async |route: &str, effect: &str| {
            let response = stack.authorize(&event_of(route)).await.unwrap();
            let statement = &response["policyDocument"]["Statement"][0];
            assert_eq!(statement["Effect"], effect, "{route}");
            assert_eq!(response["context"]["role"], text, "{route}");
        };
        check("/api/secure/ping", "Allow").await;
        check("/api/secure/ping", "Deny").await;
        for route in UNCOUNTED {
            check(route, "Allow").await;
        }
        check("/admin/customers", "Allow").await;
    }
}

/// Makes a call of `acme` to a route, with all limits at 0.
async fn call_without_quota(route: &str) -> (Value, Stack) {
    let nothing = Overrides {
        requests_per_hour: Some(0),
        monthly_quota: Some(0),
    };
    let stack = Stack::with_acme("free", nothing).await;
    let response = stack.authorize(&event_of(route)).await.unwrap();
    (response, stack)
}

#[tokio::test]
async fn uncounted_routes_are_allowed_with_no_quota_left() {
    for route in UNCOUNTED.into_iter().chain(["/admin/customers/{customer}"]) {
        let (response, stack) = call_without_quota(route).await;
        let context = json!({
            "role": "call",
            "customerId": "acme",
            "keyId": "key_1",
            "keyPrefix": "tg_live_ZOmPcQgC",
            "plan": "free",
        });
        let event = event("api-key-header");
        assert_eq!(
            response,
            policy(&event, "Allow", "key_1", &context),
            "{route}"
        );
        assert_eq!(stack.counters(), [], "{route}");
    }
}

#[tokio::test]
async fn a_route_without_an_uncounted_prefix_is_counted() {
    for route in [
        "/administrators",
        "/api/usage",
        "/api/billing",
        "/api/billings/invoices",
        "/api/key",
        "/api/keystrokes",
        "/v1/admin/customers",
        "/v1/api/keys",
        "/",
    ] {
        let (response, _) = call_without_quota(route).await;
        let statement = &response["policyDocument"]["Statement"][0];
        assert_eq!(statement["Effect"], "Deny", "{route}");
    }
}

/// Checks that a call is unauthorized. The gateway compares the error's text to the letter.
async fn unauthorized(stack: &Stack, event: &Value) {
    let error = stack.authorize(event).await.unwrap_err();
    assert_eq!(error, "Unauthorized", "{}", event["headers"]);
}

#[tokio::test]
async fn missing_and_malformed_keys_are_unauthorized_without_a_request_to_the_store() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    stack.at.aws.inject(|_| Fault::RequestLost);
    unauthorized(&stack, &event("no-key")).await;
    unauthorized(&stack, &event("malformed-key")).await;
}

#[tokio::test]
async fn the_malformed_key_differs_from_the_valid_one_in_one_character() {
    let (valid, invalid) = (event("api-key-header"), event("malformed-key"));
    let text = |event: &Value| event["headers"]["x-api-key"].as_str().unwrap().to_owned();
    let (valid, invalid) = (text(&valid), text(&invalid));
    assert!(ApiKey::parse(&invalid).is_err());
    let wrong = valid.bytes().zip(invalid.bytes()).filter(|(v, i)| v != i);
    assert_eq!((wrong.count(), valid.len()), (1, invalid.len()));
}

#[tokio::test]
async fn requests_without_a_well_formed_key_are_unauthorized() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let valid = key_in(&event("api-key-header"));
    let valid = valid.expose();
    let check = async |name: &str, value: &str| {
        unauthorized(&stack, &with_headers(event("no-key"), &[(name, value)])).await;
    };
    check("x-api-key", "").await;
    check("x-api-key", "undefined").await;
    check("x-api-key", &format!("Bearer {valid}")).await;
    check("x-api-key", &format!("{valid},{valid}")).await;
    check("Authorization", "").await;
    check("Authorization", "Bearer").await;
    check("Authorization", "Bearer ").await;
    check("Authorization", "Bearer \t ").await;
    check("x-api-key", " \t").await;
    check("Authorization", valid).await;
    check("Authorization", &format!("Basic {valid}")).await;
    check("Authorization", &format!("Bearer{valid}")).await;
    check("Authorization", &format!("Bearer \u{a0}{valid}")).await;
    check("api-key", valid).await;
    let mut no_headers = event("no-key");
    no_headers["headers"] = Value::Null;
    no_headers["multiValueHeaders"] = Value::Null;
    unauthorized(&stack, &no_headers).await;
}

#[tokio::test]
async fn unknown_expired_and_revoked_keys_are_unauthorized_and_not_counted() {
    let event = event("api-key-header");
    unauthorized(&Stack::empty(), &event).await;

    let stack = Stack::empty();
    stack.add_customer("acme", "pro").await;
    let expire = |key: &mut KeyRecord| key.expires_at = Some(p(NOW));
    stack
        .add_key(&key_in(&event), "key_1", acme(), expire)
        .await;
    unauthorized(&stack, &event).await;
    assert_eq!(stack.counters(), []);

    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let key = KeyRef::Id(p("key_1"));
    let revoked = stack.at.store.revoke_key(&key, p(NOW)).await;
    assert!(revoked.unwrap());
    unauthorized(&stack, &event).await;
    assert_eq!(stack.counters(), []);
}

#[tokio::test]
async fn a_revoked_or_expired_admin_key_is_unauthorized() {
    let event = event("admin-route");
    let stack = Stack::empty();
    let expire = |key: &mut KeyRecord| key.expires_at = Some(p(NOW));
    stack
        .add_key(&key_in(&event), "key_3", Owner::Admin, expire)
        .await;
    unauthorized(&stack, &event).await;

    let stack = Stack::empty();
    stack
        .add_key(&key_in(&event), "key_3", Owner::Admin, |_| ())
        .await;
    stack.authorize(&event).await.unwrap();
    let key = KeyRef::Id(p("key_3"));
    assert!(stack.at.store.revoke_key(&key, p(NOW)).await.unwrap());
    unauthorized(&stack, &event).await;
}

#[tokio::test]
async fn a_key_is_valid_until_its_expiry_and_again_after_a_later_one_is_set() {
    let event = event("api-key-header");
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let expire_at = async |instant: &str| {
        let change = KeyChange {
            expires_at: Some(Some(p(instant))),
            ..KeyChange::default()
        };
        let key = KeyRef::Id(p("key_1"));
        let updated = stack.at.store.update_key(&key, &change).await;
        assert!(matches!(updated.unwrap(), UpdateOutcome::Done(_)));
    };
    expire_at("2026-11-22T10:41:00Z").await;
    stack.at.time.set(p("2026-11-22T10:40:59.999Z"));
    stack.authorize(&event).await.unwrap();
    stack.at.time.set(p("2026-11-22T10:41:00Z"));
    unauthorized(&stack, &event).await;
    expire_at("2026-11-22T10:41:00.001Z").await;
    stack.authorize(&event).await.unwrap();
}

#[tokio::test]
async fn header_names_and_the_scheme_are_case_insensitive() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let valid = key_in(&event("api-key-header"));
    let valid = valid.expose();
    let check = async |headers: &[(&str, &str)]| {
        let response = stack
            .authorize(&with_headers(event("no-key"), headers))
            .await;
        assert_eq!(response.unwrap()["principalId"], "key_1", "{headers:?}");
    };
    check(&[("X-API-KEY", valid)]).await;
    check(&[("X-Api-Key", valid)]).await;
    for name in ["authorization", "AUTHORIZATION"] {
        for scheme in ["Bearer ", "bearer ", "BEARER ", "bEaReR   "] {
            check(&[(name, &format!("{scheme}{valid}"))]).await;
        }
    }
}

/// JSON may escape any character.
#[tokio::test]
async fn a_key_with_json_escapes_is_read() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let event = event("api-key-header").to_string();
    let escaped = event.replacen("tg_live_", "tg\\u005flive_", 1);
    let escaped = escaped.replacen("x-api-key", "x\\u002dapi-key", 1);
    assert_ne!(event, escaped);
    let request = serde_json::from_str(&escaped).unwrap();
    assert!(authorizer::handle(&stack.app, &request).await.is_ok());
}

#[tokio::test]
async fn x_api_key_takes_precedence_over_authorization() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let valid = key_in(&event("api-key-header"));
    let valid = valid.expose();
    let other = key_in(&event("bearer"));
    let other = format!("Bearer {}", other.expose());
    let both = [("Authorization", other.as_str()), ("x-api-key", valid)];
    let response = stack.authorize(&with_headers(event("no-key"), &both)).await;
    assert_eq!(response.unwrap()["principalId"], "key_1");

    let valid = format!("Bearer {valid}");
    let invalid = [("Authorization", valid.as_str()), ("x-api-key", "junk")];
    unauthorized(&stack, &with_headers(event("no-key"), &invalid)).await;
}

/// Clients send an empty field if their setting is empty, and some send both fields.
#[tokio::test]
async fn a_field_without_a_key_is_ignored() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let valid = key_in(&event("api-key-header"));
    let valid = valid.expose();
    let bearer = format!("Bearer {valid}");
    let check = async |event: Value| {
        let response = stack.authorize(&event).await;
        assert_eq!(response.unwrap()["principalId"], "key_1", "{event}");
    };
    for empty in ["", " ", "\t "] {
        let both = [("x-api-key", empty), ("Authorization", bearer.as_str())];
        check(with_headers(event("no-key"), &both)).await;
        let cases = [("X-Api-Key", empty), ("x-api-key", valid)];
        check(with_headers(event("no-key"), &cases)).await;
    }
    for other in ["", "Bearer", "Bearer ", "Basic YTpi"] {
        let both = [("x-api-key", valid), ("Authorization", other)];
        check(with_headers(event("no-key"), &both)).await;
    }
    let spaced = format!(" {valid}\t");
    check(with_headers(event("no-key"), &[("x-api-key", &spaced)])).await;
    let spaced = format!(" Bearer \t{valid} ");
    check(with_headers(event("no-key"), &[("Authorization", &spaced)])).await;
    // For a field that occurs several times, `headers` has the last value and `multiValueHeaders` all.
    for values in [[valid, ""], ["", valid]] {
        let mut event = with_headers(event("no-key"), &[("x-api-key", values[1])]);
        event["multiValueHeaders"]["x-api-key"] = json!(values);
        check(event).await;
    }
    for values in [[bearer.as_str(), "Basic YTpi"], ["Bearer", &bearer]] {
        let mut event = with_headers(event("no-key"), &[("Authorization", values[1])]);
        event["multiValueHeaders"]["Authorization"] = json!(values);
        check(event).await;
    }
    let other = key_in(&event("bearer"));
    let other = format!("Bearer {}", other.expose());
    let both = [("x-api-key", ""), ("Authorization", other.as_str())];
    let mut event = with_headers(event("no-key"), &both);
    event["multiValueHeaders"]["x-api-key"] = json!([valid, ""]);
    check(event).await;
}

#[tokio::test]
async fn request_context_and_multi_value_headers_are_optional() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let valid = key_in(&event("api-key-header"));
    let bearer = format!("Bearer {}", valid.expose());
    let odd_field = json!({ "Authorization": 7, "requestId": 7 });
    for odd in [Value::Null, json!({}), json!([1]), json!("text"), odd_field] {
        let mut event = with_headers(event("no-key"), &[("Authorization", &bearer)]);
        event["multiValueHeaders"] = odd.clone();
        event["requestContext"] = odd;
        let response = stack.authorize(&event).await;
        assert_eq!(response.unwrap()["principalId"], "key_1", "{event}");
        event["headers"]["Authorization"] = "Bearer none".into();
        unauthorized(&stack, &event).await;
    }
}

/// Parses the problem in the context of a denial.
fn problem_of(response: &Value) -> Value {
    let members = response["context"]["problem"].as_str().unwrap();
    serde_json::from_str(&format!("{{{}}}", &members[1..])).unwrap()
}

/// Checks that the customer is denied with this problem, and counted nowhere, and that uncounted routes
/// are allowed.
async fn check_denied(stack: &Stack, slug: &str) {
    let response = stack.authorize(&event("api-key-header")).await.unwrap();
    assert_eq!(response["policyDocument"]["Statement"][0]["Effect"], "Deny");
    let problem = problem_of(&response);
    assert_eq!(problem["type"], format!("urn:tollgate:problem:{slug}"));
    // Waiting does not help.
    assert_eq!(response["context"].get("retryAfter"), None);
    assert_eq!(response["context"]["role"], "call");
    for route in UNCOUNTED {
        let response = stack.authorize(&event_of(route)).await.unwrap();
        let statement = &response["policyDocument"]["Statement"][0];
        assert_eq!(statement["Effect"], "Allow", "{route}");
        assert_eq!(response["context"].get("problem"), None, "{route}");
    }
    assert_eq!(stack.counters(), []);
}

#[tokio::test]
async fn a_customer_whose_plan_does_not_exist_is_denied() {
    let stack = Stack::with_acme("gone", Overrides::default()).await;
    check_denied(&stack, "no-plan").await;
}

#[tokio::test]
async fn a_key_whose_customer_does_not_exist_is_denied_on_all_routes() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    stack.delete_registry_item("CUSTOMER#acme");
    for route in UNCOUNTED.into_iter().chain(["/api/secure/ping"]) {
        let response = stack.authorize(&event_of(route)).await.unwrap();
        let statement = &response["policyDocument"]["Statement"][0];
        assert_eq!(statement["Effect"], "Deny", "{route}");
        assert_eq!(response["context"]["role"], "call");
        let slug = &problem_of(&response)["type"];
        assert_eq!(slug, "urn:tollgate:problem:no-plan");
    }
}

/// Suspends the customer, or enables it.
async fn set_suspended(stack: &Stack, since: Option<&str>) {
    let change = CustomerChange {
        suspended_at: Some(since.map(p)),
        ..CustomerChange::default()
    };
    let updated = stack.at.store.update_customer(&p("acme"), &change).await;
    assert!(matches!(updated.unwrap(), UpdateCustomerOutcome::Done(_)));
}

#[tokio::test]
async fn a_suspended_customer_is_denied_until_enabled() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    set_suspended(&stack, Some(NOW)).await;
    check_denied(&stack, "customer-suspended").await;
    set_suspended(&stack, None).await;
    assert_eq!(stack.call().await, Outcome::Allowed);
}

#[tokio::test]
async fn a_suspended_key_is_unauthorized_on_all_routes_until_enabled() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let suspend = async |since: Option<&str>| {
        let change = KeyChange {
            suspended_at: Some(since.map(p)),
            ..KeyChange::default()
        };
        let key = KeyRef::Id(p("key_1"));
        let updated = stack.at.store.update_key(&key, &change).await;
        assert!(matches!(updated.unwrap(), UpdateOutcome::Done(_)));
    };
    suspend(Some(NOW)).await;
    for route in UNCOUNTED.into_iter().chain(["/api/secure/ping"]) {
        unauthorized(&stack, &event_of(route)).await;
    }
    assert_eq!(stack.counters(), []);
    suspend(None).await;
    assert_eq!(stack.call().await, Outcome::Allowed);
}

/// The erasure revokes the customer's keys, except for one that was created just before and is not in
/// the index yet.
#[tokio::test]
async fn keys_of_an_erased_customer_are_unauthorized() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let erased = stack.at.store.erase_customer(&p("acme"), p(NOW)).await;
    assert_eq!(erased.unwrap().unwrap().revoked, 1);
    let late = key_in(&event("bearer"));
    stack.add_orphan_key(&late, "key_2").await;
    for event in [event("api-key-header"), event("bearer")] {
        unauthorized(&stack, &event).await;
    }
}

/// A rotation does not reset the hour; the limit is that of the key used.
#[tokio::test]
async fn a_successor_shares_the_hour_counter_of_the_first_key() {
    let stack = Stack::with_acme("pro", limits(Some(3), None)).await;
    let successor = key_in(&event("bearer"));
    stack
        .add_key(&successor, "key_2", acme(), |key| {
            key.hour_counter_id = Some(p("key_1"));
            key.overrides = limits(Some(5), None);
        })
        .await;
    let remaining = async |event: &Value| {
        let response = stack.authorize(event).await.unwrap();
        response["context"]["rateLimitRemaining"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (old, new) = (event("api-key-header"), event("bearer"));
    assert_eq!(remaining(&old).await, "2");
    assert_eq!(remaining(&new).await, "3");
    assert_eq!(remaining(&old).await, "0");
    assert_eq!(stack.call().await, denied_by("hour"));
    assert_eq!(remaining(&new).await, "1");
    assert_eq!(remaining(&new).await, "0");
    let outcome = Outcome::of(stack.authorize(&new).await);
    assert_eq!(outcome, denied_by("hour"));
    stack.shut_down().await;
    assert_eq!(stack.in_hour("key_1", "2026-11-22T10"), 5);
    assert_eq!(stack.in_hour("key_2", "2026-11-22T10"), 0);
}

#[tokio::test]
async fn the_cors_origin_is_in_the_context() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let stack = stack.with_settings(|settings| settings.cors_origin = Some("*".into()));
    let response = stack.authorize(&event("api-key-header")).await.unwrap();
    assert_eq!(response["context"]["corsOrigin"], "*");
}

#[tokio::test]
async fn the_response_without_quota_names_the_page_to_subscribe() {
    let url = "https://app.example/plans?from=quota";
    let limits = Overrides {
        monthly_quota: Some(1),
        ..Overrides::default()
    };
    let problem = async |limits: Overrides| {
        let stack = Stack::with_acme("pro", limits).await;
        let stack = stack.with_settings(|settings| settings.upgrade_url = Some(url.into()));
        stack.authorize(&event("api-key-header")).await.unwrap();
        let denied = stack.authorize(&event("api-key-header")).await.unwrap();
        let problem = denied["context"]["problem"].as_str().unwrap().to_owned();
        serde_json::from_str::<serde_json::Value>(&format!("{{\"request_id\":\"\"{problem}}}"))
            .unwrap()
    };
    assert_eq!(problem(limits).await["upgrade_url"], url);
    let hourly = Overrides {
        requests_per_hour: Some(1),
        ..Overrides::default()
    };
    assert_eq!(problem(hourly).await.get("upgrade_url"), None);
}
