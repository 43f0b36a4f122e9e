//! HTTP layer of the functions behind the gateway: extractors, problems, pagination and the Lambda
//! adapter.

mod adjustments;
mod body;
mod caller;
mod cursor;
mod idempotency;
mod money;
mod problem;
mod serve;

pub use adjustments::{AdjustmentView, AdjustmentsQuery};
pub use body::{
    JsonBody, MAX_BODY, NoQuery, Object, PathParam, QueryParams, check_enabled, is_gzip, nullable,
};
pub use caller::{AdminCaller, CustomerCaller};
pub use cursor::{Cursor, InvalidCursor, List, ListRequest, PageParams};
pub use idempotency::IdempotencyKey;
pub use money::{Amount, SignedAmount};
pub use problem::Problem;
pub use serve::{Service, request_of, run, serve};
