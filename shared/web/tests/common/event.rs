//! Calls a function as the gateway does: with an event file, changed where a test needs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot call, or cannot read the answer, has failed"
)]
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use lambda_http::http::{HeaderMap, Response};
use lambda_http::{Request, Service};
use serde_json::{Map, Value, json};
use tollgate_web::MAX_BODY;
use tower::ServiceExt;

/// The workspace. All crates with such tests are two directories below it.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A REST proxy event.
#[derive(Debug, Clone)]
pub(crate) struct Event(pub(crate) Value);

impl Event {
    /// The event of `events/<name>.json`.
    pub(crate) fn load(name: &str) -> Self {
        let path = workspace().join(format!("events/{name}.json"));
        let text = std::fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(serde_json::from_str(&text).unwrap())
    }

    /// The names, without the extension, of the files in `events/<function>`.
    pub(crate) fn names(function: &str) -> BTreeSet<String> {
        let files = std::fs::read_dir(workspace().join("events").join(function)).unwrap();
        let stem = |file: PathBuf| file.file_stem().unwrap().to_str().unwrap().to_owned();
        files.map(|file| stem(file.unwrap().path())).collect()
    }

    pub(crate) fn body(self, body: &Value) -> Self {
        self.text(&body.to_string())
    }

    /// The body, JSON or not.
    pub(crate) fn text(mut self, body: &str) -> Self {
        self.0["body"] = body.into();
        self
    }

    /// The body as the gateway hands on what may not be text.
    pub(crate) fn base64(mut self, body: &str) -> Self {
        self.0["body"] = body.into();
        self.0["isBase64Encoded"] = true.into();
        self
    }

    /// The body with the member at this dotted path set.
    pub(crate) fn member(self, path: &str, value: Value) -> Self {
        let mut body: Value = serde_json::from_str(self.0["body"].as_str().unwrap()).unwrap();
        let place = body.pointer_mut(&format!("/{}", path.replace('.', "/")));
        *place.unwrap_or_else(|| panic!("the body has no {path}")) = value;
        self.body(&body)
    }

    /// A parameter of the path, and the path with it.
    pub(crate) fn param(mut self, name: &str, value: &str) -> Self {
        self.0["pathParameters"][name] = value.into();
        let resource = self.0["resource"].as_str().unwrap();
        let path = resource.replace(&format!("{{{name}}}"), value);
        self.path(&path)
    }

    /// Another path of the same stage.
    pub(crate) fn path(mut self, path: &str) -> Self {
        self.0["path"] = path.into();
        let stage = self.0["requestContext"]["stage"].as_str().unwrap();
        self.0["requestContext"]["path"] = format!("/{stage}{path}").into();
        self
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.0["httpMethod"] = method.into();
        self.0["requestContext"]["httpMethod"] = method.into();
        self
    }

    /// The whole query.
    pub(crate) fn query(mut self, query: &[(&str, &str)]) -> Self {
        let (mut single, mut multi) = (Map::new(), Map::new());
        for (name, value) in query {
            single.insert((*name).to_owned(), (*value).into());
            let values = multi.entry(*name).or_insert_with(|| json!([]));
            values.as_array_mut().unwrap().push((*value).into());
        }
        let or_null = |map: Map<_, _>| {
            if map.is_empty() {
                Value::Null
            } else {
                map.into()
            }
        };
        self.0["queryStringParameters"] = or_null(single);
        self.0["multiValueQueryStringParameters"] = or_null(multi);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.0["headers"][name] = value.into();
        self.0["multiValueHeaders"][name] = json!([value]);
        self
    }

    /// What the authorizer said; `null` if it was never asked.
    pub(crate) fn authorizer(mut self, context: Value) -> Self {
        self.0["requestContext"]["authorizer"] = context;
        self
    }

    /// The call of a customer.
    pub(crate) fn customer(self, id: &str, plan: &str) -> Self {
        self.authorizer(json!({
            "principalId": "key_c", "role": "customer", "customerId": id, "plan": plan,
            "keyId": "key_c", "keyPrefix": "tg_live_AbCd1234",
        }))
    }

    /// The call of an admin with this key.
    pub(crate) fn admin(self, key: &str) -> Self {
        self.authorizer(json!({
            "principalId": key, "role": "admin", "keyId": key, "keyPrefix": "tg_admin_AbCd1234",
        }))
    }

    pub(crate) fn request_id(&self) -> &str {
        self.0["requestContext"]["requestId"].as_str().unwrap()
    }

    pub(crate) fn request(&self) -> Request {
        lambda_http::request::from_str(&self.0.to_string()).unwrap()
    }

    /// Method and route template.
    pub(crate) fn route(&self) -> (String, String) {
        let text = |name: &str| self.0[name].as_str().unwrap().to_owned();
        (text("httpMethod"), text("resource"))
    }
}

/// Method and path of every route that the template deploys.
pub(crate) fn deployed_routes() -> BTreeSet<(String, String)> {
    let template = std::fs::read_to_string(workspace().join("template.yaml")).unwrap();
    let lines: Vec<&str> = template.lines().map(str::trim).collect();
    let routes = lines.windows(2).filter_map(|pair| {
        let path = pair[0].strip_prefix("Path: ")?;
        let method = pair[1].strip_prefix("Method: ")?;
        Some((method.to_uppercase(), path.to_owned()))
    });
    routes.collect()
}

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
pub(crate) async fn call_service<S>(service: S, event: &Event) -> Answer
where
    S: Service<Request, Response = Response<Body>, Error: Debug>,
{
    let response = service.oneshot(event.request()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
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

/// A text member of an answer.
#[track_caller]
pub(crate) fn text<'a>(body: &'a Value, member: &str) -> &'a str {
    let text = body[member].as_str();
    text.unwrap_or_else(|| panic!("{body} has no text {member}"))
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

/// A path that the function does not have is a 404, a method a 405 that names those it has.
pub(crate) async fn has_no_other_routes(routes: &Router, event: &Event) {
    let (method, resource) = event.route();
    let elsewhere = event.clone().path(&format!("{resource}/elsewhere/else"));
    call(routes, &elsewhere).await.not_found();

    let put = call(routes, &event.clone().method("PUT")).await;
    put.problem(405, "method-not-allowed", None);
    let allow = put.header("allow").unwrap();
    let mut allowed = allow.split(',').map(str::trim);
    assert!(allowed.any(|one| one == method), "{method}: {allow}");
}

/// The function answers the same whatever the stage is called.
pub(crate) async fn ignores_the_stage(routes: &Router, event: &Event) {
    let (_, resource) = event.route();
    let first = resource.split('/').nth(1).unwrap();
    for stage in ["v1", "prod", "$default", first] {
        let mut event = event.clone();
        event.0["requestContext"]["stage"] = stage.into();
        let path = event.0["path"].as_str().unwrap().to_owned();
        let answer = call(routes, &event.path(&path)).await;
        let no_route = answer.body["detail"] == "There is no such route.";
        assert!(!no_route, "in the stage {stage}: {}", answer.text);
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
