//! Client of the API: HTTP/1.1 by hyper, TLS by rustls with ring.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use tollgate_runtime::Chain;

use crate::failure::{Exit, Failure};
use crate::problem::{self, Problem};
use crate::profile::Profile;

/// Attempts of a repeatable request.
const ATTEMPTS: u32 = 5;
/// Longest wait before an attempt. An API that wants more time is unavailable.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Wait before the second attempt if the response does not say how long; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Time for a connection to be made, TLS not included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for an attempt: longer than the 29 seconds after which API Gateway gives up.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a response: several times those of a page of the largest usage events.
const MAX_RESPONSE: usize = 32 << 20;
/// Characters that stay as they are in a path segment or in a value of the query.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Client of a deployment, with a key.
pub(crate) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    key: HeaderValue,
}

/// Request to the API.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    body: Bytes,
    idempotency_key: Option<String>,
    is_repeatable: bool,
}

/// Response of the API, which is a success.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) body: String,
}

/// Failure of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The API responded with a problem.
    #[error("the API responded with {}", .1.slug())]
    Problem(StatusCode, Box<Problem>),
    /// Something else responded, such as a proxy.
    #[error(
        "{method} {url}{path}: the response has the status {status}, and is none of Tollgate's"
    )]
    Foreign {
        method: Method,
        url: String,
        path: String,
        status: StatusCode,
    },
    /// There is no connection, so that nothing was sent.
    #[error("{0} cannot be reached")]
    Unreachable(String, #[source] legacy::Error),
    /// No response was received.
    #[error("{0} does not respond")]
    Lost(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The key cannot be sent, or the connection not be prepared.
    #[error("the HTTP client cannot be set up")]
    SetUp(#[source] io::Error),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Problem(status, problem) => problem.failure(status),
            ApiError::Foreign { status, .. } => {
                Failure::new(problem::exit(status), error.to_string())
            }
            ApiError::Unreachable(..) | ApiError::Lost(..) => {
                Failure::new(Exit::Unavailable, Chain(&error).to_string())
            }
            ApiError::SetUp(_) => Failure::of(Chain(&error).to_string()),
        }
    }
}

impl Call {
    fn new(method: Method, path: impl Into<String>, body: String, is_repeatable: bool) -> Self {
        Self {
            method,
            path: path.into(),
            body: body.into(),
            idempotency_key: None,
            is_repeatable,
        }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, String::new(), true)
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path, String::new(), true)
    }

    /// Creates a merge patch, which has the same effect when it is repeated.
    pub(crate) fn patch(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self::new(Method::PATCH, path, body.to_string(), true)
    }

    /// Creates a request that is sent once only.
    pub(crate) fn post(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self::new(Method::POST, path, body.to_string(), false)
    }

    /// Creates a request whose repetition has no further effect.
    pub(crate) fn post_repeatable(path: impl Into<String>, body: String) -> Self {
        Self::new(Method::POST, path, body, true)
    }

    /// Makes a creation repeatable.
    pub(crate) fn with_idempotency_key(self, key: String) -> Self {
        Self {
            idempotency_key: Some(key),
            is_repeatable: true,
            ..self
        }
    }
}

impl Response {
    /// Reads the body.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.body).map_err(|error| {
            Failure::because("the response is not one of this release's API", &error)
        })
    }
}

/// Returns a path with these segments and query parameters, encoded.
pub(crate) fn path(segments: &[&str], query: &[(&str, Option<&str>)]) -> String {
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        path.extend(utf8_percent_encode(segment, ENCODED));
    }
    for (name, value) in query {
        let Some(value) = value else { continue };
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(name);
        path.push('=');
        path.extend(utf8_percent_encode(value, ENCODED));
    }
    path
}

