//! The internal extension: what Lambda knows an instance's start and end by, besides the events that
//! it asks for (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).

use http::HeaderValue;
use lambda_runtime_api_client::body::Body;
use lambda_runtime_api_client::{BoxError, PooledClient, build_request};
use tokio::signal::unix::{SignalKind, signal};
use tollgate_runtime::Chain;

/// By this the extension is known among those of the function.
const NAME: &str = "tollgate-end";
const ID: &str = "lambda-extension-identifier";
/// Rounds of the executor in which a first request connects, is handed to its connection and is
/// written.
const ROUNDS_OF_A_REQUEST: usize = 3;

/// Why the end of the instance would not be announced.
#[derive(Debug, thiserror::Error)]
#[error("Lambda has registered no extension, and answered {0}")]
pub struct NotRegistered(http::StatusCode);

/// An extension that asks for no events. The start of the instance is not over for Lambda until it is
/// [`ready`](Self::ready), and its end is announced.
#[derive(Debug)]
pub struct Extension {
    lambda: PooledClient,
    id: HeaderValue,
}

impl Extension {
    /// Registers the extension, which has to come before the first event is asked for. The runtime's
    /// own way of doing the same brings an HTTP server, and all that reads logs and telemetry, into
    /// the binary.
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

    /// Lets `end` run when Lambda announces the end of the instance, by SIGTERM, which leaves it
    /// about half a second. The process ends with it.
    ///
    /// # Errors
    /// When the process cannot be told of signals.
    pub fn on_end<F>(&self, end: impl FnOnce() -> F + Send + 'static) -> Result<(), BoxError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            terminated.recv().await;
            end().await;
            std::process::exit(0);
        });
        Ok(())
    }

    /// Ends the start of the instance: nothing more is to be done before the first event.
    pub async fn ready(self) {
        // Only the end could be an answer, and it comes as a signal.
        if let Err(error) = self.next().await {
            tracing::error!(error = %Chain(&*error), "the start of the instance cannot be ended");
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

/// Returns when a request that was begun just before is on its way, so that work which takes the one
/// thread for a while is done as Lambda works too, and not before it can. Returned too early or too
/// late, it costs that time and nothing else.
pub async fn request_is_out() {
    for _ in 0..ROUNDS_OF_A_REQUEST {
        tokio::task::yield_now().await;
    }
}
