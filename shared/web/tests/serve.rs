//! Tests of the shared HTTP layer, with routes of their own.

use axum::routing::get;
use axum::{Json, Router};
use http::header::{HeaderValue, LINK};
use serde::Deserialize;
use serde_json::{Value, json};
use tollgate_api::json::nullable;
use tollgate_api::problem::Member;
use tollgate_domain::id::PlanId;
use tollgate_testing::event::Event;
use tollgate_testing::response::{call, needs_a_manager};
use tollgate_web::{
    AdminCaller, CustomerCaller, JsonBody, ManagingCaller, PathParam, Problem, QueryParams,
};
use tower::ServiceExt;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    size: Option<u8>,
    colour: Option<String>,
}

#[derive(Deserialize)]
struct Light {
    on: bool,
}

#[derive(Deserialize)]
struct Patch {
    #[serde(default, deserialize_with = "nullable")]
    colour: Option<Option<String>>,
}

async fn show(
    PathParam(name): PathParam<PlanId>,
    QueryParams(filter): QueryParams<Filter>,
) -> Json<Value> {
    Json(json!([name, filter.size, filter.colour]))
}

async fn light(QueryParams(light): QueryParams<Light>) -> Json<Value> {
    Json(json!(light.on))
}

async fn paint(JsonBody(patch): JsonBody<Patch>) -> String {
    format!("{:?}", patch.colour)
}

async fn admin(caller: AdminCaller) -> Json<Value> {
    Json(json!(caller.key_id))
}

async fn customer(caller: CustomerCaller) -> Json<Value> {
    Json(json!([caller.id, caller.plan]))
}

async fn manager(caller: ManagingCaller) -> Json<Value> {
    Json(json!([caller.id, caller.plan, caller.key_id]))
}

async fn conflict() -> Problem {
    Problem::conflict("It is taken.")
        .with(Member::RotatedTo, "acme")
        .with(Member::Plans, vec![1, 2])
        .with_header(LINK, HeaderValue::from_static("</help>"))
}

fn routes() -> Router {
    Router::new()
        .route("/things/{name}", get(show).post(paint))
        .route("/light", get(light))
        .route("/admin", get(admin))
        .route("/customer", get(customer))
        .route("/manager", get(manager))
        .route("/conflict", get(conflict))
}

fn get_event(path: &str) -> Event {
    Event::load("keys/list").path(path).query(&[])
}

fn in_stage(stage: &str, path: &str) -> Event {
    let mut event = get_event(path);
    event.0["requestContext"]["stage"] = stage.into();
    event.path(path)
}

#[tokio::test]
async fn a_route_and_its_query_are_found_in_any_stage_and_on_any_domain() {
    let check = async |event: Event| {
        let query = [("colour", "red & blue=✓"), ("size", "7")];
        let body = call(&routes(), &event.query(&query)).await.json(200);
        assert_eq!(body, json!(["gold", 7, "red & blue=✓"]));
    };
    let path = "/things/gold";
    for stage in ["v1", "prod", "$default", "things"] {
        check(in_stage(stage, path)).await;
    }
    check(get_event(path).header("Host", "api.example.com")).await;
    let mut without_host = get_event(path);
    for headers in ["headers", "multiValueHeaders"] {
        without_host.0[headers]
            .as_object_mut()
            .unwrap()
            .remove("Host");
    }
    without_host.0["requestContext"]["domainName"] = Value::Null;
    check(without_host).await;
}

#[tokio::test]
async fn the_base_path_of_a_custom_domain_is_removed() {
    for base in ["", "/billing", "/eu/billing"] {
        let mut event = get_event(&format!("{base}/things/gold"));
        event.0["requestContext"]["resourcePath"] = "/things/{name}".into();
        let body = call(&routes(), &event).await.json(200);
        assert_eq!(body[0], "gold", "{base}");
    }
}

#[tokio::test]
async fn a_path_parameter_is_decoded_and_parsed() {
    let check = async |path: &str, expected: Option<&str>| {
        let response = call(&routes(), &get_event(path)).await;
        match expected {
            Some(name) => assert_eq!(response.json(200)[0], name),
            None => response.not_found(),
        }
    };
    check("/things/a%2Db", Some("a-b")).await;
    check("/things/%61", Some("a")).await;
    check("/things/A", None).await;
    check("/things/a%2Fb", None).await;
    check("/things/%FF", None).await;
    check("/things/", None).await;
    check("/things", None).await;
}

