//! Parent of an invoice or of an invoice item: the subscription that it is for.

use serde::Deserialize;

use crate::decode::id;
use crate::id::SubscriptionId;

/// Parent of an object, since version 2025-03-31 of the API in the place of a member `subscription`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Parent {
    #[serde(default)]
    subscription_details: Option<SubscriptionDetails>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct SubscriptionDetails {
    #[serde(deserialize_with = "id")]
    subscription: SubscriptionId,
}

impl Parent {
    /// Returns the subscription, if the parent is one.
    pub(crate) fn subscription(&self) -> Option<&SubscriptionId> {
        Some(&self.subscription_details.as_ref()?.subscription)
    }
}
