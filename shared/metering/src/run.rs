//! A metered function as a Lambda function.

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

use crate::{Emitter, MeteringLayer, Spill};

/// The stack whose bus this is: the template calls a stack's bus `<stack>-usage`.
fn stack_of(bus: &str) -> &str {
    // An ARN ends with the name.
    let name = bus.rsplit('/').next().unwrap_or(bus);
    name.strip_suffix("-usage").unwrap_or(name)
}

/// When records are put on the bus. Whichever it is, an instance that is told to end flushes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flush {
    /// After each call. A crash loses the record of the call that it happens in, and no other.
    #[default]
    EveryCall,
    /// After the call with which 100 records are buffered, or the oldest is five seconds old: a
    /// hundredth of the entries, for an instance in constant use. A crash, and an end that takes
    /// longer than Lambda allows, loses what is buffered. So that nothing is buffered for long needs
    /// calls: an instance is frozen between them, and one that gets none keeps its last records until
    /// it ends, which can be hours later.
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
    /// Metering through this emitter, with these prices of tokens.
    #[must_use]
    pub fn new(emitter: Emitter, prices: LlmPrices) -> Self {
        Self {
            emitter,
            prices,
            flush: Flush::default(),
        }
    }

    /// Metering as the template configures it: to the bus named by `TOLLGATE_EVENT_BUS`, with the
    /// shipped prices of tokens.
    ///
    /// # Errors
    /// When the variable is not set, or the machine has no randomness to give.
    pub fn from_env() -> Result<Self, Error> {
        let env = Env::of_process();
        // The instance takes no call before the flush of the last one has ended, so that a bus that
        // is down must not hold it for long.
        let sdk = aws::sdk_config(&env, aws::INTERACTIVE_TIMEOUT)?;
        let (bus, clock) = (env.get(env::EVENT_BUS)?, Clock::system());
        let metrics = Metrics::to_stdout(stack_of(bus), clock.clone());
        let emitter = Emitter::new(
            &sdk,
            bus,
            env.get(env::FUNCTION_NAME)?,
            clock,
            Entropy::system()?,
            Spill::to_stderr(metrics),
        );
        Ok(Self::new(emitter, LlmPrices::shipped()?))
    }

    /// The same, with other prices of tokens.
    #[must_use]
    pub fn with_prices(mut self, prices: LlmPrices) -> Self {
        self.prices = prices;
        self
    }

    /// The same, with records put on the bus at other times.
    #[must_use]
    pub fn with_flush(mut self, flush: Flush) -> Self {
        self.flush = flush;
        self
    }

    /// The layer to put around the function.
    #[must_use]
    pub fn layer(&self) -> MeteringLayer {
        MeteringLayer::new(self.emitter.clone(), self.prices.clone())
    }

    /// Where the records wait.
    #[must_use]
    pub fn emitter(&self) -> &Emitter {
        &self.emitter
    }

    /// Runs the function for ever, with answers that are sent when they are whole. An internal
    /// extension flushes the records after the answer: Lambda hands the answer to the caller, and the
    /// next call to this instance, without waiting for one another.
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

    /// Runs the function for ever, with answers that are sent as they come, of a function whose
    /// integration has the response transfer mode `STREAM`. The flush waits for the end of the body.
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
        let (answered, answers) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(answers));
        let (emitter, flush) = (self.emitter.clone(), self.flush);
        // An internal extension may ask for INVOKE alone; the end is signalled below.
        let extension = Extension::new()
            .with_extension_name("tollgate-metering")
            .with_events(&["INVOKE"])
            .with_events_processor(service_fn(move |_| {
                let (answers, emitter) = (Arc::clone(&answers), emitter.clone());
                async move {
                    answers.lock().await.recv().await;
                    // The Runtime API may have done with an answer whose body has not ended.
                    emitter.calls().ended().await;
                    match flush {
                        Flush::EveryCall => emitter.flush().await,
                        Flush::Buffered => emitter.flush_due().await,
                    }
                    Ok::<(), Error>(())
                }
            }))
            .register()
            .await?;

        // With an extension registered, Lambda announces the end of an instance by SIGTERM, and
        // leaves it about half a second.
        let mut end = signal(SignalKind::terminate())?;
        let emitter = self.emitter.clone();
        tokio::spawn(async move {
            end.recv().await;
            emitter.close().await;
            std::process::exit(0);
        });

        // This layer is the outermost, so that it sees the end of every invocation: of those whose
        // event cannot be read, or whose handler panics, as well. By then the answer has gone.
        let runtime = runtime
            .layer(TracingLayer::new())
            .layer(MapResultLayer::new(move |outcome| {
                // The receiver lives as long as the extension, and that as long as this.
                let _ = answered.send(());
                outcome
            }));
        let ended = tokio::try_join!(runtime.run(), extension.run());
        // Whoever runs this ends the process now, and with it what was not flushed.
        self.emitter.close().await;
        ended.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_names_its_stack() {
        let check = |bus, stack| assert_eq!(stack_of(bus), stack, "{bus}");
        check("tollgate-usage", "tollgate");
        check(
            "arn:aws:events:us-east-1:123456789012:event-bus/my-api-usage",
            "my-api",
        );
        check("default", "default");
    }
}
