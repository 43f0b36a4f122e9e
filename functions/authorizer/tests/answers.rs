//! Events of API Gateway and the answers that it gets to them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::{Value, json};
use tollgate_domain::key::{ApiKey, KeyRecord, Owner};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_local_aws::Fault;
use tollgate_store::{CustomerChange, UpdateCustomerOutcome, KeyChange, KeyRef, Updated};

mod common;

use common::{NOW, Outcome, Stack, acme, denied_by, event, key_in, limits, p, with_headers};

/// The policy on the call of an event.
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
async fn a_key_in_its_own_header_is_let_in_and_told_how_it_stands() {
    let event = event("api-key-header");
    let stack = Stack::with_acme("free", Overrides::default()).await;
    let context = json!({
        "role": "customer",
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
    assert_eq!(stack.ask(&event).await, Ok(allowed));
    let counters = [
        ("HOUR#key_1#2026-11-22T10".to_owned(), 1),
        ("MONTH#acme#2026-11".to_owned(), 1),
    ];
    assert_eq!(stack.counters(), counters);
}

#[tokio::test]
async fn a_bearer_key_is_let_in_and_told_how_it_stands() {
    let event = event("bearer");
    let stack = Stack::empty();
    stack.add_customer("acme", "pro").await;
    stack
        .add_key(&key_in(&event), "key_2", acme(), |_| ())
        .await;
    let context = json!({
        "role": "customer",
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
    assert_eq!(stack.ask(&event).await, Ok(allowed));
}

#[tokio::test]
async fn the_month_is_shown_once_it_is_closer_to_its_limit() {
    let quota = Overrides {
        requests_per_hour: Some(5),
        monthly_quota: Some(4),
    };
    let stack = Stack::with_acme("free", quota).await;
    let answer = stack.ask(&event("api-key-header")).await.unwrap();
    let context = &answer["context"];
    assert_eq!(context["rateLimitLimit"], "4");
    assert_eq!(context["rateLimitRemaining"], "3");
    assert_eq!(context["rateLimitReset"], "1796083200");
    assert_eq!(
        context["rateLimit"],
        r#""hour";r=4;t=1200, "month";r=3;t=739200"#
    );
}

#[tokio::test]
async fn a_call_over_the_hours_limit_is_denied_with_all_that_the_429_says() {
    let event = event("api-key-header");
    let rate = Overrides {
        requests_per_hour: Some(1),
        monthly_quota: None,
    };
    let stack = Stack::with_acme("free", rate).await;
    stack.ask(&event).await.unwrap();
    let context = json!({
        "role": "customer",
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
        "problem": r#","type":"urn:tollgate:problem:rate-limited","title":"Too many calls in this hour","status":429,"detail":"The limit of 1 calls in a UTC hour is reached; the count starts again at 2026-11-22T11:00:00Z.","window":"hour","limit":1,"remaining":0,"resets_at":"2026-11-22T11:00:00Z","retry_after_s":1200"#,
    });
    let denied = policy(&event, "Deny", "key_1", &context);
    assert_eq!(stack.ask(&event).await, Ok(denied));
}

#[tokio::test]
async fn a_call_over_the_months_limit_is_denied_with_all_that_the_429_says() {
    let event = event("api-key-header");
    let quota = Overrides {
        requests_per_hour: None,
        monthly_quota: Some(2),
    };
    let stack = Stack::with_acme("free", quota).await;
    stack.ask(&event).await.unwrap();
    stack.ask(&event).await.unwrap();
    let context = json!({
        "role": "customer",
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
        "problem": r#","type":"urn:tollgate:problem:quota-exceeded","title":"The month's calls are used up","status":429,"detail":"The limit of 2 calls in a UTC month is reached; the count starts again at 2026-12-01T00:00:00Z.","window":"month","limit":2,"remaining":0,"resets_at":"2026-12-01T00:00:00Z","retry_after_s":739200"#,
    });
    let denied = policy(&event, "Deny", "key_1", &context);
    assert_eq!(stack.ask(&event).await, Ok(denied));
}

#[tokio::test]
async fn an_admin_is_let_in_and_never_counted() {
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
        assert_eq!(stack.ask(&event).await, Ok(allowed));
    }
    assert_eq!(stack.counters(), []);
}

/// A call of `acme`, whose every limit is 0, to a route.
async fn call_without_quota(route: &str) -> (Value, Stack) {
    let nothing = Overrides {
        requests_per_hour: Some(0),
        monthly_quota: Some(0),
    };
    let stack = Stack::with_acme("free", nothing).await;
    let mut event = event("api-key-header");
    event["resource"] = route.into();
    let answer = stack.ask(&event).await.unwrap();
    (answer, stack)
}

#[tokio::test]
async fn a_customer_reaches_uncounted_routes_whatever_is_left_of_the_quota() {
    for route in ["/api/usage/current", "/admin/customers/{customer}"] {
        let (answer, stack) = call_without_quota(route).await;
        let context = json!({
            "role": "customer",
            "customerId": "acme",
            "keyId": "key_1",
            "keyPrefix": "tg_live_ZOmPcQgC",
            "plan": "free",
        });
        let event = event("api-key-header");
        assert_eq!(
            answer,
            policy(&event, "Allow", "key_1", &context),
            "{route}"
        );
        assert_eq!(stack.counters(), [], "{route}");
    }
}

#[tokio::test]
async fn a_route_that_only_resembles_an_uncounted_one_is_counted() {
    for route in ["/administrators", "/api/usage", "/v1/admin/customers", "/"] {
        let (answer, _) = call_without_quota(route).await;
        let statement = &answer["policyDocument"]["Statement"][0];
        assert_eq!(statement["Effect"], "Deny", "{route}");
    }
}

/// The error on a call without a good key: the gateway compares its text to the letter.
async fn unauthorized(stack: &Stack, event: &Value) {
    let refused = stack.ask(event).await.unwrap_err();
    assert_eq!(refused, "Unauthorized", "{}", event["headers"]);
}

#[tokio::test]
async fn missing_and_malformed_keys_are_refused_without_asking_the_store() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    stack.at.aws.inject(|_| Fault::RequestLost);
    unauthorized(&stack, &event("no-key")).await;
    unauthorized(&stack, &event("malformed-key")).await;
}

#[tokio::test]
async fn the_malformed_event_is_one_wrong_character_away_from_the_good_one() {
    let (good, bad) = (event("api-key-header"), event("malformed-key"));
    let text = |event: &Value| event["headers"]["x-api-key"].as_str().unwrap().to_owned();
    let (good, bad) = (text(&good), text(&bad));
    assert!(ApiKey::parse(&bad).is_err());
    let wrong = good.bytes().zip(bad.bytes()).filter(|(g, b)| g != b);
    assert_eq!((wrong.count(), good.len()), (1, bad.len()));
}

#[tokio::test]
async fn what_carries_no_key_is_refused() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let good = key_in(&event("api-key-header"));
    let good = good.expose();
    let check = async |name: &str, value: &str| {
        unauthorized(&stack, &with_headers(event("no-key"), &[(name, value)])).await;
    };
    check("x-api-key", "").await;
    check("x-api-key", "undefined").await;
    check("x-api-key", &format!("Bearer {good}")).await;
    check("x-api-key", &format!("{good},{good}")).await;
    check("Authorization", "").await;
    check("Authorization", "Bearer").await;
    check("Authorization", "Bearer ").await;
    check("Authorization", "Bearer \t ").await;
    check("x-api-key", " \t").await;
    check("Authorization", good).await;
    check("Authorization", &format!("Basic {good}")).await;
    check("Authorization", &format!("Bearer{good}")).await;
    check("Authorization", &format!("Bearer \u{a0}{good}")).await;
    check("api-key", good).await;
    let mut no_headers = event("no-key");
    no_headers["headers"] = Value::Null;
    no_headers["multiValueHeaders"] = Value::Null;
    unauthorized(&stack, &no_headers).await;
}

#[tokio::test]
async fn unknown_expired_and_revoked_keys_are_refused_alike_and_not_counted() {
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
async fn an_admin_key_that_is_revoked_or_expired_is_refused() {
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
    stack.ask(&event).await.unwrap();
    let key = KeyRef::Id(p("key_3"));
    assert!(stack.at.store.revoke_key(&key, p(NOW)).await.unwrap());
    unauthorized(&stack, &event).await;
}

#[tokio::test]
async fn a_key_works_until_the_instant_of_its_expiry_and_after_a_later_one_is_set() {
    let event = event("api-key-header");
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let expire_at = async |instant: &str| {
        let change = KeyChange {
            expires_at: Some(Some(p(instant))),
            ..KeyChange::default()
        };
        let key = KeyRef::Id(p("key_1"));
        let updated = stack.at.store.update_key(&key, &change).await;
        assert!(matches!(updated.unwrap(), Updated::Done(_)));
    };
    expire_at("2026-11-22T10:41:00Z").await;
    stack.at.time.set(p("2026-11-22T10:40:59.999Z"));
    stack.ask(&event).await.unwrap();
    stack.at.time.set(p("2026-11-22T10:41:00Z"));
    unauthorized(&stack, &event).await;
    expire_at("2026-11-22T10:41:00.001Z").await;
    stack.ask(&event).await.unwrap();
}

#[tokio::test]
async fn header_names_and_the_scheme_are_read_in_any_case() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let good = key_in(&event("api-key-header"));
    let good = good.expose();
    let check = async |headers: &[(&str, &str)]| {
        let answer = stack.ask(&with_headers(event("no-key"), headers)).await;
        assert_eq!(answer.unwrap()["principalId"], "key_1", "{headers:?}");
    };
    check(&[("X-API-KEY", good)]).await;
    check(&[("X-Api-Key", good)]).await;
    for name in ["authorization", "AUTHORIZATION"] {
        for scheme in ["Bearer ", "bearer ", "BEARER ", "bEaReR   "] {
            check(&[(name, &format!("{scheme}{good}"))]).await;
        }
    }
}

/// The gateway's JSON may write any character as an escape.
#[tokio::test]
async fn a_key_is_read_through_escapes() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let event = event("api-key-header").to_string();
    let escaped = event.replacen("tg_live_", "tg\\u005flive_", 1);
    let escaped = escaped.replacen("x-api-key", "x\\u002dapi-key", 1);
    assert_ne!(event, escaped);
    let request = serde_json::from_str(&escaped).unwrap();
    assert!(authorizer::handle(&stack.app, &request).await.is_ok());
}

