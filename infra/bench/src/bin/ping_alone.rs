//! The ping function without the extension that sends its usage: `ping-alone` is the bare handler,
//! `ping-alone layer` adds the metering layer.
//!
//! `bench` compares the two for the cost of the layer, and the deployed ping with the bare handler for the
//! cost of all of metering. Usage records stay in memory.

use lambda_http::Error;
use tollgate_metering::Metering;
use tollgate_runtime::{Env, logging};
use tower::Layer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logging::init(&Env::from_process())?;
    let routes = ping::routes();
    match std::env::args().nth(1).as_deref() {
        Some("layer") => {
            let layer = Metering::from_env()?.layer();
            lambda_http::run(layer.layer(tollgate_web::serve(routes))).await
        }
        _ => tollgate_web::run(routes).await,
    }
}
