//! Prices (<https://docs.stripe.com/api/prices>).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::client::StripeClient;
use crate::decode::{optional_id, or_default};
use crate::error::StripeError;
use crate::id::{PriceId, ProductId};
use crate::request::ApiRequest;

/// Price of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Price {
    /// Id of the price.
    pub id: PriceId,
    /// Whether it can be used for new subscriptions.
    pub active: bool,
    /// Currency, in lower case.
    pub currency: String,
    /// Amount in the smallest unit of the currency; `None` if it is not a whole number, or depends on the
    /// quantity.
    #[serde(default)]
    pub unit_amount: Option<i64>,
    /// Way in which the amount follows from the quantity: `per_unit` or `tiered`, if known.
    #[serde(default)]
    pub billing_scheme: Option<String>,
    /// Interval at which it is paid, unless it is paid once.
    #[serde(default)]
    pub recurring: Option<Recurring>,
    /// Product, if known.
    #[serde(default, deserialize_with = "optional_id")]
    pub product: Option<ProductId>,
    /// Whether it exists in live mode.
    pub livemode: bool,
    /// Metadata.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, String>,
}

/// Interval at which a price is paid.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Recurring {
    /// Unit of the interval: `day`, `week`, `month` or `year`.
    pub interval: String,
    /// Number of units.
    pub interval_count: u32,
    /// Basis of the amount: `licensed`, the quantity of the subscription, or `metered`, reported usage; if known.
    #[serde(default)]
    pub usage_type: Option<String>,
}

impl Price {
    /// Whether it is paid every month.
    #[must_use]
    pub fn is_monthly(&self) -> bool {
        let recurring = self.recurring.as_ref();
        recurring.is_some_and(|it| it.interval == "month" && it.interval_count == 1)
    }

    /// Whether its amount is paid whatever is used, for each unit of the quantity.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        let recurring = self.recurring.as_ref();
        let usage_type = recurring.and_then(|it| it.usage_type.as_deref());
        self.billing_scheme.as_deref() == Some("per_unit") && usage_type == Some("licensed")
    }
}

impl StripeClient {
    /// Reads a price.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn price(&self, id: &PriceId) -> Result<Price, StripeError> {
        self.call(&ApiRequest::get("/v1/prices/{id}", Some(id.as_str())))
            .await
    }
}
