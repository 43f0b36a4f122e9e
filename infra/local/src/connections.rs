//! Connections to the local stack, with limits on their number, on request heads and on idle time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

/// Maximum number of open connections; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 1_024;
/// Time that a caller has to send the head of a request, and that a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum bytes of a request head. API Gateway's limit on its header fields is 10,240.
const MAX_HEAD: usize = 32 * 1024;

/// Serves requests until `stop` resolves, then completes those in progress. Returns when all connections
/// are closed.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    routes: Router,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD);
    let open = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            let (stream, _) = listener.accept().await;
            (stream, slot)
        };
        let (stream, slot) = tokio::select! {
            () = &mut stop => break,
            next = next => next,
        };
        let service = TowerToHyperService::new(routes.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection failed");
            }
            drop(slot);
        });
    }
    drop(listener);
    open.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    use super::*;

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        served: JoinHandle<()>,
    }

    impl Server {
        async fn start() -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let routes = Router::new().route("/", get(async || "pong"));
            let (stop, stopped) = oneshot::channel::<()>();
            let served = tokio::spawn(serve(listener, routes, async {
                let _ = stopped.await;
            }));
            Self {
                address,
                stop,
                served,
            }
        }

        /// Sends `request` on a new connection, and returns everything that is received until it is closed.
        async fn exchange(&self, request: &str) -> String {
            let mut caller = TcpStream::connect(self.address).await.unwrap();
            caller.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            let read = timeout(HEAD_TIMEOUT * 2, caller.read_to_string(&mut response)).await;
            read.expect("the connection is closed").unwrap();
            response
        }
    }

    // A paused clock advances as soon as all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn an_incomplete_head_times_out() {
        let server = Server::start().await;
        for incomplete in ["", "GET / HTTP/1.1\r\nhost: x\r\nx-slow: "] {
            let began = Instant::now();
            assert_eq!(server.exchange(incomplete).await, "", "{incomplete}");
            assert!(began.elapsed() >= HEAD_TIMEOUT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed() {
        let server = Server::start().await;
        let response = server.exchange("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(response.ends_with("pong"), "{response}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_without_end_is_rejected() {
        let server = Server::start().await;
        let head = format!("GET / HTTP/1.1\r\nx-large: {}", "x".repeat(MAX_HEAD));
        let response = server.exchange(&head).await;
        assert!(response.starts_with("HTTP/1.1 431"), "{response}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_size_of_a_head_is_limited() {
        let server = Server::start().await;
        for (bytes, status) in [(MAX_HEAD, "200"), (MAX_HEAD + 1, "431"), (40_000, "431")] {
            let (begin, end) = ("GET / HTTP/1.1\r\nhost: x\r\nx-large: ", "\r\n\r\n");
            let large = "x".repeat(bytes - begin.len() - end.len());
            let response = server.exchange(&format!("{begin}{large}{end}")).await;
            let expected = format!("HTTP/1.1 {status}");
            assert!(response.starts_with(&expected), "{bytes}: {response}");
        }
    }

    #[tokio::test]
    async fn serving_ends_when_all_connections_are_closed() {
        let server = Server::start().await;
        let mut caller = TcpStream::connect(server.address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        caller.write_all(request).await.unwrap();
        let mut start = [0; 8];
        caller.read_exact(&mut start).await.unwrap();
        server.stop.send(()).unwrap();
        server.served.await.unwrap();
        let mut rest = Vec::new();
        caller.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"pong"));
        TcpStream::connect(server.address).await.unwrap_err();
    }
}
