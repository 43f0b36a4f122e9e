//! The admin function, behind the gateway.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    lambda_http::tracing::init_default_subscriber();
    let app = admin_api::App::from_env().await?;
    tollgate_web::run(admin_api::routes(app)).await
}
