//! The admin function, behind the gateway.

use tollgate_runtime::{Env, Failure, logging};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let env = Env::of_process();
    logging::init(&env)?;
    let app = admin_api::App::from_env(&env)?;
    Ok(tollgate_web::run(admin_api::routes(app)).await?)
}
