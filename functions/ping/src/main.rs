//! The ping function, metered.

use tollgate_metering::Metering;
use tollgate_runtime::Failure;
use tower::Layer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    lambda_http::tracing::init_default_subscriber();
    let metering = Metering::from_env()?;
    let routes = tollgate_web::serve(ping::routes());
    let service = metering.layer().layer(routes);
    Ok(metering.run(service).await?)
}
