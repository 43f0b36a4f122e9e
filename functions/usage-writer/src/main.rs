//! The usage-writer function.

use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use tollgate_runtime::{Clock, Entropy, Env, MainError, Metrics, aws, config, env, logging};
use tollgate_store::{ShardCounts, Store};
use usage_writer::{App, Owners};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let env = Env::from_process();
    logging::init(&env)?;
    let app = &app(&env)?;
    let handler = service_fn(async move |event: LambdaEvent<SqsEvent>| {
        Ok::<_, Error>(usage_writer::handle(app, event.payload).await)
    });
    Ok(lambda_runtime::run(handler).await?)
}

fn app(env: &Env) -> Result<App, Error> {
    let sdk = aws::sdk_config(env, aws::BACKGROUND_TIMEOUT)?;
    let clock = Clock::system();
    Ok(App {
        store: Store::from_env(env, &sdk, clock.clone(), Entropy::system()?)?,
        shard_counts: ShardCounts::default(),
        owners: Owners::default(),
        plans: config::plans(env)?,
        metrics: Metrics::to_stdout(env.get(env::TABLE_PREFIX)?, clock.clone()),
        clock,
    })
}
