//! From routes to a function behind the gateway.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::{Adapter, LambdaEvent, RequestExt, lambda_runtime};
use serde_json::Value;
use tollgate_domain::caller::{cors_headers, name};
use tower::ServiceBuilder;

use crate::Problem;

/// A function behind the gateway: takes the gateway's requests, answers, and never fails.
pub type Service = Router;

/// Makes a function of some routes. Unknown routes and methods, and every [`Problem`], are answered
/// with problem+json and the gateway's request id.
pub fn serve(routes: Router) -> Service {
    let routes = routes
        .fallback(async || Problem::not_found("There is no such route."))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(middleware::from_fn(finish));
    // The path is changed before routing, and a layer of a router runs after it.
    Router::new().fallback_service(
        ServiceBuilder::new()
            .map_request(in_the_api)
            .service(routes),
    )
}

/// Runs these routes as a Lambda function behind the gateway, for ever.
///
/// # Errors
/// When the Lambda Runtime API cannot be reached.
pub async fn run(routes: Router) -> Result<(), lambda_http::Error> {
    let service = ServiceBuilder::new()
        .map_request(|LambdaEvent { payload, context }| {
            LambdaEvent::new(with_all_fields(payload), context)
        })
        .service(Adapter::from(serve(routes)));
    lambda_runtime::run(service).await
}

/// The request in an event of the gateway's, as [`run`] passes it to the routes.
///
/// # Errors
/// When it is no such event.
pub fn request_of(event: &str) -> Result<lambda_http::Request, serde_json::Error> {
    serde_json::from_str(event).map(|event| with_all_fields(event).into())
}

/// The event without the values of header fields that are in it one by one: of a field that was sent
/// twice, which is in the event as a list as well, `lambda_http` would keep the last alone.
fn with_all_fields(mut event: LambdaRequest) -> LambdaRequest {
    if let LambdaRequest::ApiGatewayV1(request) = &mut event
        && !request.multi_value_headers.is_empty()
    {
        request.headers.clear();
    }
    event
}

/// Gives the request the path that it has in the API: without the name of the stage, and without
/// the base path that a custom domain may put before it.
fn in_the_api(mut request: Request) -> Request {
    let path = request.raw_http_path();
    if path.is_empty() {
        return request;
    }
    // The gateway has matched the end of the path with the route's template, segment by segment.
    let path = match request.extensions().get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV1(context)) => match &context.resource_path {
            Some(template) => last_segments(path, template.matches('/').count()),
            None => path,
        },
        _ => path,
    };
    let whole = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if let Ok(path) = PathAndQuery::try_from(whole) {
        *request.uri_mut() = Uri::from(path);
    }
    request
}

/// The last so many segments of a path, or all that there are.
fn last_segments(path: &str, count: usize) -> &str {
    let mut starts = path.rmatch_indices('/').map(|(at, _)| at);
    match count.checked_sub(1).and_then(|before| starts.nth(before)) {
        Some(start) => &path[start..],
        None => path,
    }
}

async fn finish(request: Request, next: Next) -> Response {
    let (request_id, cors_origin) = match request.extensions().get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV1(context)) => {
            let origin = context.authorizer.fields.get(name::CORS_ORIGIN);
            let origin = origin.and_then(Value::as_str).map(str::to_owned);
            (context.request_id.clone().unwrap_or_default(), origin)
        }
        _ => (String::new(), None),
    };
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = problem.render(&request_id);
    }
    // Answers speak of one caller at one moment; some hold a secret.
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    for (name, value) in cors_origin.iter().flat_map(|origin| cors_headers(origin)) {
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value);
        }
    }
    response
}
