//! `POST /api/analyze`: an example of a metered endpoint with costs. It simulates calls to two language
//! models: the analysis is a constant, the number of tokens is computed from the length of the text, and their
//! cost is reported as that of real calls would be.

use axum::{Extension, Json};
use tollgate_api::examples::{Analysis, Analyze, ModelUsage};
use tollgate_api::problem::{Member, Unprocessable};
use tollgate_domain::money::MicroUsd;
use tollgate_metering::RequestCost;
use tollgate_web::{CustomerCaller, JsonBody, Problem};

/// Maximum length of a text, in characters.
const MAX_TEXT: usize = 100_000;

tollgate_web::operations!(pub () analyze);

/// Analyses a text: an example of a metered endpoint that costs money.
#[utoipa::path(
    post,
    path = "/api/analyze",
    operation_id = "analyze",
    tag = "examples",
    request_body = Analyze,
    responses(
        (status = 200, description = "The analysis.", body = Analysis),
        (status = 422, response = Unprocessable),
    ),
)]
async fn analyze(
    _: CustomerCaller,
    cost: Option<Extension<RequestCost>>,
    JsonBody(question): JsonBody<Analyze>,
) -> Result<Json<Analysis>, Problem> {
    if !(1..=MAX_TEXT).contains(&question.text.chars().count()) {
        let detail = "text must have 1 to 100,000 characters.";
        return Err(Problem::unprocessable(detail).with(Member::Field, "text"));
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
