//! An HTTP client of the API, for the demo, the load runs and the tests.

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

/// Client with a base URL and an optional API key. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    http: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Body>,
    url: String,
    key: Option<String>,
}

/// An HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body as text.
    pub text: String,
}

/// Failure to receive a response.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path} got no response")]
pub struct RequestError {
    method: Method,
    path: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Response {
    /// Returns the body as JSON, or null if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Returns a header field's value, or an empty string if the field is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

impl Client {
    /// Creates a client of the stack at `url`, without a key.
    ///
    /// # Errors
    /// When the URL has the scheme `https` and this machine has no root certificates.
    pub fn new(url: &str) -> std::io::Result<Self> {
        let builder = HttpsConnectorBuilder::new();
        let connector = if url.starts_with("https:") {
            builder.with_provider_and_native_roots(default_provider())?
        } else {
            // The local stack uses plain HTTP, so that no root certificates are needed.
            let config = ClientConfig::builder_with_provider(default_provider().into())
                .with_safe_default_protocol_versions()
                .map_err(std::io::Error::other)?
                .with_root_certificates(RootCertStore::empty());
            builder.with_tls_config(config.with_no_client_auth())
        };
        let connector = connector.https_or_http().enable_http1().build();
        Ok(Self {
            http: hyper_util::client::legacy::Client::builder(TokioExecutor::new())
                .build(connector),
            url: url.to_owned(),
            key: None,
        })
    }

    /// Returns a copy of the client that sends `key`.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..self.clone()
        }
    }

    /// Sends a `GET` request.
    ///
    /// # Errors
    /// When no response is received.
    pub async fn get(&self, path: &str) -> Result<Response, RequestError> {
        self.send(Method::GET, path, &[], Body::empty()).await
    }

    /// Sends a request with a JSON body.
    ///
    /// # Errors
    /// When no response is received.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> Result<Response, RequestError> {
        let headers = [(CONTENT_TYPE.as_str(), "application/json")];
        self.send(method, path, &headers, body.to_string().into())
            .await
    }

    /// Sends a `POST` request with a JSON body.
    ///
    /// # Errors
    /// When no response is received.
    pub async fn post(&self, path: &str, body: Value) -> Result<Response, RequestError> {
        self.json(Method::POST, path, body).await
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When no response is received.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Response, RequestError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RequestError {
            method: method.clone(),
            path: path.to_owned(),
            source,
        };
        let mut request = http::Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).map_err(|error| failed(error.into()))?;
        let response = self.http.request(request).await;
        let (parts, body) = response.map_err(|error| failed(error.into()))?.into_parts();
        let body = body.collect().await.map_err(|error| failed(error.into()))?;
        Ok(Response {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        })
    }
}
