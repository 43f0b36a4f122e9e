//! The authorizer function.

use authorizer::{App, KeyCache, Refused, Request};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn, tracing};
use tollgate_runtime::{Clock, Entropy, Env, Metrics, aws, config, env};
use tollgate_store::Store;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let env = Env::of_process();
    let sdk = aws::sdk_config(aws::PROMPT).await;
    let clock = Clock::system();
    let metrics = Metrics::to_stdout(env.get(env::TABLE_PREFIX)?, clock.clone());
    let store = Store::from_env(&env, &sdk, clock.clone(), Entropy::system()?)?;
    let app = App {
        keys: KeyCache::new(store.clone(), clock.clone(), config::key_cache(&env)?),
        store,
        plans: config::plans(&env)?,
        uncounted: config::uncounted_routes(&env)?,
        clock,
        metrics: metrics.clone(),
    };
    let app = &app;
    lambda_runtime::spawn_graceful_shutdown_handler(async move || metrics.write()).await;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Request>| {
        let decision = authorizer::handle(app, &event.payload).await;
        decision.map_err(to_diagnostic)
    }))
    .await
}

/// The gateway compares the message with `Unauthorized`, to the letter.
fn to_diagnostic(refused: Refused) -> Diagnostic {
    Diagnostic {
        error_type: "Refused".to_owned(),
        error_message: refused.to_string(),
    }
}
