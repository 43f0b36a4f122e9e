//! Requests to a function as the gateway sends them, and checks that apply to every function.

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

/// Response with its complete body.
#[derive(Debug, Clone)]
pub struct ApiResponse {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body as JSON; `null` if it is empty.
    pub body: Value,
    /// Body as text.
    pub text: String,
}

/// Sends an event to the routes.
pub async fn call(routes: &Router, event: &Event) -> ApiResponse {
    call_service(tollgate_web::serve(routes.clone()), event).await
}

/// Sends an event to a function, and checks what applies to all responses of functions that need a key.
pub async fn call_service<S, B>(service: S, event: &Event) -> ApiResponse
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
    let response = ApiResponse {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
        text,
    };
    assert_eq!(response.header("cache-control"), Some("no-store"));
    if response.status >= 400 {
        assert_eq!(
            response.header("content-type"),
            Some("application/problem+json")
        );
        let problem = &response.body;
        assert_eq!(problem["status"], response.status);
        assert_eq!(problem["request_id"], event.request_id());
        for member in ["type", "title", "detail"] {
            let text = problem[member].as_str();
            assert!(text.is_some_and(|text| !text.is_empty()), "{problem}");
        }
    }
    response
}

impl ApiResponse {
    /// Returns a header field, which must not occur twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().unwrap();
        assert!(values.next().is_none(), "{name} occurs twice");
        Some(value)
    }

    /// Checks the status of a JSON response and returns its body.
    #[track_caller]
    pub fn json(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.body
    }

    /// Checks the status, type and field of a problem and returns its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, slug: &str, field: Option<&str>) -> &str {
        assert_eq!(self.status, status, "{}", self.text);
        let problem = &self.body;
        let expected = format!("urn:tollgate:problem:{slug}");
        assert_eq!(problem["type"], expected, "{problem}");
        assert_eq!(problem["field"].as_str(), field, "{problem}");
        problem["detail"].as_str().unwrap()
    }

    /// Checks that the response is a 400 and returns its detail.
    #[track_caller]
    pub fn bad_request(&self, field: Option<&str>) -> &str {
        self.problem(400, "bad-request", field)
    }

    /// Checks that the response is a 403.
    #[track_caller]
    pub fn forbidden(&self) {
        self.problem(403, "forbidden", None);
    }

    /// Checks that the response is the 403 for a key that may only call, and returns its detail.
    #[track_caller]
    pub fn insufficient_role(&self) -> &str {
        self.problem(403, "insufficient-role", None)
    }

    /// Checks that the response is a 404.
    #[track_caller]
    pub fn not_found(&self) {
        self.problem(404, "not-found", None);
    }

    /// Checks that the response is a 409 and returns its detail.
    #[track_caller]
    pub fn conflict(&self) -> &str {
        self.problem(409, "conflict", None)
    }

    /// Checks that the response is a 422 and returns its detail.
    #[track_caller]
    pub fn unprocessable(&self, field: Option<&str>) -> &str {
        self.problem(422, "unprocessable", field)
    }
}

/// Returns the items of a page.
#[track_caller]
pub fn data(page: &Value) -> &Vec<Value> {
    page["data"].as_array().unwrap()
}

/// Checks that only an admin may make the request.
pub async fn needs_an_admin(routes: &Router, event: &Event) {
    let route = event.route();
    let admin = call(routes, event).await;
    assert_ne!(admin.status, 403, "{route:?}: {}", admin.text);
    for customer in [
        event.clone().customer("acme", "pro"),
        event.clone().manager("acme", "pro"),
    ] {
        rejects_other_callers(routes, event, customer).await;
    }
}

/// Checks that only a customer may make the request.
pub async fn needs_a_customer(routes: &Router, event: &Event) {
    let customer = call(routes, event).await;
    assert_ne!(customer.status, 403, "{}", customer.text);
    rejects_other_callers(routes, event, event.clone().admin("key_a")).await;
}

/// Checks that only a customer with a key of the role `manage` may make the request, such as the one of the
/// event.
pub async fn needs_a_manager(routes: &Router, event: &Event) {
    let route = event.route();
    let manager = call(routes, event).await;
    assert_ne!(manager.status, 403, "{route:?}: {}", manager.text);
    let caller = call(routes, &event.clone().customer("acme", "pro")).await;
    let detail = caller.insufficient_role();
    assert!(
        detail.contains("needs a key with the role manage"),
        "{detail}"
    );
    rejects_other_callers(routes, event, event.clone().admin("key_a")).await;
}

