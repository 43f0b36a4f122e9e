//! The billing-api function, behind API Gateway.

use tollgate_runtime::{Init, MainError, aws};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let app = billing_api::App::build(&init)?;
    Ok(tollgate_web::run(billing_api::routes(app)).await?)
}
