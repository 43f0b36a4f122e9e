//! Rotates API keys, behind the gateway.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    lambda_http::tracing::init_default_subscriber();
    let issuer = keys::Issuer::from_env().await?;
    tollgate_web::run(keys::rotate::routes(issuer)).await
}
