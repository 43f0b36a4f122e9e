//! ping without what puts its usage on the bus: `ping-alone` is its handler and nothing else, and
//! `ping-alone layer` has the metering layer around it.
//!
//! `bench` measures what the layer adds to the one, and the rest of metering to the other. The
//! records stay in memory.

use lambda_http::Error;
use tollgate_metering::Metering;
use tollgate_runtime::{Env, logging};
use tower::Layer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logging::init(&Env::of_process())?;
    let routes = ping::routes();
    match std::env::args().nth(1).as_deref() {
        Some("layer") => {
            let layer = Metering::from_env()?.layer();
            lambda_http::run(layer.layer(tollgate_web::serve(routes))).await
        }
        _ => tollgate_web::run(routes).await,
    }
}
