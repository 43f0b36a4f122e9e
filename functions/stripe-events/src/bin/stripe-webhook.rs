//! The webhook endpoint, behind API Gateway.

use tollgate_payments::Webhooks;
use tollgate_runtime::{Init, MainError, aws};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let webhooks = Webhooks::build(&init)?;
    Ok(tollgate_web::run(stripe_events::routes(webhooks)).await?)
}
