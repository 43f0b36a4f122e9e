//! The nightly billing function.

use billing::App;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use tollgate_runtime::{Init, MainError, aws};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let app = &App::build(&init)?;
    let handler =
        service_fn(async move |_: LambdaEvent<Value>| Ok::<_, Error>(billing::handle(app).await?));
    Ok(lambda_runtime::run(handler).await?)
}
