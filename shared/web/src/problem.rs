//! Problem responses (RFC 9457).

use std::error::Error;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use tollgate_domain::caller::problem_type;
use tollgate_runtime::Chain;
use tollgate_store::StoreError;

use crate::InvalidCursor;

/// Problem response, with a detail for the caller and a cause for the log.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    detail: String,
    members: Map<String, Value>,
    /// Header fields, boxed because a `Problem` adds to the size of every handler's result.
    headers: Box<HeaderMap>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// Members of the problem in the body, in their order.
#[derive(Serialize)]
struct Members<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(flatten)]
    members: &'a Map<String, Value>,
    request_id: &'a str,
}

impl Problem {
    fn new(status: StatusCode, slug: &'static str, title: &'static str, detail: String) -> Self {
        Self {
            status,
            slug,
            title,
            detail,
            members: Map::new(),
            headers: Box::default(),
            cause: None,
        }
    }

    /// Creates a 400 for an invalid request. `detail` names the invalid part.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        let title = "Invalid request";
        Self::new(StatusCode::BAD_REQUEST, "bad-request", title, detail.into())
    }

    /// Creates a 403 for a caller without permission.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        let title = "Forbidden";
        Self::new(StatusCode::FORBIDDEN, "forbidden", title, detail.into())
    }

    /// Creates a 404 for a resource that does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        let title = "Not found";
        Self::new(StatusCode::NOT_FOUND, "not-found", title, detail.into())
    }

    /// Creates a 405 for a route that has other methods.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let title = "Method not allowed";
        let detail = "This route does not support that method.".to_owned();
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "method-not-allowed", title, detail)
    }

    /// Creates a 409 for a resource whose state does not allow the request.
    pub fn conflict(detail: impl Into<String>) -> Self {
        let title = "Conflict";
        Self::new(StatusCode::CONFLICT, "conflict", title, detail.into())
    }

    /// Creates a 413 for a body that is too large.
    #[must_use]
    pub fn body_too_large() -> Self {
        let title = "Request body too large";
        let detail = "A body may have at most 1 MB (1,048,576 bytes).".to_owned();
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            title,
            detail,
        )
    }

    /// Creates a 415 for a body in an unsupported content coding or charset.
    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        let title = "Unsupported media type";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "unsupported-media-type", title, detail.into())
    }

    /// Creates a 422 for a valid request that cannot be processed.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        let title = "Unprocessable request";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "unprocessable", title, detail.into())
    }

    /// Creates a 500 for an internal error. Only the log shows the cause.
    pub fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        let title = "Internal server error";
        let detail = "The request failed. The error has been logged.".to_owned();
        let mut problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", title, detail);
        problem.cause = Some(Arc::new(cause));
        problem
    }

    /// Creates a 503 for a temporary error, after which a retry may succeed. Only the log shows the
    /// cause.
    pub fn unavailable(cause: impl Error + Send + Sync + 'static) -> Self {
        let title = "Service temporarily unavailable";
        let detail = "Try again in a moment.".to_owned();
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut problem = Self::new(status, "temporarily-unavailable", title, detail);
        problem.cause = Some(Arc::new(cause));
        problem.with_header(http::header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Adds an extension member.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }

    /// Adds a header field.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Builds the response, and logs the cause if there is one.
    #[must_use]
    pub fn render(&self, request_id: &str) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(request_id, error = %Chain(cause.as_ref()), "request failed");
        }
        let body = Members {
            r#type: problem_type(self.slug),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            members: &self.members,
            request_id,
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        *response.headers_mut() = HeaderMap::clone(&self.headers);
        let problem_json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, problem_json);
        let no_store = HeaderValue::from_static("no-store");
        response.headers_mut().insert(CACHE_CONTROL, no_store);
        response
    }
}

impl IntoResponse for Problem {
    /// Attaches the problem to the response for [`serve`](crate::serve), which renders it with the
    /// request id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Arc::new(error).into()
    }
}

impl From<Arc<StoreError>> for Problem {
    fn from(error: Arc<StoreError>) -> Self {
        if error.is_invalid_cursor() {
            InvalidCursor.into()
        } else if error.is_transient() {
            Self::unavailable(error)
        } else {
            Self::internal(error)
        }
    }
}
