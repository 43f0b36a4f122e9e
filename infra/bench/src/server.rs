//! HTTP/1.1 on loopback, as little of it as there can be.

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

pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers what comes to a port of this machine, for as long as the tasks are kept.
pub(crate) async fn listen<A>(
    answer: impl Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
) -> io::Result<(SocketAddr, JoinSet<()>)>
where
    A: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            // Without it an answer in two segments would wait for an acknowledgement.
            let _ = stream.set_nodelay(true);
            connections.spawn(serve(stream, answer.clone()));
        }
    });
    Ok((address, server))
}

/// Answers what comes over one connection, until the other side closes it.
pub(crate) async fn serve<S, A>(stream: S, answer: impl Fn(Request<Incoming>) -> A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    // A process that is killed breaks its connections off, which is no failure.
    let _ = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The whole body; empty if the connection broke off.
pub(crate) async fn body(request: Request<Incoming>) -> Bytes {
    let collected = request.into_body().collect().await;
    collected.map(|body| body.to_bytes()).unwrap_or_default()
}

/// An answer without a body.
pub(crate) fn status(code: u16) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    answer
}
