//! The example functions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Amount, schema};

/// Response of the ping example.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pong {
    /// `pong`.
    #[schema(value_type = String, examples("pong"))]
    pub message: &'static str,
    /// Customer of the caller.
    #[schema(value_type = schema::CustomerId)]
    pub customer_id: String,
    /// Plan of the caller.
    #[schema(value_type = schema::PlanId)]
    pub plan: String,
}

/// Request of the analysis example.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Analyze {
    /// Text to analyse.
    #[schema(min_length = 1, max_length = 100_000)]
    pub text: String,
}

/// Response of the analysis example.
#[derive(Debug, Serialize, ToSchema)]
pub struct Analysis {
    /// Canned analysis.
    #[schema(value_type = String)]
    pub analysis: &'static str,
    /// Tokens by provider.
    pub usage: Vec<ModelUsage>,
    /// Sum of the costs.
    pub cost: Amount,
}

/// Tokens of one provider, and their cost.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelUsage {
    /// Provider.
    #[schema(value_type = String, examples("anthropic"))]
    pub provider: &'static str,
    /// Language-model tokens.
    pub tokens: u64,
    /// Cost of the tokens.
    pub cost: Amount,
}