/// Checks that the request is forbidden for the role of `other`, and without a valid context of the
/// authorizer.
async fn rejects_other_callers(routes: &Router, event: &Event, other: Event) {
    let mut without_role = event.clone();
    let context = &mut without_role.0["requestContext"]["authorizer"];
    context.as_object_mut().unwrap().remove("role");
    let forbidden = [
        other,
        event.clone().authorizer(Value::Null),
        event.clone().authorizer(json!({})),
        without_role,
    ];
    for event in forbidden {
        call(routes, &event).await.forbidden();
    }
}

const NO_ROUTE: &str = "There is no such route.";

/// Checks that another path is a 404, and another method a 405 with the allowed methods.
pub async fn has_no_other_routes(routes: &Router, event: &Event) {
    let elsewhere = format!("{}/elsewhere/else", text(&event.0, "path"));
    let response = call(routes, &event.clone().path(&elsewhere)).await;
    assert_eq!(response.problem(404, "not-found", None), NO_ROUTE);

    let (method, _) = event.route();
    let put = call(routes, &event.clone().method("PUT")).await;
    put.problem(405, "method-not-allowed", None);
    let allow = put.header("allow").unwrap();
    let mut allowed = allow.split(',').map(str::trim);
    assert!(allowed.any(|one| one == method), "{method}: {allow}");
}

/// Checks that the function finds its route in a stage of any name.
pub async fn ignores_the_stage(routes: &Router, event: &Event) {
    let path = text(&event.0, "path");
    let first = path.split('/').nth(1).unwrap();
    for stage in ["v1", "prod", "$default", first] {
        let mut event = event.clone();
        event.0["requestContext"]["stage"] = stage.into();
        let response = call(routes, &event.path(path)).await;
        let found = response.status < 400 || response.body["detail"] != NO_ROUTE;
        assert!(found, "in the stage {stage}: {}", response.text);
    }
}

/// Checks that invalid bodies are rejected, and one of the maximum size is accepted.
pub async fn checks_bodies(routes: &Router, event: &Event) {
    let valid = event.0["body"].as_str().unwrap();
    let rejected = async |event: Event, detail: &str| {
        let response = call(routes, &event).await;
        let found = response.bad_request(None);
        assert!(found.contains(detail), "{found:?} lacks {detail:?}");
    };
    let text = |body: &str| event.clone().text(body);

    let mut none = event.clone();
    none.0["body"] = Value::Null;
    rejected(none, "EOF while parsing").await;
    rejected(text(""), "EOF while parsing").await;
    rejected(text(&valid[..valid.len() - 1]), "EOF while parsing").await;
    rejected(text("not JSON"), "expected ident").await;
    for other in ["null", "true", "1", "\"text\"", "[]"] {
        rejected(text(other), "In the JSON body: ").await;
    }
    rejected(text(&format!("{valid} {{}}")), "After the JSON body: ").await;
    rejected(event.clone().base64("/w=="), "not UTF-8").await;

    let with_surprise = format!("{{\"surprise\": 1, {}", &valid[1..]);
    let response = call(routes, &text(&with_surprise)).await;
    let detail = response.bad_request(Some("surprise"));
    assert!(detail.contains("unknown field `surprise`"), "{detail}");

    let padded = |len: usize| text(&(" ".repeat(len - valid.len()) + valid));
    let large = call(routes, &padded(MAX_BODY + 1)).await;
    large.problem(413, "body-too-large", None);
    let largest = call(routes, &padded(MAX_BODY)).await;
    assert!(![400, 413].contains(&largest.status), "{}", largest.text);
}

/// Checks that an invalid value of each of these fields is rejected with a problem that names the field.
pub async fn names_fields(routes: &Router, event: &Event, invalid: &[(&str, Value)]) {
    for (field, value) in invalid {
        let response = call(routes, &event.clone().member(field, value.clone())).await;
        let detail = response.bad_request(Some(field));
        assert!(detail.starts_with("In the JSON body: "), "{detail}");
    }
}
