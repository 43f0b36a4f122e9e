//! Meters a Rust Lambda function behind Tollgate.
//!
//! [`Metering::layer`] measures every call, copies the limits from the authorizer's context into the
//! response's header fields, and collects the costs that the handler adds to [`RequestCost`].
//! [`Metering::run`] runs the function and puts the records on the event bus after each response is sent,
//! so that the caller never waits for it.
//!
//! The README has a complete function.
//!
//! # Streamed responses
//! The record of a call is made when the response body ends, fails or is dropped, and states which. Until
//! then costs can be added: before the first chunk, and with each chunk to the last. Adding one later is an
//! error ([`LateCost`]). Add the cost of a chunk before sending it, because the caller may have disconnected
//! and the body be dropped. [`Metering::run_streaming`] runs a function with streamed responses.
//!
//! ```no_run
//! use lambda_http::lambda_runtime::streaming::{Body, channel};
//! use lambda_http::{Error, Request, Response};
//! use tollgate_metering::{Metering, RequestCost};
//! use tower::ServiceBuilder;
//!
//! async fn summarise(request: Request) -> Result<Response<Body>, Error> {
//!     let cost = request.extensions().get::<RequestCost>().cloned();
//!     let cost = cost.ok_or("this route has no authorizer")?;
//!     cost.add_tokens("anthropic", 700)?; // the prompt
//!     let (mut sender, body) = channel();
//!     tokio::spawn(async move {
//!         for word in ["a ", "summary"] {
//!             cost.add_tokens("anthropic", 1)?;
//!             sender.send_data(word.into()).await?;
//!         }
//!         Ok::<_, Error>(())
//!     });
//!     Ok(Response::new(body))
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Error> {
//!     let metering = Metering::from_env()?;
//!     let service = ServiceBuilder::new().layer(metering.layer()).service_fn(summarise);
//!     metering.run_streaming(service).await
//! }
//! ```
//!
//! # Loss of records
//! By default records are flushed after every call, so that a crash loses the records of the current call,
//! and those buffered while the bus was unavailable. Events that exceed the bounded buffer are written whole
//! to standard error, as `unsent_usage`. [`Flush::Buffered`] costs less, and its documentation states the
//! risk.

mod body;
mod call;
mod cost;
mod emitter;
mod layer;
mod request_cost;
mod run;
mod unsent_log;

pub use body::MeteredBody;
pub use cost::LateCost;
pub use emitter::Emitter;
pub use layer::{MeteringLayer, MeteringService};
pub use request_cost::RequestCost;
pub use run::{Flush, Metering};
pub use unsent_log::UnsentLog;

/// Compiles the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
