//! The nightly billing function.

use billing::App;
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use tollgate_runtime::{Init, MainError, aws};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let app = &App::build(&init)?;
    let handler = service_fn(async move |event: LambdaEvent<Value>| {
        let deadline = i64::try_from(event.context.deadline).ok();
        let deadline = deadline.and_then(|deadline| Timestamp::from_millisecond(deadline).ok());
        Ok::<_, Error>(billing::handle(app, &event.payload, deadline).await?)
    });
    Ok(lambda_runtime::run(handler).await?)
}
