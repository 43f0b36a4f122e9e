//! The charge worker: submits queued charges to Stripe.
//!
//! The ledger decides what is submitted, and the queue only when: a message that is lost, repeated or late changes
//! nothing.

use std::collections::HashSet;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use tokio::task::JoinSet;
use tollgate_domain::submission::ChargeRef;
use tollgate_payments::{ChargeMessage, Patience, Payments, SubmitOutcome};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Chain, Init};

/// Charges submitted at a time. The rate of requests is bounded by itself.
const CONCURRENCY: usize = 4;

/// State of a worker instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Ledger and Stripe.
    pub payments: Payments,
}

impl Worker {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks a variable, or has an invalid one.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let payments = Payments::build(init, Patience::Queue)?;
        Ok(Self { payments })
    }
}

/// Submits the charges of a batch, and reports those that are to be delivered again in some minutes.
pub async fn submit(worker: &Worker, batch: SqsEvent) -> SqsBatchResponse {
    let mut messages = batch.records.into_iter();
    let mut running = JoinSet::new();
    let mut failed = HashSet::new();
    loop {
        while running.len() < CONCURRENCY {
            let Some(message) = messages.next() else {
                break;
            };
            let payments = worker.payments.clone();
            running.spawn(async move {
                let id = message.message_id.clone().unwrap_or_default();
                (id, submit_message(&payments, &message).await)
            });
        }
        match running.join_next().await {
            None => break,
            Some(Ok((id, is_done))) => {
                if !is_done {
                    failed.insert(id);
                }
            }
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    worker.payments.metrics.write();
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = failed
        .into_iter()
        .map(|id| {
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = id;
            failure
        })
        .collect();
    response
}

/// Submits the charge of a message. Returns whether the message has served its purpose.
async fn submit_message(payments: &Payments, message: &SqsMessage) -> bool {
    let body = message.body.as_deref().unwrap_or_default();
    let parsed: Result<ChargeMessage, _> = serde_json::from_str(body);
    let charge = parsed
        .ok()
        .and_then(|message| message.charge.parse::<ChargeRef>().ok());
    let Some(charge) = charge else {
        // Nothing of ours. The charges that are due are in the ledger, whatever the queue has.
        tracing::error!("a message does not name a charge");
        return true;
    };
    match payments.submit(&charge).await {
        Ok(SubmitOutcome::Later) => false,
        Ok(outcome) => {
            tracing::info!(%charge, ?outcome, "charge");
            true
        }
        Err(error) => {
            tracing::error!(%charge, error = %Chain(&error), "a charge was not submitted");
            false
        }
    }
}
