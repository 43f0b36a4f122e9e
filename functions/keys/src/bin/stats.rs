//! Counts API keys, behind the gateway.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    lambda_http::tracing::init_default_subscriber();
    let app = keys::App::from_env().await?;
    tollgate_web::run(keys::stats::routes(app)).await
}
