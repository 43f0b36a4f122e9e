//! The HTTPS transport, with servers on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tollgate_stripe::{
    Config, FixedSecret, HttpsTransport, Retries, Roots, SecretKey, StripeClient, TokioTiming,
    Transport, TransportError,
};

use crate::script::{ITEM, create_item};

const OK: &str = "HTTP/1.1 200 OK\r\nrequest-id: req_1\r\ncontent-length: 2\r\n\r\n{}";

/// Starts a server that handles each of `count` connections with `handle`.
fn serve(count: usize, handle: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for _ in 0..count {
            handle(listener.accept().unwrap().0);
        }
    });
    address
}

/// Reads the header of a request.
fn read_header(stream: &mut impl Read) -> String {
    let mut header = Vec::new();
    let mut byte = [0];
    while !header.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        header.push(byte[0]);
    }
    String::from_utf8(header).unwrap()
}

fn transport(roots: Roots) -> HttpsTransport {
    HttpsTransport::new(roots, Duration::from_millis(500))
}

async fn get(transport: &HttpsTransport, url: &str) -> Result<Response<Bytes>, TransportError> {
    let request = Request::get(url)
        .header("x-test", "1")
        .body(Bytes::new())
        .unwrap();
    transport.send(request).await
}

/// Returns the kind of a result in short.
fn short(result: &Result<Response<Bytes>, TransportError>) -> String {
    match result {
        Ok(response) => response.status().to_string(),
        Err(TransportError::NotSent(_)) => "not sent".to_owned(),
        Err(TransportError::Lost(_)) => "lost".to_owned(),
    }
}

async fn check(address: SocketAddr, expected: &str) {
    let result = get(&transport(Roots::System), &format!("http://{address}/v1/x")).await;
    assert_eq!(short(&result), expected, "{result:?}");
}

#[tokio::test]
async fn a_failure_is_distinguished_by_whether_something_was_sent() {
    let ok = serve(1, |mut stream| {
        assert!(read_header(&mut stream).contains("x-test: 1\r\n"));
        stream.write_all(OK.as_bytes()).unwrap();
    });
    check(ok, "200 OK").await;
    // Nothing listens on the port of a listener that was dropped.
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    check(closed, "not sent").await;
    let dropped = serve(1, |mut stream| {
        read_header(&mut stream);
    });
    check(dropped, "lost").await;
    let cut_off = serve(1, |mut stream| {
        read_header(&mut stream);
        stream.write_all(&OK.as_bytes()[..OK.len() - 1]).unwrap();
    });
    check(cut_off, "lost").await;
    let not_http = serve(1, |mut stream| {
        read_header(&mut stream);
        stream.write_all(b"SSH-2.0\r\n\r\n").unwrap();
    });
    check(not_http, "lost").await;
    let endless = serve(1, |mut stream| {
        read_header(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n")
            .unwrap();
        while stream.write_all(&[b' '; 65_536]).is_ok() {}
    });
    check(endless, "lost").await;
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let address = serve(1, |mut stream| {
        for _ in 0..3 {
            read_header(&mut stream);
            stream.write_all(OK.as_bytes()).unwrap();
        }
    });
    let transport = transport(Roots::System);
    for _ in 0..3 {
        let response = get(&transport, &format!("http://{address}/v1/x")).await;
        assert_eq!(short(&response), "200 OK");
    }
}

/// Returns an authority's certificate in PEM, and the configuration of a server that it vouches for.
fn authority() -> (Vec<u8>, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let server = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&server, &issuer).unwrap();
    let chain = vec![CertificateDer::from(certificate)];
    let key = PrivateKeyDer::Pkcs8(server.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (issuer.pem().into_bytes(), Arc::new(config))
}

fn serve_tls(count: usize, config: Arc<ServerConfig>) -> u16 {
    let address = serve(count, move |stream| {
        let connection = ServerConnection::new(config.clone()).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        if read_header(&mut stream).contains("x-test: 1\r\n") {
            stream.write_all(OK.as_bytes()).unwrap();
        }
    });
    address.port()
}

#[tokio::test]
async fn only_servers_that_the_roots_vouch_for_are_sent_anything() {
    let (root, config) = authority();
    let (other_root, _) = authority();
    let check = async |roots: Roots, host: &str, expected: &str| {
        let port = serve_tls(1, config.clone());
        let result = get(&transport(roots), &format!("https://{host}:{port}/v1/x")).await;
        assert_eq!(short(&result), expected, "{result:?}");
    };
    check(Roots::Pem(root.clone()), "localhost", "200 OK").await;
    check(Roots::Pem(root), "127.0.0.1", "not sent").await;
    check(Roots::Pem(other_root), "localhost", "not sent").await;
    check(Roots::System, "localhost", "not sent").await;
    check(Roots::Pem(Vec::new()), "localhost", "not sent").await;
    check(
        Roots::Pem(b"-----BEGIN CERTIFICATE-----\n?".to_vec()),
        "localhost",
        "not sent",
    )
    .await;
}

#[tokio::test]
async fn a_connection_that_is_not_ready_in_time_was_not_sent_anything() {
    // The server accepts and does not begin TLS.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "https://localhost:{}/v1/x",
        listener.local_addr().unwrap().port()
    );
    let transport = HttpsTransport::new(Roots::System, Duration::from_millis(50));
    let result = tokio::time::timeout(Duration::from_secs(10), get(&transport, &url)).await;
    assert_eq!(short(&result.unwrap()), "not sent");
}

/// The whole client on a socket: the first connection is lost after the request, the second is used.
#[tokio::test]
async fn a_call_survives_a_lost_connection() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let requests = seen.clone();
    let address = serve(2, move |mut stream| {
        let header = read_header(&mut stream);
        let mut requests = requests.lock().unwrap();
        requests.push(header);
        if requests.len() == 2 {
            let length = ITEM.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{ITEM}"
            )
            .unwrap();
        }
    });
    let config = Config {
        base_url: format!("http://{address}").parse().unwrap(),
        retries: Retries {
            first_delay: Duration::from_millis(1),
            ..Retries::default()
        },
        ..Config::default()
    };
    let client = StripeClient::new(
        Arc::new(transport(Roots::System)),
        Arc::new(FixedSecret(SecretKey::parse("sk_test_1").unwrap())),
        Arc::new(TokioTiming::new(|| 0)),
        config,
    );
    assert_eq!(create_item(&client).await.unwrap().id.as_str(), "ii_1");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
    assert!(
        seen[0].starts_with("POST /v1/invoiceitems HTTP/1.1\r\n"),
        "{}",
        seen[0]
    );
    assert!(
        seen[0].contains("idempotency-key: chg_1\r\n"),
        "{}",
        seen[0]
    );
}