#[tokio::test]
async fn of_two_keys_the_one_in_its_own_header_counts() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let good = key_in(&event("api-key-header"));
    let good = good.expose();
    let other = key_in(&event("bearer"));
    let other = format!("Bearer {}", other.expose());
    let both = [("Authorization", other.as_str()), ("x-api-key", good)];
    let answer = stack.ask(&with_headers(event("no-key"), &both)).await;
    assert_eq!(answer.unwrap()["principalId"], "key_1");

    let good = format!("Bearer {good}");
    let bad = [("Authorization", good.as_str()), ("x-api-key", "junk")];
    unauthorized(&stack, &with_headers(event("no-key"), &bad)).await;
}

/// Clients send an empty field for a setting that is empty, and some send both.
#[tokio::test]
async fn a_field_that_holds_nothing_stands_in_no_keys_way() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let good = key_in(&event("api-key-header"));
    let good = good.expose();
    let bearer = format!("Bearer {good}");
    let check = async |event: Value| {
        let answer = stack.ask(&event).await;
        assert_eq!(answer.unwrap()["principalId"], "key_1", "{event}");
    };
    for empty in ["", " ", "\t "] {
        let both = [("x-api-key", empty), ("Authorization", bearer.as_str())];
        check(with_headers(event("no-key"), &both)).await;
        let cases = [("X-Api-Key", empty), ("x-api-key", good)];
        check(with_headers(event("no-key"), &cases)).await;
    }
    for other in ["", "Bearer", "Bearer ", "Basic YTpi"] {
        let both = [("x-api-key", good), ("Authorization", other)];
        check(with_headers(event("no-key"), &both)).await;
    }
    let spaced = format!(" {good}\t");
    check(with_headers(event("no-key"), &[("x-api-key", &spaced)])).await;
    let spaced = format!(" Bearer \t{good} ");
    check(with_headers(event("no-key"), &[("Authorization", &spaced)])).await;
    // Of a field that comes several times, an event has the last value, and besides it all.
    for values in [[good, ""], ["", good]] {
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
    event["multiValueHeaders"]["x-api-key"] = json!([good, ""]);
    check(event).await;
}

