//! What API Gateway does: routes a request, asks the authorizer, calls the function behind the
//! route, and answers by itself when it comes to none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{ALLOW, HeaderName, HeaderValue};
use http::request::Parts as RequestParts;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use tollgate_runtime::{Clock, Entropy};
use tollgate_web::Problem;
use tower::ServiceExt;

use crate::functions::{Function, Parts};
use crate::product::StartError;
use crate::template::{GatewayResponse, Route, Template};

/// API Gateway's bound on a body.
const MAX_BODY: usize = 10 * 1024 * 1024;
/// API Gateway's bound on an integration.
const INTEGRATION_TIMEOUT: Duration = Duration::from_secs(29);
/// What the policies of the authorizer speak of.
const API_ARN: &str = "arn:aws:execute-api:us-east-1:000000000000:local";

pub(crate) struct Gateway {
    stage: String,
    routes: Vec<(Route, Function)>,
    responses: BTreeMap<String, GatewayResponse>,
    preflight: Option<BTreeMap<&'static str, String>>,
    authorizer: authorizer::App,
    clock: Clock,
    entropy: Entropy,
    /// A text of the user's own that stands for a real key.
    alias: Option<KeyAlias>,
}

/// A text that stands for a key.
pub(crate) struct KeyAlias {
    pub(crate) text: String,
    pub(crate) key: String,
}

/// Where a request leads.
struct Matched<'a> {
    route: &'a Route,
    function: &'a Function,
    parameters: BTreeMap<String, String>,
}

/// The gateway's own reasons to answer, by API Gateway's names and default statuses
/// (<https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html>).
#[derive(Clone, Copy)]
enum Own {
    MissingAuthenticationToken,
    Unauthorized,
    AccessDenied,
    AuthorizerFailure,
    RequestTooLarge,
    IntegrationFailure,
    IntegrationTimeout,
}

impl Own {
    fn name_and_status(self) -> (&'static str, StatusCode) {
        match self {
            Own::MissingAuthenticationToken => {
                ("MISSING_AUTHENTICATION_TOKEN", StatusCode::FORBIDDEN)
            }
            Own::Unauthorized => ("UNAUTHORIZED", StatusCode::UNAUTHORIZED),
            Own::AccessDenied => ("ACCESS_DENIED", StatusCode::FORBIDDEN),
            Own::AuthorizerFailure => ("AUTHORIZER_FAILURE", StatusCode::INTERNAL_SERVER_ERROR),
            Own::RequestTooLarge => ("REQUEST_TOO_LARGE", StatusCode::PAYLOAD_TOO_LARGE),
            Own::IntegrationFailure => ("INTEGRATION_FAILURE", StatusCode::GATEWAY_TIMEOUT),
            Own::IntegrationTimeout => ("INTEGRATION_TIMEOUT", StatusCode::GATEWAY_TIMEOUT),
        }
    }
}

impl Gateway {
    pub(crate) fn new(
        template: &Template,
        parts: &Parts,
        alias: Option<KeyAlias>,
    ) -> Result<Self, StartError> {
        let mut functions: BTreeMap<&str, Function> = BTreeMap::new();
        for route in &template.routes {
            if let Entry::Vacant(entry) = functions.entry(&route.function) {
                entry.insert(parts.http_function(&route.function)?);
            }
        }
        let routes = template.routes.iter();
        let routes =
            routes.map(|route| (route.clone(), functions[route.function.as_str()].clone()));
        Ok(Self {
            stage: template.stage.clone(),
            routes: routes.collect(),
            responses: template.responses.clone(),
            preflight: template.preflight.clone(),
            authorizer: parts.authorizer()?,
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            alias,
        })
    }

    /// Ends the functions' instances, as Lambda ends them: what the authorizer has reserved goes back, and
    /// metered functions flush for the last time.
    pub(crate) async fn end(&self) {
        self.authorizer.end().await;
        for (_, function) in &self.routes {
            if let Some(emitter) = &function.emitter {
                emitter.close().await;
            }
        }
    }

