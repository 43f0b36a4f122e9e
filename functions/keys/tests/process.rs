//! The functions' binaries, run as Lambda runs them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::Value;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{LambdaHost, Outcome};

/// What a function's binary answers to one of its events where there is no customer and no key.
async fn check(binary: &str, function: &str, case: &str, status: u16) {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let process = host.run(binary, function).unwrap();
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../events/keys");
    let event = std::fs::read_to_string(format!("{dir}/{case}.json")).unwrap();
    let event: Value = serde_json::from_str(&event).unwrap();
    let outcome = host.invoke(event).await;
    let Some(Outcome::Answer(answer)) = outcome else {
        panic!("{function}: {outcome:?}");
    };
    assert_eq!(answer["statusCode"], status, "{function}: {answer}");
    drop(process);
}

#[tokio::test]
async fn each_starts_as_the_template_configures_it_and_answers() {
    let create = env!("CARGO_BIN_EXE_keys-create");
    check(create, "KeysCreateFunction", "create", 422).await;
    let list = env!("CARGO_BIN_EXE_keys-list");
    check(list, "KeysListFunction", "list", 200).await;
    let get = env!("CARGO_BIN_EXE_keys-get");
    check(get, "KeysGetFunction", "get", 404).await;
    let update = env!("CARGO_BIN_EXE_keys-update");
    check(update, "KeysUpdateFunction", "update", 404).await;
    let rotate = env!("CARGO_BIN_EXE_keys-rotate");
    check(rotate, "KeysRotateFunction", "rotate", 404).await;
    let revoke = env!("CARGO_BIN_EXE_keys-revoke");
    check(revoke, "KeysRevokeFunction", "revoke", 404).await;
    let stats = env!("CARGO_BIN_EXE_keys-stats");
    check(stats, "KeysStatsFunction", "stats", 200).await;
}