#[tokio::test]
async fn a_decision_needs_no_context_and_no_second_list_of_header_fields() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let good = key_in(&event("api-key-header"));
    let bearer = format!("Bearer {}", good.expose());
    let odd_field = json!({ "Authorization": 7, "requestId": 7 });
    for odd in [Value::Null, json!({}), json!([1]), json!("text"), odd_field] {
        let mut event = with_headers(event("no-key"), &[("Authorization", &bearer)]);
        event["multiValueHeaders"] = odd.clone();
        event["requestContext"] = odd;
        let answer = stack.ask(&event).await;
        assert_eq!(answer.unwrap()["principalId"], "key_1", "{event}");
        event["headers"]["Authorization"] = "Bearer none".into();
        unauthorized(&stack, &event).await;
    }
}

/// The problem in the context of a denial.
fn problem_of(answer: &Value) -> Value {
    let members = answer["context"]["problem"].as_str().unwrap();
    serde_json::from_str(&format!("{{{}}}", &members[1..])).unwrap()
}

/// A customer who is denied for this reason, whatever the limits, is told so and counted nowhere,
/// and reaches what is not counted.
async fn denied(stack: &Stack, slug: &str) {
    let answer = stack.ask(&event("api-key-header")).await.unwrap();
    assert_eq!(answer["policyDocument"]["Statement"][0]["Effect"], "Deny");
    let problem = problem_of(&answer);
    assert_eq!(problem["type"], format!("urn:tollgate:problem:{slug}"));
    // To wait does not help.
    assert_eq!(answer["context"].get("retryAfter"), None);
    assert_eq!(answer["context"]["role"], "customer");
    let mut usage = event("api-key-header");
    usage["resource"] = "/api/usage/current".into();
    let answer = stack.ask(&usage).await.unwrap();
    assert_eq!(answer["policyDocument"]["Statement"][0]["Effect"], "Allow");
    assert_eq!(answer["context"].get("problem"), None);
    assert_eq!(stack.counters(), []);
}

