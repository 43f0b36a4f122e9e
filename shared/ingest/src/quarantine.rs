//! Quarantining of messages and of conflicting usage events.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tollgate_domain::usage::{Aggregates, Defect};
use tollgate_runtime::{Chain, metrics};
use tollgate_store::{EventPart, RejectedRecord, StoreError};

use crate::{IncomingEvent, Ingest, tasks};

/// Time limit for quarantining. Conflicts are quarantined after counting.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(8);

/// Input bound for the quarantine.
#[derive(Debug)]
pub enum QuarantineInput {
    /// A message that is not a valid usage event.
    Message {
        /// Text of the message.
        body: String,
        /// Reason why it is not a usage event.
        defect: Defect,
    },
    /// The usage event at this index of the batch, whose source and id another one has.
    Conflict(usize),
}

impl Ingest {
    /// Quarantines the input of these messages. Returns the ids of the messages that are not known to be
    /// quarantined.
    pub async fn quarantine_all(
        &self,
        events: &Arc<[IncomingEvent]>,
        inputs: Vec<(String, QuarantineInput)>,
    ) -> BTreeSet<String> {
        let ids = inputs.iter().map(|(message_id, _)| message_id.clone());
        let mut failed: BTreeSet<String> = ids.collect();
        let tasks = inputs.into_iter().map(|(message_id, input)| {
            let (ingest, events) = (self.clone(), Arc::clone(events));
            async move {
                let quarantined = ingest.quarantine(&message_id, &events, input).await;
                if let Err(error) = &quarantined {
                    let error = Chain(error);
                    tracing::error!(message_id, %error, "a message could not be quarantined");
                }
                quarantined.is_ok().then_some(message_id)
            }
        });
        for message_id in tasks::run(tasks, TIMEOUT).await.into_iter().flatten() {
            failed.remove(&message_id);
        }
        failed
    }

    async fn quarantine(
        &self,
        message_id: &str,
        events: &[IncomingEvent],
        input: QuarantineInput,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        match input {
            QuarantineInput::Message { body, defect } => {
                let reason = defect.to_string();
                tracing::warn!(message_id, reason, "a message was quarantined");
                let quarantined = self.store.quarantine_message(body.as_bytes(), &reason, now);
                quarantined.await?;
            }
            QuarantineInput::Conflict(index) => {
                let IncomingEvent { received, detail } = &events[index];
                let id = &received.id;
                tracing::warn!(message_id, id, "a conflicting usage event was quarantined");
                let rejected = RejectedRecord {
                    index: 0,
                    reason: Defect::Conflict.to_string(),
                };
                let whole = EventPart {
                    source: &received.source,
                    id,
                    part: 0,
                    customer: &received.customer,
                    aggregates: &Aggregates::default(),
                    too_old: None,
                    records: 0,
                    adjustments: &[],
                    rejected: &[rejected],
                    body: detail.as_bytes(),
                    received_at: now,
                };
                self.store.quarantine_conflict(&whole).await?;
            }
        }
        self.record(metrics::QUARANTINED_EVENTS, 1);
        Ok(())
    }
}
