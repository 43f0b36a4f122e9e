//! The authorizer function.

use authorizer::{App, Extension, Refused, Request, Settings, request_is_out, single_requests};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::value::RawValue;
use tollgate_runtime::{Clock, Entropy, Env, Failure, Metrics, aws, config, env, logging};
use tollgate_store::Store;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let env = Env::of_process();
    logging::init(&env)?;
    let building = async {
        request_is_out().await;
        app(&env)
    };
    let (app, extension) = tokio::try_join!(building, Extension::register())?;
    let app = &app;
    let ending = app.clone();
    extension.on_end(async move || ending.end().await)?;
    let starting = app.clone();
    tokio::spawn(async move {
        request_is_out().await;
        starting.warm_up().await;
        extension.ready().await;
    });
    let handler = service_fn(async move |event: LambdaEvent<Box<RawValue>>| {
        let request = Request::from_json(event.payload.get()).map_err(unreadable)?;
        let decision = authorizer::handle(app, &request).await;
        decision.map_err(to_diagnostic)
    });
    Ok(lambda_runtime::run(handler).await?)
}

fn app(env: &Env) -> Result<App, Error> {
    let sdk = single_requests(aws::sdk_config(env, aws::INTERACTIVE_TIMEOUT)?);
    let clock = Clock::system();
    let metrics = Metrics::to_stdout(env.get(env::TABLE_PREFIX)?, clock.clone());
    let store = Store::from_env(env, &sdk, clock.clone(), Entropy::system()?)?;
    let settings = Settings {
        plans: config::plans(env)?,
        uncounted: config::uncounted_routes(env)?,
        key_cache: config::key_cache(env)?,
        stale_keys: config::stale_keys(env)?,
        cors_origin: config::cors_origin(env)?,
    };
    Ok(App::new(store, settings, clock, metrics))
}

/// The error's own words would quote the event, and the key in it.
fn unreadable(error: serde_json::Error) -> Diagnostic {
    let column = error.column();
    tracing::error!(column, "the event cannot be read");
    Diagnostic {
        error_type: "Event".to_owned(),
        error_message: format!("the event cannot be read, at column {column}"),
    }
}

/// The gateway compares the message with `Unauthorized`, to the letter.
fn to_diagnostic(refused: Refused) -> Diagnostic {
    Diagnostic {
        error_type: "Refused".to_owned(),
        error_message: refused.to_string(),
    }
}
