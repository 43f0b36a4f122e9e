//! `docs/cost.md`: the cost of a million calls on AWS, computed from the requests that Tollgate's code was traced to
//! and from list prices.

mod page;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use page::{page, tables};

use crate::routing::{self, Period, Rate, Routing};
use crate::tools::ToolError;
use crate::writer::{self, Batching, PerThousand, Traffic, WriterError};

/// List prices, with their date.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prices {
    as_of: String,
    region: String,
    source: Vec<String>,
    usd_per_million: PerMillion,
    usd_per_gb_second_arm64: f64,
    usd_per_gb: PerGb,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PerMillion {
    api_gateway_rest_requests: f64,
    lambda_requests: f64,
    dynamodb_read_units: f64,
    dynamodb_write_units: f64,
    eventbridge_events: f64,
    sqs_requests: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PerGb {
    logs: f64,
    dynamodb_storage_month: f64,
    dynamodb_backup_month: f64,
}

impl Prices {
    /// Parses `infra/bench/prices.json`.
    pub(crate) fn listed() -> Result<Self, serde_json::Error> {
        serde_json::from_str(include_str!("../prices.json"))
    }
}

/// Memory of the functions, in GB.
const MEMORY_GB: f64 = 0.25;
/// Time that a request to DynamoDB, or a request that puts events, takes. Assumptions: nothing was measured on AWS.
const DYNAMODB_MS: f64 = 4.0;
const PUT_EVENTS_MS: f64 = 10.0;
/// Requests to DynamoDB in sequence for which a batch waits: claims, those of others, the log, and the transaction.
const WRITER_ROUND_TRIPS: f64 = 4.0;
/// Time that the usage-writer computes for one record, with the share of a processor that its memory gives it.
const WRITER_MS_PER_RECORD: f64 = 0.2;
/// Bytes of one log line with metrics. The authorizer writes one every ten seconds or hundred calls, the writer one for
/// each batch.
const METRICS_LINE_BYTES: f64 = 1_000.0;
const CALLS_PER_LINE: f64 = 100.0;
const LINE_INTERVAL_S: f64 = 10.0;
/// Bytes of an event beyond which EventBridge and SQS charge for more than one.
const CHUNK_BYTES: f64 = 64_000.0;
/// Requests of SQS for a message: one sends it, and receives and deletions are for ten messages, or for one.
const SQS_FULL: f64 = 1.2;
const SQS_ONE_BY_ONE: f64 = 3.0;
/// Days for which the log and the claims are kept.
const KEPT_DAYS: f64 = 400.0;
const DAYS_PER_MONTH: f64 = 365.0 / 12.0;

/// Rates of calls with one busy key. The first is that of the whole way of a call.
const BUSY: [Rate; 2] = [
    Rate {
        per_second: 500,
        keys: 1,
        warm_up_s: 420,
        seconds: 120,
    },
    Rate {
        per_second: 50,
        keys: 1,
        warm_up_s: 420,
        seconds: 600,
    },
];

/// Measured requests and units.
pub(crate) struct Measured {
    busy: Vec<Routing>,
    thousand_keys: Vec<Routing>,
    /// Events of one record, of 100 records, and of one record in half-empty batches.
    one_record: PerThousand,
    hundred_records: PerThousand,
    half_empty: PerThousand,
}

/// Failure to measure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CostError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Writer(#[from] WriterError),
}

/// Simulates the authorizer, and lets the usage-writer count.
pub(crate) async fn measure(dir: &Path, profile: &str) -> Result<Measured, CostError> {
    std::fs::create_dir_all(dir).map_err(|error| ToolError::File(dir.to_owned(), error))?;
    let usage = |per_second: f64, events: usize, records: usize| Traffic {
        per_second,
        events,
        records,
        sources: 10,
        customers: 1,
        endpoints: 5,
        duplicated_percent: 0,
    };
    let half_empty = Batching {
        pollers: 5,
        ..writer::BATCHING
    };
    Ok(Measured {
        busy: routing::measure(dir, profile, &BUSY).await?,
        thousand_keys: routing::measure(dir, profile, &routing::FULL).await?,
        one_record: writer::consumed(usage(200.0, 20_000, 1), writer::BATCHING).await?,
        hundred_records: writer::consumed(usage(20.0, 1_000, 100), writer::BATCHING).await?,
        half_empty: writer::consumed(usage(2.0, 2_000, 1), half_empty).await?,
    })
}

