//! Sending of responses to CloudFormation.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use plan_seed::RESPONSE_TIME;
use serde_json::Value;
use tokio::time::Instant;
use tollgate_runtime::Chain;
use tollgate_testing::stored::stored;

mod common;

use common::{Reply, SIGNATURE, Stack, create};

#[tokio::test]
async fn a_response_is_put_as_its_url_was_signed() {
    let stack = Stack::new();
    stack.handle(create()).await;
    let [sent] = &stack.sent()[..] else {
        panic!("{:?}", stack.sent());
    };
    assert_eq!(sent.url, create()["ResponseURL"].as_str().unwrap());
    assert_eq!(sent.content_type.as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_accepted_is_sent_again() {
    for reply in [Reply::Lost, Reply::Never, Reply::Status(503)] {
        let stack = Stack::new();
        stack.replies([reply]);
        stack.handle(create()).await;
        let sent = stack.sent();
        assert_eq!(sent.len(), 2, "{reply:?}");
        assert_eq!(sent[0].body, sent[1].body);
    }
    let stack = Stack::new();
    stack.replies([Reply::Lost, Reply::Status(500), Reply::Lost]);
    stack.handle(create()).await;
    assert_eq!(stack.sent().len(), 4);
}

/// The invocation fails, so that Lambda repeats it.
#[tokio::test(start_paused = true)]
async fn a_repeated_request_whose_first_response_was_lost_succeeds() {
    for reply in [
        Reply::Lost,
        Reply::Never,
        Reply::Status(503),
        Reply::Status(403),
    ] {
        let stack = Stack::new();
        stack.replies([reply; 4]);
        let started = Instant::now();
        let error = stack.try_handle(create()).await.unwrap_err();
        assert!(started.elapsed() <= RESPONSE_TIME, "{reply:?}");
        let texts = format!("{} {error:?}", Chain(&error));
        assert!(!texts.contains(SIGNATURE), "{texts}");
        let before = stored(&stack.at);
        stack.replies([]);
        let response = stack.handle(create()).await;
        assert_eq!(response["Status"], "SUCCESS", "{reply:?}");
        assert_eq!(response["Data"]["Outcome"], "unchanged", "{reply:?}");
        assert_eq!(stored(&stack.at), before);
    }
}

#[tokio::test]
async fn a_rejection_is_final() {
    let stack = Stack::new();
    stack.replies([Reply::Status(403); 4]);
    let error = stack.try_handle(create()).await.unwrap_err();
    let expected = "S3 did not accept the response to CloudFormation: the status is 403";
    assert_eq!(Chain(&error).to_string(), expected);
    assert_eq!(stack.sent().len(), 1);
}

#[tokio::test]
async fn an_invalid_url_is_not_displayed() {
    let stack = Stack::new();
    for url in ["", "/c2lnbmF0dXJl", "https:// c2lnbmF0dXJl", "c2lnbmF0dXJl"] {
        let mut event = create();
        event["ResponseURL"] = Value::from(url);
        let error = stack.try_handle(event).await.unwrap_err();
        let texts = format!("{} {error:?}", Chain(&error));
        assert!(!texts.contains(SIGNATURE), "{texts}");
    }
    assert!(stack.sent().is_empty());
}
