//! Incomplete and invalid requests, which an HTTP client does not send.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use tokio::io::AsyncReadExt;

/// Sends the head of a request over a new connection.
pub(crate) fn begin(url: &str, head: &str) -> TcpStream {
    let address = url.strip_prefix("http://").unwrap();
    let mut caller = TcpStream::connect(address).unwrap();
    write!(caller, "{head}\r\nhost: {address}\r\n\r\n").unwrap();
    caller
}

/// Reads everything until the connection is closed.
pub(crate) async fn response(caller: TcpStream) -> String {
    caller.set_nonblocking(true).unwrap();
    let mut caller = tokio::net::TcpStream::from_std(caller).unwrap();
    let mut response = String::new();
    caller.read_to_string(&mut response).await.unwrap();
    response
}

/// Sends only the head of a request; returns everything received until the connection is closed.
pub(crate) async fn response_to_head(url: &str, head: &str) -> String {
    let caller = begin(url, head);
    caller.shutdown(Shutdown::Write).unwrap();
    response(caller).await
}
