//! Entries too wide for one transaction.

use std::collections::BTreeSet;
use std::ops::Range;

use jiff::Timestamp;
use serde_json::Value;
use tollgate_domain::window::Day;

/// DynamoDB's bound on the actions of a transaction, less the claim and the quarantine.
const MAX_TALLIES: usize = 100 - 2;

/// Splits records so that each part's tallies fit into one transaction; nearly always there is one
/// part.
///
/// Each part is claimed on its own, so that the split must come out the same at every delivery: it
/// looks at what the records say, and neither at the time nor at whether they can be counted.
pub(crate) fn split(records: &[Value]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut tallies = BTreeSet::new();
    for (at, record) in records.iter().enumerate() {
        let more = tallies_of(record);
        let grown = tallies.len() + more.iter().filter(|key| !tallies.contains(*key)).count();
        if grown > MAX_TALLIES {
            parts.push(start..at);
            start = at;
            tallies.clear();
        }
        tallies.extend(more);
    }
    parts.push(start..records.len());
    parts
}

/// The tallies that a record is added to, if it can be counted at all.
fn tallies_of(record: &Value) -> Vec<String> {
    let text = |field: &str| record[field].as_str().unwrap_or_default();
    let Ok(time) = text("time").parse::<Timestamp>() else {
        return Vec::new();
    };
    let day = Day::containing(time);
    vec![
        format!("{}", day.month()),
        format!("{day}"),
        format!("{day} {} {}", text("method"), text("endpoint")),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_of_few_endpoints_stay_together() {
        let records = vec![json!({ "time": "2026-11-22T10:00:00Z", "endpoint": "/a" }); 100];
        let (hundred, one) = (0..100, 0..1);
        assert_eq!(split(&records), [hundred]);
        assert_eq!(split(&[json!(1)]), [one]);
    }

    #[test]
    fn a_hundred_endpoints_take_two_transactions() {
        let record = |n| json!({ "time": "2026-11-22T10:00:00Z", "endpoint": format!("/{n}") });
        let records: Vec<Value> = (0..100).map(record).collect();
        assert_eq!(split(&records), [0..96, 96..100]);
    }

    #[test]
    fn every_record_is_in_one_part_and_no_part_is_too_wide() {
        let record = |n: u32| {
            let day = n % 28 + 1;
            json!({ "time": format!("2026-11-{day:02}T10:00:00Z"), "endpoint": format!("/{n}") })
        };
        let records: Vec<Value> = (0..100).map(record).collect();
        let parts = split(&records);
        assert_eq!(parts.concat_lengths(), 100);
        for part in parts {
            let tallies: BTreeSet<String> = records[part].iter().flat_map(tallies_of).collect();
            assert!(tallies.len() <= MAX_TALLIES);
        }
    }

    trait Lengths {
        fn concat_lengths(&self) -> usize;
    }

    impl Lengths for Vec<Range<usize>> {
        /// The sum of the lengths, if each range begins where the last one ended.
        fn concat_lengths(&self) -> usize {
            self.iter().fold(0, |end, range| {
                assert_eq!(range.start, end);
                range.end
            })
        }
    }
}
