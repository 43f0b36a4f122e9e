//! The usage-api function, behind API Gateway.

use tollgate_runtime::{Env, MainError, logging};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let env = Env::from_process();
    logging::init(&env)?;
    let app = usage_api::App::from_env(&env)?;
    Ok(tollgate_web::run(usage_api::routes(app)).await?)
}
