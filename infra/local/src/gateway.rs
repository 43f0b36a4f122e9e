//! The gateway, as in API Gateway: routes a request, invokes the authorizer and then the function of the
//! route, and creates the response itself when no function is invoked.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::read::MultiGzDecoder;
use http::header::{ALLOW, CONTENT_ENCODING, HOST, HeaderName, HeaderValue};
use http::request::Parts as RequestParts;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::BodyExt;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use tokio_util::task::TaskTracker;
use tollgate_api::context::name;
use tollgate_runtime::{Clock, Entropy};
use tollgate_web::{Problem, is_gzip};
use tower::ServiceExt;

use crate::bodies::{self, Bodies, BodyError, MAX_BODY, ReceivedBody, Sender};
use crate::functions::{Authorizers, Function, FunctionFactory};
use crate::start_error::StartError;
use crate::template::{GatewayResponse, Route, Template};

/// API Gateway's timeout for an integration.
const INTEGRATION_TIMEOUT: Duration = Duration::from_secs(29);
/// Request id of all requests to the `/_local` routes.
pub(crate) const LOCAL_REQUEST_ID: &str = "local";
/// ARN of the API in `methodArn` and in the authorizer's policies.
const API_ARN: &str = "arn:aws:execute-api:us-east-1:000000000000:local";

pub(crate) struct Gateway {
    stage: String,
    routes: Vec<(Route, Function)>,
    responses: BTreeMap<String, GatewayResponse>,
    preflight: Option<BTreeMap<&'static str, String>>,
    authorizers: Authorizers,
    pub(crate) bodies: Bodies,
    /// Calls in progress; each runs to its end even if its caller disconnects.
    calls: TaskTracker,
    clock: Clock,
    entropy: Entropy,
    /// Alias of the admin key, if the user chose one.
    alias: Option<KeyAlias>,
}

/// Text that is accepted in place of a key.
pub(crate) struct KeyAlias {
    pub(crate) text: String,
    pub(crate) key: String,
}

/// Route that a request matched, with its path parameters.
struct RouteMatch<'a> {
    route: &'a Route,
    function: &'a Function,
    parameters: BTreeMap<String, String>,
}

/// Gateway response types, by API Gateway's names and default statuses
/// (<https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html>).
#[derive(Clone, Copy)]
enum GatewayError {
    MissingAuthenticationToken,
    Unauthorized,
    AccessDenied,
    AuthorizerFailure,
    BadRequestBody,
    RequestTooLarge,
    UnsupportedMediaType,
    IntegrationFailure,
    IntegrationTimeout,
}

