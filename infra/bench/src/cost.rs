//! `docs/cost.md`: what decisions cost on AWS, from what they were measured to ask of DynamoDB and a
//! list of prices.

use serde::Deserialize;

use crate::report::{Results, table};
use crate::shapes::Traffic;

/// List prices, with their date.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prices {
    as_of: String,
    region: String,
    source: Vec<String>,
    usd_per_million: PerMillion,
    usd_per_gb_second_arm64: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PerMillion {
    api_gateway_rest_requests: f64,
    lambda_requests: f64,
    dynamodb_read_units: f64,
    dynamodb_write_units: f64,
}

/// Memory of the function, in GB.
const MEMORY_GB: f64 = 0.25;
/// Lambda bills whole milliseconds, so that a decision from memory is billed one.
const FROM_MEMORY_MS: f64 = 1.0;
/// What a request to DynamoDB adds to that. An assumption: nothing was measured on AWS.
const REQUEST_MS: f64 = 4.0;

/// What one decision asks for, on average.
#[derive(Debug, Clone, Copy)]
struct Decision {
    read_units: f64,
    write_units: f64,
    /// Requests that wait for one another.
    in_turn: f64,
}

/// What a million decisions cost, in dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Cost {
    lambda_requests: f64,
    lambda_time: f64,
    reads: f64,
    writes: f64,
}

impl Cost {
    fn sum(self) -> f64 {
        self.lambda_requests + self.lambda_time + self.reads + self.writes
    }
}

impl Prices {
    /// Those of `infra/bench/prices.json`.
    pub(crate) fn listed() -> Result<Self, serde_json::Error> {
        serde_json::from_str(include_str!("../prices.json"))
    }

    fn of_a_million(&self, decision: Decision) -> Cost {
        let ms = FROM_MEMORY_MS + REQUEST_MS * decision.in_turn;
        let gb_seconds = 1e6 * ms / 1e3 * MEMORY_GB;
        let PerMillion {
            lambda_requests,
            dynamodb_read_units,
            dynamodb_write_units,
            ..
        } = self.usd_per_million;
        Cost {
            lambda_requests,
            lambda_time: gb_seconds * self.usd_per_gb_second_arm64,
            reads: decision.read_units * dynamodb_read_units,
            writes: decision.write_units * dynamodb_write_units,
        }
    }
}

/// What Tollgate was measured to ask for. Its reads wait for each other, and its writes go out
/// together.
fn measured(traffic: &Traffic) -> Decision {
    let calls = traffic.latency.len() as f64;
    let requests = |operation: &str| {
        let count = traffic.asked.requests.get(operation);
        count.copied().unwrap_or(0) as f64 / calls
    };
    Decision {
        read_units: traffic.asked.read_units / calls,
        write_units: traffic.asked.write_units / calls,
        in_turn: requests("GetItem") + requests("UpdateItem") / 2.0,
    }
}

/// The page.
pub(crate) fn page(results: &Results, prices: &Prices) -> String {
    let designs = [
        ("Tollgate, one hot key", Some(measured(&results.hot))),
        (
            "Tollgate, 1,000 keys over 50 instances",
            Some(measured(&results.zipf)),
        ),
        (
            "read the key, one conditional write",
            Some(Decision {
                read_units: 1.0,
                write_units: 1.0,
                in_turn: 2.0,
            }),
        ),
        (
            "read the key, two counters in a transaction",
            Some(Decision {
                read_units: 1.0,
                write_units: 4.0,
                in_turn: 2.0,
            }),
        ),
        ("no authorizer: API Gateway's usage plans", None),
    ];
    let gateway = prices.usd_per_million.api_gateway_rest_requests;
    let usd = |amount: f64| format!("{amount:.3}");
    let lines: Vec<[String; 7]> = designs
        .into_iter()
        .map(|(name, decision)| {
            let cost = decision.map(|decision| prices.of_a_million(decision));
            let cost = cost.unwrap_or_default();
            [
                name.to_owned(),
                usd(cost.lambda_requests),
                usd(cost.lambda_time),
                usd(cost.reads),
                usd(cost.writes),
                format!("**{}**", usd(cost.sum())),
                usd(cost.sum() + gateway),
            ]
        })
        .collect();
    let head = [
        "$ per million calls",
        "Lambda, requests",
        "Lambda, time",
        "DynamoDB, reads",
        "DynamoDB, writes",
        "decisions",
        "with the gateway",
    ];
    let table = table(head, &lines);
    let Prices {
        as_of,
        region,
        source,
        ..
    } = prices;
    let sources = source.join(", ");
    format!(
        "# What decisions cost

Made by `cargo run --release -p bench -- authorizer`, from what it measured that the authorizer asks of
DynamoDB ([benchmarks.md](benchmarks.md)) and the list prices of `infra/bench/prices.json`: {region},
{as_of}, from {sources}. Free tiers are left out, and so are logs and transfer.

{table}
- **Tollgate** is measured: requests, and units of capacity as the engine states them. A hot key is
  called 500 times a second on one instance. The 1,000 keys are called by Zipf's law, 500 calls a
  second in all, each to any of 50 instances at random: a key is then mostly new to its instance, and
  its decision costs two strongly consistent reads and two writes. Lambda routes better than that.
- **Read the key, one conditional write** is what the Node.js and Python authorizers of the benchmark
  do. It has one limit; for two it takes two writes.
- **Two counters in a transaction** counts the hour and the month together, at twice the price of
  each write.
- **API Gateway's usage plans** cost nothing more. Their limits are not hard ones, and there are at
  most 10,000 keys in a region.

Assumed, because nothing was measured on AWS: a decision from memory is billed {FROM_MEMORY_MS} ms, and
each request to DynamoDB that waits for another adds {REQUEST_MS} ms, at {MEMORY_GB} GB of memory on
arm64, for all designs. The same function in Node.js or Python takes more memory and starts later.

What metering and billing a call costs besides is in [deploy.md](deploy.md#what-it-costs).
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_costs_what_its_parts_do() {
        let prices = Prices::listed().unwrap();
        let cost = prices.of_a_million(Decision {
            read_units: 1.0,
            write_units: 2.0,
            in_turn: 1.0,
        });
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-6;
        assert!(near(cost.lambda_requests, 0.20), "{cost:?}");
        assert!(
            near(cost.lambda_time, 1e6 * 0.005 * 0.25 * 0.000_013_333_4),
            "{cost:?}"
        );
        assert!(near(cost.reads, 0.125), "{cost:?}");
        assert!(near(cost.writes, 1.25), "{cost:?}");
        assert!(
            near(cost.sum(), 0.20 + cost.lambda_time + 1.375),
            "{cost:?}"
        );
    }
}
