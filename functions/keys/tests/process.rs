//! The functions' binaries, run as Lambda runs them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use tollgate_local_aws::{Outcome, invoke_once};

/// Checks the status of the response of a function's binary to one of its event files.
async fn check(binary: &str, function: &str, case: &str, status: u16) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../events/keys");
    let event = std::fs::read_to_string(format!("{dir}/{case}.json")).unwrap();
    let outcome = invoke_once(binary, function, &event).await;
    let Ok(Some(Outcome::Response(response))) = outcome else {
        panic!("{function}: {outcome:?}");
    };
    assert_eq!(response["statusCode"], status, "{function}: {response}");
}

#[tokio::test]
async fn each_binary_starts_with_the_templates_environment_and_responds() {
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
