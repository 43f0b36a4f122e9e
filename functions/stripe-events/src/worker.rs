//! The worker: handles queued events of Stripe, one after another.

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use tollgate_payments::Follower;
use tollgate_runtime::{Chain, sqs};

/// Handles the events of a batch, and reports those that are to be delivered again. Events of one customer come
/// together, and would only get into each other's way if they were handled at once.
pub async fn handle(follower: &Follower, batch: SqsEvent) -> SqsBatchResponse {
    let response = sqs::handle_each(batch, 1, |message| {
        let follower = follower.clone();
        async move { handle_message(&follower, &message).await }
    });
    let response = response.await;
    follower.payments.metrics.write();
    response
}

/// Handles the event of a message. Returns whether the message has served its purpose.
async fn handle_message(follower: &Follower, message: &SqsMessage) -> bool {
    let body = message.body.as_deref().unwrap_or_default();
    match follower.handle_message(body).await {
        Ok(_) => true,
        Err(error) => {
            let (message, error) = (message.message_id.as_deref(), Chain(&error));
            tracing::error!(message, %error, "an event of Stripe was not handled");
            false
        }
    }
}
