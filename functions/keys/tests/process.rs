//! The functions' binaries, run as Lambda runs them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use tollgate_local_aws::{Outcome, answer_alone};

/// What a function's binary answers to one of its events.
async fn check(binary: &str, function: &str, case: &str, status: u16) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../events/keys");
    let event = std::fs::read_to_string(format!("{dir}/{case}.json")).unwrap();
    let outcome = answer_alone(binary, function, &event).await;
    let Ok(Some(Outcome::Answer(answer))) = outcome else {
        panic!("{function}: {outcome:?}");
    };
    assert_eq!(answer["statusCode"], status, "{function}: {answer}");
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
