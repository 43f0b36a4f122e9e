//! Splitting of usage events that span several days, or need more writes than one transaction has.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_domain::usage::{EventItem, ItemDimensions};
use tollgate_domain::window::Day;

/// Most aggregates of a part: DynamoDB's limit on the actions of a transaction, less those that write
/// the usage event to the log and to the quarantine, up to three each for the largest SQS message.
const MAX_AGGREGATES: usize = 100 - 2 * 3;
/// Aggregates of a part besides those of its endpoints: the day's, and the month's, which earlier releases wrote. What they
/// have counted is split now as it was then.
const DAY_AND_MONTH: usize = 2;

/// Splits the items of a usage event into parts of one day each, whose aggregates fit into one
/// transaction. Nearly always there is one part. Returns the indexes of the items of each part.
///
/// Each part has a deduplication claim of its own, so the split must be the same at every delivery. It
/// therefore depends only on the items' own time, method and endpoint, and neither on the current time
/// nor on whether the items are valid.
pub(crate) fn split(items: &[EventItem]) -> Vec<Vec<usize>> {
    let mut undated = Vec::new();
    let mut days: BTreeMap<Day, Vec<usize>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        match item.dimensions().time {
            Some(time) => days.entry(Day::containing(time)).or_default().push(index),
            None => undated.push(index),
        }
    }
    let mut parts = Vec::new();
    for indexes in days.into_values() {
        let mut part = Vec::new();
        let mut endpoints = BTreeSet::new();
        for index in indexes {
            let ItemDimensions {
                method, endpoint, ..
            } = items[index].dimensions();
            let endpoint = (method, endpoint);
            if !endpoints.contains(&endpoint) && endpoints.len() + DAY_AND_MONTH == MAX_AGGREGATES {
                parts.push(std::mem::take(&mut part));
                endpoints.clear();
            }
            endpoints.insert(endpoint);
            part.push(index);
        }
        parts.push(part);
    }
    // Undated items are always rejected, so any part will do.
    match parts.first_mut() {
        Some(first) => {
            first.extend(undated);
            first.sort_unstable();
        }
        None => parts.push(undated),
    }
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tollgate_domain::usage::{EVENT_TYPE, parse_event};

    use super::*;

    fn split(records: &[Value]) -> Vec<Vec<usize>> {
        super::split(&items(records))
    }

    fn items(records: &[Value]) -> Vec<EventItem> {
        let event = json!({
            "specversion": "1.0", "id": "e-1", "source": "test", "type": EVENT_TYPE,
            "time": "2026-11-23T10:00:00Z", "subject": "acme", "data": { "records": records },
        });
        parse_event(&event.to_string()).unwrap().items
    }

    fn record(day: usize, endpoint: usize) -> Value {
        let time = format!("2026-11-{day:02}T10:00:00Z");
        json!({ "time": time, "method": "GET", "endpoint": format!("/{endpoint}") })
    }

    fn all(range: std::ops::Range<usize>) -> Vec<usize> {
        range.collect()
    }

    #[test]
    fn records_of_a_day_and_few_endpoints_stay_together() {
        let records: Vec<Value> = (0..100).map(|n| record(22, n % 92)).collect();
        assert_eq!(split(&records), [all(0..100)]);
        assert_eq!(split(&[json!(1)]), [[0]]);
    }

    #[test]
    fn a_hundred_endpoints_take_two_parts() {
        let records: Vec<Value> = (0..100).map(|n| record(22, n)).collect();
        assert_eq!(split(&records), [all(0..92), all(92..100)]);
    }

    #[test]
    fn each_day_is_a_part_of_its_own() {
        let records = [
            json!("undated"),
            record(23, 1),
            record(22, 1),
            json!({ "time": "2026-11-23T00:30:00+01:00" }),
            record(23, 2),
            json!({ "time": "yesterday" }),
        ];
        assert_eq!(split(&records), [vec![0, 2, 3, 5], vec![1, 4]]);
    }

    #[test]
    fn an_unreadable_item_keeps_its_dimensions() {
        let mut whole = record(22, 1);
        for (field, value) in [("request_id", "r-1"), ("key_id", "key_1"), ("plan", "pro")] {
            whole[field] = value.into();
        }
        whole["status"] = 200.into();
        whole["latency_ms"] = 5.into();
        let mut of_next_release = whole.clone();
        of_next_release["region"] = "eu".into();
        let items = items(&[whole, of_next_release]);
        assert!(matches!(
            items[..],
            [EventItem::Record(_), EventItem::Unreadable(_)]
        ));
        assert_eq!(items[0].dimensions(), items[1].dimensions());
    }

    #[test]
    fn every_record_is_in_one_part_and_each_part_fits_a_transaction() {
        let records: Vec<Value> = (0..100).map(|n| record(n % 3 + 1, n / 2)).collect();
        let parts = split(&records);
        let mut indexes: Vec<usize> = parts.concat();
        indexes.sort_unstable();
        assert_eq!(indexes, all(0..100));
        for part in parts {
            let endpoints: BTreeSet<&str> = part
                .iter()
                .filter_map(|index| records[*index]["endpoint"].as_str())
                .collect();
            assert!(endpoints.len() + DAY_AND_MONTH <= MAX_AGGREGATES);
        }
    }
}