impl GatewayError {
    fn name_and_status(self) -> (&'static str, StatusCode) {
        match self {
            GatewayError::MissingAuthenticationToken => {
                ("MISSING_AUTHENTICATION_TOKEN", StatusCode::FORBIDDEN)
            }
            GatewayError::Unauthorized => ("UNAUTHORIZED", StatusCode::UNAUTHORIZED),
            GatewayError::AccessDenied => ("ACCESS_DENIED", StatusCode::FORBIDDEN),
            GatewayError::AuthorizerFailure => {
                ("AUTHORIZER_FAILURE", StatusCode::INTERNAL_SERVER_ERROR)
            }
            GatewayError::BadRequestBody => ("BAD_REQUEST_BODY", StatusCode::BAD_REQUEST),
            GatewayError::RequestTooLarge => ("REQUEST_TOO_LARGE", StatusCode::PAYLOAD_TOO_LARGE),
            GatewayError::UnsupportedMediaType => {
                ("UNSUPPORTED_MEDIA_TYPE", StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            GatewayError::IntegrationFailure => {
                ("INTEGRATION_FAILURE", StatusCode::GATEWAY_TIMEOUT)
            }
            GatewayError::IntegrationTimeout => {
                ("INTEGRATION_TIMEOUT", StatusCode::GATEWAY_TIMEOUT)
            }
        }
    }
}

impl Gateway {
    pub(crate) fn new(
        template: &Template,
        factory: &FunctionFactory,
        alias: Option<KeyAlias>,
    ) -> Result<Self, StartError> {
        let mut functions: BTreeMap<&str, Function> = BTreeMap::new();
        for route in &template.routes {
            if let Entry::Vacant(entry) = functions.entry(&route.function) {
                entry.insert(factory.http_function(&route.function)?);
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
            authorizers: factory.authorizers()?,
            bodies: Bodies::new(),
            calls: TaskTracker::new(),
            clock: factory.clock.clone(),
            entropy: factory.entropy.clone(),
            alias,
        })
    }

    /// Waits for the calls in progress.
    pub(crate) async fn finish_calls(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    /// Shuts down the authorizer's instance, as Lambda does after some idle minutes: it releases its unused
    /// quota units and reports the admitted calls. The next call starts a new instance.
    pub(crate) async fn shut_down_authorizer(&self) {
        self.authorizers.calls.shut_down().await;
    }

    /// Shuts down all instances: metered functions flush a last time.
    pub(crate) async fn shut_down(&self) {
        self.shut_down_authorizer().await;
        for (_, function) in &self.routes {
            if let Some(emitter) = &function.emitter {
                emitter.close().await;
            }
        }
    }

    /// Handles a request as the deployed API would.
    pub(crate) async fn handle(self: &Arc<Self>, request: axum::extract::Request) -> Response {
        let request_id = self.request_id();
        let now = self.clock.now();
        let (mut parts, body) = request.into_parts();
        if let Some(alias) = &self.alias {
            alias.replace_in(&mut parts.headers);
        }
        let outcome = self.try_handle(&parts, body, &request_id, now).await;
        let mut response =
            outcome.unwrap_or_else(|error| self.gateway_response(error, &request_id, &Map::new()));
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            let name = HeaderName::from_static("x-amzn-requestid");
            response.headers_mut().insert(name, id);
        }
        response
    }

    /// Routes a request, reads its body and processes the call.
    async fn try_handle(
        self: &Arc<Self>,
        parts: &RequestParts,
        body: Body,
        request_id: &str,
        now: Timestamp,
    ) -> Result<Response, GatewayError> {
        let matched = match self.route(parts.method.as_str(), parts.uri.path()) {
            Ok(matched) => matched,
            Err(allowed) if !allowed.is_empty() => {
                return Ok(match &self.preflight {
                    Some(fields) if parts.method == Method::OPTIONS => preflight(fields, &allowed),
                    _ => self.method_not_allowed(&allowed, request_id),
                });
            }
            Err(_) => return Err(GatewayError::MissingAuthenticationToken),
        };
        let event = self.event(parts, &matched, request_id, now);
        // Large bodies are read, and bodies inflated, only for callers with a valid key, if the route needs one.
        let is_open = matched.route.is_open;
        let is_coded = parts.headers.contains_key(CONTENT_ENCODING);
        let read = if is_coded || !bodies::is_small(&body) {
            let sender = match is_open {
                true => Sender::Stranger,
                false => match authorize(&self.authorizers.keys, &event).await {
                    Ok(Decision::Allow(context)) => sender(&context),
                    Ok(Decision::Deny(context)) => {
                        bodies::discard(body).await;
                        return Ok(self.gateway_response(
                            GatewayError::AccessDenied,
                            request_id,
                            &context,
                        ));
                    }
                    Err(error) => {
                        bodies::discard(body).await;
                        return Err(error);
                    }
                },
            };
            let is_inflated = is_inflated(&parts.headers);
            self.bodies.read(body, is_inflated, &sender).await
        } else {
            // A small body takes no permit of any sender.
            self.bodies.read(body, false, &Sender::Machine).await
        };
        let body = match read {
            Ok(body) => body.try_map(|bytes| inflated(&parts.headers, bytes))?,
            Err(BodyError::TooLarge) => return Err(GatewayError::RequestTooLarge),
            Err(BodyError::Broken) => return Err(GatewayError::BadRequestBody),
        };
        // The call is counted and metered from here on, even if the caller disconnects.
        let (this, function) = (Arc::clone(self), matched.function.clone());
        let request_id = request_id.to_owned();
        let call = self.calls.spawn(async move {
            if is_open {
                let event = event.into_proxy(Map::new(), &body.bytes);
                return invoke(&this.calls, &function, &event, Some(INTEGRATION_TIMEOUT)).await;
            }
            this.process(&function, event, body, &request_id).await
        });
        call.await.map_err(|_| GatewayError::IntegrationFailure)?
    }

    /// Authorizes a call, and invokes its function if it is allowed.
    async fn process(
        &self,
        function: &Function,
        event: Event,
        body: ReceivedBody,
        request_id: &str,
    ) -> Result<Response, GatewayError> {
        match authorize(&self.authorizers.calls, &event).await? {
            Decision::Allow(context) => {
                let event = event.into_proxy(context, &body.bytes);
                invoke(&self.calls, function, &event, Some(INTEGRATION_TIMEOUT)).await
            }
            Decision::Deny(context) => {
                Ok(self.gateway_response(GatewayError::AccessDenied, request_id, &context))
            }
        }
    }

    /// Handles a request to a `/_local` route, which has no authorizer.
    pub(crate) async fn handle_local(
        self: &Arc<Self>,
        function: &Function,
        request: axum::extract::Request,
    ) -> Response {
        let (parts, body) = request.into_parts();
        let body = match self.bodies.read(body, false, &Sender::Machine).await {
            Ok(body) => body,
            Err(BodyError::TooLarge) => return Problem::body_too_large().render(LOCAL_REQUEST_ID),
            Err(BodyError::Broken) => return unreadable_body().render(LOCAL_REQUEST_ID),
        };
        let (headers, multi_headers) = header_maps(&parts.headers);
        let event = Event(json!({
            "path": parts.uri.path(),
            "httpMethod": parts.method.as_str(),
            "headers": headers,
            "multiValueHeaders": multi_headers,
            "requestContext": { "requestId": LOCAL_REQUEST_ID, "httpMethod": parts.method.as_str() },
        }));
        let event = event.into_proxy(Map::new(), &body.bytes);
        let (this, function) = (Arc::clone(self), function.clone());
        let call = self
            .calls
            .spawn(async move { invoke(&this.calls, &function, &event, None).await });
        match call.await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                let failed = std::io::Error::other("a local route has failed");
                Problem::internal(failed).render(LOCAL_REQUEST_ID)
            }
            Err(panicked) => Problem::internal(panicked).render(LOCAL_REQUEST_ID),
        }
    }

