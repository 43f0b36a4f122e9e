//! Adapter from axum routes to a Lambda function behind the gateway.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::{Adapter, LambdaEvent, RequestExt, lambda_runtime};
use serde_json::Value;
use tollgate_api::context::{cors_headers, name};
use tower::ServiceBuilder;

use crate::Problem;

/// Service of a function behind the gateway. It is infallible: every request gets a response.
pub type Service = Router;

/// Creates a function's service from its routes. For unknown routes, unknown methods and every
/// [`Problem`], the response is problem+json with the gateway's request id.
pub fn serve(routes: Router) -> Service {
    let routes = routes
        .fallback(async || Problem::not_found("There is no such route."))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(middleware::from_fn(finish));
    // The path has to be changed before routing, and the layers of a router run after routing.
    Router::new().fallback_service(
        ServiceBuilder::new()
            .map_request(strip_stage_and_base_path)
            .service(routes),
    )
}

/// Runs the routes as a Lambda function behind the gateway. Returns only on an error.
///
/// # Errors
/// When the Lambda Runtime API cannot be reached.
pub async fn run(routes: Router) -> Result<(), lambda_http::Error> {
    let service = ServiceBuilder::new()
        .map_request(|LambdaEvent { payload, context }| {
            LambdaEvent::new(drop_single_values(payload), context)
        })
        .service(Adapter::from(serve(routes)));
    lambda_runtime::run(service).await
}

/// Parses an event of the gateway into the request that [`run`] passes to the routes.
///
/// # Errors
/// When it is not an event of the gateway.
pub fn request_of(event: &str) -> Result<lambda_http::Request, serde_json::Error> {
    serde_json::from_str(event).map(|event| drop_single_values(event).into())
}

/// Removes the single-value headers from an event that also has the multi-value ones. With both,
/// `lambda_http` would keep only the last value of a field that was sent twice.
fn drop_single_values(mut event: LambdaRequest) -> LambdaRequest {
    if let LambdaRequest::ApiGatewayV1(request) = &mut event
        && !request.multi_value_headers.is_empty()
    {
        request.headers.clear();
    }
    event
}

/// Removes the stage name, and the base path of a custom domain, from the path of the request.
fn strip_stage_and_base_path(mut request: Request) -> Request {
    let path = request.raw_http_path();
    if path.is_empty() {
        return request;
    }
    // The gateway has matched the end of the path with the route template, segment by segment.
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

/// Returns the last `count` segments of a path, or all if there are fewer.
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
    // Unless its handler says otherwise, a response is for one caller at one time; some contain a secret.
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .entry(CACHE_CONTROL)
        .or_insert(no_store);
    for (name, value) in cors_origin.iter().flat_map(|origin| cors_headers(origin)) {
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value);
        }
    }
    response
}
