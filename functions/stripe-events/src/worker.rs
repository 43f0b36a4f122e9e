//! The worker: handles queued events of Stripe, one after another.

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent};
use tollgate_payments::Follower;
use tollgate_runtime::Chain;

/// Handles the events of a batch, and reports those that are to be delivered again. Events of one customer come
/// together, and would only get into each other's way if they were handled at once.
pub async fn handle(follower: &Follower, batch: SqsEvent) -> SqsBatchResponse {
    let mut response = SqsBatchResponse::default();
    for message in batch.records {
        let body = message.body.as_deref().unwrap_or_default();
        if let Err(error) = follower.handle_message(body).await {
            let id = message.message_id.unwrap_or_default();
            tracing::error!(message = id, error = %Chain(&error), "an event of Stripe was not handled");
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = id;
            response.batch_item_failures.push(failure);
        }
    }
    follower.payments.metrics.write();
    response
}
