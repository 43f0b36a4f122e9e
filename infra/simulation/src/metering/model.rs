//! What the tallies must come to: every record that was accepted, once.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde_json::Value;
use tollgate_domain::usage::{Adjusted, Aggregate};
use tollgate_domain::window::{Day, Month};
use tollgate_store::{Store, StoreError};

use super::Deviation;

/// Tallies by what they are of: `month`, `week`, `day`, `endpoint`, `customer` or `total`.
type Tallies = BTreeMap<String, Aggregate>;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// What one adjustment comes to.
fn adjusted(adjustment: &Value) -> Aggregate {
    let signed = |name: &str| adjustment[name].as_i64().unwrap_or(0);
    let plan = adjustment["plan"]
        .as_str()
        .and_then(|plan| plan.parse().ok());
    let calls = plan.map(|plan| (plan, signed("billable_calls")));
    Aggregate {
        adjusted: Adjusted {
            count: 1,
            billable: calls.into_iter().filter(|(_, calls)| *calls != 0).collect(),
            micro_usd: signed("micro_usd"),
        },
        ..Aggregate::default()
    }
}

/// What one record comes to, worked out from its JSON alone.
fn tally(record: &Value) -> Aggregate {
    let status = number(&record["status"]);
    let is_billable = record["billable"].as_bool().unwrap_or(status < 500);
    let plan = record["plan"].as_str().and_then(|plan| plan.parse().ok());
    let mut tally = Aggregate {
        calls: 1,
        client_errors: u64::from((400..500).contains(&status)),
        server_errors: u64::from(status >= 500),
        latency_ms: number(&record["latency_ms"]),
        ..Aggregate::default()
    };
    if let Some(plan) = plan.filter(|_| is_billable) {
        tally.billable.insert(plan, 1);
    }
    for cost in record["costs"].as_array().into_iter().flatten() {
        let tokens: u64 = ["tokens", "input_tokens", "output_tokens"]
            .iter()
            .map(|name| number(&cost[*name]))
            .sum();
        tally.tokens += tokens;
        if cost["unpriced"] == true {
            tally.unpriced_tokens += tokens;
        }
        tally.cost.0 += number(&cost["micro_usd"]);
    }
    tally
}

/// The Monday that a day's week begins with.
fn week(day: &str) -> String {
    let monday = day.parse::<Date>().ok().map(|date| {
        let since = i64::from(date.weekday().to_monday_zero_offset());
        date.saturating_sub(jiff::Span::new().days(since))
    });
    monday.map(|date| date.to_string()).unwrap_or_default()
}

/// What the accepted records come to.
pub(crate) fn expected<'a>(records: impl IntoIterator<Item = &'a (String, Value)>) -> Tallies {
    let mut tallies = Tallies::new();
    for (customer, record) in records {
        let text = |name: &str| record[name].as_str().unwrap_or_default();
        // Times are in UTC, as the emitter writes them.
        let day = &text("time")[..10];
        let is_adjustment = record["reason"].is_string();
        let one = match is_adjustment {
            true => adjusted(record),
            false => tally(record),
        };
        let mut all = vec![
            format!("month {customer} {}", &day[..7]),
            format!("week {customer} {}", week(day)),
            format!("day {customer} {day}"),
            format!("customer {customer}"),
            "total".to_owned(),
        ];
        if !is_adjustment {
            let (method, endpoint) = (text("method"), text("endpoint"));
            all.push(format!("endpoint {customer} {day} {method} {endpoint}"));
        }
        for of in all {
            tallies.entry(of).or_default().merge(&one);
        }
    }
    tallies
}

/// What the store holds of these customers in these months.
pub(crate) async fn stored(
    store: &Store,
    customers: &[String],
    months: &[Month],
) -> Result<Tallies, StoreError> {
    let mut tallies = Tallies::new();
    let mut add = |of: String, tally: &Aggregate| {
        if *tally != Aggregate::default() {
            tallies.entry(of).or_default().merge(tally);
        }
    };
    for name in customers {
        let Ok(customer) = name.parse() else { continue };
        for month in months {
            let sum = store.month_usage(&customer, *month).await?;
            add(format!("month {name} {month}"), &sum);
            add(format!("customer {name}"), &sum);
            add("total".to_owned(), &sum);
            for (day, sum) in store.day_usage(&customer, *month).await? {
                add(format!("day {name} {day}"), &sum);
                add(format!("week {name} {}", week(&day.to_string())), &sum);
                for (endpoint, sum) in store.endpoint_usage(&customer, day).await? {
                    let (method, route) = (endpoint.method, endpoint.route);
                    add(format!("endpoint {name} {day} {method} {route}"), &sum);
                }
            }
        }
    }
    Ok(tallies)
}

/// What the log has of a customer.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// How many records.
    pub(crate) records: u64,
    /// The entries, by their ids.
    pub(crate) entries: BTreeMap<String, Value>,
}

pub(crate) async fn logged(
    store: &Store,
    customer: &str,
    (from, to): (Day, Day),
) -> Result<Log, StoreError> {
    let mut log = Log::default();
    let Ok(customer) = customer.parse() else {
        return Ok(log);
    };
    let mut after = None;
    loop {
        let page = store
            .logged(&customer, (from, to), after.as_deref())
            .await?;
        for logged in page.items {
            log.records += logged.records;
            let entry: Value = serde_json::from_slice(&logged.body).unwrap_or_default();
            let id = entry["id"].as_str().unwrap_or_default().to_owned();
            log.entries.insert(id, entry);
        }
        after = page.next;
        if after.is_none() {
            return Ok(log);
        }
    }
}

/// How what is stored differs from what should be.
pub(crate) fn compare(expected: &Tallies, stored: &Tallies) -> Deviation {
    let mut deviation = Deviation::default();
    let none = Aggregate::default();
    let all: std::collections::BTreeSet<&String> = expected.keys().chain(stored.keys()).collect();
    for of in all {
        let expected = expected.get(of).unwrap_or(&none);
        let stored = stored.get(of).unwrap_or(&none);
        if expected == stored {
            continue;
        }
        if of.starts_with("month ") {
            deviation.lost += expected.calls.saturating_sub(stored.calls);
            deviation.doubled += stored.calls.saturating_sub(expected.calls);
        }
        let (is, should) = (stored.calls, expected.calls);
        deviation.mismatches.push(match is == should {
            true => format!("{of}: {stored:?} and not {expected:?}"),
            false => format!("{of}: {is} calls and not {should}"),
        });
    }
    deviation
}
