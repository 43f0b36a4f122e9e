//! The usage-writer of the release before claims were put, which counts on while it is replaced. It puts an item into the
//! log for each part of a usage event, on the condition that there is none, in the transaction that counts the part. In
//! contrast to the release, each part has a transaction of its own, and items of adjustments are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};
use tollgate_domain::usage::{
    Aggregate, Aggregates, CountableItem, DimensionValue, Endpoint, ReceivedEvent,
};
use tollgate_domain::window::Day;
use tollgate_ingest::{IncomingEvent, Ingest, QuarantineInput};
use tollgate_local_aws::Call;
use tollgate_runtime::Entropy;

use super::queue::EXTENSION;
use crate::PREFIX;
use crate::network::Network;

/// Tries of a transaction, each of which waits so long for the response.
const TRIES: u64 = 6;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for which that release kept its log.
const KEPT_S: i64 = 400 * 24 * 3_600;

/// An instance of that usage-writer.
pub(super) struct EarlierWriter {
    pub(super) network: Network,
    /// The parts of the product that were the same: plans, clock, and the quarantine.
    pub(super) ingest: Ingest,
    pub(super) entropy: Entropy,
}

/// Outcome of counting a part.
enum Outcome {
    /// Counted, now or before.
    Counted,
    /// Another event with the same source and id was counted.
    Conflict,
    /// Unknown: the message is to be delivered again.
    Failed,
}

/// A part of a usage event: its items of one day.
struct Part<'a> {
    event: &'a ReceivedEvent,
    number: usize,
    day: Day,
    aggregates: Aggregates,
    records: u64,
    text: &'a str,
}

impl EarlierWriter {
    /// Handles a message. Returns whether it may be deleted.
    pub(super) async fn handle(&self, message_id: &str, body: &str) -> bool {
        let message: Value = serde_json::from_str(body).unwrap_or_default();
        let text = message["detail"].to_string();
        let Ok(incoming) = IncomingEvent::parse(&text) else {
            return false;
        };
        let Some(parts) = self.parts(incoming.received(), &text).await else {
            return false;
        };
        for part in &parts {
            match self.count(part).await {
                Outcome::Counted => {}
                // No later part is counted after one that was not.
                Outcome::Failed => return false,
                Outcome::Conflict => {
                    let input = (message_id.to_owned(), QuarantineInput::Conflict(0));
                    let events: Arc<[IncomingEvent]> = Arc::new([incoming]);
                    let failed = self.ingest.quarantine_all(&events, vec![input]);
                    return failed.await.is_empty();
                }
            }
        }
        true
    }

    /// Divides an event by its days: `None` if the plans cannot be read, or an item is invalid, which the simulation
    /// makes none of.
    async fn parts<'a>(&self, event: &'a ReceivedEvent, text: &'a str) -> Option<Vec<Part<'a>>> {
        let plans = self.ingest.plans.current().await.ok()?.plans;
        let mut days: BTreeMap<Day, (Aggregates, u64)> = BTreeMap::new();
        for item in &event.items {
            match item.check(&plans, self.ingest.clock.now()).ok()? {
                CountableItem::Record(record) => {
                    let day = days.entry(Day::containing(record.time)).or_default();
                    day.0.add(record);
                    day.1 += 1;
                }
                CountableItem::Adjustment(adjustment) => {
                    let day = days.entry(Day::containing(adjustment.time)).or_default();
                    day.0.adjust(adjustment);
                }
            }
        }
        let days = days.into_iter().enumerate();
        let parts = days.map(|(number, (day, (aggregates, records)))| Part {
            event,
            number,
            day,
            aggregates,
            records,
            text,
        });
        Some(parts.collect())
    }

    async fn count(&self, part: &Part<'_>) -> Outcome {
        let written_by = self.entropy.below(u64::MAX).to_string();
        for number in 0..TRIES {
            let token = self.entropy.below(u64::MAX).to_string();
            let transaction = json!({
                "TransactItems": self.actions(part, &written_by), "ClientRequestToken": token,
            });
            let call = Call {
                target: "DynamoDB_20120810.TransactWriteItems".to_owned(),
                body: transaction.to_string(),
            };
            let response = timeout(RESPONSE_TIMEOUT, self.network.send(call)).await;
            if let Ok(Ok((status, response))) = response {
                if status == 200 {
                    return Outcome::Counted;
                }
                let response: Value = serde_json::from_str(&response).unwrap_or_default();
                let reason = &response["CancellationReasons"][0];
                if reason["Code"] == "ConditionalCheckFailed" {
                    if reason["Item"]["digest"]["S"] == digest(part.text) {
                        return Outcome::Counted;
                    }
                    return self.compare_contents(part).await;
                }
            }
            sleep(Duration::from_millis(self.entropy.below(50 << number))).await;
        }
        Outcome::Failed
    }

