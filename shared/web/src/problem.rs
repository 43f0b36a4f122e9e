//! Problem responses (RFC 9457).

use std::error::Error;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use tollgate_api::InvalidCursor;
use tollgate_api::problem::{Member, ProblemType};
use tollgate_domain::failure::{Failure, FailureKind};
use tollgate_runtime::Chain;

/// Problem response, with a detail for the caller and a cause for the log.
#[derive(Debug, Clone)]
pub struct Problem {
    problem_type: ProblemType,
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
    fn new(problem_type: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            problem_type,
            detail: detail.into(),
            members: Map::new(),
            headers: Box::default(),
            cause: None,
        }
    }

    /// Creates a 400 for an invalid request. `detail` names the invalid part.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::BadRequest, detail)
    }

    /// Creates a 403 for a caller without permission.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Forbidden, detail)
    }

    /// Creates a 403 for a customer's key with the role `call`, where the role `manage` is needed.
    #[must_use]
    pub fn insufficient_role() -> Self {
        let detail = "This request needs a key with the role manage. This key has the role call, which cannot \
                      be changed.";
        Self::new(ProblemType::InsufficientRole, detail)
    }

    /// Creates a 404 for a resource that does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::NotFound, detail)
    }

    /// Creates a 405 for a route that has other methods.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let detail = "This route does not support that method.";
        Self::new(ProblemType::MethodNotAllowed, detail)
    }

    /// Creates a 409 for a resource whose state does not allow the request.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Conflict, detail)
    }

    /// Creates a 413 for a body that is too large.
    #[must_use]
    pub fn body_too_large() -> Self {
        let detail = "A body may have at most 1 MB (1,048,576 bytes).";
        Self::new(ProblemType::BodyTooLarge, detail)
    }

    /// Creates a 413 for a body that is larger than a route reads.
    #[must_use]
    pub fn body_larger_than(bytes: usize) -> Self {
        let detail = format!("A body may have at most {} KB here.", bytes / 1024);
        Self::new(ProblemType::BodyTooLarge, detail)
    }

    /// Creates a 415 for a body in an unsupported content coding or charset.
    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::UnsupportedMediaType, detail)
    }

    /// Creates a 422 for a valid request that cannot be processed.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Unprocessable, detail)
    }

    /// Creates a 500 for an internal error. Only the log shows the cause.
    pub fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        let detail = "The request failed. The error has been logged.";
        let mut problem = Self::new(ProblemType::Internal, detail);
        problem.cause = Some(Arc::new(cause));
        problem
    }

    /// Creates a 503 for a temporary error, after which a retry may succeed. Only the log shows the
    /// cause.
    pub fn unavailable(cause: impl Error + Send + Sync + 'static) -> Self {
        let mut problem = Self::new(ProblemType::Unavailable, "Try again in a moment.");
        problem.cause = Some(Arc::new(cause));
        problem.with_header(http::header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Creates a 500 for a plan that cannot be bought until the operator corrects it. Only the log shows the cause.
    pub fn plan_misconfigured(cause: impl Error + Send + Sync + 'static) -> Self {
        let detail =
            "This plan cannot be bought at the moment. The operator finds the reason in the log.";
        let mut problem = Self::new(ProblemType::PlanMisconfigured, detail);
        problem.cause = Some(Arc::new(cause));
        problem
    }

    /// Creates a 503 for a stack without a secret key of Stripe.
    #[must_use]
    pub fn payments_not_configured() -> Self {
        let detail = "The operator has not configured payments.";
        Self::new(ProblemType::PaymentsNotConfigured, detail)
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.problem_type.status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Adds an extension member.
    #[must_use]
    pub fn with(mut self, member: Member, value: impl Into<Value>) -> Self {
        self.members.insert(member.name().to_owned(), value.into());
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
            r#type: self.problem_type.urn(),
            title: self.problem_type.title(),
            status: self.problem_type.status(),
            detail: &self.detail,
            members: &self.members,
            request_id,
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
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
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl<E: Failure> From<E> for Problem {
    fn from(error: E) -> Self {
        match error.kind() {
            FailureKind::InvalidCursor => {
                let detail = format!("In the query: {InvalidCursor}.");
                Self::bad_request(detail).with(Member::Field, "cursor")
            }
            FailureKind::Transient => Self::unavailable(error),
            FailureKind::Permanent => Self::internal(error),
        }
    }
}
