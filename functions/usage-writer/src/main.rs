//! The usage-writer function.

use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, service_fn, tracing};
use tollgate_runtime::{Clock, Entropy, Env, Failure, Metrics, aws, config, env};
use tollgate_store::Store;
use usage_writer::App;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    tracing::init_default_subscriber();
    let app = &app()?;
    let handler = service_fn(async move |event: LambdaEvent<SqsEvent>| {
        Ok::<_, Error>(usage_writer::handle(app, event.payload).await)
    });
    Ok(lambda_runtime::run(handler).await?)
}

fn app() -> Result<App, Error> {
    let env = Env::of_process();
    let sdk = aws::sdk_config(&env, aws::PATIENT)?;
    let clock = Clock::system();
    Ok(App {
        store: Store::from_env(&env, &sdk, clock.clone(), Entropy::system()?)?,
        plans: config::plans(&env)?,
        metrics: Metrics::to_stdout(env.get(env::TABLE_PREFIX)?, clock.clone()),
        clock,
    })
}