#[tokio::test]
async fn a_customer_on_a_plan_that_is_not_offered_is_told_so() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let others = r#"[{"id":"free","name":"","requests_per_hour":1,"fail_mode":"open",
                      "month":{"kind":"unlimited"}}]"#;
    let others = Catalog::from_json(others).unwrap();
    let stack = stack.with_settings(|settings| settings.plans = others);
    denied(&stack, "no-plan").await;
}

#[tokio::test]
async fn a_key_without_a_customer_reaches_nothing() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    stack.forget("CUSTOMER#acme");
    for resource in ["/api/secure/ping", "/api/usage/current"] {
        let mut event = event("api-key-header");
        event["resource"] = resource.into();
        let answer = stack.ask(&event).await.unwrap();
        let statement = &answer["policyDocument"]["Statement"][0];
        assert_eq!(statement["Effect"], "Deny", "{resource}");
        assert_eq!(answer["context"]["role"], "customer");
        let slug = &problem_of(&answer)["type"];
        assert_eq!(slug, "urn:tollgate:problem:no-plan");
    }
}

/// Suspends the customer, or enables it again.
async fn set_suspended(stack: &Stack, since: Option<&str>) {
    let change = CustomerChange {
        suspended_at: Some(since.map(p)),
        ..CustomerChange::default()
    };
    let updated = stack.at.store.update_customer(&p("acme"), &change).await;
    assert!(matches!(updated.unwrap(), UpdateCustomerOutcome::Done(_)));
}

#[tokio::test]
async fn a_suspended_customer_is_told_so_until_it_is_enabled_again() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    set_suspended(&stack, Some(NOW)).await;
    denied(&stack, "customer-suspended").await;
    set_suspended(&stack, None).await;
    assert_eq!(stack.call().await, Outcome::Allowed);
}

#[tokio::test]
async fn a_suspended_key_is_refused_everywhere_until_it_is_enabled_again() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let suspend = async |since: Option<&str>| {
        let change = KeyChange {
            suspended_at: Some(since.map(p)),
            ..KeyChange::default()
        };
        let key = KeyRef::Id(p("key_1"));
        let updated = stack.at.store.update_key(&key, &change).await;
        assert!(matches!(updated.unwrap(), Updated::Done(_)));
    };
    suspend(Some(NOW)).await;
    for resource in ["/api/secure/ping", "/api/usage/current"] {
        let mut event = event("api-key-header");
        event["resource"] = resource.into();
        unauthorized(&stack, &event).await;
    }
    assert_eq!(stack.counters(), []);
    suspend(None).await;
    assert_eq!(stack.call().await, Outcome::Allowed);
}

/// Its keys are revoked as well; one that the list of keys did not have yet is not.
#[tokio::test]
async fn a_key_of_a_customer_who_has_left_is_refused() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let left = stack.at.store.erase_customer(&p("acme"), p(NOW)).await;
    assert_eq!(left.unwrap().unwrap().revoked, 1);
    let late = key_in(&event("bearer"));
    stack.add_key_of_none(&late, "key_2").await;
    for event in [event("api-key-header"), event("bearer")] {
        unauthorized(&stack, &event).await;
    }
}

/// A rotation does not begin the hour anew, and the limit is that of the key that is called with.
#[tokio::test]
async fn a_successor_goes_on_with_the_hour_of_the_first_key() {
    let stack = Stack::with_acme("pro", limits(Some(3), None)).await;
    let successor = key_in(&event("bearer"));
    stack
        .add_key(&successor, "key_2", acme(), |key| {
            key.hour_of = Some(p("key_1"));
            key.overrides = limits(Some(5), None);
        })
        .await;
    let remaining = async |event: &Value| {
        let answer = stack.ask(event).await.unwrap();
        answer["context"]["rateLimitRemaining"]
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
    let outcome = Outcome::of(stack.ask(&new).await);
    assert_eq!(outcome, denied_by("hour"));
    stack.end().await;
    assert_eq!(stack.in_hour("key_1", "2026-11-22T10"), 5);
    assert_eq!(stack.in_hour("key_2", "2026-11-22T10"), 0);
}

#[tokio::test]
async fn functions_are_told_whose_pages_may_read() {
    let stack = Stack::with_acme("pro", Overrides::default()).await;
    let stack = stack.with_settings(|settings| settings.cors_origin = Some("*".into()));
    let answer = stack.ask(&event("api-key-header")).await.unwrap();
    assert_eq!(answer["context"]["corsOrigin"], "*");
}
