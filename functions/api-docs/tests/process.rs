//! The function's binary, run as Lambda runs it.

use tollgate_testing::binary::check_status;

#[tokio::test]
async fn the_binary_starts_with_the_templates_environment_and_responds() {
    let binary = env!("CARGO_BIN_EXE_api-docs");
    for event in ["page", "document", "viewer"] {
        check_status(binary, "ApiDocsFunction", &format!("api-docs/{event}"), 200).await;
    }
}
