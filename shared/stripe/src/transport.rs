//! The way of one HTTP request to Stripe and of its response back, as an argument.

use std::error::Error;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};

/// Carrier of single HTTP requests: it neither retries nor follows redirects. The client limits the time.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request and returns the response with its whole body.
    ///
    /// # Errors
    /// When the request could not be sent, or no complete response arrived.
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>>;
}

/// Error: there is no complete response to a request.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// There was no connection, so that no part of the request was sent.
    #[error("no connection")]
    NotSent(#[source] Box<dyn Error + Send + Sync>),
    /// The connection was lost after some or all of the request may have been sent.
    #[error("the connection was lost")]
    Lost(#[source] Box<dyn Error + Send + Sync>),
}
