//! HTTPS client for addresses that others choose.
//!
//! A function can reach what its callers cannot: its own machine, networks behind it, the credentials of its role. So
//! each connection is made to an address that was checked ([`Reach`]), and to no other: a name is resolved once, here,
//! and a redirect is not followed. Nothing of a response is used but its status.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use tollgate_domain::webhook::{Reach, TargetUrl};
use tollgate_stripe::outbound::{ID_HEADER, SIGNATURE_HEADER, SignedHeaders, TIMESTAMP_HEADER};
use tollgate_stripe::{BoxError, Roots, tls};

/// Time of an attempt, from the resolution of the name to the status of the response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Value of the header field `User-Agent`.
const AGENT: &str = concat!("Tollgate/", env!("CARGO_PKG_VERSION"));

/// Error: a delivery was not acknowledged. The text is shown to admins.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The target is gone (410), by its own response.
    #[error("the target responded with status 410")]
    Gone,
    /// The target responded with another status than success. A redirect is one.
    #[error("the target responded with status {0}")]
    Status(u16),
    /// The name leads to an address that is not public.
    #[error("the address of the target is not public")]
    NotPublic,
    /// There was no connection, by a failure of the name's resolution, of TCP or of TLS.
    #[error("there was no connection to the target")]
    NotConnected(#[source] BoxError),
    /// The connection was lost before the response.
    #[error("the connection was lost before a response")]
    Lost(#[source] BoxError),
    /// There was no response in time.
    #[error("there was no response within ten seconds")]
    TimedOut,
    /// The stored address cannot be requested.
    #[error("the address of the target is invalid")]
    Invalid(#[source] BoxError),
}

/// Resolution of a name to addresses.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

type HttpClient = Client<HttpsConnector<HttpConnector<CheckedResolver>>, Full<Bytes>>;

/// Client for webhooks. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct WebhookClient(Arc<Inner>);

struct Inner {
    reach: Reach,
    roots: Roots,
    lookup: Lookup,
    client: OnceLock<HttpClient>,
}

impl WebhookClient {
    /// Creates a client that resolves names by the system, and trusts the system's root certificates.
    #[must_use]
    pub fn new(reach: Reach) -> Self {
        Self::with(reach, Roots::System, Arc::new(system_lookup))
    }

    /// Creates a client that resolves names by `lookup`, and trusts these certificates.
    #[must_use]
    pub fn with(reach: Reach, roots: Roots, lookup: Lookup) -> Self {
        Self(Arc::new(Inner {
            reach,
            roots,
            lookup,
            client: OnceLock::new(),
        }))
    }

    /// Sends a signed message. Returns when the target has acknowledged it with a 2xx status.
    ///
    /// # Errors
    /// When it has not. The target may have received the message.
    pub async fn post(
        &self,
        target: &TargetUrl,
        headers: &SignedHeaders,
        body: Bytes,
    ) -> Result<(), DeliveryError> {
        let uri: Uri = target
            .as_str()
            .parse()
            .map_err(|error: http::uri::InvalidUri| DeliveryError::Invalid(error.into()))?;
        // An address in place of a name is not resolved, and so not checked by the resolver.
        let host = uri.host().unwrap_or_default();
        let literal: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
        if literal.is_ok_and(|address| !self.0.reach.includes(address)) {
            return Err(DeliveryError::NotPublic);
        }
        let request = Request::post(uri)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header(ID_HEADER, &headers.id)
            .header(TIMESTAMP_HEADER, &headers.timestamp)
            .header(SIGNATURE_HEADER, &headers.signature)
            .body(Full::new(body))
            .map_err(|error| DeliveryError::Invalid(error.into()))?;
        let client = self.client().map_err(DeliveryError::NotConnected)?;
        let response = tokio::time::timeout(TIMEOUT, client.request(request)).await;
        let response = response.map_err(|_| DeliveryError::TimedOut)?;
        // The body is not read: dropping the response closes the connection.
        match response.map(|response| response.status()) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(StatusCode::GONE) => Err(DeliveryError::Gone),
            Ok(status) => Err(DeliveryError::Status(status.as_u16())),
            Err(error) if is_not_public(&error) => Err(DeliveryError::NotPublic),
            Err(error) if error.is_connect() => Err(DeliveryError::NotConnected(error.into())),
            Err(error) => Err(DeliveryError::Lost(error.into())),
        }
    }

    fn client(&self) -> Result<&HttpClient, BoxError> {
        let Inner {
            reach,
            roots,
            lookup,
            client,
        } = &*self.0;
        if let Some(client) = client.get() {
            return Ok(client);
        }
        let mut http = HttpConnector::new_with_resolver(CheckedResolver {
            reach: *reach,
            lookup: Arc::clone(lookup),
        });
        http.enforce_http(false);
        http.set_nodelay(true);
        let config = match (tls(roots), reach) {
            // A machine without certificates can still send to itself.
            (Err(_), Reach::Loopback) => tls(&Roots::Pem(Vec::new()))?,
            (config, _) => config?,
        };
        let built = Client::builder(TokioExecutor::new())
            // Each attempt resolves and checks the name again.
            .pool_max_idle_per_host(0)
            .build(HttpsConnector::from((http, config)));
        Ok(client.get_or_init(|| built))
    }
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookClient")
            .field("reach", &self.0.reach)
            .finish_non_exhaustive()
    }
}

/// Error: a name resolves to an address that is not public.
#[derive(Debug, thiserror::Error)]
#[error("the address is not public")]
struct NotPublic;

/// Whether an error is due to [`NotPublic`].
fn is_not_public(error: &(dyn Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        if error.is::<NotPublic>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn system_lookup(name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
    Box::pin(async move {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    })
}

/// Resolver that returns only addresses that may be reached. The connection is made to what it returns.
#[derive(Clone)]
struct CheckedResolver {
    reach: Reach,
    lookup: Lookup,
}

impl tower::Service<Name> for CheckedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.reach;
        let found = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move {
            let found = found.await?;
            // A public target has no other addresses. One that has is a mistake, or an attack.
            if !found.iter().all(|address| reach.includes(*address)) {
                return Err(NotPublic.into());
            }
            let found = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(found.collect::<Vec<_>>().into_iter())
        })
    }
}