    /// Answers a request as the deployed API would.
    pub(crate) async fn handle(&self, request: axum::extract::Request) -> Response {
        let request_id = self.request_id();
        let now = self.clock.now();
        let (mut parts, body) = request.into_parts();
        if let Some(alias) = &self.alias {
            alias.replace_in(&mut parts.headers);
        }
        let outcome = self.answer(&parts, body, &request_id, now).await;
        let mut response = outcome.unwrap_or_else(|own| self.own(own, &request_id, &Map::new()));
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            let name = HeaderName::from_static("x-amzn-requestid");
            response.headers_mut().insert(name, id);
        }
        response
    }

    async fn answer(
        &self,
        parts: &RequestParts,
        body: Body,
        request_id: &str,
        now: Timestamp,
    ) -> Result<Response, Own> {
        let matched = match self.route(parts.method.as_str(), parts.uri.path()) {
            Ok(matched) => matched,
            Err(allowed) if !allowed.is_empty() => {
                return Ok(match &self.preflight {
                    Some(fields) if parts.method == Method::OPTIONS => preflight(fields, &allowed),
                    _ => self.method_not_allowed(&allowed, request_id),
                });
            }
            Err(_) => return Err(Own::MissingAuthenticationToken),
        };
        let body = read(body).await?;
        let event = self.event(parts, &matched, request_id, now);
        let context = match self.authorize(&event).await? {
            Decision::Allow(context) => context,
            Decision::Deny(context) => {
                return Ok(self.own(Own::AccessDenied, request_id, &context));
            }
        };
        invoke(matched.function, &event.into_proxy(context, &body)).await
    }

    /// A path that has other methods, which API Gateway cannot tell from an unknown one: its answer is
    /// 404. This one reads alike otherwise.
    fn method_not_allowed(&self, allowed: &[&str], request_id: &str) -> Response {
        let mut response = Problem::method_not_allowed().render(request_id);
        if let Ok(allowed) = HeaderValue::from_str(&allowed.join(", ")) {
            response.headers_mut().insert(ALLOW, allowed);
        }
        let own = self.own(Own::MissingAuthenticationToken, request_id, &Map::new());
        for (name, value) in own.headers() {
            response
                .headers_mut()
                .entry(name)
                .or_insert_with(|| value.clone());
        }
        response
    }

    /// The route of a request, or the methods that its path has instead.
    fn route(&self, method: &str, path: &str) -> Result<Matched<'_>, Vec<&str>> {
        let mut best: Option<Matched<'_>> = None;
        let mut allowed = Vec::new();
        for (route, function) in &self.routes {
            let Some(parameters) = parameters_of(&route.path, path) else {
                continue;
            };
            if route.method != method {
                allowed.push(route.method.as_str());
                continue;
            }
            // As in API Gateway, a literal segment goes before a parameter.
            let better = best
                .as_ref()
                .is_none_or(|best| parameters.len() < best.parameters.len());
            if better {
                best = Some(Matched {
                    route,
                    function,
                    parameters,
                });
            }
        }
        best.ok_or(allowed)
    }

    fn event(
        &self,
        parts: &RequestParts,
        matched: &Matched<'_>,
        request_id: &str,
        now: Timestamp,
    ) -> Event {
        let path = parts.uri.path();
        let method = parts.method.as_str();
        let (headers, multi_headers) = header_maps(&parts.headers);
        let (query, multi_query) = query_maps(&parts.uri);
        let or_null = |map: Map<String, Value>| match map.is_empty() {
            true => Value::Null,
            false => Value::Object(map),
        };
        let parameters = matched.parameters.iter();
        let parameters = parameters.map(|(name, value)| (name.clone(), value.clone().into()));
        let resource = &matched.route.path;
        Event(json!({
            "resource": resource,
            "path": path,
            "httpMethod": method,
            "headers": headers,
            "multiValueHeaders": multi_headers,
            "queryStringParameters": or_null(query),
            "multiValueQueryStringParameters": or_null(multi_query),
            "pathParameters": or_null(parameters.collect()),
            "stageVariables": null,
            "requestContext": {
                "accountId": "000000000000",
                "apiId": "local",
                "domainName": "127.0.0.1",
                "extendedRequestId": request_id,
                "httpMethod": method,
                "identity": { "sourceIp": "127.0.0.1", "userAgent": headers.get("user-agent") },
                "path": format!("/{}{path}", self.stage),
                "protocol": "HTTP/1.1",
                "requestId": request_id,
                "requestTimeEpoch": now.as_millisecond(),
                "resourceId": "local",
                "resourcePath": resource,
                "stage": self.stage,
            },
        }))
    }

    async fn authorize(&self, event: &Event) -> Result<Decision, Own> {
        let event = event.to_authorizer(&self.stage).to_string();
        let app = self.authorizer.clone();
        let decision = tokio::spawn(async move {
            let request = serde_json::from_str(&event).map_err(|_| Own::AuthorizerFailure)?;
            Ok(authorizer::handle(&app, &request).await)
        });
        let decision = decision.await;
        // A panic ends the invocation, and the gateway sees an error.
        let answer = match decision.map_err(|_| Own::AuthorizerFailure)?? {
            Ok(answer) => answer,
            Err(refused) if refused.to_string() == "Unauthorized" => return Err(Own::Unauthorized),
            Err(_) => return Err(Own::AuthorizerFailure),
        };
        let answer = serde_json::to_value(answer).map_err(|_| Own::AuthorizerFailure)?;
        let mut context = answer["context"].as_object().cloned().unwrap_or_default();
        context.insert("principalId".to_owned(), answer["principalId"].clone());
        match answer["policyDocument"]["Statement"][0]["Effect"].as_str() {
            Some("Allow") => Ok(Decision::Allow(context)),
            Some("Deny") => Ok(Decision::Deny(context)),
            _ => Err(Own::AuthorizerFailure),
        }
    }

    /// An answer of the gateway's own, as the template words it.
    fn own(&self, own: Own, request_id: &str, context: &Map<String, Value>) -> Response {
        let (name, mut status) = own.name_and_status();
        let fallback = match status.is_client_error() {
            true => "DEFAULT_4XX",
            false => "DEFAULT_5XX",
        };
        let mut response = Response::default();
        let found = self.responses.get(name).or(self.responses.get(fallback));
        if let Some(template) = found {
            if let Some(Ok(own)) = template.status.map(StatusCode::from_u16) {
                status = own;
            }
            for (header, value) in &template.headers {
                let value = value_of(value, request_id, context);
                let header = HeaderName::try_from(header);
                if let (Ok(header), Some(Ok(value))) = (header, value.map(HeaderValue::try_from)) {
                    response.headers_mut().insert(header, value);
                }
            }
            *response.body_mut() = fill_in(&template.body, request_id, context).into();
        }
        *response.status_mut() = status;
        response
    }

    /// A random UUID (RFC 9562, version 4), as API Gateway names requests.
    fn request_id(&self) -> String {
        let mut bytes = [0; 16];
        self.entropy
            .with(|rng| rand::Rng::fill_bytes(rng, &mut bytes));
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = tollgate_domain::key::hex(&bytes);
        let (a, b, c) = (&hex[..8], &hex[8..12], &hex[12..16]);
        format!("{a}-{b}-{c}-{}-{}", &hex[16..20], &hex[20..])
    }
}

