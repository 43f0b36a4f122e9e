//! Tables of costs, and the page.

use super::{
    CALLS_PER_LINE, Cost, DYNAMODB_MS, Decision, KEPT_DAYS, LINE_INTERVAL_S, MAX_BUFFERED,
    MAX_DECISION, MAX_EVERY_INVOCATION, MEMORY_GB, METRICS_LINE_BYTES, Measured, PUT_EVENTS_MS,
    Prices, SQS_FULL, SQS_ONE_BY_ONE, WRITER_MS_PER_RECORD,
};
use crate::figures::HEADER;
use crate::report::table;

fn usd(amount: f64) -> String {
    format!("{amount:.3}")
}

/// Returns the figures with their targets, and the costs of a million calls.
pub(crate) fn tables(measured: &Measured, prices: &Prices) -> [String; 2] {
    [targets(measured, prices), ways(measured, prices)]
}

fn targets(measured: &Measured, prices: &Prices) -> String {
    let figures = measured.figures(prices);
    let line = |name: &str, value: f64, target: Option<f64>| {
        let result = target.map(|most| match value <= most {
            true => "met",
            false => "**missed**",
        });
        [
            name.to_owned(),
            usd(value),
            target.map_or(String::new(), |most| format!("≤ {most:.2}")),
            result.unwrap_or_default().to_owned(),
        ]
    };
    let lines = [
        line(
            "$ per million calls, busy key, buffered metering",
            figures.busy_buffered_usd,
            Some(MAX_BUFFERED),
        ),
        line(
            "$ per million calls, busy key, every invocation flushed",
            figures.busy_every_invocation_usd,
            Some(MAX_EVERY_INVOCATION),
        ),
        line(
            "$ per million decisions, 1,000 keys at 5 calls a second",
            figures.cold_decision_5_usd,
            None,
        ),
        line(
            "$ per million decisions, 1,000 keys at 50 calls a second",
            figures.cold_decision_usd,
            Some(MAX_DECISION),
        ),
        line(
            "$ per million decisions, 1,000 keys at 500 calls a second",
            figures.cold_decision_500_usd,
            Some(MAX_DECISION),
        ),
    ];
    table(HEADER, &lines)
}

fn ways(measured: &Measured, prices: &Prices) -> String {
    let ways = measured.ways();
    let costs: Vec<Cost> = ways.iter().map(|way| prices.calls(*way)).collect();
    let row = |name: &str, of: fn(&Cost) -> f64| {
        let mut row = vec![name.to_owned()];
        row.extend(costs.iter().map(|cost| usd(of(cost))));
        row
    };
    let gateway = prices.usd_per_million.api_gateway_rest_requests;
    let mut rows = vec![
        row("authorizer, requests", |cost| cost.authorizer_requests),
        row("authorizer, time", |cost| cost.authorizer_time),
        row("decision, DynamoDB reads", |cost| cost.authorizer_reads),
        row("decision, DynamoDB writes", |cost| cost.authorizer_writes),
        row("metered function, time of the flush", |cost| cost.flushes),
        row("EventBridge", |cost| cost.bus),
        row("SQS", |cost| cost.queue),
        row("usage-writer", |cost| cost.writer_requests_and_time),
        row("counting, DynamoDB reads", |cost| cost.writer_reads),
        row("counting, DynamoDB writes", |cost| cost.writer_writes),
        row("logs of metrics", |cost| cost.logs),
    ];
    let sums = costs.iter().map(|cost| format!("**{}**", usd(cost.sum())));
    rows.push(
        std::iter::once("**Tollgate**".to_owned())
            .chain(sums)
            .collect(),
    );
    let whole = costs.iter().map(|cost| usd(cost.sum() + gateway));
    rows.push(
        std::iter::once(format!("with the gateway, {gateway:.2}"))
            .chain(whole)
            .collect(),
    );
    let stored = ways.iter().map(|way| usd(prices.storage(way.counting)));
    rows.push(
        std::iter::once(format!("storage, in {KEPT_DAYS} days"))
            .chain(stored)
            .collect(),
    );
    let names = ways.iter().map(|way| way.name);
    let head: Vec<&str> = std::iter::once("$ per million calls")
        .chain(names)
        .collect();
    columns(&head, &rows)
}

