//! The OpenAPI document of all functions, which is committed as `infra/openapi.json`.

use serde_json::Value;
use tollgate_api::document::{DocumentError, assemble};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

/// Returns the operations of each HTTP function, by its logical id in the template.
#[must_use]
pub fn operations() -> Vec<(&'static str, OpenApi)> {
    vec![
        ("KeysCreateFunction", keys::create::Operations::openapi()),
        ("KeysListFunction", keys::list::Operations::openapi()),
        ("KeysGetFunction", keys::get::Operations::openapi()),
        ("KeysUpdateFunction", keys::update::Operations::openapi()),
        ("KeysRotateFunction", keys::rotate::Operations::openapi()),
        ("KeysRevokeFunction", keys::revoke::Operations::openapi()),
        ("KeysStatsFunction", keys::stats::Operations::openapi()),
        ("AdminApiFunction", admin_api::openapi()),
        ("UsageApiFunction", usage_api::Operations::openapi()),
        ("BillingApiFunction", billing_api::openapi()),
        (
            "StripeWebhookFunction",
            stripe_events::Operations::openapi(),
        ),
        ("ApiDocsFunction", api_docs::Operations::openapi()),
        ("PingFunction", ping::Operations::openapi()),
        ("AnalyzeFunction", analyze::Operations::openapi()),
    ]
}

/// Assembles the document from the operations of the functions.
///
/// # Errors
/// When the parts do not fit together.
pub fn document() -> Result<Value, DocumentError> {
    assemble(operations().into_iter().map(|(_, part)| part))
}
