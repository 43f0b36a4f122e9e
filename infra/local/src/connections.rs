//! Connections to the local product, and what each may take of it before its caller has sent a
//! whole request.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

/// Connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a caller may take to send the head of a request, and a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a head. API Gateway's bound on its header fields is 10,240.
const MAX_HEAD: usize = 32 * 1024;

/// Answers requests until `stop` resolves, and then those under way. Ends when their connections
/// have.
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
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            let (stream, _) = listener.accept().await;
            (stream, place)
        };
        let (stream, place) = tokio::select! {
            () = &mut stop => break,
            next = next => next,
        };
        let service = TowerToHyperService::new(routes.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection failed");
            }
            drop(place);
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

        /// All that is answered to one who sends `request` and then waits.
        async fn answer(&self, request: &str) -> String {
            let mut caller = TcpStream::connect(self.address).await.unwrap();
            caller.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let read = timeout(HEAD_TIMEOUT * 2, caller.read_to_string(&mut answer)).await;
            read.expect("the connection is closed").unwrap();
            answer
        }
    }

    // Where time is paused it goes on as soon as all wait.
    #[tokio::test(start_paused = true)]
    async fn who_sends_no_whole_head_is_not_waited_for() {
        let server = Server::start().await;
        for begun in ["", "GET / HTTP/1.1\r\nhost: x\r\nx-slow: "] {
            let began = Instant::now();
            assert_eq!(server.answer(begun).await, "", "{begun}");
            assert!(began.elapsed() >= HEAD_TIMEOUT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed() {
        let server = Server::start().await;
        let answer = server.answer("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.ends_with("pong"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_without_end_is_refused() {
        let server = Server::start().await;
        let head = format!("GET / HTTP/1.1\r\nx-large: {}", "x".repeat(MAX_HEAD));
        let answer = server.answer(&head).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_so_many_bytes_and_no_more() {
        let server = Server::start().await;
        for (bytes, status) in [(MAX_HEAD, "200"), (MAX_HEAD + 1, "431"), (40_000, "431")] {
            let (begin, end) = ("GET / HTTP/1.1\r\nhost: x\r\nx-large: ", "\r\n\r\n");
            let large = "x".repeat(bytes - begin.len() - end.len());
            let answer = server.answer(&format!("{begin}{large}{end}")).await;
            let expected = format!("HTTP/1.1 {status}");
            assert!(answer.starts_with(&expected), "{bytes}: {answer}");
        }
    }

    #[tokio::test]
    async fn it_ends_when_its_connections_have() {
        let server = Server::start().await;
        let mut caller = TcpStream::connect(server.address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        caller.write_all(request).await.unwrap();
        let mut answer = [0; 8];
        caller.read_exact(&mut answer).await.unwrap();
        server.stop.send(()).unwrap();
        server.served.await.unwrap();
        let mut rest = Vec::new();
        caller.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"pong"));
        TcpStream::connect(server.address).await.unwrap_err();
    }
}
