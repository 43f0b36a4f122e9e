//! Entries of more than one day, or too wide for one transaction.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_domain::usage::{Item, Place};
use tollgate_domain::window::Day;

/// DynamoDB's bound on the actions of a transaction, less those that put the entry in the log and in
/// the quarantine: three each for the largest message that a queue takes.
const MAX_TALLIES: usize = 100 - 2 * 3;
/// Those of a part besides its endpoints: its day and its month.
const OF_DAY: usize = 2;

/// Splits what an entry carries into parts of one day each, whose tallies fit into one transaction;
/// nearly always there is one part. Gives the places of the items of each.
///
/// Each part is claimed on its own, so that the split must come out the same at every delivery: it
/// looks at where the items say that they count, and neither at the time nor at whether they can be
/// counted.
pub(crate) fn split(items: &[Item]) -> Vec<Vec<usize>> {
    let mut undated = Vec::new();
    let mut days: BTreeMap<Day, Vec<usize>> = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        match item.place().time {
            Some(time) => days.entry(Day::containing(time)).or_default().push(at),
            None => undated.push(at),
        }
    }
    let mut parts = Vec::new();
    for places in days.into_values() {
        let mut part = Vec::new();
        let mut endpoints = BTreeSet::new();
        for at in places {
            let Place {
                method, endpoint, ..
            } = items[at].place();
            let endpoint = (method, endpoint);
            if !endpoints.contains(&endpoint) && endpoints.len() + OF_DAY == MAX_TALLIES {
                parts.push(std::mem::take(&mut part));
                endpoints.clear();
            }
            endpoints.insert(endpoint);
            part.push(at);
        }
        parts.push(part);
    }
    // They can only be refused, and do that in whichever part there is.
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

    fn items(records: &[Value]) -> Vec<Item> {
        let entry = json!({
            "specversion": "1.0", "id": "e-1", "source": "test", "type": EVENT_TYPE,
            "time": "2026-11-23T10:00:00Z", "subject": "acme", "data": { "records": records },
        });
        parse_event(&entry.to_string()).unwrap().items
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
    fn a_hundred_endpoints_take_two_transactions() {
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
    fn what_only_another_release_can_read_has_the_same_place() {
        let mut whole = record(22, 1);
        for (field, value) in [("request_id", "r-1"), ("key_id", "key_1"), ("plan", "pro")] {
            whole[field] = value.into();
        }
        whole["status"] = 200.into();
        whole["latency_ms"] = 5.into();
        let mut of_the_next_release = whole.clone();
        of_the_next_release["region"] = "eu".into();
        let items = items(&[whole, of_the_next_release]);
        assert!(matches!(items[..], [Item::Record(_), Item::Unreadable(_)]));
        assert_eq!(items[0].place(), items[1].place());
    }

    #[test]
    fn every_record_is_in_one_part_and_no_part_is_too_wide() {
        let records: Vec<Value> = (0..100).map(|n| record(n % 3 + 1, n / 2)).collect();
        let parts = split(&records);
        let mut places: Vec<usize> = parts.concat();
        places.sort_unstable();
        assert_eq!(places, all(0..100));
        for part in parts {
            let endpoints: BTreeSet<&str> = part
                .iter()
                .filter_map(|at| records[*at]["endpoint"].as_str())
                .collect();
            assert!(endpoints.len() + OF_DAY <= MAX_TALLIES);
        }
    }
}
