//! The ping function, with metering.

use tollgate_metering::Metering;
use tollgate_runtime::{Env, MainError, logging};
use tower::Layer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    logging::init(&Env::from_process())?;
    let metering = Metering::from_env()?;
    let routes = tollgate_web::serve(ping::routes());
    let service = metering.layer().layer(routes);
    Ok(metering.run(service).await?)
}
