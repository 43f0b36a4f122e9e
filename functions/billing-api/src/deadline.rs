//! Deadline of an invocation.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tollgate_web::Problem;

/// Time after which there is a response, whatever Stripe does: less than the gateway waits, which is 29 seconds, so
/// that the caller gets a response of ours. A first checkout makes six requests to Stripe, each of up to eight seconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// Error: a request was not executed in time.
#[derive(Debug, thiserror::Error)]
#[error("the request was not executed within {DEADLINE:?}")]
struct DeadlineExceeded;

/// Executes a request within the deadline, and otherwise abandons it: like a lost connection, whose repetition finds
/// what has taken effect.
pub(crate) async fn within_deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable(DeadlineExceeded).into_response(),
    }
}
