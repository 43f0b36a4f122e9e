//! From the queue to the usage-writer: what Lambda's event source mapping does.

use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tollgate_local_aws::{LocalAws, Message, QueueError};

/// How often the queue is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long messages that failed wait for their next delivery.
const RETRY_WAIT: Duration = Duration::from_secs(1);

pub(crate) struct Consumer {
    aws: LocalAws,
    writer: usage_writer::App,
    batch_size: usize,
    window: Duration,
    /// Held while a batch is out, so that a drain does not miss it.
    delivering: Mutex<()>,
    stop: Notify,
}

/// What a drain did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Drained {
    /// Messages that were dealt with.
    delivered: usize,
    /// Deliveries that failed.
    failed: usize,
    /// Messages that failed so often that they were set aside.
    dead_lettered: usize,
}

impl Consumer {
    pub(crate) fn new(
        aws: LocalAws,
        writer: usage_writer::App,
        batch_size: usize,
        window: Duration,
    ) -> Self {
        Self {
            aws,
            writer,
            batch_size,
            window,
            delivering: Mutex::new(()),
            stop: Notify::new(),
        }
    }

    /// Delivers batches until [`stop`](Self::stop) is called: when one is full, or the window has
    /// passed since its first message was seen.
    pub(crate) async fn run(&self) {
        let mut waiting_since = None;
        loop {
            tokio::select! {
                () = self.stop.notified() => return,
                () = tokio::time::sleep(POLL) => {}
            }
            let queued = match self.aws.queue().counts() {
                Ok(counts) => counts.queued,
                Err(error) => {
                    tracing::error!(%error, "the queue cannot be read");
                    continue;
                }
            };
            if queued == 0 {
                waiting_since = None;
                continue;
            }
            let since = *waiting_since.get_or_insert_with(Instant::now);
            if queued < self.batch_size as u64 && since.elapsed() < self.window {
                continue;
            }
            waiting_since = None;
            match self.deliver().await {
                Ok(outcome) if outcome.failed == 0 => {}
                Ok(_) => tokio::time::sleep(RETRY_WAIT).await,
                Err(error) => tracing::error!(%error, "the queue cannot be used"),
            }
        }
    }

    /// Ends [`run`](Self::run) after the batch that is out.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Delivers all that is queued, now. What fails is delivered again until it is dealt with or
    /// set aside as a dead letter.
    pub(crate) async fn drain(&self) -> Result<Drained, QueueError> {
        let mut total = Drained::default();
        loop {
            let outcome = self.deliver().await?;
            if outcome == Drained::default() {
                return Ok(total);
            }
            total.delivered += outcome.delivered;
            total.failed += outcome.failed;
            total.dead_lettered += outcome.dead_lettered;
        }
    }

    /// Delivers one batch.
    async fn deliver(&self) -> Result<Drained, QueueError> {
        let _delivering = self.delivering.lock().await;
        let queue = self.aws.queue();
        let messages = queue.receive(self.batch_size)?;
        if messages.is_empty() {
            return Ok(Drained::default());
        }
        let failed = self.invoke(&messages).await;
        let (mut done, mut again) = (Vec::new(), Vec::new());
        for message in &messages {
            match failed.contains(&message.id.to_string()) {
                true => again.push(message.id),
                false => done.push(message.id),
            }
        }
        queue.delete(&done)?;
        Ok(Drained {
            delivered: done.len(),
            failed: again.len(),
            dead_lettered: queue.put_back(&again)?,
        })
    }

    /// Hands a batch to the usage-writer; returns the ids of the messages that failed.
    async fn invoke(&self, messages: &[Message]) -> Vec<String> {
        let all = || messages.iter().map(|message| message.id.to_string());
        let records = messages.iter().map(|message| {
            json!({
                "messageId": message.id.to_string(),
                "receiptHandle": format!("{}:{}", message.id, message.receives),
                "body": message.body,
                "attributes": {
                    "ApproximateReceiveCount": message.receives.to_string(),
                    "SenderId": "events.amazonaws.com",
                },
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:usage",
                "awsRegion": "us-east-1",
            })
        });
        let event = json!({ "Records": records.collect::<Vec<_>>() });
        let Ok(event) = serde_json::from_value::<SqsEvent>(event) else {
            return all().collect();
        };
        let writer = self.writer.clone();
        let running = tokio::spawn(async move { usage_writer::handle(&writer, event).await });
        match running.await {
            Ok(response) => {
                let failures = response.batch_item_failures.into_iter();
                failures.map(|failure| failure.item_identifier).collect()
            }
            // A panic fails the invocation, and so the whole batch.
            Err(_) => all().collect(),
        }
    }
}
