//! A minimal HTTP/1.1 server on loopback.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) type HttpResponse = Response<Full<Bytes>>;

/// Serves requests to a free port on loopback until the returned tasks are dropped.
pub(crate) async fn listen<F>(
    handler: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> io::Result<(SocketAddr, JoinSet<()>)>
where
    F: Future<Output = HttpResponse> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            // Otherwise the second segment of a response would wait for an acknowledgement (Nagle's algorithm).
            let _ = stream.set_nodelay(true);
            connections.spawn(serve(stream, handler.clone()));
        }
    });
    Ok((address, server))
}

/// Serves requests over one connection until the client closes it.
pub(crate) async fn serve<S, F>(stream: S, handler: impl Fn(Request<Incoming>) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = HttpResponse>,
{
    let service = service_fn(|request| {
        let response = handler(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    // A killed process resets its connections, which is not an error here.
    let _ = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Reads the whole request body. Returns an empty body if the connection breaks.
pub(crate) async fn body(request: Request<Incoming>) -> Bytes {
    let collected = request.into_body().collect().await;
    collected.map(|body| body.to_bytes()).unwrap_or_default()
}

/// Returns a response with this status and no body.
pub(crate) fn status(code: u16) -> HttpResponse {
    let mut response = HttpResponse::default();
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}