/// The answer to a preflight of a path that has these methods. It asks for no key, and is counted
/// nowhere.
fn preflight(fields: &BTreeMap<&'static str, String>, methods: &[&str]) -> Response {
    let mut response = Response::new(Body::from("{}\n"));
    let methods = format!("'{},OPTIONS'", methods.join(","));
    let allowed = [("access-control-allow-methods", &methods)];
    let json = ("content-type", &"'application/json'".to_owned());
    let fields = fields.iter().map(|(name, value)| (*name, value));
    for (name, value) in fields.chain(allowed).chain([json]) {
        let value = value_of(value, "", &Map::new()).map(HeaderValue::try_from);
        if let Some(Ok(value)) = value {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value);
        }
    }
    response
}

enum Decision {
    Allow(Map<String, Value>),
    Deny(Map<String, Value>),
}

/// What the authorizer's event and the function's have in common.
struct Event(Value);

impl Event {
    fn to_authorizer(&self, stage: &str) -> Value {
        let mut event = self.0.clone();
        let (method, path) = (&event["httpMethod"], &event["path"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let arn = format!("{API_ARN}/{stage}/{}{}", text(method), text(path));
        event["type"] = "REQUEST".into();
        event["methodArn"] = arn.into();
        event
    }

    fn into_proxy(self, context: Map<String, Value>, body: &Bytes) -> Value {
        let mut event = self.0;
        event["requestContext"]["authorizer"] = context.into();
        let (body, encoded) = match std::str::from_utf8(body) {
            Ok("") => (Value::Null, false),
            Ok(text) => (text.into(), false),
            Err(_) => (BASE64_STANDARD.encode(body).into(), true),
        };
        event["body"] = body;
        event["isBase64Encoded"] = encoded.into();
        event
    }
}

impl KeyAlias {
    fn replace_in(&self, headers: &mut HeaderMap) {
        let bearer = format!("Bearer {}", self.text);
        for (name, stands_for) in [("x-api-key", &self.text), ("authorization", &bearer)] {
            let key = match name {
                "x-api-key" => HeaderValue::from_str(&self.key),
                _ => HeaderValue::from_str(&format!("Bearer {}", self.key)),
            };
            if headers
                .get(name)
                .is_some_and(|value| value == stands_for.as_str())
                && let Ok(key) = key
            {
                headers.insert(name, key);
            }
        }
    }
}

async fn read(body: Body) -> Result<Bytes, Own> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => Err(Own::RequestTooLarge),
    }
}