/// Way of a call: its decision, and how it is reported and counted.
#[derive(Clone, Copy)]
struct Way<'a> {
    name: &'a str,
    decision: Decision,
    /// Records of each usage event.
    records: f64,
    counting: PerThousand,
    sqs_requests: f64,
}

/// Averages of one decision.
#[derive(Debug, Clone, Copy, Default)]
struct Decision {
    read_units: f64,
    write_units: f64,
    ms: f64,
    log_lines: f64,
}

impl Decision {
    fn of(routing: &Routing) -> Self {
        let Period {
            calls,
            read_units,
            write_units,
            round_trips_per_1000,
            most_instances,
            ..
        } = routing.steady;
        let calls = calls as f64;
        let by_time = most_instances as f64 * routing.seconds as f64 / LINE_INTERVAL_S / calls;
        Self {
            read_units: read_units / calls,
            write_units: write_units / calls,
            ms: routing.handler_ms as f64
                + routing.round_trip_ms as f64 * round_trips_per_1000 / 1e3,
            log_lines: by_time.max(1.0 / CALLS_PER_LINE),
        }
    }
}

/// Cost of a million calls in US dollars, without the gateway and the operator's function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Cost {
    authorizer_requests: f64,
    authorizer_time: f64,
    authorizer_reads: f64,
    authorizer_writes: f64,
    flushes: f64,
    bus: f64,
    queue: f64,
    writer_requests_and_time: f64,
    writer_reads: f64,
    writer_writes: f64,
    logs: f64,
}

impl Cost {
    fn decision(self) -> f64 {
        self.authorizer_requests
            + self.authorizer_time
            + self.authorizer_reads
            + self.authorizer_writes
    }

    fn metering(self) -> f64 {
        self.flushes
            + self.bus
            + self.queue
            + self.writer_requests_and_time
            + self.writer_reads
            + self.writer_writes
    }

    fn sum(self) -> f64 {
        self.decision() + self.metering() + self.logs
    }
}

impl Prices {
    /// Returns the cost of as many milliseconds of a function for each of a million calls.
    fn time(&self, ms: f64) -> f64 {
        1e6 * ms / 1e3 * MEMORY_GB * self.usd_per_gb_second_arm64
    }

    fn decisions(&self, decision: Decision) -> Cost {
        let prices = &self.usd_per_million;
        Cost {
            authorizer_requests: prices.lambda_requests,
            authorizer_time: self.time(decision.ms),
            authorizer_reads: decision.read_units * prices.dynamodb_read_units,
            authorizer_writes: decision.write_units * prices.dynamodb_write_units,
            ..Cost::default()
        }
    }

    fn calls(&self, way: Way<'_>) -> Cost {
        let prices = &self.usd_per_million;
        let Way {
            decision,
            records,
            counting,
            ..
        } = way;
        let events = 1.0 / records;
        let chunks = (counting.message_bytes / CHUNK_BYTES).ceil();
        let batches = events / counting.messages_per_batch;
        let writer_ms = batches * WRITER_ROUND_TRIPS * DYNAMODB_MS + WRITER_MS_PER_RECORD;
        let log_bytes = METRICS_LINE_BYTES * (decision.log_lines + batches);
        Cost {
            flushes: self.time(events * PUT_EVENTS_MS),
            bus: events * chunks * prices.eventbridge_events,
            queue: events * (chunks - 1.0 + way.sqs_requests) * prices.sqs_requests,
            writer_requests_and_time: batches * prices.lambda_requests + self.time(writer_ms),
            writer_reads: counting.read_units / 1e3 * prices.dynamodb_read_units,
            writer_writes: counting.write_units / 1e3 * prices.dynamodb_write_units,
            // A million calls of one byte are a thousandth of a GB.
            logs: log_bytes / 1e3 * self.usd_per_gb.logs,
            ..self.decisions(decision)
        }
    }

    /// Returns the cost of storing what a million calls leave in the usage log, for as long as that is kept.
    fn storage(&self, counting: PerThousand) -> f64 {
        let gb = counting.stored_bytes / 1e3 * 1e6 / 1e9;
        let PerGb {
            dynamodb_storage_month,
            dynamodb_backup_month,
            ..
        } = self.usd_per_gb;
        gb * (dynamodb_storage_month + dynamodb_backup_month) * KEPT_DAYS / DAYS_PER_MONTH
    }
}

