//! Usage events as metered functions send them, and the batches in which Lambda hands them to the usage-writer.

use aws_lambda_events::sqs::SqsEvent;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tollgate_domain::id::uuid_v7;
use tollgate_domain::usage::EVENT_TYPE;
use tollgate_runtime::Entropy;

/// Longest way of an event through the bus to the queue, an assumption.
const LONGEST_WAY_MS: u64 = 1_000;
/// Longest time until a duplicate arrives.
const LATEST_DUPLICATE_MS: u64 = 10_000;

/// Traffic of usage events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    /// Usage events a second, at random times (a Poisson process).
    pub(crate) per_second: f64,
    /// Number of usage events.
    pub(crate) events: usize,
    /// Records of each event.
    pub(crate) records: usize,
    /// Metered functions that send events, at random.
    pub(crate) sources: u64,
    /// Customers that the events are of, at random.
    pub(crate) customers: u64,
    /// Endpoints that the records are of, at random.
    pub(crate) endpoints: u64,
    /// Events that are delivered twice.
    pub(crate) duplicated_percent: u64,
}

/// Batching of a queue's messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batching {
    /// Most messages of a batch.
    pub(crate) size: usize,
    /// Time after its first message at which a batch is handed over.
    pub(crate) window_s: u64,
    /// Pollers that each fill a batch of their own. Lambda has five at first.
    pub(crate) pollers: u64,
}

/// A batch, and the time at which the writer gets it.
pub(crate) struct Batch {
    pub(crate) at: Timestamp,
    pub(crate) event: SqsEvent,
    pub(crate) messages: usize,
}

impl Traffic {
    /// Draws the messages, with the milliseconds of their arrival at the queue, in this order.
    fn messages(&self, from: Timestamp, entropy: &Entropy) -> Vec<(u64, Value)> {
        let mut messages = Vec::with_capacity(self.events);
        let mut at_ms = 0.0;
        for _ in 0..self.events {
            // Inverse of the exponential distribution.
            let uniform = (entropy.below(1 << 53) as f64 + 0.5) / (1_u64 << 53) as f64;
            at_ms += -uniform.ln() / self.per_second * 1e3;
            let sent_ms = at_ms as u64;
            let time = from + SignedDuration::from_millis(i64::try_from(sent_ms).unwrap_or(0));
            let message = self.message(time, entropy);
            let arrival = sent_ms + entropy.below(LONGEST_WAY_MS);
            if entropy.below(100) < self.duplicated_percent {
                let again = arrival + entropy.below(LATEST_DUPLICATE_MS);
                messages.push((again, message.clone()));
            }
            messages.push((arrival, message));
        }
        messages.sort_by_key(|(arrival, _)| *arrival);
        messages
    }

    fn message(&self, time: Timestamp, entropy: &Entropy) -> Value {
        let uuid = || entropy.with(|rng| uuid_v7(time, rng));
        let records: Vec<Value> = (0..self.records)
            .map(|_| {
                json!({
                    "time": time, "request_id": uuid(), "key_id": "key_7pQ2vX9bTzR4cYdLw5Ha",
                    "plan": "pro", "method": "GET",
                    "endpoint": format!("/api/things/{}/{{id}}", entropy.below(self.endpoints)),
                    "status": 200, "latency_ms": entropy.below(200), "request_bytes": 0,
                    "response_bytes": entropy.below(2_000), "billable": true,
                })
            })
            .collect();
        let source = format!("tollgate:bench-{}", entropy.below(self.sources));
        let detail = json!({
            "specversion": "1.0", "id": uuid(), "source": source, "type": EVENT_TYPE, "time": time,
            "subject": format!("customer-{}", entropy.below(self.customers)),
            "data": { "records": records },
        });
        json!({ "detail-type": EVENT_TYPE, "source": source, "detail": detail })
    }

    /// Draws batches in the order in which the writer gets them.
    pub(crate) fn batches(
        &self,
        batching: Batching,
        from: Timestamp,
        entropy: &Entropy,
    ) -> Result<Vec<Batch>, serde_json::Error> {
        let window_ms = batching.window_s * 1_000;
        let pollers = usize::try_from(batching.pollers).unwrap_or(1);
        let mut open: Vec<Vec<Value>> = vec![Vec::new(); pollers];
        let mut due_ms = vec![u64::MAX; pollers];
        let mut batches = Vec::new();
        let mut close = |messages: &mut Vec<Value>, at_ms: u64| {
            let records: Vec<Value> = messages
                .drain(..)
                .enumerate()
                .map(|(id, body)| json!({ "messageId": id.to_string(), "body": body.to_string() }))
                .collect();
            batches.push(Batch {
                at: from + SignedDuration::from_millis(i64::try_from(at_ms).unwrap_or(0)),
                messages: records.len(),
                event: serde_json::from_value(json!({ "Records": records }))?,
            });
            Ok::<(), serde_json::Error>(())
        };
        for (at_ms, message) in self.messages(from, entropy) {
            for (messages, due) in open.iter_mut().zip(&mut due_ms) {
                if *due <= at_ms {
                    close(messages, *due)?;
                    *due = u64::MAX;
                }
            }
            let poller = usize::try_from(entropy.below(batching.pollers)).unwrap_or(0);
            let (messages, due) = (&mut open[poller], &mut due_ms[poller]);
            if messages.is_empty() {
                *due = at_ms + window_ms;
            }
            messages.push(message);
            if messages.len() == batching.size {
                close(messages, at_ms)?;
                *due = u64::MAX;
            }
        }
        for (messages, due) in open.iter_mut().zip(due_ms) {
            if !messages.is_empty() {
                close(messages, due)?;
            }
        }
        batches.sort_by_key(|batch| batch.at);
        Ok(batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAFFIC: Traffic = Traffic {
        per_second: 20.0,
        events: 1_000,
        records: 1,
        sources: 1,
        customers: 1,
        endpoints: 1,
        duplicated_percent: 0,
    };

    fn sizes(traffic: Traffic, batching: Batching) -> Vec<usize> {
        let from = Timestamp::from_second(1_795_341_600).unwrap();
        let batches = traffic.batches(batching, from, &Entropy::seeded(1));
        batches
            .unwrap()
            .iter()
            .map(|batch| batch.messages)
            .collect()
    }

    #[test]
    fn a_batch_ends_with_its_window_or_when_it_is_full() {
        let batching = Batching {
            size: 10_000,
            window_s: 5,
            pollers: 1,
        };
        let by_window = sizes(TRAFFIC, batching);
        assert_eq!(by_window.iter().sum::<usize>(), 1_000);
        // 100 events in five seconds.
        let full = &by_window[..by_window.len() - 1];
        assert!(full.iter().all(|size| (50..150).contains(size)), "{full:?}");
        let by_size = sizes(
            TRAFFIC,
            Batching {
                size: 30,
                ..batching
            },
        );
        let count = by_size.iter().filter(|size| **size == 30).count();
        assert!(count >= 33, "{by_size:?}");
        let divided = sizes(
            TRAFFIC,
            Batching {
                pollers: 5,
                ..batching
            },
        );
        assert!(divided.len() > 4 * by_window.len(), "{divided:?}");
    }

    #[test]
    fn duplicates_are_messages_of_their_own() {
        let traffic = Traffic {
            duplicated_percent: 100,
            ..TRAFFIC
        };
        let batching = Batching {
            size: 100,
            window_s: 5,
            pollers: 1,
        };
        assert_eq!(sizes(traffic, batching).iter().sum::<usize>(), 2_000);
    }
}
