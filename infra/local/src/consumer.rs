//! Delivery from a queue to a function, as by Lambda's event source mapping.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tollgate_local_aws::{Message, Queue, QueueError};

use crate::template::EventSource;

/// Interval at which the queue is polled.
const POLL: Duration = Duration::from_millis(200);

/// Function that handles batches of messages.
pub(crate) type Handler =
    Box<dyn Fn(SqsEvent) -> BoxFuture<'static, SqsBatchResponse> + Send + Sync>;

pub(crate) struct Consumer {
    queue: Arc<Queue>,
    handler: Handler,
    source: EventSource,
    /// Locked while a batch is in flight, so that a drain does not miss it.
    failed: Mutex<VecDeque<Failed>>,
    stop: Notify,
}

/// Messages whose delivery failed, with the end of their visibility timeout.
struct Failed {
    visible_at: Instant,
    ids: Vec<i64>,
}

/// Outcome of a drain.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct DrainOutcome {
    /// Messages that were processed.
    delivered: usize,
    /// Deliveries that failed.
    failed: usize,
    /// Messages that became dead letters.
    dead_lettered: usize,
}

impl Consumer {
    pub(crate) fn new(queue: Arc<Queue>, handler: Handler, source: EventSource) -> Self {
        Self {
            queue,
            handler,
            source,
            failed: Mutex::default(),
            stop: Notify::new(),
        }
    }

