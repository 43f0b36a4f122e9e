//! Transport over HTTPS.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;

use crate::transport::{Transport, TransportError};

/// Maximum bytes of a response: some ten times a page of a hundred long invoices.
const MAX_RESPONSE: usize = 16 << 20;

/// Time for which an unused connection is kept. Lambda freezes instances between invocations, and a
/// connection that was closed meanwhile costs an attempt.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Default time for a connection to be made, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Error of any kind.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Root certificates that connections to Stripe trust.
#[derive(Clone, PartialEq, Eq)]
pub enum Roots {
    /// Root certificates of the system.
    System,
    /// Certificates in PEM, which replace those of the system.
    Pem(Vec<u8>),
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Roots::System => "System",
            Roots::Pem(_) => "Pem(…)",
        })
    }
}

/// Transport over HTTPS, or over plain HTTP where the base URL says so: HTTP/1.1 by hyper, TLS by rustls
/// with ring. It reads the root certificates at its first request, so that a function that does not call
/// Stripe does not pay for it.
pub struct HttpsTransport {
    roots: Roots,
    connect_timeout: Duration,
    client: OnceLock<Client<TimedConnector, Full<Bytes>>>,
}

impl HttpsTransport {
    /// Creates a transport that gives a connection `connect_timeout` to be made, TLS included; usually
    /// [`CONNECT_TIMEOUT`].
    #[must_use]
    pub fn new(roots: Roots, connect_timeout: Duration) -> Self {
        let client = OnceLock::new();
        Self {
            roots,
            connect_timeout,
            client,
        }
    }

    fn client(&self) -> Result<&Client<TimedConnector, Full<Bytes>>, BoxError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = TimedConnector {
            https: (http, tls(&self.roots)?).into(),
            timeout: self.connect_timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Ok(self.client.get_or_init(|| client))
    }
}

impl fmt::Debug for HttpsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsTransport")
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

impl Transport for HttpsTransport {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let client = self.client().map_err(TransportError::NotSent)?;
            let response = client
                .request(request.map(Full::new))
                .await
                .map_err(|error| {
                    // hyper itself repeats a request of which a closed connection has taken nothing.
                    if error.is_connect() {
                        TransportError::NotSent(error.into())
                    } else {
                        TransportError::Lost(error.into())
                    }
                })?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_RESPONSE).collect().await;
            let body = body.map_err(TransportError::Lost)?.to_bytes();
            Ok(Response::from_parts(parts, body))
        })
    }
}

/// Returns the configuration of TLS connections that trust these certificates.
///
/// # Errors
/// When there are none, or one cannot be read.
pub fn tls(roots: &Roots) -> Result<Arc<ClientConfig>, BoxError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match roots {
        Roots::System => config.with_native_roots()?,
        Roots::Pem(pem) => {
            let mut store = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                store.add(certificate?)?;
            }
            config.with_root_certificates(store)
        }
    };
    Ok(Arc::new(config.with_no_client_auth()))
}

/// Connector with a bound on the time until a connection is ready. A timeout here shows that nothing was
/// sent, which one of the whole attempt does not.
#[derive(Clone)]
struct TimedConnector {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl tower::Service<Uri> for TimedConnector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        tower::Service::poll_ready(&mut self.https, context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tower::Service::call(&mut self.https, uri);
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(result) => result,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}