    /// Builds the 405 response for a path that has other methods. API Gateway does not distinguish this from
    /// an unknown path, and responds 404; the header fields are those of that response.
    fn method_not_allowed(&self, allowed: &[&str], request_id: &str) -> Response {
        let mut response = Problem::method_not_allowed().render(request_id);
        if let Ok(allowed) = HeaderValue::from_str(&allowed.join(", ")) {
            response.headers_mut().insert(ALLOW, allowed);
        }
        let not_found = self.gateway_response(
            GatewayError::MissingAuthenticationToken,
            request_id,
            &Map::new(),
        );
        for (name, value) in not_found.headers() {
            response
                .headers_mut()
                .entry(name)
                .or_insert_with(|| value.clone());
        }
        response
    }

    /// Finds the route of a request, or else the methods that its path has.
    fn route(&self, method: &str, path: &str) -> Result<RouteMatch<'_>, Vec<&str>> {
        let mut best: Option<RouteMatch<'_>> = None;
        let mut allowed = Vec::new();
        for (route, function) in &self.routes {
            let Some(parameters) = parameters_of(&route.path, path) else {
                continue;
            };
            if route.method != method {
                allowed.push(route.method.as_str());
                continue;
            }
            let rank = precedence(&route.path);
            let better = best
                .as_ref()
                .is_none_or(|best| rank < precedence(&best.route.path));
            if better {
                best = Some(RouteMatch {
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
        matched: &RouteMatch<'_>,
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
                "domainName": host_name(&parts.headers),
                "extendedRequestId": request_id,
                "httpMethod": method,
                "identity": { "sourceIp": "127.0.0.1", "userAgent": headers.get("user-agent") },
                // As on a custom domain, whose URLs have no stage.
                "path": path,
                "protocol": "HTTP/1.1",
                "requestId": request_id,
                "requestTimeEpoch": now.as_millisecond(),
                "resourceId": "local",
                "resourcePath": resource,
                "stage": self.stage,
            },
        }))
    }

    /// Builds a gateway response as configured in the template.
    fn gateway_response(
        &self,
        error: GatewayError,
        request_id: &str,
        context: &Map<String, Value>,
    ) -> Response {
        let (name, mut status) = error.name_and_status();
        let fallback = match status.is_client_error() {
            true => "DEFAULT_4XX",
            false => "DEFAULT_5XX",
        };
        let mut response = Response::default();
        let configured = self.responses.get(name).or(self.responses.get(fallback));
        if let Some(template) = configured {
            if let Some(Ok(replaced)) = template.status.map(StatusCode::from_u16) {
                status = replaced;
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

    /// Returns a random UUID (RFC 9562, version 4), the form of API Gateway's request ids.
    fn request_id(&self) -> String {
        let mut bytes = [0; 16];
        self.entropy
            .with(|rng| rand::Rng::fill_bytes(rng, &mut bytes));
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = hex::encode(bytes);
        let (a, b, c) = (&hex[..8], &hex[8..12], &hex[12..16]);
        format!("{a}-{b}-{c}-{}-{}", &hex[16..20], &hex[20..])
    }
}

/// Builds the response to a preflight request for a path with these methods. It requires no key and is
/// not counted.
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

/// Decision of the authorizer, with the context for the function or the gateway response.
enum Decision {
    Allow(Map<String, Value>),
    Deny(Map<String, Value>),
}

/// Members that the authorizer's event and the function's event have in common.
struct Event(Value);

impl Event {
    fn to_authorizer(&self) -> Value {
        let mut event = self.0.clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let stage = text(&event["requestContext"]["stage"]);
        let (method, path) = (text(&event["httpMethod"]), text(&event["path"]));
        let arn = format!("{API_ARN}/{stage}/{method}{path}");
        event["type"] = "REQUEST".into();
        event["methodArn"] = arn.into();
        event
    }

    fn into_proxy(self, context: Map<String, Value>, body: &[u8]) -> Value {
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
    /// Replaces the alias with the key in the header fields that carry keys.
    fn replace_in(&self, headers: &mut HeaderMap) {
        let bearer = format!("Bearer {}", self.text);
        for (name, alias) in [("x-api-key", &self.text), ("authorization", &bearer)] {
            let key = match name {
                "x-api-key" => HeaderValue::from_str(&self.key),
                _ => HeaderValue::from_str(&format!("Bearer {}", self.key)),
            };
            if headers
                .get(name)
                .is_some_and(|value| value == alias.as_str())
                && let Ok(key) = key
            {
                headers.insert(name, key);
            }
        }
    }
}

/// Returns the sender of a call that the authorizer has allowed.
fn sender(context: &Map<String, Value>) -> Sender {
    match context.get(name::CUSTOMER_ID).and_then(Value::as_str) {
        Some(customer) => Sender::Customer(customer.to_owned()),
        None => Sender::Admin,
    }
}

/// Returns the name in the `Host` field: that of the API's domain, because a request to another one would have
/// another receiver.
fn host_name(headers: &HeaderMap) -> &str {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or("127.0.0.1");
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Returns whether [`inflated`] inflates the body.
fn is_inflated(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let (first, second) = (codings.next(), codings.next());
    second.is_none() && first.is_some_and(|coding| is_gzip(coding.as_bytes()))
}

/// Decodes the body's content coding. As in API Gateway, the function still receives the `Content-Encoding`
/// field, and a body that is not in that coding, or an unsupported coding, is a 415. API Gateway supports
/// `deflate` as well.
fn inflated(headers: &HeaderMap, body: Bytes) -> Result<Bytes, GatewayError> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(body),
        _ if body.is_empty() => Ok(body),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(body),
        _ if is_inflated(headers) => {
            let mut inflated = Vec::new();
            // A few bytes can inflate to millions: inflates no more than the maximum and one byte.
            MultiGzDecoder::new(&body[..])
                .take(u64::from(MAX_BODY) + 1)
                .read_to_end(&mut inflated)
                .map_err(|_| GatewayError::UnsupportedMediaType)?;
            if inflated.len() > MAX_BODY as usize {
                return Err(GatewayError::RequestTooLarge);
            }
            Ok(inflated.into())
        }
        _ => Err(GatewayError::UnsupportedMediaType),
    }
}

/// Invokes a function with a proxy event, and then flushes its emitter as its internal extension would.
/// The invocation is tracked in `calls` until its response is complete. Local routes have no `timeout`: their requests
/// take as long as they take.
async fn invoke(
    calls: &TaskTracker,
    function: &Function,
    event: &Value,
    timeout: Option<Duration>,
) -> Result<Response, GatewayError> {
    let request = tollgate_web::request_of(&event.to_string())
        .map_err(|_| GatewayError::IntegrationFailure)?;
    let Function { service, emitter } = function.clone();
    // No integration in the template streams: the response is sent when it is complete.
    let running = calls.spawn(async move {
        let response = match service.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok::<_, axum::Error>(Response::from_parts(head, body.into()))
    });
    let outcome = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, running).await,
        None => Ok(running.await),
    };
    // In Lambda, the response does not wait for the flush. Here it does, so that the usage event of a call
    // with a response is on the bus even if the process is killed directly afterwards.
    if let Some(emitter) = emitter {
        emitter.flush().await;
    }
    match outcome {
        Err(_) => Err(GatewayError::IntegrationTimeout),
        Ok(Err(_) | Ok(Err(_))) => Err(GatewayError::IntegrationFailure),
        Ok(Ok(Ok(response))) => Ok(response),
    }
}

