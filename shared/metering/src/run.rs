//! Runs a metered function on Lambda.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use lambda_extension::{Extension, service_fn};
use lambda_http::lambda_runtime::layers::TracingLayer;
use lambda_http::lambda_runtime::{LambdaInvocation, Runtime};
use lambda_http::{Adapter, Error, IntoResponse, Request, StreamAdapter};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use tollgate_domain::llm::LlmPrices;
use tollgate_runtime::{Clock, Entropy, Env, Metrics, aws, env};
use tower::util::MapResultLayer;
use tower::{Service, ServiceExt};

use crate::{Emitter, MeteringLayer, UnsentLog};

/// Returns the name of the stack with this bus, which the template names `<stack>-usage`.
fn stack_of(bus: &str) -> &str {
    // An ARN ends with the name.
    let name = bus.rsplit('/').next().unwrap_or(bus);
    name.strip_suffix("-usage").unwrap_or(name)
}

/// Frequency of flushes. Records are also flushed at the shutdown of the instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flush {
    /// After each call. A crash loses the record of the current call, and no other.
    #[default]
    EveryCall,
    /// After a call, if 100 records are buffered or the oldest is five seconds old: a hundredth of the
    /// usage events, for an instance in constant use. A crash, and a shutdown that takes longer than
    /// Lambda allows, loses the buffered records. An instance is frozen between calls, so that one
    /// without calls keeps its last records until its shutdown, which can be hours later.
    Buffered,
}

/// Metering of one function.
#[derive(Debug, Clone)]
pub struct Metering {
    emitter: Emitter,
    prices: LlmPrices,
    flush: Flush,
}

impl Metering {
    /// Creates metering through this emitter, with these prices of tokens.
    #[must_use]
    pub fn new(emitter: Emitter, prices: LlmPrices) -> Self {
        Self {
            emitter,
            prices,
            flush: Flush::default(),
        }
    }

    /// Creates metering as the template configures it: to the bus named by `TOLLGATE_EVENT_BUS`, with
    /// the shipped prices of tokens.
    ///
    /// # Errors
    /// When the variable is not set, or the operating system's random source fails.
    pub fn from_env() -> Result<Self, Error> {
        let env = Env::from_process();
        // The instance receives no invocation before the previous one's flush has ended, so that an
        // unavailable bus must not delay it for long.
        let sdk = aws::sdk_config(&env, aws::INTERACTIVE_TIMEOUT)?;
        let (bus, clock) = (env.get(env::EVENT_BUS)?, Clock::system());
        let metrics = Metrics::to_stdout(stack_of(bus), clock.clone());
        let emitter = Emitter::new(
            &sdk,
            bus,
            env.get(env::FUNCTION_NAME)?,
            clock,
            Entropy::system()?,
            UnsentLog::to_stderr(metrics),
        );
        Ok(Self::new(emitter, LlmPrices::shipped()?))
    }

    /// Sets the prices of tokens.
    #[must_use]
    pub fn with_prices(mut self, prices: LlmPrices) -> Self {
        self.prices = prices;
        self
    }

    /// Sets the frequency of flushes.
    #[must_use]
    pub fn with_flush(mut self, flush: Flush) -> Self {
        self.flush = flush;
        self
    }

    /// Returns the layer that meters the function.
    #[must_use]
    pub fn layer(&self) -> MeteringLayer {
        MeteringLayer::new(self.emitter.clone(), self.prices.clone())
    }

    /// Returns the emitter.
    #[must_use]
    pub fn emitter(&self) -> &Emitter {
        &self.emitter
    }

    /// Runs the function for ever, with buffered responses. An internal extension flushes the records
    /// after the response: Lambda sends the response to the caller at once, and the next invocation to
    /// this instance after the flush.
    ///
    /// # Errors
    /// When the Lambda Runtime API or Extensions API cannot be reached.
    pub async fn run<S, R>(self, service: S) -> Result<(), Error>
    where
        S: Service<Request, Response = R> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Error> + Send + 'static,
        R: IntoResponse + Send + 'static,
    {
        let handler = Adapter::from(service.map_err(Into::<Error>::into));
        self.run_flushed(Runtime::new(handler)).await
    }

    /// Runs the function for ever, with streamed responses, for an integration with the response transfer
    /// mode `STREAM`. The flush waits for the end of the body.
    ///
    /// # Errors
    /// When the Lambda Runtime API or Extensions API cannot be reached.
    pub async fn run_streaming<S, B>(self, service: S) -> Result<(), Error>
    where
        S: Service<Request, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Error> + Send + 'static,
        B: Body + Unpin + Send + 'static,
        B::Data: Into<Bytes> + Send,
        B::Error: Into<Error> + Send + fmt::Debug,
    {
        let handler = StreamAdapter::from(service.map_err(Into::<Error>::into));
        self.run_flushed(Runtime::new(handler)).await
    }

    async fn run_flushed<S>(self, runtime: Runtime<S>) -> Result<(), Error>
    where
        S: Service<LambdaInvocation, Response = (), Error = Error>,
    {
        let (responded, responses) = mpsc::unbounded_channel();
        let responses = Arc::new(Mutex::new(responses));
        let (emitter, flush) = (self.emitter.clone(), self.flush);
        // An internal extension can register for INVOKE only; the shutdown is a signal, handled below.
        let extension = Extension::new()
            .with_extension_name("tollgate-metering")
            .with_events(&["INVOKE"])
            .with_events_processor(service_fn(move |_| {
                let (responses, emitter) = (Arc::clone(&responses), emitter.clone());
                async move {
                    responses.lock().await.recv().await;
                    // The Runtime API may have stopped reading a response whose body has not ended.
                    emitter.calls().wait_for_all().await;
                    match flush {
                        Flush::EveryCall => emitter.flush().await,
                        Flush::Buffered => emitter.flush_due().await,
                    }
                    Ok::<(), Error>(())
                }
            }))
            .register()
            .await?;

        // If an extension is registered, Lambda announces the shutdown of an instance by SIGTERM, about
        // half a second before it.
        let mut terminated = signal(SignalKind::terminate())?;
        let emitter = self.emitter.clone();
        tokio::spawn(async move {
            terminated.recv().await;
            emitter.close().await;
            std::process::exit(0);
        });

        // This layer is the outermost, so that it sees the end of every invocation, including those whose
        // event is invalid or whose handler panics. By then the response is sent.
        let runtime = runtime
            .layer(TracingLayer::new())
            .layer(MapResultLayer::new(move |outcome| {
                // The receiver lives as long as the extension, which ends together with the runtime.
                let _ = responded.send(());
                outcome
            }));
        let ended = tokio::try_join!(runtime.run(), extension.run());
        // The process exits next, so that records not flushed here would be lost.
        self.emitter.close().await;
        ended.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_is_named_by_its_bus() {
        let check = |bus, stack| assert_eq!(stack_of(bus), stack, "{bus}");
        check("tollgate-usage", "tollgate");
        check(
            "arn:aws:events:us-east-1:123456789012:event-bus/my-api-usage",
            "my-api",
        );
        check("default", "default");
    }
}
