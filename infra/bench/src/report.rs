//! Results, and their tables.

use std::collections::BTreeMap;

use crate::latency::{TlsStarts, Warm};
use crate::routing::Routing;
use crate::rush::Rush;
use crate::samples::{Samples, us};
use crate::shapes::Traffic;

/// All results of a run.
pub(crate) struct Results {
    pub(crate) floor: Measured,
    /// Tollgate, with cached keys and leased quota.
    pub(crate) ours: Measured,
    /// Tollgate, with one counter write per call.
    pub(crate) one_write: Warm,
    pub(crate) node: Result<PeerResults, NotMeasured>,
    pub(crate) python: Result<PeerResults, NotMeasured>,
    /// Whether the benchmark and the processes were pinned to one core for the warm decisions.
    pub(crate) on_one_core: bool,
    pub(crate) handler: Samples,
    pub(crate) zip_bytes: u64,
    pub(crate) hot: Traffic,
    pub(crate) zipf: Traffic,
    pub(crate) routing: Vec<Routing>,
    pub(crate) rush: Rush,
}

/// Results of one contender.
pub(crate) struct Measured {
    pub(crate) start: Samples,
    pub(crate) warm: Warm,
    pub(crate) tls: Result<TlsStarts, NotMeasured>,
}

/// Results of a peer, with its versions and its client of the Runtime API.
pub(crate) struct PeerResults {
    pub(crate) versions: String,
    pub(crate) client: String,
    pub(crate) measured: Measured,
}

/// The reason for which something was not measured.
#[derive(Debug, Clone)]
pub(crate) struct NotMeasured(pub(crate) String);

/// Returns the resident memory in decimal megabytes.
pub(crate) fn resident_mb(warm: &Warm) -> f64 {
    warm.memory.resident as f64 / 1e6
}

/// Returns a table of each contender's latencies and memory.
pub(crate) fn contenders_table(results: &Results) -> String {
    let of = |name: &str, warm: &Warm, measured: Option<&Measured>| {
        let start = measured.map(|measured| percentiles(&measured.start, 1e3));
        let tls = measured.and_then(|measured| measured.tls.as_ref().ok());
        [
            name.to_owned(),
            start.unwrap_or_default(),
            tls.map_or(String::new(), |tls| number(tls.decided.median_ms())),
            percentiles(&warm.latency, 1.0),
            number(warm.requests_per_call),
            number(resident_mb(warm)),
            number(warm.memory.peak as f64 / 1e6),
        ]
    };
    let mut rows = vec![
        of("floor", &results.floor.warm, Some(&results.floor)),
        of(
            "Tollgate, cached and leased",
            &results.ours.warm,
            Some(&results.ours),
        ),
        of("Tollgate, one write", &results.one_write, None),
    ];
    for (name, peer) in [("Node.js", &results.node), ("Python", &results.python)] {
        rows.push(match peer {
            Ok(peer) => of(name, &peer.measured.warm, Some(&peer.measured)),
            Err(_) => {
                let mut row = <[String; 7]>::default();
                row[0] = name.to_owned();
                row[1] = "not measured".to_owned();
                row
            }
        });
    }
    table(
        [
            "p50 / p90 / p99",
            "process start, ms",
            "first decision, ms",
            "warm decision, µs",
            "requests per call",
            "resident memory, MB",
            "peak, MB",
        ],
        &rows,
    )
}

/// Returns a table of the DynamoDB requests of each traffic shape.
pub(crate) fn traffic_table(results: &Results) -> String {
    let row = |name: &str, traffic: &Traffic| {
        let by_operation = &traffic.counts.requests;
        let requests = list(by_operation, |count| traffic.per_1000(count));
        [
            format!(
                "{name}: {} on {}",
                keys(traffic.keys),
                instances(traffic.instances)
            ),
            number(traffic.calls_per_second()),
            number(traffic.requests_per_call()),
            requests,
            number(traffic.per_1000(traffic.counts.read_units)),
            number(traffic.per_1000(traffic.counts.write_units)),
            percentiles(&traffic.latency, 1.0),
        ]
    };
    let routed = |routing: &Routing| {
        let steady = &routing.steady;
        let in_us = |ms: u64| number(ms as f64 * 1e3);
        let [p50, p90, p99] = [steady.p50_ms, steady.p90_ms, steady.p99_ms].map(in_us);
        [
            format!(
                "routing: {} on at most {}",
                keys(routing.keys),
                instances(steady.most_instances as usize)
            ),
            routing.per_second.to_string(),
            number(steady.requests_per_call()),
            list(&steady.requests, |count| steady.per_1000(count)),
            number(steady.per_1000(steady.read_units)),
            number(steady.per_1000(steady.write_units)),
            format!("{p50} / {p90} / {p99}"),
        ]
    };
    let mut rows = vec![row("hot", &results.hot)];
    rows.extend(results.routing.iter().map(routed));
    rows.push(row("zipf", &results.zipf));
    table(
        [
            "shape",
            "calls/s",
            "requests per call",
            "requests per 1,000 calls",
            "read units per 1,000",
            "write units per 1,000",
            "decision, µs, p50 / p90 / p99",
        ],
        &rows,
    )
}

/// Lists names with their counts, which `per_1000` converts.
fn list(counts: &BTreeMap<String, u64>, per_1000: impl Fn(f64) -> f64) -> String {
    let items = counts.iter().map(|(name, count)| {
        let name = name.replace('_', " ");
        format!("{name} {}", number(per_1000(*count as f64)))
    });
    items.collect::<Vec<_>>().join(", ")
}

fn keys(count: usize) -> String {
    match count {
        1 => "1 key".to_owned(),
        count => format!("{count} keys"),
    }
}

fn instances(count: usize) -> String {
    match count {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    }
}

/// Formats the 50th, 90th and 99th percentile, in microseconds divided by `scale`.
fn percentiles(samples: &Samples, scale: f64) -> String {
    let of = |percent| number(us(samples.percentile(percent)) / scale);
    format!("{} / {} / {}", of(50), of(90), of(99))
}

/// Formats with three significant digits; whole numbers without decimals.
pub(crate) fn number(value: f64) -> String {
    if value == value.trunc() {
        return format!("{value:.0}");
    }
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        0.1.. => 2,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// Formats a Markdown table with aligned columns.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = std::iter::once(&header).chain(rows);
        let widths = cells.map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    });
    let line = |cells: [String; N]| format!("| {} |\n", cells.join(" | "));
    let pad = |row: &[String; N]| {
        line(std::array::from_fn(|column| {
            format!("{:width$}", row[column], width = widths[column])
        }))
    };
    let rule = widths.map(|width| "-".repeat(width + 2)).join("|");
    let body: String = rows.iter().map(pad).collect();
    format!("{}|{rule}|\n{body}", pad(&header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        let check = |value: f64, expected: &str| assert_eq!(number(value), expected);
        check(0.0, "0");
        check(5.0, "5");
        check(100_000.0, "100000");
        check(123.456, "123");
        check(12.345, "12.3");
        check(1.234, "1.23");
        check(0.0156, "0.0156");
    }
}
