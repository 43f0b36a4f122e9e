//! The event publisher function.

use events::Publisher;
use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use tollgate_runtime::{Init, MainError, aws};

/// Time before the end of an invocation after which no more events are numbered.
const MARGIN: SignedDuration = SignedDuration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let init = Init::from_process(aws::BACKGROUND_TIMEOUT)?;
    let publisher = &Publisher::build(&init)?;
    let handler = service_fn(async move |event: LambdaEvent<Value>| {
        let deadline = i64::try_from(event.context.deadline).ok();
        let deadline = deadline.and_then(|deadline| Timestamp::from_millisecond(deadline).ok());
        let until = deadline.and_then(|deadline| deadline.saturating_sub(MARGIN).ok());
        Ok::<_, Error>(publisher.publish(until).await?)
    });
    Ok(lambda_runtime::run(handler).await?)
}
