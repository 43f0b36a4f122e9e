//! `Idempotency-Key` header field of requests that create something.

use axum::extract::FromRequestParts;
use http::header::HeaderName;
use http::request::Parts;
use sha2::{Digest, Sha256};
use tollgate_domain::id::KeyId;
use tollgate_domain::idempotency::Idempotency;

use crate::Problem;
use crate::body::single;

const FIELD: HeaderName = HeaderName::from_static("idempotency-key");

/// Value of the header field, if the request has it: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone)]
pub struct IdempotencyKey(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = single(&parts.headers, &FIELD)? else {
            return Ok(Self(None));
        };
        let visible = |text: &&str| {
            (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        match value.to_str().ok().filter(visible) {
            Some(key) => Ok(Self(Some(key.to_owned()))),
            None => Err(Problem::bad_request(
                "The Idempotency-Key header must be 1 to 255 visible ASCII characters.",
            )),
        }
    }
}

impl IdempotencyKey {
    /// Creates the 422 for a key that was used for another request.
    #[must_use]
    pub fn reused() -> Problem {
        Problem::unprocessable("This Idempotency-Key was used for another request.")
    }

    /// Creates the idempotency mark to store with the result of `operation`, requested with the API key
    /// `caller`. `request` has to contain everything that distinguishes the request from others.
    #[must_use]
    pub fn mark(&self, operation: &str, caller: &KeyId, request: &str) -> Option<Idempotency> {
        self.0.as_ref().map(|key| Idempotency {
            scope: format!("{operation}#{caller}"),
            key: key.clone(),
            request: hex::encode(Sha256::digest(request)),
        })
    }
}
