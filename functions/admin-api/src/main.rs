//! The admin function, behind the gateway.

use tollgate_runtime::Failure;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    lambda_http::tracing::init_default_subscriber();
    let app = admin_api::App::from_env()?;
    Ok(tollgate_web::run(admin_api::routes(app)).await?)
}
