//! The API reference: the OpenAPI document, and a page to browse it. Its routes need no key.

use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use tollgate_web::{NoQuery, Problem};

/// The document, which `infra/local/tests/openapi.rs` keeps up to date.
const DOCUMENT: &str = include_str!("../../../infra/openapi.json");
const PAGE: &str = include_str!("../assets/page.html");
/// Redoc 2.5.4: `bundles/redoc.standalone.js` of the npm package `redoc`, unchanged.
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
            headers(("Cache-Control" = String, description = "`public, max-age=3600`."))),
    ),
)]
async fn document(_: NoQuery) -> Result<Response, Problem> {
    Ok((asset("application/json"), DOCUMENT).into_response())
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
            headers(("Cache-Control" = String, description = "`public, max-age=3600`."))),
    ),
)]
async fn viewer(_: NoQuery) -> Result<Response, Problem> {
    Ok((asset("text/javascript; charset=utf-8"), VIEWER).into_response())
}

/// Returns the header fields of a file, which is the same for everyone until the next deployment.
fn asset(content_type: &'static str) -> [(HeaderName, &'static str); 3] {
    [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "public, max-age=3600"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ]
}
