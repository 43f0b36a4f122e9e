//! Cases about authorization and limits.

use http::{Method, StatusCode};
use serde_json::json;
use tollgate_local::template::Template;
use tollgate_local_aws::template::Stack;

use crate::site::{Site, ping, send};

pub(crate) async fn the_hourly_limit_denies_calls(site: Site) {
    let customer = site.customer("free").await;
    let limit = json!({ "customer_id": customer, "overrides": { "requests_per_hour": 2 } });
    let (client, _) = site.key(limit).await;
    site.well_within_an_hour().await;
    for left in ["1", "0"] {
        let pong = client.get("/api/secure/ping").await.unwrap();
        assert_eq!(pong.status, StatusCode::OK, "{}", pong.text);
        assert_eq!(pong.header("x-ratelimit-limit"), "2");
        assert_eq!(pong.header("x-ratelimit-remaining"), left);
    }
    let rejected = client.get("/api/secure/ping").await.unwrap();
    site.assert_limited(&rejected, "rate-limited");
    if !site.is_emulated() {
        assert_eq!(rejected.header("x-ratelimit-limit"), "2");
        assert_eq!(rejected.header("x-ratelimit-remaining"), "0");
        assert_eq!(rejected.header("ratelimit-policy"), r#""hour";q=2;w=3600"#);
        let problem = rejected.json();
        assert_eq!(
            (&problem["limit"], &problem["remaining"]),
            (&json!(2), &json!(0))
        );
        let wait: i64 = rejected.header("retry-after").parse().unwrap();
        assert_eq!(problem["retry_after_s"], wait);
    }
}

pub(crate) async fn an_exhausted_customer_still_sees_their_usage(site: Site) {
    let customer = site.customer("free").await;
    let quota = json!({ "customer_id": customer, "overrides": { "monthly_quota": 1 } });
    let (client, _) = site.key(quota).await;
    assert_eq!(ping(&client).await, StatusCode::OK);
    let rejected = client.get("/api/secure/ping").await.unwrap();
    site.assert_limited(&rejected, "quota-exceeded");
    let usage = site.metered(&client, 1).await;
    assert_eq!(usage["admitted"]["calls"], 1);
}

pub(crate) async fn a_change_of_plan_takes_effect_within_seconds(site: Site) {
    let customer = site.customer("free").await;
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    let limit = async || {
        let pong = client.get("/api/secure/ping").await.unwrap();
        pong.header("x-ratelimit-limit").to_owned()
    };
    assert_eq!(limit().await, "100");
    let path = format!("/admin/customers/{customer}");
    let patch = json!({ "plan": "enterprise" });
    let patched = site.admin.json(Method::PATCH, &path, patch).await.unwrap();
    assert_eq!(patched.json()["plan"], "enterprise");
    site.wait_for("the new plan's limit applies", async || {
        (limit().await == "100000").then_some(())
    })
    .await;
}

/// Checks every route of the template: 401 without a key unless it is open, 403 with a key of the other role,
/// and 400 with an unknown parameter. The sample endpoints accept any parameter.
pub(crate) async fn every_route_rejects_wrong_callers_and_unknown_parameters(site: Site) {
    let customer = site.customer("pro").await;
    let key = json!({ "customer_id": customer, "role": "manage" });
    let (client, _) = site.key(key).await;
    let template = Template::from_stack(&Stack::built_in("test").unwrap()).unwrap();
    assert!(template.routes.len() >= 16);
    for route in template.routes {
        let path = route.path.replace("{key}", "tg_live_00000000");
        let path = path.replace("{customer}", &customer).replace("{item}", "x");
        let path = path.replace("{plan}", "pro");
        let method: Method = route.method.parse().unwrap();
        let response = send(&site.anyone, method.clone(), &path).await;
        let allowed = if route.is_open {
            // Stripe needs no key for its webhooks, and signs them.
            let expected = match &*path {
                "/webhooks/stripe" => StatusCode::BAD_REQUEST,
                _ => StatusCode::OK,
            };
            assert_eq!(response.status, expected, "{}", response.text);
            &site.anyone
        } else {
            site.assert_problem(&response, StatusCode::UNAUTHORIZED, "unauthorized");
            assert!(response.header("www-authenticate").starts_with("Bearer"));
            let (allowed, other) = match path.starts_with("/admin/") {
                true => (&site.admin, &client),
                false => (&client, &site.admin),
            };
            let response = send(other, method.clone(), &path).await;
            site.assert_problem(&response, StatusCode::FORBIDDEN, "forbidden");
            allowed
        };
        if !["PingFunction", "AnalyzeFunction"].contains(&&*route.function) {
            let response = send(allowed, method, &format!("{path}?colour=red")).await;
            site.assert_problem(&response, StatusCode::BAD_REQUEST, "bad-request");
            assert!(
                response.text.contains("unknown field `colour`"),
                "{}",
                response.text
            );
        }
    }
}
