//! The admin-api function, behind API Gateway.

use tollgate_runtime::{Init, MainError, aws};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let app = admin_api::App::build(&init)?;
    Ok(tollgate_web::run(admin_api::routes(app)).await?)
}
