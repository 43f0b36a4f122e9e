//! HTTP layer of the functions behind the gateway: extractors, problems, pagination and the Lambda
//! adapter.

mod body;
mod caller;
mod idempotency;
mod list;
mod operations;
mod problem;
mod serve;

pub use body::{
    JsonBody, MAX_BODY, NoQuery, PathParam, PathParams, QueryParams, check_enabled, check_name,
    is_gzip, read_text,
};
pub use caller::{AdminCaller, CustomerCaller, ManagingCaller};
pub use idempotency::IdempotencyKey;
pub use list::{ListRequest, page_size};
pub use problem::Problem;
pub use serve::{Service, request_of, run, serve};

#[doc(hidden)]
pub mod private {
    pub use axum;
    pub use pastey::paste;
    pub use utoipa;

    pub use crate::operations::method;
}
