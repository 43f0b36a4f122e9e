//! Who is let in, and how often.

use http::{Method, StatusCode};
use serde_json::json;
use tollgate_local::template::Template;
use tollgate_local_aws::template::Stack;

use crate::site::{Site, ping, send};

pub(crate) async fn the_hourly_limit_refuses(site: Site) {
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
    let refused = client.get("/api/secure/ping").await.unwrap();
    site.assert_limited(&refused, "rate-limited");
    if !site.is_emulated() {
        assert_eq!(refused.header("x-ratelimit-limit"), "2");
        assert_eq!(refused.header("x-ratelimit-remaining"), "0");
        assert_eq!(refused.header("ratelimit-policy"), r#""hour";q=2;w=3600"#);
        let problem = refused.json();
        assert_eq!(
            (&problem["limit"], &problem["remaining"]),
            (&json!(2), &json!(0))
        );
        let wait: i64 = refused.header("retry-after").parse().unwrap();
        assert_eq!(problem["retry_after_s"], wait);
    }
}

pub(crate) async fn an_exhausted_customer_still_sees_their_usage(site: Site) {
    let customer = site.customer("free").await;
    let quota = json!({ "customer_id": customer, "overrides": { "monthly_quota": 1 } });
    let (client, _) = site.key(quota).await;
    assert_eq!(ping(&client).await, StatusCode::OK);
    let refused = client.get("/api/secure/ping").await.unwrap();
    site.assert_limited(&refused, "quota-exceeded");
    let usage = site.metered(&client, 1).await;
    assert_eq!(usage["admitted"]["calls"], 1);
}

pub(crate) async fn a_change_of_plan_holds_within_seconds(site: Site) {
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
    site.until("the new plan's limit holds", async || {
        (limit().await == "100000").then_some(())
    })
    .await;
}

/// Walks every route of the template: without a key it is 401, with a key of the other kind 403, and
/// with a parameter that nobody has heard of 400. The examples take any.
pub(crate) async fn no_route_is_open_to_the_wrong_caller_or_to_what_it_does_not_take(site: Site) {
    let customer = site.customer("pro").await;
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    let template = Template::of(&Stack::built_in("test").unwrap()).unwrap();
    assert!(template.routes.len() >= 16);
    for route in template.routes {
        let path = route.path.replace("{key}", "tg_live_00000000");
        let path = path.replace("{customer}", &customer).replace("{item}", "x");
        let method: Method = route.method.parse().unwrap();
        let answer = send(&site.anyone, method.clone(), &path).await;
        site.assert_problem(&answer, StatusCode::UNAUTHORIZED, "unauthorized");
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
        let (one, other) = match path.starts_with("/admin/") {
            true => (&site.admin, &client),
            false => (&client, &site.admin),
        };
        let answer = send(other, method.clone(), &path).await;
        site.assert_problem(&answer, StatusCode::FORBIDDEN, "forbidden");
        if !["PingFunction", "AnalyzeFunction"].contains(&&*route.function) {
            let answer = send(one, method, &format!("{path}?colour=red")).await;
            site.assert_problem(&answer, StatusCode::BAD_REQUEST, "bad-request");
            assert!(
                answer.text.contains("unknown field `colour`"),
                "{}",
                answer.text
            );
        }
    }
}
