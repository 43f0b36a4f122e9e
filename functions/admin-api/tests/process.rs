//! The function's binary, run as Lambda runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::Value;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{LambdaHost, Outcome};

#[tokio::test]
async fn it_starts_as_the_template_configures_it_and_answers() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let process = host
        .run(env!("CARGO_BIN_EXE_admin-api"), "AdminApiFunction")
        .unwrap();
    let event = include_str!("../../../events/admin-api/list-customers.json");
    let event: Value = serde_json::from_str(event).unwrap();
    let outcome = host.invoke(event).await;
    let Some(Outcome::Answer(answer)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(answer["statusCode"], 200, "{answer}");
    drop(process);
}