    /// Compares an event with the one that was counted with another text.
    async fn compare_contents(&self, part: &Part<'_>) -> Outcome {
        let ReceivedEvent { source, id, .. } = part.event;
        let get = json!({
            "TableName": format!("{PREFIX}-usage-log"),
            "Key": { "pk": { "S": format!("{source}#{id}") }, "sk": { "S": "00" } },
            "ConsistentRead": true,
        });
        let call = Call {
            target: "DynamoDB_20120810.GetItem".to_owned(),
            body: get.to_string(),
        };
        let response = timeout(RESPONSE_TIMEOUT, self.network.send(call)).await;
        let Ok(Ok((200, response))) = response else {
            return Outcome::Failed;
        };
        let response: Value = serde_json::from_str(&response).unwrap_or_default();
        let body = response["Item"]["body"]["B"].as_str();
        let body = body.and_then(|body| BASE64_STANDARD.decode(body).ok());
        // A guard has no body, without which that release cannot compare.
        let Some(body) = body.and_then(|body| gunzip(&body)) else {
            return Outcome::Failed;
        };
        match without_extension(&body) == without_extension(part.text) {
            true => Outcome::Counted,
            false => Outcome::Conflict,
        }
    }

    /// Returns the actions that count a part: its item in the log, then the aggregates.
    fn actions(&self, part: &Part<'_>, written_by: &str) -> Vec<Value> {
        let put = json!({ "Put": {
            "TableName": format!("{PREFIX}-usage-log"),
            "Item": self.logged(part, written_by),
            "ConditionExpression": "attribute_not_exists(pk)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        } });
        let customer = part.event.customer.as_str();
        let days = part.aggregates.days.iter();
        let days = days.map(|(day, sum)| add(customer, &format!("DAY#{day}"), sum));
        let values = part.aggregates.dimensions.iter();
        let endpoints = values.filter_map(|((day, value), sum)| match value {
            DimensionValue::Endpoint(Endpoint { method, route }) => {
                let sk = format!("ENDPOINT#{day}#{method} {route}");
                Some(add(customer, &sk, sum))
            }
            _ => None,
        });
        std::iter::once(put).chain(days).chain(endpoints).collect()
    }

    fn logged(&self, part: &Part<'_>, written_by: &str) -> Value {
        let ReceivedEvent {
            source,
            id,
            customer,
            ..
        } = part.event;
        let now = self.ingest.clock.now();
        let mut item = json!({
            "pk": { "S": format!("{source}#{id}") },
            "sk": { "S": format!("{:02}", part.number) },
            "customer": { "S": customer },
            "log_order": { "S": format!("{}#{now:.3}", part.day) },
            "records": { "N": part.records.to_string() },
            "digest": { "S": digest(part.text) },
            "written_by": { "S": written_by },
            "received_at": { "S": now },
            "expires": { "N": (now.as_second() + KEPT_S).to_string() },
        });
        if part.number == 0 {
            item["body"] = json!({ "B": BASE64_STANDARD.encode(gzip(part.text)) });
        }
        item
    }
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Returns an event without the extension attribute that the bus adds to some deliveries.
pub(super) fn without_extension(text: &str) -> Value {
    let mut event: Value = serde_json::from_str(text).unwrap_or_default();
    if let Some(event) = event.as_object_mut() {
        event.remove(EXTENSION);
    }
    event
}

fn gunzip(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).ok()?;
    Some(text)
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(text.as_bytes());
    encoder.finish().unwrap_or_default()
}

/// Returns the update that adds an aggregate to a stored one.
fn add(customer: &str, sk: &str, sum: &Aggregate) -> Value {
    let adjusted = &sum.adjusted;
    let number = |name: &str, value: u64| (name.to_owned(), value.to_string());
    let mut sums = vec![
        number("calls", sum.calls),
        number("client_errors", sum.client_errors),
        number("server_errors", sum.server_errors),
        number("latency_ms", sum.latency_ms),
        number("tokens", sum.tokens),
        number("unpriced_tokens", sum.unpriced_tokens),
        number("cost_micro_usd", sum.cost.0),
        number("adjustments", adjusted.count),
    ];
    let adjusted_cost = adjusted.micro_usd.to_string();
    sums.push(("adjusted_cost_micro_usd".to_owned(), adjusted_cost));
    let billable = sum.billable.iter();
    sums.extend(billable.map(|(plan, calls)| (format!("billable#{plan}"), calls.to_string())));
    let adjusted = adjusted.billable.iter();
    sums.extend(adjusted.map(|(plan, calls)| (format!("adjusted#{plan}"), calls.to_string())));
    sums.retain(|(_, value)| value != "0");
    let (mut names, mut values, mut clauses) = (Map::new(), Map::new(), BTreeSet::new());
    for (index, (name, value)) in sums.into_iter().enumerate() {
        names.insert(format!("#a{index}"), name.into());
        values.insert(format!(":a{index}"), json!({ "N": value }));
        clauses.insert(format!("#a{index} :a{index}"));
    }
    json!({ "Update": {
        "TableName": format!("{PREFIX}-usage"),
        "Key": { "pk": { "S": customer }, "sk": { "S": sk } },
        "UpdateExpression": format!("ADD {}", Vec::from_iter(clauses).join(", ")),
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    } })
}
