//! The end of an instance.

use lambda_runtime_api_client::body::Body;
use lambda_runtime_api_client::{BoxError, PooledClient, build_request};
use tokio::signal::unix::{SignalKind, signal};

/// By this the extension is known among those of the function.
const NAME: &str = "tollgate-end";
const ID: &str = "lambda-extension-identifier";

/// Why the end of the instance would not be announced.
#[derive(Debug, thiserror::Error)]
#[error("Lambda has registered no extension, and answered {0}")]
pub struct NotRegistered(http::StatusCode);

/// Lets `end` run when Lambda announces the end of the instance, which leaves it about half a
/// second; the process ends with it.
///
/// Lambda announces the end, by SIGTERM, to instances with an extension, so this registers one that
/// asks for no events
/// (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>). The runtime's own
/// way of doing the same brings an HTTP server, and all that reads logs and telemetry, into the
/// binary.
///
/// # Errors
/// When the extension cannot be registered.
pub async fn on_end<F>(end: impl FnOnce() -> F + Send + 'static) -> Result<(), BoxError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        terminated.recv().await;
        end().await;
        std::process::exit(0);
    });
    let extensions = PooledClient::builder().build();
    let register = build_request()
        .method(http::Method::POST)
        .uri("/2020-01-01/extension/register")
        .header("lambda-extension-name", NAME)
        .body(Body::from(r#"{"events":[]}"#))?;
    let registered = extensions.call(register).await?;
    let Some(id) = registered.headers().get(ID) else {
        return Err(NotRegistered(registered.status()).into());
    };
    let next = build_request()
        .uri("/2020-01-01/extension/event/next")
        .header(ID, id)
        .body(Body::empty())?;
    // The start is over for Lambda once the extension asks for an event as well. None ever comes.
    tokio::spawn(extensions.call(next));
    Ok(())
}
