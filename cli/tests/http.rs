//! Requests that are repeated, and responses that are none of the API's.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::process::Output;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

/// Runs the program against a server that gives these responses in turn, each to a connection. Returns the requests.
async fn run(responses: &'static [&'static str], arguments: &[&str]) -> (Output, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&requests);
    let server = tokio::spawn(async move {
        for response in responses {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let len = connection.read(&mut request).await.unwrap();
            request.truncate(len);
            received
                .lock()
                .unwrap()
                .push(String::from_utf8(request).unwrap());
            connection.write_all(response.as_bytes()).await.unwrap();
            connection.shutdown().await.unwrap();
        }
    });
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .env_clear()
        .env("TOLLGATE_URL", url)
        .env("TOLLGATE_KEY", "the-key")
        .output()
        .await
        .unwrap();
    server.abort();
    let requests = requests.lock().unwrap().clone();
    (output, requests)
}

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\nconnection: close\r\n\r\n\
    {\"type\":\"urn:tollgate:problem:temporarily-unavailable\",\"title\":\"Service temporarily unavailable\",\
    \"status\":503,\"detail\":\"The store does not respond.\",\"request_id\":\"r-1\"}";
const LATER: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3600\r\nconnection: close\r\n\r\n\
    {\"type\":\"urn:tollgate:problem:throttled\",\"title\":\"Too many requests\",\"status\":429,\
    \"detail\":\"Wait.\",\"request_id\":\"r-2\"}";
const EMPTY: &str =
    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"data\":[],\"next_cursor\":null}";
const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 90\r\nretry-after: 0\r\n\r\n{\"data\"";
const PROXY: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n<html>";
const PAGE: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<html>";

fn check((output, requests): &(Output, Vec<String>), code: i32, attempts: usize, error: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(requests.len(), attempts, "{errors}");
    assert!(errors.contains(error), "{errors}");
    assert!(!errors.contains("the-key"), "{errors}");
}

#[tokio::test]
async fn repeatable_requests_are_repeated_when_the_api_says_so() {
    let list = &["keys", "list"];
    check(
        &run(&[BUSY, BUSY, EMPTY], list).await,
        0,
        3,
        "nothing found",
    );
    let failure =
        "tollgate: Service temporarily unavailable: The store does not respond (request r-1)\n";
    check(&run(&[BUSY; 5], list).await, 6, 5, failure);
    check(
        &run(&[LATER], list).await,
        6,
        1,
        "Too many requests: Wait (request r-2)",
    );
    check(&run(&[CUT, EMPTY], list).await, 0, 2, "nothing found");
}

#[tokio::test]
async fn a_creation_is_repeated_under_its_idempotency_key() {
    let outcome = run(&[BUSY, LATER], &["keys", "create", "acme"]).await;
    check(&outcome, 6, 2, "Too many requests");
    let keys = outcome.1.iter().map(|request| {
        let mut fields = request
            .lines()
            .filter_map(|line| line.strip_prefix("idempotency-key: "));
        fields.next().unwrap().to_owned()
    });
    let keys: Vec<String> = keys.collect();
    assert!(keys[0] == keys[1] && keys[0].len() == 22, "{keys:?}");

    // There is no idempotency key for webhooks.
    let create = &["webhooks", "create", "https://hooks.example.com"];
    check(&run(&[BUSY], create).await, 6, 1, "temporarily unavailable");
}

#[tokio::test]
async fn responses_of_other_servers_are_errors() {
    let list = &["customers", "list"];
    check(
        &run(&[PROXY], list).await,
        3,
        1,
        "has the status 404 Not Found, and is none of Tollgate's",
    );
    check(
        &run(&[PAGE], list).await,
        1,
        1,
        "not one of this release's API",
    );
}
