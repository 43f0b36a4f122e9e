//! Batches of parts that are counted in one transaction.

use std::collections::{BTreeSet, HashMap, HashSet};

use tollgate_domain::usage::DimensionValue;

use super::layout::{DayKey, Layout, SLOTS};
use super::pending::PendingPart;
use super::scope::UsageScope;
use crate::event_part::EventPart;
use crate::transaction::MAX_ACTIONS;

/// Bound on the bytes of bodies in a transaction: DynamoDB's 4 MB, less room for the other attributes of
/// a hundred items.
const MAX_BODY_BYTES: usize = 3_500_000;

/// Bound on the parts of a batch: fewer than an attempt has claims. Many parts add to the same aggregates.
const MAX_PARTS: usize = 10_000;

/// Divides the parts into batches that fit into one transaction each. The parts of a customer follow one another, so
/// that as few transactions as possible add to its aggregates. `layouts` are those of the days' items, in which new values
/// get slots.
pub(super) fn batches<'a, 'b>(
    mut parts: Vec<&'b PendingPart<'a>>,
    layouts: &mut HashMap<DayKey, Layout>,
) -> Vec<Vec<&'b PendingPart<'a>>> {
    parts.sort_by_key(|pending| pending.part.customer);
    let mut batches = Vec::new();
    let mut batch: Vec<&PendingPart> = Vec::new();
    let (mut puts, mut bytes) = (0, 0);
    let mut writes = AggregateWrites::default();
    for pending in parts {
        let (more_puts, more_bytes) = pending.puts();
        let days = days_of(pending.part);
        // Fewer, because one action is the marker.
        let fits = puts + more_puts + writes.with(&days, layouts) < MAX_ACTIONS
            && bytes + more_bytes <= MAX_BODY_BYTES
            && batch.len() < MAX_PARTS;
        if !fits && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            (puts, bytes) = (0, 0);
            writes = AggregateWrites::default();
        }
        writes.add(days, layouts);
        puts += more_puts;
        bytes += more_bytes;
        batch.push(pending);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Returns the items of the days to which these parts add, of the aggregates that are not sharded.
pub(super) fn day_keys(parts: &[&PendingPart<'_>]) -> BTreeSet<DayKey> {
    let days = parts.iter().flat_map(|pending| days_of(pending.part));
    days.map(|(key, _)| key).collect()
}

/// Returns the items of the days to which a part adds, with the values of its dimensions.
fn days_of<'p>(part: &'p EventPart<'_>) -> Vec<(DayKey, Vec<&'p DimensionValue>)> {
    let mut days = Vec::new();
    for scope in [UsageScope::All, UsageScope::Customer(part.customer.clone())] {
        for day in part.aggregates.days.keys() {
            let values = part.aggregates.dimensions.keys();
            let values = values.filter(|(of, value)| of == day && scope.has(value));
            let values = values.map(|(_, value)| value).collect();
            let (scope, day, shard) = (scope.clone(), *day, 0);
            days.push((DayKey { scope, day, shard }, values));
        }
    }
    days
}

/// Writes of aggregates in a transaction: for each day one of its item, and one for each value that has no slot in it.
#[derive(Default)]
struct AggregateWrites<'p> {
    /// Values without a slot.
    days: HashMap<DayKey, HashSet<&'p DimensionValue>>,
    count: usize,
}

impl<'p> AggregateWrites<'p> {
    /// Returns the number of writes with those to these days.
    fn with(
        &self,
        days: &[(DayKey, Vec<&'p DimensionValue>)],
        layouts: &HashMap<DayKey, Layout>,
    ) -> usize {
        let more = days.iter().map(|(key, values)| {
            let (layout, without_slot) = (layouts.get(key), self.days.get(key));
            let new = values.iter().filter(|value| {
                let has_slot = layout.is_some_and(|layout| layout.slot_of(value).is_some());
                !has_slot && !without_slot.is_some_and(|values| values.contains(*value))
            });
            let room = layout.map_or(SLOTS, Layout::room);
            usize::from(without_slot.is_none()) + new.count().saturating_sub(room)
        });
        self.count + more.sum::<usize>()
    }

    fn add(
        &mut self,
        days: Vec<(DayKey, Vec<&'p DimensionValue>)>,
        layouts: &mut HashMap<DayKey, Layout>,
    ) {
        self.count = self.with(&days, layouts);
        for (key, values) in days {
            let layout = layouts.entry(key.clone()).or_default();
            let without_slot = self.days.entry(key).or_default();
            for value in values {
                if layout.give_slot(value).is_none() {
                    without_slot.insert(value);
                }
            }
        }
    }
}
