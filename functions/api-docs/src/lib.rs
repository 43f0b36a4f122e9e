//! The API reference: the OpenAPI document, and a page to browse it. Its routes need no key.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use lambda_http::request::RequestContext;
use serde_json::json;
use tollgate_web::{NoQuery, Problem};

/// The document, which `infra/local/tests/openapi.rs` keeps up to date.
const DOCUMENT: &str = include_str!("../../../infra/openapi.json");
const DOCUMENT_PATH: &str = "/docs/openapi.json";
const PAGE: &str = include_str!("../assets/page.html");
/// Redoc: `bundles/redoc.standalone.js` of the npm package `redoc`, unchanged. Its licences and version are
/// in `redoc.LICENSE.txt`.
const VIEWER: &str = include_str!("../assets/redoc.js");

/// Content security policy of the page: it loads nothing from another origin. The viewer styles its
/// elements itself, and searches in a worker that it makes from its own code.
const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; \
                      style-src 'unsafe-inline'; img-src 'self' data:; worker-src blob:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

tollgate_web::operations!(pub () page, document, viewer);

/// Returns the page with the API reference.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "getDocs",
    tag = "documentation",
    security(),
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/html"),
    ),
)]
async fn page(_: NoQuery) -> Result<Response, Problem> {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, PAGE).into_response())
}

/// Returns the OpenAPI document of this API.
#[utoipa::path(
    get,
    path = "/docs/openapi.json",
    operation_id = "getOpenApi",
    tag = "documentation",
    security(),
    responses(
        (status = 200, description = "The document.", body = serde_json::Map<String, serde_json::Value>,
            headers(("Cache-Control" = String, description = "`public, max-age=300`."))),
    ),
)]
async fn document(_: NoQuery, request: Request) -> Result<Response, Problem> {
    let headers = asset("application/json");
    let context = request.extensions().get::<RequestContext>();
    let Some(url) = context.and_then(|context| base_url(context, request.headers())) else {
        return Ok((headers, DOCUMENT).into_response());
    };
    // The document is an object with members, so that one more can come first.
    let servers = json!([{ "url": url }]);
    let rest = DOCUMENT.trim_start().strip_prefix('{').unwrap_or_default();
    Ok((headers, format!("{{\n  \"servers\": {servers},{rest}")).into_response())
}

/// Returns the script of the page.
#[utoipa::path(
    get,
    path = "/docs/redoc.js",
    operation_id = "getDocsScript",
    tag = "documentation",
    security(),
    responses(
        (status = 200, description = "The script.", body = String, content_type = "text/javascript",
            headers(("Cache-Control" = String, description = "`public, max-age=300`."))),
    ),
)]
async fn viewer(_: NoQuery) -> Result<Response, Problem> {
    Ok((asset("text/javascript; charset=utf-8"), VIEWER).into_response())
}

/// Returns the header fields of a file that is the same for all callers. Caches may show one that is up to five
/// minutes old.
fn asset(content_type: &'static str) -> [(HeaderName, &'static str); 3] {
    [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "public, max-age=300"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ]
}

/// Returns the URL of the API, with the stage or the base path of a custom domain. `None` if the `Host` field
/// does not name the domain that the gateway has routed: caches may keep what the response says.
fn base_url(context: &RequestContext, headers: &HeaderMap) -> Option<String> {
    let RequestContext::ApiGatewayV1(context) = context else {
        return None;
    };
    let host = headers.get(HOST)?.to_str().ok()?;
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let is_routed = context.domain_name.as_deref() == Some(name);
    if !is_routed || !port.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let base = context.path.as_deref()?.strip_suffix(DOCUMENT_PATH)?;
    let scheme = headers.get("x-forwarded-proto");
    let scheme = scheme
        .filter(|scheme| *scheme == "https")
        .map_or("http", |_| "https");
    Some(format!("{scheme}://{host}{base}"))
}
