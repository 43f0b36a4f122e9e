//! The function's binary, run as Lambda runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::{Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, LambdaHost, Outcome};
use tollgate_runtime::metrics::DECISIONS;

/// The gateway compares the message with `Unauthorized` to the letter.
#[tokio::test]
async fn a_refusal_reaches_the_gateway_as_the_error_it_knows() {
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
            panic!("a stranger was let in");
        };
        assert_eq!(error["errorMessage"], "Unauthorized");
    }
    // An error that is not that one becomes a 503.
    let outcome = host.invoke(json!({ "type": "REQUEST" })).await;
    let Some(Outcome::Error(error)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_ne!(error["errorMessage"], "Unauthorized");
    // What cannot be read may hold a key, and is not quoted.
    let odd = json!({ "methodArn": "", "resource": "", "headers": "tg_live_secret" });
    let Some(Outcome::Error(error)) = host.invoke(odd).await else {
        panic!("an event without header fields was decided");
    };
    assert!(!error.to_string().contains("secret"), "{error}");
    let log = process.shut_down().unwrap();
    assert!(!log.contains("secret"), "{log}");
    // The level is the template's, whatever Lambda's own filter is set to.
    assert!(log.contains(r#""level":"INFO""#), "{log}");
    assert!(!log.contains(r#""level":"DEBUG""#), "{log}");
    // A stranger at the door is no error; an event that cannot be read is one.
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

#[tokio::test]
async fn a_missing_variable_is_named_at_the_start() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let process = host.run_with(env!("CARGO_BIN_EXE_authorizer"), []);
    let process = process.unwrap();
    let said = process.failure().unwrap();
    assert!(said.contains("TOLLGATE_TABLE_PREFIX"), "{said}");
}
