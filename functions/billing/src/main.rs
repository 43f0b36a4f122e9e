//! The nightly billing function.

use billing::App;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use tollgate_runtime::{Clock, Entropy, Env, MainError, Metrics, aws, config, env, logging};
use tollgate_store::Store;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let env = Env::from_process();
    logging::init(&env)?;
    let app = &app(&env)?;
    let handler =
        service_fn(async move |_: LambdaEvent<Value>| Ok::<_, Error>(billing::handle(app).await?));
    Ok(lambda_runtime::run(handler).await?)
}

fn app(env: &Env) -> Result<App, Error> {
    let sdk = aws::sdk_config(env, aws::BACKGROUND_TIMEOUT)?;
    let clock = Clock::system();
    Ok(App {
        store: Store::from_env(env, &sdk, clock.clone(), Entropy::system()?)?,
        plans: config::plans(env)?,
        metrics: Metrics::to_stdout(env.get(env::TABLE_PREFIX)?, clock.clone()),
        clock,
    })
}