    /// Delivers batches until [`stop`](Self::stop) is called: each when it is full, or when the batching
    /// window since its first message has passed.
    pub(crate) async fn run(&self) {
        let mut waiting_since = None;
        loop {
            tokio::select! {
                () = self.stop.notified() => return,
                () = tokio::time::sleep(POLL) => {}
            }
            let queued = match self.queue.counts() {
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
            let source = &self.source;
            if queued < source.batch_size as u64 && since.elapsed() < source.window {
                continue;
            }
            waiting_since = None;
            if let Err(error) = self.deliver(Some(Instant::now())).await {
                tracing::error!(%error, "the queue cannot be used");
            }
        }
    }

    /// Ends [`run`](Self::run) after the batch in flight.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Delivers now as many messages as are queued. Failed ones are redelivered until they are processed or become
    /// dead letters.
    pub(crate) async fn drain(&self) -> Result<DrainOutcome, QueueError> {
        let counts = self.queue.counts()?;
        // More may arrive all the time. Those that failed before are not visible to others.
        let left = usize::try_from(counts.queued).unwrap_or(usize::MAX);
        let left =
            left.saturating_add(self.failed.lock().await.iter().map(|it| it.ids.len()).sum());
        let mut total = DrainOutcome::default();
        loop {
            let outcome = self.deliver(None).await?;
            if outcome == DrainOutcome::default() {
                return Ok(total);
            }
            total.delivered += outcome.delivered;
            total.failed += outcome.failed;
            total.dead_lettered += outcome.dead_lettered;
            if total.delivered + total.dead_lettered >= left {
                return Ok(total);
            }
        }
    }

    /// Delivers one batch. It may contain failed messages that are visible again at `now`, or, if that is
    /// `None`, any failed messages.
    async fn deliver(&self, now: Option<Instant>) -> Result<DrainOutcome, QueueError> {
        let mut failed = self.failed.lock().await;
        let queue = &self.queue;
        let mut outcome = DrainOutcome::default();
        while let Some(due) = failed.pop_front_if(|it| now.is_none_or(|now| it.visible_at <= now)) {
            outcome.dead_lettered += queue.make_visible(&due.ids)?;
        }
        let messages = queue.receive(self.source.batch_size)?;
        if messages.is_empty() {
            return Ok(outcome);
        }
        let failures = self.invoke(&messages).await;
        let ids = messages.iter().map(|message| message.id);
        let (failed_ids, done): (Vec<i64>, Vec<i64>) =
            ids.partition(|id| failures.contains(&id.to_string()));
        queue.delete(&done)?;
        outcome.delivered = done.len();
        outcome.failed = failed_ids.len();
        if !failed_ids.is_empty() {
            failed.push_back(Failed {
                visible_at: Instant::now() + self.source.visibility_timeout,
                ids: failed_ids,
            });
        }
        Ok(outcome)
    }

    /// Invokes the function with a batch. Returns the ids of the messages that failed.
    async fn invoke(&self, messages: &[Message]) -> Vec<String> {
        let all = || messages.iter().map(|message| message.id.to_string());
        let records = messages.iter().map(|message| {
            json!({
                "messageId": message.id.to_string(),
                "receiptHandle": format!("{}:{}", message.id, message.receives),
                "body": message.body,
                "attributes": {
                    "ApproximateReceiveCount": message.receives.to_string(),
                },
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": format!("arn:aws:sqs:us-east-1:000000000000:{}", self.source.queue),
                "awsRegion": "us-east-1",
            })
        });
        let event = json!({ "Records": records.collect::<Vec<_>>() });
        let Ok(event) = serde_json::from_value::<SqsEvent>(event) else {
            return all().collect();
        };
        let running = tokio::spawn((self.handler)(event));
        match running.await {
            Ok(response) => {
                let failures = response.batch_item_failures.into_iter();
                failures.map(|failure| failure.item_identifier).collect()
            }
            // A panic fails the invocation, and with it the whole batch.
            Err(_) => all().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_ingest::Ingest;
    use tollgate_local_aws::fixture::Fixture;
    use tollgate_local_aws::{Counts, Fault, MAX_RECEIVES};
    use tollgate_runtime::Metrics;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(5);
    const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(180);

    fn consumer(at: &Fixture) -> Arc<Consumer> {
        let ingest = Ingest::new(at.store.clone(), at.clock(), Metrics::none());
        let writer = usage_writer::App { ingest };
        let source = EventSource {
            queue: "UsageQueue".to_owned(),
            batch_size: 100,
            window: WINDOW,
            visibility_timeout: VISIBILITY_TIMEOUT,
        };
        let handler: Handler = Box::new(move |event| {
            let writer = writer.clone();
            Box::pin(async move { usage_writer::handle(&writer, event).await })
        });
        Arc::new(Consumer::new(Arc::clone(at.aws.queue()), handler, source))
    }

    // A paused clock advances as soon as all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_failed_message_is_redelivered_after_the_visibility_timeout() {
        let at = Fixture::at("2026-11-22T10:00:00Z");
        let consumer = consumer(&at);
        // A message that is not a usage event is quarantined, and so processed, if the store is up.
        at.aws.queue().send(&["{}".to_owned()]).unwrap();
        at.aws.inject(|_| Fault::RequestLost);
        let running = Arc::clone(&consumer);
        let running = tokio::spawn(async move { running.run().await });
        tokio::time::sleep(VISIBILITY_TIMEOUT * (MAX_RECEIVES - 2)).await;
        at.aws.heal();
        tokio::time::sleep(VISIBILITY_TIMEOUT + 2 * WINDOW).await;
        assert_eq!(at.aws.queue().counts().unwrap(), Counts::default());

        at.aws.queue().send(&["{}".to_owned()]).unwrap();
        at.aws.inject(|_| Fault::RequestLost);
        tokio::time::sleep((VISIBILITY_TIMEOUT + 2 * WINDOW) * (MAX_RECEIVES + 1)).await;
        let dead = Counts { queued: 0, dead: 1 };
        assert_eq!(at.aws.queue().counts().unwrap(), dead);
        consumer.stop();
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_does_not_wait_for_the_visibility_timeout() {
        let at = Fixture::at("2026-11-22T10:00:00Z");
        let consumer = consumer(&at);
        at.aws.queue().send(&["{}".to_owned()]).unwrap();
        at.aws.inject(|_| Fault::RequestLost);
        let began = Instant::now();
        consumer.deliver(Some(began)).await.unwrap();
        let invisible = consumer.deliver(Some(began)).await.unwrap();
        assert_eq!(invisible, DrainOutcome::default());
        at.aws.heal();
        let drained = DrainOutcome {
            delivered: 1,
            ..DrainOutcome::default()
        };
        assert_eq!(consumer.drain().await.unwrap(), drained);

        at.aws.queue().send(&["{}".to_owned()]).unwrap();
        at.aws.inject(|_| Fault::RequestLost);
        let drained = consumer.drain().await.unwrap();
        let failed = MAX_RECEIVES as usize;
        assert_eq!((drained.failed, drained.dead_lettered), (failed, 1));
        assert!(began.elapsed() < VISIBILITY_TIMEOUT);
    }

    #[tokio::test]
    async fn a_drain_ends_though_messages_keep_coming() {
        let at = Fixture::at("2026-11-22T10:00:00Z");
        let queue = Arc::clone(at.aws.queue());
        let source = EventSource {
            queue: "UsageQueue".to_owned(),
            batch_size: 1,
            window: WINDOW,
            visibility_timeout: VISIBILITY_TIMEOUT,
        };
        let sending = Arc::clone(&queue);
        let handler: Handler = Box::new(move |_| {
            sending.send(&["{}".to_owned()]).unwrap();
            Box::pin(async { SqsBatchResponse::default() })
        });
        let consumer = Consumer::new(Arc::clone(&queue), handler, source);
        queue.send(&["{}".to_owned(), "{}".to_owned()]).unwrap();
        assert_eq!(consumer.drain().await.unwrap().delivered, 2);
        assert_eq!(queue.counts().unwrap().queued, 2);
    }
}
