//! Model of the aggregates: every accepted record and adjustment is counted exactly once.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde_json::Value;
use tollgate_domain::usage::{
    AdjustmentTotals, Aggregate, DimensionValue, Endpoint, Latencies, Model,
};
use tollgate_domain::window::{Day, Month};
use tollgate_store::{Store, StoreError, UsageScope};

use super::Deviation;
use super::earlier::without_extension;

/// Aggregates by their names, which begin with `month`, `week`, `day`, `customer`, `total` or a dimension.
type NamedAggregates = BTreeMap<String, Aggregate>;

/// Name of the usage of all customers.
const ALL: &str = "*";

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Returns the aggregate of one adjustment.
fn aggregate_of_adjustment(adjustment: &Value) -> Aggregate {
    let signed = |name: &str| adjustment[name].as_i64().unwrap_or(0);
    let plan = adjustment["plan"]
        .as_str()
        .and_then(|plan| plan.parse().ok());
    let calls = plan.map(|plan| (plan, signed("billable_calls")));
    Aggregate {
        adjusted: AdjustmentTotals {
            count: 1,
            billable: calls.into_iter().filter(|(_, calls)| *calls != 0).collect(),
            micro_usd: signed("micro_usd"),
        },
        ..Aggregate::default()
    }
}

/// Returns the aggregate of one record with these of its costs, computed from its JSON without the domain types.
fn aggregate_of_record(record: &Value, costs: &[&Value]) -> Aggregate {
    let status = number(&record["status"]);
    let is_billable = record["billable"].as_bool().unwrap_or(status < 500);
    let plan = record["plan"].as_str().and_then(|plan| plan.parse().ok());
    let mut aggregate = Aggregate {
        calls: 1,
        client_errors: u64::from((400..500).contains(&status)),
        server_errors: u64::from(status >= 500),
        latency_ms: number(&record["latency_ms"]),
        latencies: [number(&record["latency_ms"])].into_iter().collect(),
        ..Aggregate::default()
    };
    if let Some(plan) = plan.filter(|_| is_billable) {
        aggregate.billable.insert(plan, 1);
    }
    for cost in costs {
        let tokens: u64 = ["tokens", "input_tokens", "output_tokens"]
            .iter()
            .map(|name| number(&cost[*name]))
            .sum();
        aggregate.tokens += tokens;
        if cost["unpriced"] == true {
            aggregate.unpriced_tokens += tokens;
        }
        aggregate.cost.0 += number(&cost["micro_usd"]);
    }
    aggregate
}

/// Returns the Monday of a day's week.
fn week(day: &str) -> String {
    let monday = day.parse::<Date>().ok().map(|date| {
        let since = i64::from(date.weekday().to_monday_zero_offset());
        date.saturating_sub(jiff::Span::new().days(since))
    });
    monday.map(|date| date.to_string()).unwrap_or_default()
}

/// Returns the costs of a record that `matches`.
fn costs(record: &Value, matches: impl Fn(&Value) -> bool) -> Vec<&Value> {
    let costs = record["costs"].as_array().into_iter().flatten();
    costs.filter(|cost| matches(cost)).collect()
}

/// Returns the name of a model by its provider and its own name.
fn model_name(provider: Option<&str>, name: Option<&str>) -> String {
    format!(
        "{}/{}",
        provider.unwrap_or_default(),
        name.unwrap_or_default()
    )
}

/// Returns the aggregates of one record by dimensions, with the names of their values.
fn by_dimension(record: &Value) -> Vec<(String, Aggregate)> {
    let text = |name: &str| record[name].as_str().unwrap_or_default();
    let whole = aggregate_of_record(record, &costs(record, |_| true));
    let endpoint = format!("endpoint {} {}", text("method"), text("endpoint"));
    let mut all = vec![
        (endpoint, whole.clone()),
        (format!("key {}", text("key_id")), whole),
    ];
    let name = |cost: &Value| model_name(cost["provider"].as_str(), cost["model"].as_str());
    let names = costs(record, |cost| name(cost) != "/")
        .into_iter()
        .map(name);
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    for (index, of) in names.iter().enumerate() {
        let of_model = costs(record, |cost| name(cost) == *of);
        all.push((
            format!("model {of}"),
            aggregate_of_record(record, &of_model),
        ));
        let provider = |name: &String| name.split('/').next().unwrap_or_default().to_owned();
        let before = names[..index].iter().map(provider);
        let provider = provider(of);
        if !provider.is_empty() && before.into_iter().any(|other| other == provider) {
            let again = aggregate_of_record(record, &[]);
            all.push((format!("repeated {provider}"), again));
        }
    }
    all
}

