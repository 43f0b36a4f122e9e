//! Requests of CloudFormation.

use serde::Deserialize;
use serde_json::Value;

/// A request of CloudFormation. It has no `Debug`, because the response URL is a credential.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Event {
    pub(crate) request_type: RequestType,
    #[serde(rename = "ResponseURL")]
    pub(crate) response_url: ResponseUrl,
    pub(crate) stack_id: String,
    pub(crate) request_id: String,
    pub(crate) logical_resource_id: String,
    /// Absent when the resource is created.
    pub(crate) physical_resource_id: Option<String>,
    #[serde(default)]
    resource_properties: Value,
    /// Absent unless the resource is updated.
    #[serde(default)]
    old_resource_properties: Value,
}

/// Kind of a request.
#[derive(Clone, Copy, Deserialize)]
pub(crate) enum RequestType {
    Create,
    Update,
    Delete,
}

/// Presigned URL of the object in S3 from which CloudFormation reads the response. Whoever has it can decide the
/// deployment.
#[derive(Deserialize)]
pub(crate) struct ResponseUrl(String);

impl ResponseUrl {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl Event {
    /// Returns the property `Plans`. `None` if it is missing or no text.
    pub(crate) fn plans(&self) -> Option<&str> {
        self.resource_properties["Plans"].as_str()
    }

    /// Whether the functions are about to change from a release that counted usage without claims.
    pub(crate) fn begins_claims(&self) -> bool {
        // Such releases had no layout.
        let has_layout = |properties: &Value| properties["Layout"].is_string();
        matches!(self.request_type, RequestType::Update)
            && has_layout(&self.resource_properties)
            && !has_layout(&self.old_resource_properties)
    }
}
