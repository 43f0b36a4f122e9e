//! Batches of SQS messages, each of which succeeds or fails for itself.

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use tokio::task::JoinSet;

/// Returns the response to a batch of which the messages with these ids are to be delivered again.
pub fn failed(ids: impl IntoIterator<Item = String>) -> SqsBatchResponse {
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = ids
        .into_iter()
        .map(|id| {
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = id;
            failure
        })
        .collect();
    response
}

/// Handles the messages of a batch, at most `concurrency` at a time. `handle` returns whether a message has served its
/// purpose; the others are to be delivered again.
///
/// # Panics
/// When `handle` does: the invocation fails, and with it the whole batch.
pub async fn handle_each<F>(
    batch: SqsEvent,
    concurrency: usize,
    mut handle: impl FnMut(SqsMessage) -> F,
) -> SqsBatchResponse
where
    F: Future<Output = bool> + Send + 'static,
{
    let mut messages = batch.records.into_iter();
    let mut running = JoinSet::new();
    let mut again = Vec::new();
    loop {
        while running.len() < concurrency {
            let Some(message) = messages.next() else {
                break;
            };
            let id = message.message_id.clone().unwrap_or_default();
            let handling = handle(message);
            running.spawn(async move { (id, handling.await) });
        }
        match running.join_next().await {
            None => return failed(again),
            Some(Ok((_, true))) => {}
            Some(Ok((id, false))) => again.push(id),
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}
