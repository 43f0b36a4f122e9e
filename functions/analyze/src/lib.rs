//! `POST /api/analyze`: an example of a metered endpoint with costs. It simulates calls to two language
//! models: the analysis is a constant, the number of tokens is computed from the length of the text, and their
//! cost is reported as that of real calls would be.

use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use tollgate_domain::money::MicroUsd;
use tollgate_metering::RequestCost;
use tollgate_web::{Amount, CustomerCaller, JsonBody, Problem};

/// Maximum length of a text, in bytes.
const MAX_TEXT: usize = 100_000;

/// Returns the route.
pub fn routes() -> Router {
    Router::new().route("/api/analyze", post(analyze))
}

/// Request body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Text to analyse, of 1 to 100,000 bytes.
    text: String,
}

/// Response body.
#[derive(Debug, Serialize)]
struct Analysis {
    analysis: &'static str,
    usage: Vec<ModelUsage>,
    cost: Amount,
}

/// Tokens and cost of one provider.
#[derive(Debug, Serialize)]
struct ModelUsage {
    provider: &'static str,
    tokens: u64,
    cost: Amount,
}

async fn analyze(
    _: CustomerCaller,
    cost: Option<Extension<RequestCost>>,
    JsonBody(question): JsonBody<Question>,
) -> Result<Json<Analysis>, Problem> {
    if question.text.is_empty() || question.text.len() > MAX_TEXT {
        let detail = "text must have 1 to 100,000 bytes.";
        return Err(Problem::unprocessable(detail).with("field", "text"));
    }
    // The first model would read the text and write a draft, the second would read both. A token is about
    // four bytes.
    let text_tokens = (question.text.len() as u64).div_ceil(4);
    let calls = [
        ("deepseek", text_tokens + 500),
        ("anthropic", text_tokens + 750),
    ];
    let mut total = MicroUsd(0);
    let mut usage = Vec::with_capacity(calls.len());
    for (provider, tokens) in calls {
        let spent = match &cost {
            Some(Extension(cost)) => cost.add_tokens(provider, tokens),
            None => Ok(MicroUsd(0)),
        };
        let spent = spent.map_err(Problem::internal)?;
        total = total + spent;
        usage.push(ModelUsage {
            provider,
            tokens,
            cost: spent.into(),
        });
    }
    Ok(Json(Analysis {
        analysis: "Both sides have a point; the second has more of them.",
        usage,
        cost: total.into(),
    }))
}
