//! Meters a Rust Lambda function behind Tollgate.
//!
//! [`Metering::layer`] measures every call, copies the limits that the authorizer found into the
//! answer's header fields, and takes what the handler adds to [`RequestCost`]. [`Metering::run`]
//! runs the function and puts the records on the event bus after each answer has gone, so that the
//! caller never waits for it.
//!
//! ```no_run
//! use lambda_http::{Body, Error, Request, Response};
//! use tollgate_metering::{Metering, RequestCost};
//! use tower::ServiceBuilder;
//!
//! async fn summarise(request: Request) -> Result<Response<Body>, Error> {
//!     // … call the model, and say what it cost.
//!     if let Some(cost) = request.extensions().get::<RequestCost>() {
//!         cost.add_tokens("anthropic", 812);
//!     }
//!     Ok(Response::new(Body::from("a summary")))
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Error> {
//!     lambda_http::tracing::init_default_subscriber();
//!     let metering = Metering::from_env().await?;
//!     let service = ServiceBuilder::new()
//!         .layer(metering.layer())
//!         .service_fn(summarise);
//!     metering.run(service).await
//! }
//! ```
//!
//! # What is lost when
//! Records are flushed after every call, so a crash loses those of the call it happens in, and
//! what a bus that was down had left waiting. What does not fit into the bounded buffer meanwhile
//! goes to the log as `unsent_usage`, whole.

mod cost;
mod emitter;
mod layer;
mod run;

pub use cost::RequestCost;
pub use emitter::Emitter;
pub use layer::{MeteringLayer, MeteringService};
pub use run::Metering;
