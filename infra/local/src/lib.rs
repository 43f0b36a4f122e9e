//! Tollgate on one machine and in one process, without an AWS account, a container or a service.
//!
//! The gateway reads its routes, responses and rules from the template that is deployed to AWS, and
//! passes real API Gateway events to the handlers that run in Lambda. These use the real AWS SDK
//! clients, which call the embedded services of `tollgate-local-aws`.

mod bodies;
pub mod client;
mod connections;
mod consumer;
pub mod crash;
pub mod demo;
mod functions;
mod gateway;
mod local_api;
mod local_clock;
pub mod local_stack;
pub mod openapi;
mod same_origin;
pub mod soak;
mod stand_in;
mod start_error;
pub mod template;
