//! The ping function, metered.

use tollgate_metering::Metering;
use tower::Layer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    lambda_http::tracing::init_default_subscriber();
    let metering = Metering::from_env().await?;
    let routes = tollgate_web::serve(ping::routes());
    let service = metering.layer().layer(routes);
    metering.run(service).await
}