/// Invokes an authorizer.
async fn authorize(app: &authorizer::App, event: &Event) -> Result<Decision, GatewayError> {
    let event = event.to_authorizer().to_string();
    let app = app.clone();
    let decision = tokio::spawn(async move {
        let request =
            authorizer::Request::from_json(&event).map_err(|_| GatewayError::AuthorizerFailure)?;
        Ok(authorizer::handle(&app, &request).await)
    });
    let decision = decision.await;
    // A panic fails the invocation, which is an error to the gateway.
    let response = match decision.map_err(|_| GatewayError::AuthorizerFailure)?? {
        Ok(response) => response,
        Err(error) if error.to_string() == "Unauthorized" => {
            return Err(GatewayError::Unauthorized);
        }
        Err(_) => return Err(GatewayError::AuthorizerFailure),
    };
    let response = serde_json::to_value(response).map_err(|_| GatewayError::AuthorizerFailure)?;
    let mut context = response["context"].as_object().cloned().unwrap_or_default();
    context.insert("principalId".to_owned(), response["principalId"].clone());
    match response["policyDocument"]["Statement"][0]["Effect"].as_str() {
        Some("Allow") => Ok(Decision::Allow(context)),
        Some("Deny") => Ok(Decision::Deny(context)),
        _ => Err(GatewayError::AuthorizerFailure),
    }
}

