//! The provider of the custom resource that seeds the plans.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use plan_seed::{App, Event};
use tollgate_runtime::{Init, MainError, aws};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let app = &App::build(&init)?;
    let handler = service_fn(async move |event: LambdaEvent<Event>| {
        Ok::<_, Error>(plan_seed::handle(app, &event.payload).await?)
    });
    Ok(lambda_runtime::run(handler).await?)
}