impl Client {
    pub(crate) fn new(profile: &Profile) -> Result<Self, Failure> {
        let builder = HttpsConnectorBuilder::new();
        let connector = if profile.url.starts_with("https:") {
            builder
                .with_provider_and_native_roots(default_provider())
                .map_err(ApiError::SetUp)?
        } else {
            // Plain HTTP needs no root certificates; a machine without any can call the local product.
            let config = ClientConfig::builder_with_provider(default_provider().into())
                .with_safe_default_protocol_versions()
                .map_err(|error| ApiError::SetUp(io::Error::other(error)))?
                .with_root_certificates(RootCertStore::empty());
            builder.with_tls_config(config.with_no_client_auth())
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = connector
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Ok(Self {
            http: legacy::Client::builder(TokioExecutor::new()).build(connector),
            url: profile.url.clone(),
            key: profile.key.header()?,
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request, a repeatable one several times if the API is unavailable.
    pub(crate) async fn send(&self, call: &Call) -> Result<Response, ApiError> {
        let mut attempt = 1;
        loop {
            let (error, wait) = match self.attempt(call).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err((error, wait))) => (error, wait),
                Err(error) => (error, None),
            };
            let is_temporary = match &error {
                ApiError::Problem(status, problem) => {
                    is_temporary(*status) && problem.slug() != "payments-not-configured"
                }
                ApiError::Foreign { status, .. } => is_temporary(*status),
                ApiError::Lost(..) => true,
                ApiError::Unreachable(..) | ApiError::SetUp(_) => false,
            };
            let wait = wait.unwrap_or(FIRST_WAIT * 2_u32.pow(attempt - 1));
            if !call.is_repeatable || !is_temporary || attempt == ATTEMPTS || wait > LONGEST_WAIT {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends a request once. Returns an error of a response with the time to wait, if the response has one.
    async fn attempt(
        &self,
        call: &Call,
    ) -> Result<Result<Response, (ApiError, Option<Duration>)>, ApiError> {
        let lost = |error: Box<dyn std::error::Error + Send + Sync>| {
            ApiError::Lost(self.url.clone(), error)
        };
        let mut request = Request::builder()
            .method(&call.method)
            .uri(format!("{}{}", self.url, call.path))
            .header("x-api-key", &self.key)
            .header(USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")));
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let request = request
            .body(Full::new(call.body.clone()))
            .map_err(|error| ApiError::SetUp(io::Error::other(error)))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| {
                if error.is_connect() {
                    ApiError::Unreachable(self.url.clone(), error)
                } else {
                    lost(error.into())
                }
            })?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_RESPONSE)
                .collect()
                .await
                .map_err(lost)?;
            Ok((parts, body.to_bytes()))
        };
        let (parts, body) = tokio::time::timeout(ATTEMPT_TIMEOUT, exchange)
            .await
            .map_err(|error| lost(error.into()))??;
        let body = String::from_utf8_lossy(&body).into_owned();
        if parts.status.is_success() {
            return Ok(Ok(Response { body }));
        }
        let error = match serde_json::from_str(&body) {
            Ok(problem) => ApiError::Problem(parts.status, Box::new(problem)),
            Err(_) => ApiError::Foreign {
                method: call.method.clone(),
                url: self.url.clone(),
                path: call.path.clone(),
                status: parts.status,
            },
        };
        Ok(Err((error, retry_after(&parts.headers))))
    }

    /// Sends a request whose failure ends the command.
    pub(crate) async fn call(&self, call: &Call) -> Result<Response, Failure> {
        Ok(self.send(call).await?)
    }

    /// Reads a resource.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, Failure> {
        self.call(&Call::get(path)).await?.read()
    }
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// Returns the time of `Retry-After` in seconds. Tollgate sends no dates in it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded() {
        let found = path(
            &["admin", "a/b ü"],
            &[
                ("from", None),
                ("cursor", Some("a=b&")),
                ("limit", Some("3")),
            ],
        );
        assert_eq!(found, "/admin/a%2Fb%20%C3%BC?cursor=a%3Db%26&limit=3");
        assert_eq!(path(&["docs"], &[]), "/docs");
    }
}