/// Returns a table whose number of columns is known only here.
fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head.to_vec());
    text.push_str(&line(vec!["---"; head.len()]));
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

fn designs(measured: &Measured, prices: &Prices) -> String {
    let routings = measured.busy.iter().chain(&measured.thousand_keys);
    let ours = routings.map(|routing| {
        let name = match routing.keys {
            1 => format!("Tollgate, one key at {} calls/s", routing.per_second),
            keys => format!("Tollgate, {keys} keys at {} calls/s", routing.per_second),
        };
        (name, Decision::of(routing))
    });
    let by_requests = |name: &str, write_units: f64| {
        let decision = Decision {
            read_units: 1.0,
            write_units,
            ms: 1.0 + 2.0 * DYNAMODB_MS,
            log_lines: 0.0,
        };
        (name.to_owned(), decision)
    };
    let others = [
        by_requests("read the key, one conditional write", 1.0),
        by_requests("read the key, two counters in a transaction", 4.0),
    ];
    let rows = ours.chain(others).map(|(name, decision)| {
        let cost = prices.decisions(decision);
        [
            name,
            format!("{:.3}", decision.read_units),
            format!("{:.3}", decision.write_units),
            format!("{:.1}", decision.ms),
            usd(cost.authorizer_requests + cost.authorizer_time),
            usd(cost.authorizer_reads),
            usd(cost.authorizer_writes),
            format!("**{}**", usd(cost.decision())),
        ]
    });
    let head = [
        "decisions",
        "read units",
        "write units",
        "ms",
        "$ Lambda",
        "$ reads",
        "$ writes",
        "$ per million",
    ];
    table(head, &rows.collect::<Vec<_>>())
}

