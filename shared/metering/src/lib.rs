//! Meters a Rust Lambda function behind Tollgate.
//!
//! [`Metering::layer`] measures every call, copies the limits that the authorizer found into the
//! answer's header fields, and takes what the handler adds to [`RequestCost`]. [`Metering::run`]
//! runs the function and puts the records on the event bus after each answer has gone, so that the
//! caller never waits for it.
//!
//! The README shows a whole function.
//!
//! # Streamed answers
//! The record of a call is made when the body of its answer ends, fails or is dropped, and says which. Until
//! then costs can be added: those that are known before the first chunk, and those of the last. One that
//! comes later is an error ([`LateCost`]), so it is well to add what a chunk cost before it is sent: nobody
//! may be there to take it. [`Metering::run_streaming`] runs a function that answers so.
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
//!     cost.add_tokens("anthropic", 700)?; // of the question
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
//! # What is lost when
//! By default records are flushed after every call, so a crash loses those of the call it happens in,
//! and what a bus that was down had left waiting. What does not fit into the bounded buffer meanwhile
//! is written to standard error as `unsent_usage`, whole. [`Flush::Buffered`] costs less, and says what it risks.

mod body;
mod call;
mod cost;
mod emitter;
mod layer;
mod run;
mod spill;

pub use body::MeteredBody;
pub use cost::{LateCost, RequestCost};
pub use emitter::Emitter;
pub use layer::{MeteringLayer, MeteringService};
pub use run::{Flush, Metering};
pub use spill::Spill;

/// Compiles the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
