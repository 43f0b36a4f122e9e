//! The function's binary, run as Lambda runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::template::Stack;
use tollgate_local_aws::{LambdaHost, Outcome};
use tollgate_runtime::env;
use tollgate_testing::event_file;

/// Accepts one request, and returns its head and body.
async fn receive(listener: TcpListener) -> (String, Value) {
    let (mut connection, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    loop {
        assert_ne!(connection.read_buf(&mut read).await.unwrap(), 0);
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        if let Ok(body) = serde_json::from_str(body) {
            let head = head.to_owned();
            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            connection.write_all(response).await.unwrap();
            return (head, body);
        }
    }
}

#[tokio::test]
async fn a_deployment_gets_a_response_whose_url_is_in_no_log() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let mut variables = Stack::built_in("test")
        .unwrap()
        .variables("PlanSeedFunction")
        .unwrap();
    // The most verbose level.
    variables.insert(env::LOG.name.to_owned(), "TRACE".to_owned());
    let binary = env!("CARGO_BIN_EXE_plan-seed");
    let process = host.run_with(binary, variables).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut event = event_file::load("plan-seed/create");
    let path = "/arn%3Aaws%3Acloudformation%3Astack/tollgate%7CPlanSeed?Expires=1&Signature=c2lnbmF0dXJl%3D";
    event["ResponseURL"] = format!("http://{address}{path}").into();
    let received = tokio::spawn(receive(listener));
    let outcome = host.invoke(event).await;
    assert_eq!(outcome, Some(Outcome::Response(json!(null))));
    let (head, body) = received.await.unwrap();

    let mut lines = head.lines();
    assert_eq!(lines.next(), Some(format!("PUT {path} HTTP/1.1").as_str()));
    let fields: Vec<&str> = lines.collect();
    let length = format!("content-length: {}", body.to_string().len());
    for field in ["content-type: ", &length, &format!("host: {address}")] {
        assert!(fields.contains(&field), "{field:?}: {head}");
    }
    assert_eq!(body["Status"], "SUCCESS", "{body}");
    assert_eq!(body["Data"]["Outcome"], "seeded", "{body}");
    assert_eq!(at.store.plans().await.unwrap().iter().count(), 3);
    let log = process.shut_down().unwrap();
    assert!(
        log.contains("The plans of the parameter Plans are stored"),
        "{log}"
    );
    assert!(!log.contains("c2lnbmF0dXJl"), "{log}");
}
