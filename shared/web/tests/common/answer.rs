//! Calls a function as the gateway does, and what any function must answer to any call.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot read an answer has failed"
)]
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::fmt::Debug;

use axum::BoxError;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use lambda_http::http::{HeaderMap, Response};
use lambda_http::{Request, Service};
use serde_json::{Value, json};
use tollgate_web::MAX_BODY;
use tower::ServiceExt;

use crate::event::{Event, text};

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// `null` if there is none.
    pub(crate) body: Value,
    pub(crate) text: String,
}

/// Calls these routes.
pub(crate) async fn call(routes: &Router, event: &Event) -> Answer {
    call_service(tollgate_web::serve(routes.clone()), event).await
}

/// Calls a function, and checks what holds for all answers of all functions.
pub(crate) async fn call_service<S, B>(service: S, event: &Event) -> Answer
where
    S: Service<Request, Response = Response<B>, Error: Debug>,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let request = tollgate_web::request_of(&event.0.to_string()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(Body::new(body), usize::MAX)
        .await
        .unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let body = match text.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap(),
    };
    let answer = Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
        text,
    };
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    if answer.status >= 400 {
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        let problem = &answer.body;
        assert_eq!(problem["status"], answer.status);
        assert_eq!(problem["request_id"], event.request_id());
        for member in ["type", "title", "detail"] {
            let text = problem[member].as_str();
            assert!(text.is_some_and(|text| !text.is_empty()), "{problem}");
        }
    }
    answer
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().unwrap();
        assert!(values.next().is_none(), "{name} stands there twice");
        Some(value)
    }

    /// The body of a JSON answer with this status.
    #[track_caller]
    pub(crate) fn json(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.body
    }

    /// The detail of a problem with this status and type, about this field if it is about one.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, slug: &str, field: Option<&str>) -> &str {
        assert_eq!(self.status, status, "{}", self.text);
        let problem = &self.body;
        let expected = format!("urn:tollgate:problem:{slug}");
        assert_eq!(problem["type"], expected, "{problem}");
        assert_eq!(problem["field"].as_str(), field, "{problem}");
        problem["detail"].as_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn bad_request(&self, field: Option<&str>) -> &str {
        self.problem(400, "bad-request", field)
    }

    #[track_caller]
    pub(crate) fn forbidden(&self) {
        self.problem(403, "forbidden", None);
    }

    #[track_caller]
    pub(crate) fn not_found(&self) {
        self.problem(404, "not-found", None);
    }

    #[track_caller]
    pub(crate) fn conflict(&self) -> &str {
        self.problem(409, "conflict", None)
    }

    #[track_caller]
    pub(crate) fn unprocessable(&self, field: Option<&str>) -> &str {
        self.problem(422, "unprocessable", field)
    }
}

/// The items of a page.
#[track_caller]
pub(crate) fn data(page: &Value) -> &Vec<Value> {
    page["data"].as_array().unwrap()
}

/// Only an admin may make this call.
pub(crate) async fn needs_an_admin(routes: &Router, event: &Event) {
    let route = event.route();
    let admin = call(routes, event).await;
    assert_ne!(admin.status, 403, "{route:?}: {}", admin.text);
    let customer = event.clone().customer("acme", "pro");
    refuses_strangers(routes, event, customer).await;
}

/// Only a customer may make this call.
pub(crate) async fn needs_a_customer(routes: &Router, event: &Event) {
    let customer = call(routes, event).await;
    assert_ne!(customer.status, 403, "{}", customer.text);
    refuses_strangers(routes, event, event.clone().admin("key_a")).await;
}

/// Neither `wrong` may make this call, nor anyone whom the authorizer did not name.
async fn refuses_strangers(routes: &Router, event: &Event, wrong: Event) {
    let mut roleless = event.clone();
    let context = &mut roleless.0["requestContext"]["authorizer"];
    context.as_object_mut().unwrap().remove("role");
    let strangers = [
        wrong,
        event.clone().authorizer(Value::Null),
        event.clone().authorizer(json!({})),
        roleless,
    ];
    for stranger in strangers {
        call(routes, &stranger).await.forbidden();
    }
}

const NO_ROUTE: &str = "There is no such route.";

/// A path that the function does not have is a 404, a method a 405 that names those it has.
pub(crate) async fn has_no_other_routes(routes: &Router, event: &Event) {
    let elsewhere = format!("{}/elsewhere/else", text(&event.0, "path"));
    let answer = call(routes, &event.clone().path(&elsewhere)).await;
    assert_eq!(answer.problem(404, "not-found", None), NO_ROUTE);

    let (method, _) = event.route();
    let put = call(routes, &event.clone().method("PUT")).await;
    put.problem(405, "method-not-allowed", None);
    let allow = put.header("allow").unwrap();
    let mut allowed = allow.split(',').map(str::trim);
    assert!(allowed.any(|one| one == method), "{method}: {allow}");
}

/// The function finds its route whatever the stage is called.
pub(crate) async fn ignores_the_stage(routes: &Router, event: &Event) {
    let path = text(&event.0, "path");
    let first = path.split('/').nth(1).unwrap();
    for stage in ["v1", "prod", "$default", first] {
        let mut event = event.clone();
        event.0["requestContext"]["stage"] = stage.into();
        let answer = call(routes, &event.path(path)).await;
        let found = answer.status < 400 || answer.body["detail"] != NO_ROUTE;
        assert!(found, "in the stage {stage}: {}", answer.text);
    }
}

/// Refuses every body that cannot be read, and reads one of the largest size there may be.
pub(crate) async fn checks_bodies(routes: &Router, event: &Event) {
    let good = event.0["body"].as_str().unwrap();
    let refused = async |event: Event, detail: &str| {
        let answer = call(routes, &event).await;
        let found = answer.bad_request(None);
        assert!(found.contains(detail), "{found:?} lacks {detail:?}");
    };
    let text = |body: &str| event.clone().text(body);

    let mut none = event.clone();
    none.0["body"] = Value::Null;
    refused(none, "EOF while parsing").await;
    refused(text(""), "EOF while parsing").await;
    refused(text(&good[..good.len() - 1]), "EOF while parsing").await;
    refused(text("not JSON"), "expected ident").await;
    for other in ["null", "true", "1", "\"text\"", "[]"] {
        refused(text(other), "In the JSON body: ").await;
    }
    refused(text(&format!("{good} {{}}")), "After the JSON body: ").await;
    refused(event.clone().base64("/w=="), "not UTF-8").await;

    let surprised = format!("{{\"surprise\": 1, {}", &good[1..]);
    let answer = call(routes, &text(&surprised)).await;
    let detail = answer.bad_request(Some("surprise"));
    assert!(detail.contains("unknown field `surprise`"), "{detail}");

    let padded = |len: usize| text(&(" ".repeat(len - good.len()) + good));
    let large = call(routes, &padded(MAX_BODY + 1)).await;
    large.problem(413, "body-too-large", None);
    let largest = call(routes, &padded(MAX_BODY)).await;
    assert!(![400, 413].contains(&largest.status), "{}", largest.text);
}

/// Refuses the event's body with another value at each of these places, naming the place.
pub(crate) async fn names_fields(routes: &Router, event: &Event, wrong: &[(&str, Value)]) {
    for (field, value) in wrong {
        let answer = call(routes, &event.clone().member(field, value.clone())).await;
        let detail = answer.bad_request(Some(field));
        assert!(detail.starts_with("In the JSON body: "), "{detail}");
    }
}