impl Measured {
    fn ways(&self) -> Vec<Way<'_>> {
        let flush_modes = [
            (
                "one key at 500/s, buffered",
                100.0,
                self.hundred_records,
                SQS_FULL,
            ),
            ("the same, every invocation", 1.0, self.one_record, SQS_FULL),
            (
                "the same, half-empty batches",
                1.0,
                self.half_empty,
                SQS_ONE_BY_ONE,
            ),
        ];
        let busy = self.busy.first().map(Decision::of);
        let mut ways: Vec<Way<'_>> = flush_modes
            .into_iter()
            .zip(std::iter::repeat(busy.unwrap_or_default()))
            .map(|((name, records, counting, sqs_requests), decision)| Way {
                name,
                decision,
                records,
                counting,
                sqs_requests,
            })
            .collect();
        let names = [
            "1,000 keys at 5/s",
            "1,000 keys at 50/s",
            "1,000 keys at 500/s",
        ];
        let thousand = names.into_iter().zip(&self.thousand_keys);
        ways.extend(thousand.map(|(name, routing)| Way {
            name,
            decision: Decision::of(routing),
            records: 1.0,
            counting: self.one_record,
            sqs_requests: SQS_FULL,
        }));
        ways
    }

    pub(crate) fn figures(&self, prices: &Prices) -> Figures {
        let ways = self.ways();
        let costs: Vec<Cost> = ways.iter().map(|way| prices.calls(*way)).collect();
        let sum = |at: usize| costs.get(at).map_or(0.0, |cost| cost.sum());
        let decision = |at: usize| costs.get(at).map_or(0.0, |cost| cost.decision());
        Figures {
            busy_buffered_usd: sum(0),
            busy_every_invocation_usd: sum(1),
            busy_half_empty_usd: sum(2),
            cold_decision_5_usd: decision(3),
            cold_decision_usd: decision(4),
            cold_decision_500_usd: decision(5),
            storage_buffered_usd: prices.storage(self.hundred_records),
            storage_every_invocation_usd: prices.storage(self.one_record),
        }
    }
}

/// Cost of a million calls, in US dollars, beside the gateway and the operator's function.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    busy_buffered_usd: f64,
    busy_every_invocation_usd: f64,
    busy_half_empty_usd: f64,
    cold_decision_5_usd: f64,
    /// At 50 calls a second.
    cold_decision_usd: f64,
    cold_decision_500_usd: f64,
    storage_buffered_usd: f64,
    storage_every_invocation_usd: f64,
}

/// Targets.
const MAX_BUFFERED: f64 = 0.40;
const MAX_EVERY_INVOCATION: f64 = 1.80;
const MAX_DECISION: f64 = 0.80;

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
    }

    #[test]
    fn the_cost_of_a_call_is_the_sum_of_its_parts() {
        let prices = Prices::listed().unwrap();
        let counting = PerThousand {
            write_units: 100.0,
            read_units: 40.0,
            requests: 10.0,
            messages_per_batch: 100.0,
            message_bytes: 700.0,
            stored_bytes: 80_000.0,
        };
        let way = Way {
            name: "",
            decision: Decision {
                read_units: 1.0,
                write_units: 2.0,
                ms: 5.0,
                log_lines: 0.01,
            },
            records: 1.0,
            counting,
            sqs_requests: SQS_FULL,
        };
        let cost = prices.calls(way);
        near(cost.authorizer_requests, 0.20);
        near(cost.authorizer_time, 1e6 * 0.005 * 0.25 * 0.000_013_333_4);
        near(cost.authorizer_reads, 0.125);
        near(cost.authorizer_writes, 1.25);
        near(cost.bus, 1.0);
        near(cost.queue, 0.48);
        near(cost.writer_writes, 0.0625);
        near(cost.writer_reads, 0.005);
        near(cost.logs, 0.02 * 0.5);
        near(cost.sum(), cost.decision() + cost.metering() + cost.logs);
        // 80 MB for 400 days.
        near(
            prices.storage(counting),
            0.08 * 0.45 * 400.0 / (365.0 / 12.0),
        );
    }

    #[test]
    fn large_events_count_for_each_64_kilobytes() {
        let prices = Prices::listed().unwrap();
        let counting = PerThousand {
            message_bytes: 100_000.0,
            messages_per_batch: 1.0,
            ..PerThousand::default()
        };
        let way = Way {
            name: "",
            decision: Decision::default(),
            records: 100.0,
            counting,
            sqs_requests: SQS_FULL,
        };
        let cost = prices.calls(way);
        near(cost.bus, 0.02);
        near(cost.queue, 0.01 * 2.2 * 0.40);
    }
}
