//! The charge worker: submits queued charges to Stripe.
//!
//! The ledger decides what is submitted, and the queue only when: a message that is lost, repeated or late changes
//! nothing.

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use tollgate_domain::submission::ChargeRef;
use tollgate_payments::{ChargeMessage, Patience, Payments, SubmitOutcome};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Chain, Init, sqs};

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
    let response = sqs::handle_each(batch, CONCURRENCY, |message| {
        let payments = worker.payments.clone();
        async move { submit_message(&payments, &message).await }
    });
    let response = response.await;
    worker.payments.metrics.write();
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
