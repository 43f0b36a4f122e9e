//! The usage-writer function.

use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, service_fn, tracing};
use tollgate_runtime::{Clock, Entropy, Env, Metrics, aws, config, env};
use tollgate_store::Store;
use usage_writer::App;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let env = Env::of_process();
    let sdk = aws::sdk_config(aws::PATIENT).await;
    let clock = Clock::system();
    let app = App {
        store: Store::from_env(&env, &sdk, clock.clone(), Entropy::system()?)?,
        plans: config::plans(&env)?,
        metrics: Metrics::to_stdout(env.get(env::TABLE_PREFIX)?, clock.clone()),
        clock,
    };
    let app = &app;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<SqsEvent>| {
        Ok::<_, Error>(usage_writer::handle(app, event.payload).await)
    }))
    .await
}