fn unreadable_body() -> Problem {
    Problem::bad_request("The request body is incomplete or malformed.")
}

/// Kind of a segment of a route, in the order of precedence in API Gateway.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment<'a> {
    Literal(&'a str),
    Parameter(&'a str),
    /// `{proxy+}`: the rest of the path, at least one segment.
    Greedy(&'a str),
}

impl<'a> Segment<'a> {
    fn parse(text: &'a str) -> Self {
        match text
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'))
        {
            None => Segment::Literal(text),
            Some(name) => match name.strip_suffix('+') {
                None => Segment::Parameter(name),
                Some(name) => Segment::Greedy(name),
            },
        }
    }
}

/// Returns the rank of a route among those that match a path; the lowest takes precedence.
fn precedence(template: &str) -> Vec<u8> {
    let segments = template.split('/').map(Segment::parse);
    let rank = |segment| match segment {
        Segment::Literal(_) => 0,
        Segment::Parameter(_) => 1,
        Segment::Greedy(_) => 2,
    };
    segments.map(rank).collect()
}

/// Returns the decoded parameters of `path` if it matches the route `template`.
fn parameters_of(template: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    let mut rest = Some(path);
    for expected in template.split('/').map(Segment::parse) {
        let remaining = rest?;
        let (segment, after) = match remaining.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (remaining, None),
        };
        rest = after;
        match expected {
            Segment::Literal(literal) if literal == segment => {}
            Segment::Parameter(name) if !segment.is_empty() => {
                parameters.insert(name.to_owned(), decode(segment));
            }
            Segment::Greedy(name) if !remaining.is_empty() => {
                parameters.insert(name.to_owned(), decode(remaining));
                rest = None;
            }
            Segment::Literal(_) | Segment::Parameter(_) | Segment::Greedy(_) => return None,
        }
    }
    rest.is_none().then_some(parameters)
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Returns header fields in the event's two forms: the last value of each, and all values.
fn header_maps(headers: &HeaderMap) -> (Map<String, Value>, Map<String, Value>) {
    let pairs = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.to_string(), value.into_owned())
    });
    maps(pairs)
}

