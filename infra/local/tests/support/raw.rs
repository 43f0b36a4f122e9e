//! Requests as no HTTP client would make them.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use tokio::io::AsyncReadExt;

/// Sends the head of a request over a connection of its own.
pub(crate) fn begin(url: &str, head: &str) -> TcpStream {
    let address = url.strip_prefix("http://").unwrap();
    let mut caller = TcpStream::connect(address).unwrap();
    write!(caller, "{head}\r\nhost: {address}\r\n\r\n").unwrap();
    caller
}

/// All that is answered until the connection is closed.
pub(crate) async fn answer(caller: TcpStream) -> String {
    caller.set_nonblocking(true).unwrap();
    let mut caller = tokio::net::TcpStream::from_std(caller).unwrap();
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.unwrap();
    answer
}

/// All that is answered to a caller who sends the head alone.
pub(crate) async fn answer_to_head(url: &str, head: &str) -> String {
    let caller = begin(url, head);
    caller.shutdown(Shutdown::Write).unwrap();
    answer(caller).await
}
