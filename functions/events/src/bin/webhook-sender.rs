//! The webhook sender function.

use aws_lambda_events::sqs::SqsEvent;
use events::Sender;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use tollgate_runtime::{Init, MainError, aws};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let sender = &Sender::build(&init)?;
    let handler = service_fn(async move |event: LambdaEvent<SqsEvent>| {
        Ok::<_, Error>(events::deliver(sender, event.payload).await)
    });
    Ok(lambda_runtime::run(handler).await?)
}