#[tokio::test]
async fn the_problem_of_an_invalid_query_names_the_parameter() {
    let check = async |query: &[(&str, &str)], field: &str, reason: &str| {
        let path = if field.ends_with('e') {
            "/things/gold"
        } else {
            "/light"
        };
        let response = call(&routes(), &get_event(path).query(query)).await;
        let detail = response.bad_request(Some(field));
        assert_eq!(detail, format!("In the query: {reason}."));
    };
    let no_number = "size: it is not a whole number";
    check(&[("size", "256")], "size", "size: it is too large a number").await;
    check(&[("size", "")], "size", no_number).await;
    check(&[("size", "seven")], "size", no_number).await;
    let twice = [("size", "1"), ("size", "2")];
    check(&twice, "size", "duplicate field `size`").await;
    let unknown = "taste: unknown field `taste`, expected `size` or `colour`";
    check(&[("taste", "sweet")], "taste", unknown).await;
    check(&[], "on", "missing field `on`").await;
    let neither = "on: it is neither true nor false";
    check(&[("on", "maybe")], "on", neither).await;
}

#[tokio::test]
async fn a_patch_distinguishes_absent_and_null() {
    let check = async |body: &str, expected: &str| {
        let event = get_event("/things/gold").method("POST");
        let service = tollgate_web::serve(routes());
        let response = service.oneshot(event.text(body).request()).await.unwrap();
        let bytes = axum::body::to_bytes(response.into_body(), 100)
            .await
            .unwrap();
        assert_eq!(bytes, expected, "{body}");
    };
    check("{}", "None").await;
    check(r#"{ "colour": null }"#, "Some(None)").await;
    check(
        r#" { "colour": "red", "more": [] } "#,
        "Some(Some(\"red\"))",
    )
    .await;
}

fn painting() -> Event {
    let event = get_event("/things/gold").method("POST");
    event.text(r#"{ "colour": "red" }"#)
}

/// Returns the status of the response to an event with a valid body.
#[allow(clippy::unwrap_used, reason = "a test without a response has failed")]
async fn status(event: Event) -> u16 {
    let service = tollgate_web::serve(routes());
    let request = tollgate_web::request_of(&event.0.to_string()).unwrap();
    service.oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_body_may_have_any_media_type_and_no_charset_but_utf_8() {
    let of_type = |content_type: &str| painting().header("Content-Type", content_type);
    for accepted in [
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain;charset=UTF-8",
        "application/json; charset=\"utf-8\"",
        "application/json; profile=x ; Charset = utf8",
        r#"application/json; x="; charset=latin1""#,
        r#"application/json; x="a\"; charset=latin1"; charset=utf-8"#,
        "nonsense",
        "",
    ] {
        assert_eq!(status(of_type(accepted)).await, 200, "{accepted}");
    }
    for rejected in [
        "application/json; charset=iso-8859-1",
        "application/json;charset=\"UTF-16\"",
        "text/plain; format=flowed; CHARSET=latin1",
        "application/json; charset=",
        r#"application/json; x=";"; charset=latin1"#,
        r#"application/json; x="\\"; charset=latin1"#,
    ] {
        let response = call(&routes(), &of_type(rejected)).await;
        let detail = response.problem(415, "unsupported-media-type", None);
        assert!(detail.contains("UTF-8"), "{detail}");
        assert_eq!(response.header("accept-encoding"), None);
    }
}

#[tokio::test]
async fn a_content_coding_that_the_gateway_does_not_decode_is_rejected() {
    let coded = |codings: &[&str]| painting().repeated_header("Content-Encoding", codings);
    for accepted in [&["gzip"][..], &["GZIP"], &["x-gzip"], &["identity"], &[""]] {
        assert_eq!(status(coded(accepted)).await, 200, "{accepted:?}");
    }
    for rejected in [
        &["br"][..],
        &["deflate"],
        &["gzip, gzip"],
        &["gzip", "gzip"],
        &["identity", "zstd"],
    ] {
        let response = call(&routes(), &coded(rejected)).await;
        response.problem(415, "unsupported-media-type", None);
        assert_eq!(
            response.header("accept-encoding"),
            Some("gzip"),
            "{rejected:?}"
        );
    }
}

#[tokio::test]
async fn a_duplicate_header_field_is_rejected_if_it_must_be_unique() {
    let plain = ["text/plain", "text/plain"];
    let event = painting().repeated_header("Content-Type", &plain);
    let response = call(&routes(), &event).await;
    let detail = response.bad_request(None);
    assert!(detail.contains("content-type"), "{detail}");
    let event = painting().repeated_header("Accept", &["text/plain", "text/html"]);
    assert_eq!(status(event).await, 200);
}

#[tokio::test]
async fn a_problem_has_its_own_members_and_headers() {
    let event = get_event("/conflict");
    let response = call(&routes(), &event).await;
    assert_eq!(response.header("link"), Some("</help>"));
    let expected = json!({
        "type": "urn:tollgate:problem:conflict",
        "title": "Conflict",
        "status": 409,
        "detail": "It is taken.",
        "rotated_to": "acme",
        "plans": [1, 2],
        "request_id": event.request_id(),
    });
    assert_eq!(response.body, expected);
}

#[tokio::test]
async fn the_response_to_a_head_request_has_no_body() {
    let service = tollgate_web::serve(routes());
    let event = get_event("/things/gold").method("HEAD");
    let response = service.oneshot(event.request()).await.unwrap();
    assert_eq!(response.status(), 200);
    let bytes = axum::body::to_bytes(response.into_body(), 100)
        .await
        .unwrap();
    assert!(bytes.is_empty());
}

#[tokio::test]
async fn the_caller_is_that_of_the_authorizers_context() {
    let admin = get_event("/admin").admin("key_1");
    let customer = get_event("/customer").customer("acme", "pro");
    assert_eq!(call(&routes(), &admin).await.json(200), "key_1");
    let shown = call(&routes(), &customer).await.json(200);
    assert_eq!(shown, json!(["acme", "pro"]));

    let manager = get_event("/customer").manager("acme", "pro");
    let shown = call(&routes(), &manager).await.json(200);
    assert_eq!(shown, json!(["acme", "pro"]));

    call(&routes(), &admin.path("/customer")).await.forbidden();
    let as_customer = customer.clone().path("/admin");
    call(&routes(), &as_customer).await.forbidden();
    for (member, value) in [
        ("role", json!("root")),
        ("role", json!(1)),
        ("customerId", json!("a b")),
        ("plan", Value::Null),
        ("keyId", json!("")),
        ("keyPrefix", json!("tg_live")),
    ] {
        let mut event = customer.clone();
        event.0["requestContext"]["authorizer"][member] = value;
        call(&routes(), &event).await.forbidden();
    }
}

#[tokio::test]
async fn a_managing_caller_is_a_customer_with_the_role_manage() {
    let manager = get_event("/manager").manager("acme", "pro");
    let shown = call(&routes(), &manager).await.json(200);
    assert_eq!(shown, json!(["acme", "pro", "key_c"]));
    needs_a_manager(&routes(), &manager).await;
    // The role of an authorizer from before keys of customers had roles is the lower one.
    let mut earlier = manager;
    earlier.0["requestContext"]["authorizer"]["role"] = "customer".into();
    call(&routes(), &earlier).await.insufficient_role();
}

#[tokio::test]
async fn a_request_that_is_not_from_the_gateway_is_forbidden() {
    let service = tollgate_web::serve(routes());
    let request = http::Request::get("/admin").body(axum::body::Body::empty());
    let response = service.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn every_response_has_the_cors_headers_of_the_authorizers_origin() {
    let exposed = "Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, \
                   X-RateLimit-Remaining, X-RateLimit-Reset";
    for (path, status) in [("/admin", 200), ("/conflict", 409), ("/nothing", 404)] {
        for origin in [Value::Null, json!("*"), json!("https://app.example")] {
            let context = json!({
                "role": "admin", "keyId": "key_1", "keyPrefix": "tg_admin_AbCd1234",
                "corsOrigin": origin,
            });
            let event = get_event(path).authorizer(context);
            let response = call(&routes(), &event).await;
            assert_eq!(response.status, status);
            let field = |name| response.header(name);
            assert_eq!(field("access-control-allow-origin"), origin.as_str());
            let expected = origin.as_str().map(|_| exposed);
            assert_eq!(field("access-control-expose-headers"), expected);
            assert_eq!(field("access-control-allow-credentials"), None);
        }
    }
}
