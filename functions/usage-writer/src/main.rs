//! The usage-writer function.

use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use tollgate_runtime::{Init, MainError, aws};
use usage_writer::App;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let app = &App::build(&init)?;
    let handler = service_fn(async move |event: LambdaEvent<SqsEvent>| {
        Ok::<_, Error>(usage_writer::handle(app, event.payload).await)
    });
    Ok(lambda_runtime::run(handler).await?)
}
