//! The function's binary, run like on Lambda.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::template::Stack;
use tollgate_local_aws::{CloudWatch, FunctionProcess, LambdaHost, Outcome, Step};
use tollgate_runtime::metrics::DECISIONS;

/// The gateway compares the message with `Unauthorized` to the letter.
#[tokio::test]
async fn an_unauthorized_call_is_an_error_with_the_message_unauthorized() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let binary = env!("CARGO_BIN_EXE_authorizer");
    let process = host.run(binary, "AuthorizerFunction").unwrap();
    let files = [
        include_str!("../../../events/authorizer/no-key.json"),
        include_str!("../../../events/authorizer/bearer.json"),
    ];
    for file in files {
        let event: Value = serde_json::from_str(file).unwrap();
        let Some(Outcome::Error(error)) = host.invoke(event).await else {
            panic!("a call without a valid key was allowed");
        };
        assert_eq!(error["errorMessage"], "Unauthorized");
    }
    // Any other error becomes a 503.
    let outcome = host.invoke(json!({ "type": "REQUEST" })).await;
    let Some(Outcome::Error(error)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_ne!(error["errorMessage"], "Unauthorized");
    // An invalid event may contain a key, and is not quoted.
    let odd = json!({ "methodArn": "", "resource": "", "headers": "tg_live_secret" });
    let Some(Outcome::Error(error)) = host.invoke(odd).await else {
        panic!("an event with invalid header fields was decided");
    };
    assert!(!error.to_string().contains("secret"), "{error}");
    let log = process.shut_down().unwrap();
    assert!(!log.contains("secret"), "{log}");
    // Each log line has the request id, and the key's prefix.
    let logged = |texts: &[&str]| {
        let mut lines = log.lines();
        lines.any(|line| texts.iter().all(|text| line.contains(text)))
    };
    let no_key = ["5d1f8c1c-0e0f-4a71-b1a5-7c1c0d6c2f11", "Missing"];
    assert!(logged(&no_key), "{log}");
    let bearer = [
        "0b7f0f0e-52f0-4f4a-8f4e-3f2b6a1d9c55",
        "Unknown",
        "tg_live_",
    ];
    assert!(logged(&bearer), "{log}");
    // The template sets the log level, whatever Lambda's own filter is.
    assert!(log.contains(r#""level":"INFO""#), "{log}");
    assert!(!log.contains(r#""level":"DEBUG""#), "{log}");
    // An unauthorized call is not logged as an error; an invalid event is.
    let errors = log
        .lines()
        .filter(|line| line.contains(r#""level":"ERROR""#));
    assert_eq!(errors.count(), 2, "{log}");
    let cloudwatch = CloudWatch::default();
    cloudwatch.read(&log);
    let decided = |reason| cloudwatch.sum(DECISIONS, &["unauthorized", reason]);
    assert_eq!(
        (decided("missing_key"), decided("unknown_key")),
        (1, 1),
        "{log}"
    );
}

/// Starts the function on an idle host, with a change of the variables that the template sets.
async fn run_with(
    change: impl FnOnce(&mut Vec<(String, String)>),
) -> (LambdaHost, FunctionProcess) {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let stack = Stack::built_in("test").unwrap();
    let variables = stack.variables("AuthorizerFunction").unwrap();
    let mut variables = variables.into_iter().collect();
    change(&mut variables);
    let process = host.run_with(env!("CARGO_BIN_EXE_authorizer"), variables);
    (host, process.unwrap())
}

#[tokio::test]
async fn a_missing_variable_fails_the_cold_start_and_is_named() {
    for name in ["RUST_LOG", "TOLLGATE_TABLE_PREFIX", "TOLLGATE_KEY_CACHE_S"] {
        let (_, process) =
            run_with(|variables| variables.retain(|(variable, _)| variable != name)).await;
        let errors = process.wait_for_failure().unwrap();
        let expected = format!("Error: the environment variable {name} is not set; it holds: ");
        assert!(errors.starts_with(&expected), "{errors}");
    }
}

#[tokio::test]
async fn a_missing_variable_of_lambda_fails_the_cold_start_and_is_named() {
    for name in ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        let (_, process) = run_with(|variables| variables.push((name.into(), "".into()))).await;
        let errors = process.wait_for_failure().unwrap();
        let expected = format!("Error: the environment variable {name} is not set; it holds: ");
        assert!(errors.starts_with(&expected), "{errors}");
    }
}

#[tokio::test]
async fn an_unreadable_ca_bundle_fails_the_cold_start_with_the_reason() {
    let bundle = ("AWS_CA_BUNDLE".to_owned(), "/nonexistent.pem".to_owned());
    let (_, process) = run_with(|variables| variables.push(bundle)).await;
    let errors = process.wait_for_failure().unwrap();
    let expected =
        "Error: AWS_CA_BUNDLE names /nonexistent.pem, which cannot be read: No such file";
    assert!(errors.starts_with(expected), "{errors}");
}

#[tokio::test]
async fn the_plans_are_read_before_the_first_invocation() {
    let (host, process) = run_with(|_| ()).await;
    host.idle().await;
    let read = Step::Called("DynamoDB_20120810.Query".to_owned());
    assert_eq!(host.steps(), [read]);
    let log = process.shut_down().unwrap();
    assert!(!log.contains(r#""level":"WARN""#), "{log}");
}

/// The endpoint of DynamoDB takes precedence over that of all services, which does respond here.
#[tokio::test]
async fn a_store_that_does_not_respond_does_not_prevent_a_cold_start() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let endpoint = ("AWS_ENDPOINT_URL_DYNAMODB".to_owned(), url);
    let (host, process) = run_with(|variables| variables.push(endpoint)).await;
    host.idle().await;
    assert_eq!(host.steps(), []);
    let event = include_str!("../../../events/authorizer/no-key.json");
    let outcome = host.invoke(serde_json::from_str(event).unwrap()).await;
    let Some(Outcome::Error(error)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(error["errorMessage"], "Unauthorized");
    let log = process.shut_down().unwrap();
    assert!(
        log.contains(r#""level":"WARN""#) && log.contains("the plans were not read at the start"),
        "{log}"
    );
}

/// Without the announcement of the shutdown, the units left would stay reserved and the last metrics be
/// lost.
#[tokio::test]
async fn an_instance_whose_extension_is_not_registered_does_not_start() {
    let lambda = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = lambda.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut connection, _) = lambda.accept().unwrap();
        let mut request = [0; 4_096];
        let length = connection.read(&mut request).unwrap();
        let response = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
        connection.write_all(response).unwrap();
        String::from_utf8(request[..length].to_vec()).unwrap()
    });
    let api = ("AWS_LAMBDA_RUNTIME_API".to_owned(), address);
    let (_host, process) = run_with(|variables| variables.push(api)).await;
    let errors = process.wait_for_failure().unwrap();
    let expected = "Error: Lambda did not register the extension: status 403";
    assert!(errors.starts_with(expected), "{errors}");
    let request = server.join().unwrap();
    assert!(
        request.starts_with("POST /2020-01-01/extension/register "),
        "{request}"
    );
}
