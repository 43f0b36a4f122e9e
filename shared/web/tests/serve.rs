//! What the functions share, on routes made up for it.

use axum::routing::get;
use axum::{Json, Router};
use http::header::{HeaderValue, LINK};
use serde::Deserialize;
use serde_json::{Value, json};
use tollgate_domain::id::PlanId;
use tollgate_web::{
    AdminCaller, CustomerCaller, JsonBody, PathParam, Problem, QueryParams, nullable,
};
use tower::ServiceExt;

#[path = "common/answer.rs"]
mod answer;
#[path = "common/event.rs"]
mod event;

use answer::call;
use event::Event;

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

async fn who(caller: AdminCaller) -> Json<Value> {
    Json(json!(caller.key_id))
}

async fn whose(caller: CustomerCaller) -> Json<Value> {
    Json(json!([caller.id, caller.plan]))
}

async fn refuse() -> Problem {
    Problem::conflict("It is taken.")
        .with("taken_by", "acme")
        .with("members", vec![1, 2])
        .with_header(LINK, HeaderValue::from_static("</help>"))
}

fn routes() -> Router {
    Router::new()
        .route("/things/{name}", get(show).post(paint))
        .route("/light", get(light))
        .route("/who", get(who))
        .route("/whose", get(whose))
        .route("/refuse", get(refuse))
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
async fn a_route_is_found_with_its_query_in_any_stage_and_under_any_name() {
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
    let mut nameless = get_event(path);
    for headers in ["headers", "multiValueHeaders"] {
        nameless.0[headers].as_object_mut().unwrap().remove("Host");
    }
    nameless.0["requestContext"]["domainName"] = Value::Null;
    check(nameless).await;
}

#[tokio::test]
async fn the_base_path_of_a_custom_domain_is_no_part_of_the_route() {
    for base in ["", "/billing", "/eu/billing"] {
        let mut event = get_event(&format!("{base}/things/gold"));
        event.0["requestContext"]["resourcePath"] = "/things/{name}".into();
        let body = call(&routes(), &event).await.json(200);
        assert_eq!(body[0], "gold", "{base}");
    }
}

#[tokio::test]
async fn a_parameter_of_the_path_is_decoded_and_read() {
    let check = async |path: &str, expected: Option<&str>| {
        let answer = call(&routes(), &get_event(path)).await;
        match expected {
            Some(name) => assert_eq!(answer.json(200)[0], name),
            None => answer.not_found(),
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
async fn a_wrong_query_is_explained() {
    let check = async |query: &[(&str, &str)], field: &str, reason: &str| {
        let path = if field.ends_with('e') {
            "/things/gold"
        } else {
            "/light"
        };
        let answer = call(&routes(), &get_event(path).query(query)).await;
        let detail = answer.bad_request(Some(field));
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
async fn a_patch_tells_what_is_absent_from_what_is_null() {
    let check = async |body: &str, expected: &str| {
        let event = get_event("/things/gold").method("POST");
        let served = tollgate_web::serve(routes());
        let answer = served.oneshot(event.text(body).request()).await.unwrap();
        let bytes = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
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

/// With what status a body is answered that is good in itself.
#[allow(clippy::unwrap_used, reason = "a test without an answer has failed")]
async fn painted(event: Event) -> u16 {
    let served = tollgate_web::serve(routes());
    let request = tollgate_web::request_of(&event.0.to_string()).unwrap();
    served.oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_body_is_json_whatever_type_it_is_given_and_utf_8_whatever_it_says() {
    let of_type = |content_type: &str| painting().header("Content-Type", content_type);
    for good in [
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
        assert_eq!(painted(of_type(good)).await, 200, "{good}");
    }
    for bad in [
        "application/json; charset=iso-8859-1",
        "application/json;charset=\"UTF-16\"",
        "text/plain; format=flowed; CHARSET=latin1",
        "application/json; charset=",
        r#"application/json; x=";"; charset=latin1"#,
        r#"application/json; x="\\"; charset=latin1"#,
    ] {
        let answer = call(&routes(), &of_type(bad)).await;
        let detail = answer.problem(415, "unsupported-media-type", None);
        assert!(detail.contains("UTF-8"), "{detail}");
        assert_eq!(answer.header("accept-encoding"), None);
    }
}

#[tokio::test]
async fn a_coding_that_the_gateway_has_not_undone_is_refused() {
    let coded = |codings: &[&str]| painting().repeated_header("Content-Encoding", codings);
    for good in [&["gzip"][..], &["GZIP"], &["x-gzip"], &["identity"], &[""]] {
        assert_eq!(painted(coded(good)).await, 200, "{good:?}");
    }
    for bad in [
        &["br"][..],
        &["deflate"],
        &["gzip, gzip"],
        &["gzip", "gzip"],
        &["identity", "zstd"],
    ] {
        let answer = call(&routes(), &coded(bad)).await;
        answer.problem(415, "unsupported-media-type", None);
        assert_eq!(answer.header("accept-encoding"), Some("gzip"), "{bad:?}");
    }
}

#[tokio::test]
async fn a_field_that_is_there_twice_is_refused_where_it_can_mean_one_thing_only() {
    let plain = ["text/plain", "text/plain"];
    let event = painting().repeated_header("Content-Type", &plain);
    let answer = call(&routes(), &event).await;
    let detail = answer.bad_request(None);
    assert!(detail.contains("content-type"), "{detail}");
    let event = painting().repeated_header("Accept", &["text/plain", "text/html"]);
    assert_eq!(painted(event).await, 200);
}

#[tokio::test]
async fn a_problem_carries_its_own_members_and_headers() {
    let event = get_event("/refuse");
    let answer = call(&routes(), &event).await;
    assert_eq!(answer.header("link"), Some("</help>"));
    let expected = json!({
        "type": "urn:tollgate:problem:conflict",
        "title": "Not possible in this state",
        "status": 409,
        "detail": "It is taken.",
        "taken_by": "acme",
        "members": [1, 2],
        "request_id": event.request_id(),
    });
    assert_eq!(answer.body, expected);
}

#[tokio::test]
async fn a_head_request_is_answered_without_a_body() {
    let served = tollgate_web::serve(routes());
    let event = get_event("/things/gold").method("HEAD");
    let answer = served.oneshot(event.request()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let bytes = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
    assert!(bytes.is_empty());
}

#[tokio::test]
async fn callers_are_who_the_authorizer_says() {
    let admin = get_event("/who").admin("key_1");
    let customer = get_event("/whose").customer("acme", "pro");
    assert_eq!(call(&routes(), &admin).await.json(200), "key_1");
    let shown = call(&routes(), &customer).await.json(200);
    assert_eq!(shown, json!(["acme", "pro"]));

    call(&routes(), &admin.path("/whose")).await.forbidden();
    let who = customer.clone().path("/who");
    call(&routes(), &who).await.forbidden();
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
async fn a_request_from_elsewhere_than_the_gateway_names_nobody() {
    let served = tollgate_web::serve(routes());
    let request = http::Request::get("/who").body(axum::body::Body::empty());
    let answer = served.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 403);
}

#[tokio::test]
async fn every_answer_says_whose_pages_may_read_it_and_how_long_it_lasts() {
    let exposed = "Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, \
                   X-RateLimit-Remaining, X-RateLimit-Reset";
    for (path, status) in [("/who", 200), ("/refuse", 409), ("/nothing", 404)] {
        for origin in [Value::Null, json!("*"), json!("https://app.example")] {
            let context = json!({
                "role": "admin", "keyId": "key_1", "keyPrefix": "tg_admin_AbCd1234",
                "corsOrigin": origin,
            });
            let event = get_event(path).authorizer(context);
            let answer = call(&routes(), &event).await;
            assert_eq!(answer.status, status);
            let field = |name| answer.header(name);
            assert_eq!(field("access-control-allow-origin"), origin.as_str());
            let expected = origin.as_str().map(|_| exposed);
            assert_eq!(field("access-control-expose-headers"), expected);
            assert_eq!(field("access-control-allow-credentials"), None);
        }
    }
}