/// Returns the aggregates that the accepted records and adjustments must have, given with their customers.
pub(crate) fn expected<'a>(
    accepted: impl IntoIterator<Item = &'a (String, Value)>,
) -> NamedAggregates {
    let mut aggregates = NamedAggregates::new();
    for (customer, record) in accepted {
        let text = |name: &str| record[name].as_str().unwrap_or_default();
        // Times are in UTC, as the emitter writes them.
        let day = &text("time")[..10];
        let is_adjustment = record["reason"].is_string();
        let one = match is_adjustment {
            true => aggregate_of_adjustment(record),
            false => aggregate_of_record(record, &costs(record, |_| true)),
        };
        for name in [
            format!("month {customer} {}", &day[..7]),
            format!("week {customer} {}", week(day)),
            format!("day {customer} {day}"),
            format!("day {ALL} {day}"),
            format!("customer {customer}"),
            "total".to_owned(),
        ] {
            aggregates.entry(name).or_default().merge(&one);
        }
        let values = (!is_adjustment).then(|| by_dimension(record));
        for (value, one) in values.into_iter().flatten() {
            let name = format!("{value} {customer} {day}");
            aggregates.entry(name).or_default().merge(&one);
            if !value.starts_with("key ") {
                let name = format!("{value} {ALL} {day}");
                aggregates.entry(name).or_default().merge(&one);
            }
        }
    }
    aggregates
}

/// Removes what releases before the last one did not sum up.
pub(crate) fn as_earlier(aggregates: &mut NamedAggregates) {
    aggregates.retain(|name, _| {
        let kinds = ["key ", "model ", "repeated "];
        !kinds.iter().any(|kind| name.starts_with(kind)) && !name.contains(&format!(" {ALL} "))
    });
    for aggregate in aggregates.values_mut() {
        aggregate.latencies = Latencies::default();
    }
}

fn value_name(value: &DimensionValue) -> String {
    match value {
        DimensionValue::Endpoint(Endpoint { method, route }) => {
            format!("endpoint {method} {route}")
        }
        DimensionValue::Key(id) => format!("key {id}"),
        DimensionValue::Model(Model { provider, name }) => {
            format!("model {}", model_name(provider.as_deref(), name.as_deref()))
        }
        DimensionValue::Repeated(provider) => format!("repeated {provider}"),
    }
}

/// Reads the stored aggregates of these customers in these months, and adds them up for each name.
pub(crate) async fn stored(
    store: &Store,
    customers: &[String],
    months: &[Month],
) -> Result<NamedAggregates, StoreError> {
    let mut aggregates = NamedAggregates::new();
    let mut add = |name: String, aggregate: &Aggregate| {
        if *aggregate != Aggregate::default() {
            aggregates.entry(name).or_default().merge(aggregate);
        }
    };
    let customers = customers.iter().filter_map(|name| {
        let customer = name.parse().ok()?;
        Some((name.as_str(), UsageScope::Customer(customer)))
    });
    for (name, scope) in customers.chain([(ALL, UsageScope::All)]) {
        for month in months {
            let days = store.days_of_month(&scope, *month).await?;
            for (day, sum) in days {
                add(format!("day {name} {day}"), &sum);
                for (value, sum) in store.dimension_usage(&scope, day).await? {
                    add(format!("{} {name} {day}", value_name(&value)), &sum);
                }
                if name != ALL {
                    add(format!("month {name} {month}"), &sum);
                    add(format!("customer {name}"), &sum);
                    add("total".to_owned(), &sum);
                    add(format!("week {name} {}", week(&day.to_string())), &sum);
                }
            }
        }
    }
    Ok(aggregates)
}

/// Usage log of one customer.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Number of records.
    pub(crate) records: u64,
    /// Usage events by their ids.
    pub(crate) events: BTreeMap<String, Value>,
    /// Ids of the events with adjustments, and the days of their parts.
    pub(crate) adjusted: Vec<(String, String)>,
}

pub(crate) async fn read_log(
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
            .list_logged(&customer, (from, to), after.as_deref())
            .await?;
        for part in page.items {
            log.records += part.records;
            let event = without_extension(&String::from_utf8_lossy(&part.body));
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            if event["data"]["adjustments"].is_array() {
                log.adjusted.push((id.clone(), part.day.to_string()));
            }
            log.events.insert(id, event);
        }
        after = page.next;
        if after.is_none() {
            return Ok(log);
        }
    }
}

/// Compares the stored aggregates with the expected ones.
pub(crate) fn compare(expected: &NamedAggregates, stored: &NamedAggregates) -> Deviation {
    let mut deviation = Deviation::default();
    let none = Aggregate::default();
    let all: std::collections::BTreeSet<&String> = expected.keys().chain(stored.keys()).collect();
    for name in all {
        let expected = expected.get(name).unwrap_or(&none);
        let stored = stored.get(name).unwrap_or(&none);
        if expected == stored {
            continue;
        }
        if name.starts_with("month ") {
            deviation.lost += expected.calls.saturating_sub(stored.calls);
            deviation.doubled += stored.calls.saturating_sub(expected.calls);
        }
        let (found, wanted) = (stored.calls, expected.calls);
        deviation.mismatches.push(match found == wanted {
            true => format!("{name}: {stored:?}, expected {expected:?}"),
            false => format!("{name}: {found} calls, expected {wanted}"),
        });
    }
    deviation
}
