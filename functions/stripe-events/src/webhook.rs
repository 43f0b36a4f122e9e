//! `POST /webhooks/stripe`: the endpoint to which Stripe sends events. It has no authorizer; Stripe signs what it
//! sends.

use axum::Json;
use axum::extract::{Request, State};
use http::HeaderMap;
use tollgate_api::payments::WebhookReceipt;
use tollgate_api::problem::PaymentsUnavailable;
use tollgate_payments::{Reception, SIGNATURE_HEADER, WebhookError, Webhooks};
use tollgate_web::{NoQuery, Problem, read_text};

/// Largest body that is read. Events have some kilobytes, and a message of SQS may have 1 MB.
const MAX_EVENT: usize = 256 * 1024;

tollgate_web::operations!(pub (webhooks: Webhooks) receive);

/// Receives an event of Stripe, and queues it.
#[utoipa::path(
    post,
    path = "/webhooks/stripe",
    operation_id = "receiveStripeEvent",
    tag = "webhooks",
    security(),
    params(("Stripe-Signature" = String, Header, description = "Time and signatures, by which Stripe is known (<https://docs.stripe.com/webhooks/signature>).")),
    request_body(content = serde_json::Map<String, serde_json::Value>, description = "Event of Stripe (<https://docs.stripe.com/api/events/object>), at most 256 KB."),
    responses(
        (status = 200, description = "The event was received.", body = WebhookReceipt),
        (status = 503, response = PaymentsUnavailable),
    ),
)]
async fn receive(
    State(webhooks): State<Webhooks>,
    _: NoQuery,
    request: Request,
) -> Result<Json<WebhookReceipt>, Problem> {
    let signature = signature(request.headers())?.to_owned();
    // The raw body is what Stripe signs.
    let too_large = || Problem::body_larger_than(MAX_EVENT);
    let body = read_text(request.into_body(), MAX_EVENT, too_large).await?;
    let received = webhooks.receive(&body, &signature).await;
    webhooks.metrics.write();
    match received {
        Ok(reception) => Ok(Json(WebhookReceipt {
            queued: reception == Reception::Queued,
        })),
        Err(error) => Err(problem(error)),
    }
}

fn signature(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut fields = headers.get_all(SIGNATURE_HEADER).iter();
    let field = fields.next().and_then(|field| field.to_str().ok());
    match (field, fields.next()) {
        (Some(field), None) => Ok(field),
        _ => Err(Problem::bad_request(
            "Send one header field Stripe-Signature: only Stripe calls this route.",
        )),
    }
}

/// Creates the problem for a webhook that was not received. Stripe shows it to the operator, and sends the event
/// again for three days.
fn problem(error: WebhookError) -> Problem {
    match error {
        WebhookError::NotConfigured => Problem::payments_not_configured(),
        WebhookError::Signature(reason) => {
            Problem::bad_request(format!("The signature is not valid: {reason}."))
        }
        WebhookError::Event(reason) => Problem::bad_request(format!("Not an event: {reason}.")),
        WebhookError::Secret(_)
        | WebhookError::NotRead
        | WebhookError::Malformed
        | WebhookError::Queue(_) => Problem::unavailable(error),
    }
}
