//! The function's binary, run as Lambda runs it.

use tollgate_testing::binary::check_status;

#[tokio::test]
async fn the_binary_starts_with_the_templates_environment_and_responds() {
    let binary = env!("CARGO_BIN_EXE_billing-api");
    check_status(binary, "BillingApiFunction", "billing-api/charges", 200).await;
}