/// Returns query parameters in the event's two forms: the last value of each, and all values.
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

/// Evaluates the value of a header field of a gateway response: a literal in single quotes, or a variable.
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

/// Replaces the `$context.…` variables of a body.
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
    use axum::routing::get;
    use axum::{Extension, Router};
    use flate2::Compression;
    use flate2::read::GzEncoder;
    use lambda_http::lambda_runtime::streaming;
    use tollgate_domain::llm::LlmPrices;
    use tollgate_local_aws::fixture::Fixture;
    use tollgate_metering::{Emitter, Metering, RequestCost, UnsentLog};
    use tollgate_runtime::Metrics;
    use tower::util::BoxCloneSyncService;

    use super::*;
    use crate::functions::metered;

    /// Returns routes that stream three chunks, each with the cost of one token, and then end or fail.
    fn streams(then_fails: bool) -> Router {
        let stream = async move |Extension(cost): Extension<RequestCost>| {
            let (mut sender, body) = streaming::channel();
            tokio::spawn(async move {
                for _ in 0..3 {
                    cost.add_tokens("openai", 1)?;
                    sender.send_data("chunk".into()).await?;
                }
                if then_fails {
                    sender.abort();
                }
                Ok::<_, lambda_http::Error>(())
            });
            Body::new(body)
        };
        Router::new().route("/api/secure/ping", get(stream))
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_local_route_may_take_longer_than_the_gateway_waits() {
        let slow = get(async || tokio::time::sleep(INTEGRATION_TIMEOUT * 2).await);
        let routes = Router::new().route("/api/secure/ping", slow);
        let function = Function {
            service: BoxCloneSyncService::new(tollgate_web::serve(routes)),
            emitter: None,
        };
        let event = include_str!("../../../events/ping/ping.json");
        let event = serde_json::from_str(event).unwrap();
        let status = async |timeout| {
            let outcome = invoke(&TaskTracker::new(), &function, &event, timeout).await;
            outcome.map(|response| response.status())
        };
        assert!(matches!(status(None).await, Ok(StatusCode::OK)));
        assert!(matches!(
            status(Some(INTEGRATION_TIMEOUT)).await,
            Err(GatewayError::IntegrationTimeout)
        ));
    }

    #[tokio::test]
    async fn a_streamed_response_is_buffered_and_metered() {
        for then_fails in [false, true] {
            let at = Fixture::at("2026-11-22T10:00:00Z");
            let (sdk, clock, entropy) = (at.aws.sdk_config(), at.clock(), at.entropy.clone());
            let unsent = UnsentLog::new(Metrics::none(), |_| {});
            let emitter = Emitter::new(&sdk, "usage", "ping", clock, entropy, unsent);
            let metering = Metering::new(emitter, LlmPrices::shipped().unwrap());
            let function = metered(&metering, tollgate_web::serve(streams(then_fails)));
            let event = include_str!("../../../events/ping/ping.json");
            let event = serde_json::from_str(event).unwrap();
            let response = invoke(&TaskTracker::new(), &function, &event, None).await;

            let messages = at.aws.queue().receive(usize::MAX).unwrap();
            let event: Value = serde_json::from_str(&messages[0].body).unwrap();
            let record = &event["detail"]["data"]["records"][0];
            assert_eq!(record["costs"][0]["tokens"], 3, "{record}");
            match then_fails {
                false => {
                    let body = response.ok().unwrap().into_body().collect().await;
                    assert_eq!(body.unwrap().to_bytes(), "chunk".repeat(3));
                    assert_eq!(record["truncated"], Value::Null);
                }
                true => {
                    assert!(matches!(response, Err(GatewayError::IntegrationFailure)));
                    assert_eq!(record["truncated"], "failed");
                }
            }
        }
    }

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
        check("/a/{key+}", "/a/b", Some("b"));
        check("/a/{key+}", "/a/b/c%20d/", Some("b/c d/"));
        check("/a/{key+}", "/a/", None);
        check("/a/{key+}", "/a", None);
    }

    #[test]
    fn the_most_specific_route_takes_precedence() {
        let mut routes = ["/{proxy+}", "/a/{proxy+}", "/a/{id}", "/{id}/b", "/a/b"];
        routes.sort_by_key(|route| precedence(route));
        assert_eq!(
            routes,
            ["/a/b", "/a/{id}", "/a/{proxy+}", "/{id}/b", "/{proxy+}"]
        );
    }

    fn gzip(text: &[u8]) -> Bytes {
        let mut gzip = Vec::new();
        let mut encoder = GzEncoder::new(text, Compression::best());
        encoder.read_to_end(&mut gzip).unwrap();
        gzip.into()
    }

    fn codings(codings: &[&'static str]) -> HeaderMap {
        let codings = codings.iter();
        let codings = codings.map(|coding| (CONTENT_ENCODING, HeaderValue::from_static(coding)));
        codings.collect()
    }

    fn inflate(of: &[&'static str], body: &Bytes) -> Result<Bytes, u16> {
        let inflated = inflated(&codings(of), body.clone());
        inflated.map_err(|error| error.name_and_status().1.as_u16())
    }

    #[test]
    fn a_body_is_inflated_if_it_is_in_the_coding_of_its_header() {
        let text = Bytes::from_static(b"{\"plan\":\"free\"}");
        for coding in ["gzip", "X-Gzip"] {
            assert_eq!(inflate(&[coding], &gzip(&text)), Ok(text.clone()));
            assert!(is_inflated(&codings(&[coding])), "{coding}");
        }
        for untouched in [&[][..], &["identity"]] {
            assert_eq!(inflate(untouched, &text), Ok(text.clone()));
            assert!(!is_inflated(&codings(untouched)));
        }
        for unsupported in [
            &["br"][..],
            &["deflate"],
            &["gzip, gzip"],
            &["gzip", "gzip"],
        ] {
            assert_eq!(
                inflate(unsupported, &gzip(&text)),
                Err(415),
                "{unsupported:?}"
            );
        }
        let whole = gzip(&text);
        for wrong in [&text, &whole.slice(..whole.len() - 1)] {
            assert_eq!(inflate(&["gzip"], wrong), Err(415));
        }
        assert_eq!(inflate(&["gzip"], &Bytes::new()), Ok(Bytes::new()));
    }

    #[test]
    fn no_body_is_inflated_beyond_the_maximum_size() {
        let largest = inflate(&["gzip"], &gzip(&vec![b' '; MAX_BODY as usize])).unwrap();
        assert_eq!(largest.len(), MAX_BODY as usize);
        assert_eq!(
            inflate(&["gzip"], &gzip(&vec![b' '; MAX_BODY as usize + 1])),
            Err(413)
        );
        // A body of many concatenated members is inflated no further either.
        let bombs = gzip(&vec![0; 1_000_000]).repeat(1_000);
        assert_eq!(inflate(&["gzip"], &bombs.into()), Err(413));
    }

    #[test]
    fn variables_in_bodies_and_headers_are_replaced_from_the_context() {
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