/// Returns the text of `docs/cost.md`.
pub(crate) fn page(measured: &Measured, prices: &Prices) -> String {
    let [targets, ways] = tables(measured, prices);
    let designs = designs(measured, prices);
    let Prices {
        as_of,
        region,
        source,
        usd_per_gb,
        ..
    } = prices;
    let sources = source.join(", ");
    let logs = usd_per_gb.logs;
    let text_lines = 263.0 / 1e3 * logs;
    format!(
        "# Cost of a million calls

Generated by `cargo run --release -p bench -- cost`: the requests are those of Tollgate's own code, traced in a
simulation of the authorizer and in the usage-writer on an embedded engine; their units are counted as DynamoDB charges them
([benchmarks.md](benchmarks.md)). The prices are list prices of {region}, {as_of}, in `infra/bench/prices.json`, from
{sources}. Nothing was measured on AWS. Free tiers, data transfer and the time of your own function are not included.

{targets}
## The whole way of a call

{ways}
- **Buffered**: the metering layer sends up to 100 records in one usage event. **Every invocation**: it sends one record after
  each response. The calls of *1,000 keys* are distributed by Zipf's law, and flushed at every invocation.
- **Half-empty batches**: two usage events a second, which five pollers collect, each into batches of its own, and which are received and
  deleted one at a time. At such a rate a month has five million calls.
- **EventBridge and SQS** charge for each 64 KB of an event. A message of the queue is {SQS_FULL} requests, one by which it is sent
  and a tenth for its receipt and its deletion each, or {SQS_ONE_BY_ONE} one at a time.
- **DynamoDB**: a write in a transaction costs twice as much, each item rounded up to a kilobyte; index writes and rejected writes
  are charged. Usage events whose ids are not UUIDs of version 7 cost $0.75 a million more
  ([usage-event.md](usage-event.md#ids)).
- **Storage** is that of the usage log and its claims, with continuous backup. The aggregates do not grow with calls.
- **Logs**: {METRICS_LINE_BYTES:.0} bytes with metrics for every {CALLS_PER_LINE:.0} decisions, or {LINE_INTERVAL_S:.0} s of an instance, and for every
  batch. The functions log as JSON at the system level WARN; Lambda's three text lines for each invocation, some 263 bytes,
  would cost ${text_lines:.2} per million invocations more.

Assumptions: {MEMORY_GB} GB of memory on arm64; a decision from memory is billed as 1 ms; a request to DynamoDB takes {DYNAMODB_MS} ms, and one
that puts an event {PUT_EVENTS_MS} ms; the usage-writer computes for {WRITER_MS_PER_RECORD} ms for each record.

## Decisions

{designs}
Calls arrive at random times. An instance serves one at a time, a call goes to the most recently used idle instance, a new one starts
if none is idle, and idle ones end after five minutes ([benchmarks.md](benchmarks.md)). At a low rate most keys
have left the cache when they are called again, and their leases are small: reads and writes per call rise.

- **Read the key, one conditional write** has one limit; two limits need two writes.
- **Two counters in a transaction** counts the hour and the month together, at twice the price of each write.

## Time from a call to its count

Usage is collected for up to `UsageWindowSeconds`, 20 s by default, or until there are 1,000 events or 6 MB. A shorter window costs
more where events are few: counting a batch of one customer takes some ten write units, however many events it has. At
very low rates Lambda waits for up to 20 s in any case. Limits do not wait for this: the authorizer counts admitted calls itself.

| calls a second | half within | 99 % within |
|---:|---:|---:|
| 1 | 10.3 s | 20.3 s |
| 100 | 6.1 s | 19.9 s |
| 1,000 | 0.7 s | 1.2 s |

On the local product with every invocation flushed, from the response to a call until it is counted
(`tollgate-local soak --lag-seconds 60`). It collects usage as Lambda does, though with one poller. The last calls of a minute wait
for the whole time. With buffered metering, the time until the buffer is flushed comes first.

## In addition, every month

- storage of keys, customers, aggregates and charges, at $0.25 for each GB, and $0.20 for its continuous backup;
- $0.30 for each metric beyond the ten free ones, for the hours in which it is written (there are at most 40);
- $1.30 for the alarms, if the AWS account has no others: they watch twenty-three metrics, ten of which are free;
- up to $0.79 for Lambda's pollers, which ask three queues for messages, or $1.31 with Stripe, for five queues: an estimate of five
  pollers for each queue that wait for 20 s. With SQS's free million requests, it is $0.40 less;
- $0.09 for each GB that the API sends. Without a key, only `/docs` sends much (`ApiDocs`): its throttles allow 1.5 MB a
  second, which are $12 a day if someone uses them up all day;
- nothing for the dashboard, if it is one of the AWS account's first three.

## Beside others

The same million gated and metered calls by public price lists, without the gateway and the servers of the API unless stated. Read
in November 2026, partly from copies of the vendors' pages; look at them before you decide.

| | price | keys | limits | metering | billing |
|---|---|---|---|---|---|
| Tollgate | the table above, in your AWS account | yes | exact | yes | yes, through Stripe |
| [API Gateway's usage plans](https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-api-usage-plans.html) | nothing beside the gateway | 10,000 in a region | approximate | by key | no |
| [Unkey](https://www.unkey.com/pricing) | $75 | yes | yes | yes | no |
| [Kong Konnect](https://konghq.com/pricing), which has OpenMeter | $25 to 45, and 0.4 % of what is billed; with its gateway | yes | yes | yes | yes |
| [Stripe's meters](https://stripe.com/pricing) | 0.7 % of what is billed | no | no | yes | yes |
| [Metronome](https://metronome.com/pricing) | $40, and 0.8 % of what is billed | no | no | yes | yes |
| [Zuplo](https://zuplo.com/pricing) | $925; with its gateway | yes | yes | yes | through Stripe |
| [Moesif](https://www.moesif.com/docs/platform/my-subscription/) | $142 at the least | no | rules | yes | through Stripe |
| [Lago](https://www.getlago.com/pricing), hosted; [Orb](https://www.withorb.com/pricing) | not public | no | no | yes | yes |

Stripe's percentage applies to what Tollgate bills through subscriptions at Stripe, too.
"
    )
}
