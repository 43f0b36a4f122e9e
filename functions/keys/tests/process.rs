//! The functions' binaries, run as Lambda runs them.

use tollgate_testing::binary::check_status;

#[tokio::test]
async fn each_binary_starts_with_the_templates_environment_and_responds() {
    let create = env!("CARGO_BIN_EXE_keys-create");
    check_status(create, "KeysCreateFunction", "keys/create", 422).await;
    let list = env!("CARGO_BIN_EXE_keys-list");
    check_status(list, "KeysListFunction", "keys/list", 200).await;
    let get = env!("CARGO_BIN_EXE_keys-get");
    check_status(get, "KeysGetFunction", "keys/get", 404).await;
    let update = env!("CARGO_BIN_EXE_keys-update");
    check_status(update, "KeysUpdateFunction", "keys/update", 404).await;
    let rotate = env!("CARGO_BIN_EXE_keys-rotate");
    check_status(rotate, "KeysRotateFunction", "keys/rotate", 404).await;
    let revoke = env!("CARGO_BIN_EXE_keys-revoke");
    check_status(revoke, "KeysRevokeFunction", "keys/revoke", 404).await;
    let stats = env!("CARGO_BIN_EXE_keys-stats");
    check_status(stats, "KeysStatsFunction", "keys/stats", 200).await;
}
