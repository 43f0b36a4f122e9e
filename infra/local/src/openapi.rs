//! The OpenAPI document of all functions, which is committed as `infra/openapi.json`.

use serde_json::Value;
use tollgate_api::document::{DocumentError, assemble};
use utoipa::OpenApi;

/// Assembles the document from the operations that the functions declare.
///
/// # Errors
/// When the parts do not fit together.
pub fn document() -> Result<Value, DocumentError> {
    assemble([
        keys::create::Operations::openapi(),
        keys::list::Operations::openapi(),
        keys::get::Operations::openapi(),
        keys::update::Operations::openapi(),
        keys::rotate::Operations::openapi(),
        keys::revoke::Operations::openapi(),
        keys::stats::Operations::openapi(),
        admin_api::openapi(),
        usage_api::Operations::openapi(),
        ping::Operations::openapi(),
        analyze::Operations::openapi(),
    ])
}
