//! The authorizer function.

use authorizer::{App, AuthorizeError, Extension, Request, request_sent};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::value::RawValue;
use tollgate_runtime::{Env, Init, MainError, aws, logging};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    let env = Env::from_process();
    logging::init(&env)?;
    let building = async {
        request_sent().await;
        let init = Init::from_env(env, aws::INTERACTIVE_TIMEOUT)?;
        Ok::<_, Error>(App::build(&init)?)
    };
    let (app, extension) = tokio::try_join!(building, Extension::register())?;
    let app = &app;
    let at_shutdown = app.clone();
    extension.on_shutdown(async move || at_shutdown.shut_down().await)?;
    let warming = app.clone();
    tokio::spawn(async move {
        request_sent().await;
        warming.warm_up().await;
        extension.ready().await;
    });
    let handler = service_fn(async move |event: LambdaEvent<Box<RawValue>>| {
        let request = Request::from_json(event.payload.get()).map_err(invalid_event)?;
        let decision = authorizer::handle(app, &request).await;
        decision.map_err(to_diagnostic)
    });
    Ok(lambda_runtime::run(handler).await?)
}

/// Returns the error of an event that cannot be parsed, without the parser's text, which would quote
/// the event and the key in it.
fn invalid_event(error: serde_json::Error) -> Diagnostic {
    let column = error.column();
    tracing::error!(column, "the event cannot be parsed");
    Diagnostic {
        error_type: "InvalidEvent".to_owned(),
        error_message: format!("the event cannot be parsed, at column {column}"),
    }
}

/// Returns the error as the gateway reads it: it compares the message with `Unauthorized`, to the
/// letter.
fn to_diagnostic(error: AuthorizeError) -> Diagnostic {
    Diagnostic {
        error_type: "AuthorizeError".to_owned(),
        error_message: error.to_string(),
    }
}
