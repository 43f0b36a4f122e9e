//! Lambda's internal extension: registered so that Lambda waits for the end of the initialisation
//! and announces the shutdown of the instance
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).

use http::HeaderValue;
use lambda_runtime_api_client::body::Body;
use lambda_runtime_api_client::{BoxError, PooledClient, build_request};
use tokio::signal::unix::{SignalKind, signal};
use tollgate_runtime::Chain;

/// Name of the extension, unique among those of the function.
const NAME: &str = "tollgate-shutdown";
const ID: &str = "lambda-extension-identifier";
/// Turns of the executor in which a first request connects, is handed to its connection and is
/// written.
const YIELDS_PER_REQUEST: usize = 3;

/// An error of the registration, without which the shutdown of the instance is not announced.
#[derive(Debug, thiserror::Error)]
#[error("Lambda did not register the extension: status {0}")]
pub struct NotRegistered(http::StatusCode);

/// An extension that asks for no events. Lambda considers the initialisation of the instance over
/// once the extension is [`ready`](Self::ready), and announces the shutdown.
#[derive(Debug)]
pub struct Extension {
    lambda: PooledClient,
    id: HeaderValue,
}

impl Extension {
    /// Registers the extension, which must precede the request for the first invocation. Written by
    /// hand because the graceful shutdown of `lambda_runtime` brings an HTTP server and the readers of
    /// logs and telemetry into the binary.
    ///
    /// # Errors
    /// When Lambda does not register it.
    pub async fn register() -> Result<Self, BoxError> {
        let lambda = PooledClient::builder().build();
        let register = build_request()
            .method(http::Method::POST)
            .uri("/2020-01-01/extension/register")
            .header("lambda-extension-name", NAME)
            .body(Body::from(r#"{"events":[]}"#))?;
        let registered = lambda.call(register).await?;
        let Some(id) = registered.headers().get(ID) else {
            return Err(NotRegistered(registered.status()).into());
        };
        let id = id.clone();
        Ok(Self { lambda, id })
    }

    /// Runs `shut_down` when Lambda announces the shutdown of the instance by SIGTERM, about half a
    /// second before it, and then exits.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn on_shutdown<F>(
        &self,
        shut_down: impl FnOnce() -> F + Send + 'static,
    ) -> Result<(), BoxError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            terminated.recv().await;
            shut_down().await;
            std::process::exit(0);
        });
        Ok(())
    }

    /// Ends the initialisation of the instance: nothing else has to precede the first invocation.
    pub async fn ready(self) {
        // The extension asked for no events, so the request has no response before the shutdown,
        // which arrives as a signal.
        if let Err(error) = self.next().await {
            tracing::error!(error = %Chain(&*error), "the initialisation cannot be ended");
        }
    }

    async fn next(self) -> Result<(), BoxError> {
        let next = build_request()
            .uri("/2020-01-01/extension/event/next")
            .header(ID, self.id)
            .body(Body::empty())?;
        self.lambda.call(next).await?;
        Ok(())
    }
}

/// Returns once a request that was started just before is sent, so that work which blocks the only
/// thread overlaps with Lambda's, instead of delaying the request. If it returns too early or too
/// late, that costs the time and nothing else.
pub async fn request_sent() {
    for _ in 0..YIELDS_PER_REQUEST {
        tokio::task::yield_now().await;
    }
}