/// Calls a function with a proxy event, and then does what its internal extension would.
async fn invoke(function: &Function, event: &Value) -> Result<Response, Own> {
    let request =
        lambda_http::request::from_str(&event.to_string()).map_err(|_| Own::IntegrationFailure)?;
    let Function { service, emitter } = function.clone();
    // As in Lambda, a caller who does not wait for the answer ends nothing of this.
    let invoked = tokio::spawn(async move {
        let running = tokio::spawn(service.oneshot(request));
        let outcome = tokio::time::timeout(INTEGRATION_TIMEOUT, running).await;
        // In Lambda the answer does not wait for this. Here it does, so that whatever was answered
        // has been handed to the bus even if the process is killed the moment after.
        if let Some(emitter) = emitter {
            emitter.flush().await;
        }
        outcome
    });
    match invoked.await {
        Ok(Err(_)) => Err(Own::IntegrationTimeout),
        Err(_) | Ok(Ok(Err(_))) => Err(Own::IntegrationFailure),
        Ok(Ok(Ok(Ok(response)))) => Ok(response),
        Ok(Ok(Ok(Err(never)))) => match never {},
    }
}

/// Calls a function of the local product's own, which has no authorizer in front of it.
pub(crate) async fn invoke_local(function: &Function, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = read(body).await else {
        return Problem::body_too_large().render("");
    };
    let (headers, multi_headers) = header_maps(&parts.headers);
    let event = Event(json!({
        "path": parts.uri.path(),
        "httpMethod": parts.method.as_str(),
        "headers": headers,
        "multiValueHeaders": multi_headers,
        "requestContext": { "requestId": "local", "httpMethod": parts.method.as_str() },
    }));
    let event = event.into_proxy(Map::new(), &body);
    match invoke(function, &event).await {
        Ok(response) => response,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The parameters of `path` if it is one of `template`'s, decoded.
fn parameters_of(template: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    let mut segments = path.split('/');
    for expected in template.split('/') {
        let segment = segments.next()?;
        match expected
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'))
        {
            Some(name) if !segment.is_empty() => {
                parameters.insert(name.to_owned(), decode(segment));
            }
            Some(_) => return None,
            None if expected == segment => {}
            None => return None,
        }
    }
    segments.next().is_none().then_some(parameters)
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Header fields as the event has them: the last value of each, and all of them.
fn header_maps(headers: &HeaderMap) -> (Map<String, Value>, Map<String, Value>) {
    let pairs = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.to_string(), value.into_owned())
    });
    maps(pairs)
}

