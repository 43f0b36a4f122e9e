//! Revokes API keys, behind the gateway.

use tollgate_runtime::Failure;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    lambda_http::tracing::init_default_subscriber();
    let app = keys::App::from_env()?;
    Ok(tollgate_web::run(keys::revoke::routes(app)).await?)
}
