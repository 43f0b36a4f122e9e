//! The worker of Stripe's events.

use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use tollgate_payments::Follower;
use tollgate_runtime::{Init, MainError, aws};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let follower = &Follower::build(&init)?;
    let handler = service_fn(async move |event: LambdaEvent<SqsEvent>| {
        Ok::<_, Error>(stripe_events::handle(follower, event.payload).await)
    });
    Ok(lambda_runtime::run(handler).await?)
}
