//! The function's binary, run as Lambda runs it.

use tollgate_local_aws::{Outcome, invoke_once};

#[tokio::test]
async fn the_binary_starts_with_the_templates_environment_and_responds() {
    let binary = env!("CARGO_BIN_EXE_admin-api");
    let event = include_str!("../../../events/admin-api/list-customers.json");
    let outcome = invoke_once(binary, "AdminApiFunction", event).await;
    let Ok(Some(Outcome::Response(response))) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(response["statusCode"], 200, "{response}");
}