/// The query's parameters as the event has them.
fn query_maps(uri: &Uri) -> (Map<String, Value>, Map<String, Value>) {
    let query = uri.query().unwrap_or_default();
    let pairs = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let spaced = |text: &str| decode(&text.replace('+', " "));
            (spaced(name), spaced(value))
        });
    maps(pairs)
}

fn maps(pairs: impl Iterator<Item = (String, String)>) -> (Map<String, Value>, Map<String, Value>) {
    let mut last = Map::new();
    let mut all = Map::new();
    for (name, value) in pairs {
        let values = all.entry(name.clone()).or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(value.clone().into());
        }
        last.insert(name, value.into());
    }
    (last, all)
}

/// The value of a header field of a gateway response: a literal in single quotes, or a variable.
fn value_of(expression: &str, request_id: &str, context: &Map<String, Value>) -> Option<String> {
    let quoted = expression.strip_prefix('\'');
    if let Some(literal) = quoted.and_then(|rest| rest.strip_suffix('\'')) {
        return Some(literal.to_owned());
    }
    variable(expression, request_id, context)
}

fn variable(name: &str, request_id: &str, context: &Map<String, Value>) -> Option<String> {
    if name == "context.requestId" {
        return Some(request_id.to_owned());
    }
    let field = name.strip_prefix("context.authorizer.")?;
    Some(context.get(field)?.as_str()?.to_owned())
}

/// Fills in the `$context.…` variables of a body.
fn fill_in(template: &str, request_id: &str, context: &Map<String, Value>) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some(at) = rest.find("$context.") {
        filled.push_str(&rest[..at]);
        let name = &rest[at + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
        let end = name.find(|c| !is_name(c)).unwrap_or(name.len());
        filled.push_str(&variable(&name[..end], request_id, context).unwrap_or_default());
        rest = &name[end..];
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_matched_segment_by_segment() {
        let check = |template: &str, path: &str, expected: Option<&str>| {
            let found = parameters_of(template, path);
            let key = found.map(|found| found.get("key").cloned().unwrap_or_default());
            assert_eq!(key.as_deref(), expected, "{template} {path}");
        };
        check("/a/{key}", "/a/b", Some("b"));
        check("/a/{key}", "/a/b%20c", Some("b c"));
        check("/a/{key}", "/a/", None);
        check("/a/{key}", "/a/b/c", None);
        check("/a/{key}/c", "/a/b/c", Some("b"));
        check("/a", "/a", Some(""));
        check("/a", "/a/", None);
    }

    #[test]
    fn bodies_and_headers_are_filled_in_from_the_context() {
        let context = Map::from_iter([("limit".to_owned(), json!("7"))]);
        let body = fill_in(
            r#"{"n":$context.authorizer.limit,"id":"$context.requestId","x":"$context.authorizer.none"}"#,
            "r-1",
            &context,
        );
        assert_eq!(body, r#"{"n":7,"id":"r-1","x":""}"#);
        let value = |text| value_of(text, "r-1", &context);
        assert_eq!(value("'literal'").as_deref(), Some("literal"));
        assert_eq!(value("context.authorizer.limit").as_deref(), Some("7"));
        assert_eq!(value("context.authorizer.none"), None);
    }
}
