//! A binary of each kind, run as Lambda runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::Value;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{LambdaHost, Outcome};
use tollgate_runtime::env;

async fn answer(at: &Fixture, binary: &str, event: &str) -> Value {
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let process = host.run(binary, &[(env::TABLE_PREFIX, "test")]).unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    let Some(Outcome::Answer(answer)) = host.invoke(event).await else {
        panic!("no answer");
    };
    drop(process);
    answer
}

#[tokio::test]
async fn a_key_can_be_neither_made_nor_found_where_there_is_no_customer() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let create = include_str!("../../../events/keys/create.json");
    let created = answer(&at, env!("CARGO_BIN_EXE_keys-create"), create).await;
    assert_eq!(created["statusCode"], 422, "{created}");
    let get = include_str!("../../../events/keys/get.json");
    let found = answer(&at, env!("CARGO_BIN_EXE_keys-get"), get).await;
    assert_eq!(found["statusCode"], 404, "{found}");
}
