//! Sort keys of aggregates, and the partitions of the index of billable months.

use tollgate_domain::id::CustomerId;
use tollgate_domain::usage::{Dimension, DimensionValue, Endpoint, Model};
use tollgate_domain::window::{Day, Month};

use super::claims::TransactionId;
use crate::schema::BILLABLE_SHARDS;

/// Beginning of the sort keys of days' aggregates.
pub(super) const DAY: &str = "DAY#";
/// Separator of a model's provider and name. Neither has control characters.
const MODEL_SEPARATOR: char = '\n';

/// Returns the sort key of a day's aggregate, with which those of its further shards begin.
pub(super) fn day_sk(day: Day) -> String {
    format!("{DAY}{day}")
}

/// Returns the beginning of the sort keys of a day's endpoints, as earlier releases wrote them.
pub(super) fn endpoints_sk(day: Day) -> String {
    format!("ENDPOINT#{day}")
}

/// Returns the beginning of the sort keys of a dimension's values in a month.
pub(super) fn dimension_sk(month: Month, dimension: Dimension) -> String {
    format!("BY#{month}#{}#", dimension_name(dimension))
}

/// Returns the sort key of a value's aggregate of a day, with which those of its further shards begin.
pub(super) fn value_sk(day: Day, value: &DimensionValue) -> String {
    format!("BY#{}#{}#{day}", day.month(), value_text(value))
}

/// Parses the sort key of a shard of a value's aggregate.
pub(super) fn parse_value_sk(sk: &str) -> Option<(DimensionValue, Day)> {
    let (_month, rest) = sk.strip_prefix("BY#")?.split_once('#')?;
    let (value, day) = rest.rsplit_once('#')?;
    let day = day.split_once('/').map_or(day, |(day, _)| day);
    Some((parse_value(value)?, day.parse().ok()?))
}

/// Returns the beginning of the sort keys of a day's bundled aggregates.
pub(super) fn bundled_sk(day: Day) -> String {
    format!("BUNDLED#{day}")
}

/// Returns the sort key of the aggregates of a day that a transaction bundles.
pub(super) fn bundle_sk(day: Day, transaction: &TransactionId) -> String {
    let TransactionId { attempt, number } = transaction;
    format!("{}#{}#{number}", bundled_sk(day), attempt.as_str())
}

fn dimension_name(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Endpoint => "ENDPOINT",
        Dimension::Key => "KEY",
        Dimension::Model => "MODEL",
        Dimension::Repeated => "REPEATED",
    }
}

/// Returns a text without `#`, which separates the parts of sort keys: so the items of a value follow one another.
fn encoded(text: &str) -> String {
    text.replace('%', "%25").replace('#', "%23")
}

fn decoded(text: &str) -> String {
    text.replace("%23", "#").replace("%25", "%")
}

/// Returns a value as text, which is unique among all dimensions.
pub(super) fn value_text(value: &DimensionValue) -> String {
    let text = match value {
        DimensionValue::Endpoint(Endpoint { method, route }) => format!("{method} {route}"),
        DimensionValue::Key(id) => id.to_string(),
        DimensionValue::Model(Model { provider, name }) => {
            let text = |part: &Option<String>| part.clone().unwrap_or_default();
            format!("{}{MODEL_SEPARATOR}{}", text(provider), text(name))
        }
        DimensionValue::Repeated(provider) => provider.clone(),
    };
    format!("{}#{}", dimension_name(value.dimension()), encoded(&text))
}

/// Parses the text of a value.
pub(super) fn parse_value(text: &str) -> Option<DimensionValue> {
    let (dimension, text) = text.split_once('#')?;
    let text = decoded(text);
    Some(match dimension {
        "ENDPOINT" => {
            // No method contains a space.
            let (method, route) = text.split_once(' ')?;
            DimensionValue::Endpoint(Endpoint {
                method: method.to_owned(),
                route: route.to_owned(),
            })
        }
        "KEY" => DimensionValue::Key(text.parse().ok()?),
        "MODEL" => {
            let (provider, name) = text.split_once(MODEL_SEPARATOR)?;
            let known = |part: &str| (!part.is_empty()).then(|| part.to_owned());
            DimensionValue::Model(Model {
                provider: known(provider),
                name: known(name),
            })
        }
        "REPEATED" => DimensionValue::Repeated(text),
        _ => return None,
    })
}

/// Returns the sort key of a shard. That of shard 0 is the one of an aggregate that is not sharded.
pub(super) fn in_shard(sk: String, shard: u32) -> String {
    match shard {
        0 => sk,
        shard => format!("{sk}/{shard}"),
    }
}

/// Returns the customer's shard in lists of customers.
pub(super) fn shard_of(customer: &CustomerId) -> u32 {
    crc32fast::hash(customer.as_str().as_bytes()) % BILLABLE_SHARDS
}

/// Returns the partition of the customer's month in the index of billable months.
pub(super) fn billable_month(month: Month, customer: &CustomerId) -> String {
    format!("{month}#{}", shard_of(customer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_value_round_trips() {
        let day: Day = "2026-11-22".parse().unwrap();
        let model = |provider: Option<&str>, name: Option<&str>| {
            let (provider, name) = (provider.map(str::to_owned), name.map(str::to_owned));
            DimensionValue::Model(Model { provider, name })
        };
        let endpoint = |route: &str| {
            let (method, route) = ("GET".to_owned(), route.to_owned());
            DimensionValue::Endpoint(Endpoint { method, route })
        };
        let values = [
            endpoint("/a b/{id}#2026-11-21/3"),
            endpoint("/%23%25#%"),
            endpoint(""),
            DimensionValue::Key("key_1".parse().unwrap()),
            model(Some("anthropic"), Some("a#b c")),
            model(None, Some("large")),
            model(Some("openai"), None),
            DimensionValue::Repeated("open#ai".to_owned()),
        ];
        for value in values {
            for shard in [0, 3] {
                let sk = in_shard(value_sk(day, &value), shard);
                assert!(sk.starts_with(&dimension_sk(day.month(), value.dimension())));
                assert_eq!(parse_value_sk(&sk), Some((value.clone(), day)), "{sk}");
            }
        }
        for other in [
            "DAY#2026-11-22",
            "BY#2026-11#KEY#a#b",
            "BY#2026-11#PLAN#pro#2026-11-22",
        ] {
            assert_eq!(parse_value_sk(other), None, "{other}");
        }
    }
}
