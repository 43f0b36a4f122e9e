//! A call of the API, before it is a request.

use std::fmt;

use http::{HeaderValue, Method};
use serde::{Deserialize, Serialize};

use crate::form::{self, Form};

/// Key by which Stripe recognises a repeated request and replays its response. For what bills a charge it
/// is the charge's id. Stripe may forget it after 24 hours, and rejects it for another path or other
/// parameters: two calls for one charge need two keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdempotencyKey(String);

/// Error: the text cannot be an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to 255 visible ASCII characters")]
pub struct InvalidIdempotencyKey;

impl IdempotencyKey {
    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for IdempotencyKey {
    type Error = InvalidIdempotencyKey;

    fn try_from(text: String) -> Result<Self, InvalidIdempotencyKey> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if (1..=255).contains(&text.len()) && visible {
            Ok(Self(text))
        } else {
            Err(InvalidIdempotencyKey)
        }
    }
}

impl std::str::FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        Self::try_from(text.to_owned())
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> String {
        key.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A call of the API: a method, a path and parameters.
#[derive(Debug, Clone)]
pub(crate) struct ApiRequest {
    pub(crate) method: Method,
    /// Path without ids, for the log.
    pub(crate) route: &'static str,
    pub(crate) path: String,
    pub(crate) form: Form,
    pub(crate) idempotency_key: Option<IdempotencyKey>,
}

impl ApiRequest {
    /// Describes a call that reads.
    pub(crate) fn get(route: &'static str, id: Option<&str>) -> Self {
        Self::new(Method::GET, route, id, None)
    }

    /// Describes a call that creates or changes something, once for each `key`.
    pub(crate) fn post(route: &'static str, id: Option<&str>, key: &IdempotencyKey) -> Self {
        Self::new(Method::POST, route, id, Some(key.clone()))
    }

    /// Describes a call that ends something. Stripe takes no idempotency key for it: a repetition has no
    /// effect.
    pub(crate) fn delete(route: &'static str, id: &str) -> Self {
        Self::new(Method::DELETE, route, Some(id), None)
    }

    fn new(
        method: Method,
        route: &'static str,
        id: Option<&str>,
        idempotency_key: Option<IdempotencyKey>,
    ) -> Self {
        let path = match id {
            Some(id) => route.replace("{id}", &form::segment(id).to_string()),
            None => route.to_owned(),
        };
        Self {
            method,
            route,
            path,
            form: Form::default(),
            idempotency_key,
        }
    }

    /// Whether the call changes nothing.
    pub(crate) fn reads(&self) -> bool {
        self.method == Method::GET
    }

    /// Creates one HTTP request of this call. Returns `None` if it cannot be one, which ids and keys that
    /// were parsed rule out.
    pub(crate) fn to_http(
        &self,
        base_url: &str,
        authorization: HeaderValue,
    ) -> Option<http::Request<bytes::Bytes>> {
        let in_body = self.method == Method::POST;
        let parameters = self.form.as_str();
        let url = match (in_body, parameters) {
            (true, _) | (_, "") => format!("{base_url}{}", self.path),
            (false, query) => format!("{base_url}{}?{query}", self.path),
        };
        let mut request = http::Request::builder()
            .method(&self.method)
            .uri(url)
            .header(http::header::AUTHORIZATION, authorization)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::USER_AGENT, USER_AGENT)
            .header("stripe-version", crate::API_VERSION);
        if let Some(key) = &self.idempotency_key {
            request = request.header("idempotency-key", key.as_str());
        }
        let body = if in_body {
            request = request.header(
                http::header::CONTENT_TYPE,
                "application/x-www-form-urlencoded",
            );
            bytes::Bytes::copy_from_slice(parameters.as_bytes())
        } else {
            bytes::Bytes::new()
        };
        request.body(body).ok()
    }
}

const USER_AGENT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));
