//! Sums of what a transaction counts, and the writes that add them to the aggregates.

use std::collections::{BTreeMap, HashMap};

use tollgate_domain::usage::{Aggregate, Aggregates};
use tollgate_domain::window::Day;

use super::claims::TransactionId;
use super::layout::{DayKey, Layout, Layouts, Placed, slots_of};
use super::scope::UsageScope;
use super::sort_keys::bundle_sk;
use crate::event_part::EventPart;
use crate::item::keys;
use crate::schema::USAGE;
use crate::transaction::Action;

/// Values in an item with bundled aggregates, of which all fit into DynamoDB's 400 KB.
const MAX_BUNDLED: usize = 500;

/// Sums of what a transaction counts, by the scopes that it is part of.
pub(super) struct Sums(BTreeMap<UsageScope, Aggregates>);

impl Sums {
    /// Sums up parts of usage events.
    pub(super) fn of<'a>(parts: impl Iterator<Item = &'a EventPart<'a>>) -> Self {
        let mut sums: BTreeMap<UsageScope, Aggregates> = BTreeMap::new();
        for part in parts {
            let scope = UsageScope::Customer(part.customer.clone());
            sums.entry(scope).or_default().merge(part.aggregates);
        }
        let mut all = Aggregates::default();
        sums.values().for_each(|sum| all.merge(sum));
        all.dimensions
            .retain(|(_, value), _| UsageScope::All.has(value));
        sums.insert(UsageScope::All, all);
        Self(sums)
    }

    /// Returns the items with the totals of the days, by the shard of each scope.
    pub(super) fn day_keys(&self, shard: impl Fn(&UsageScope) -> u32) -> Vec<DayKey> {
        let scopes = self.0.iter().flat_map(|(scope, sums)| {
            let shard = shard(scope);
            let days = sums.days.keys();
            days.map(move |day| DayKey {
                scope: scope.clone(),
                day: *day,
                shard,
            })
        });
        scopes.collect()
    }

    /// Returns the writes that add the sums to these items and to those of single values, with their days: at most `most`, if that suffices
    /// for two writes a day. `layouts` are those that the instance remembers, and those that were read.
    /// `billable_month` gives the partition of a day in the index of billable months.
    pub(super) fn writes(
        &self,
        days: Vec<DayKey>,
        layouts: (&Layouts, HashMap<DayKey, Layout>),
        most: usize,
        transaction: &TransactionId,
        billable_month: impl Fn(&UsageScope, Day, &Aggregate) -> Option<String>,
    ) -> Vec<(DayKey, Action)> {
        let (layouts, mut read) = layouts;
        let mut placed: Vec<(Placed<'_>, Option<String>)> = Vec::with_capacity(days.len());
        for key in days {
            let of = key.day;
            let Some(sums) = self.0.get(&key.scope) else {
                continue;
            };
            let Some(total) = sums.days.get(&key.day) else {
                continue;
            };
            let values = sums.dimensions.iter().filter(|((day, _), _)| *day == of);
            let values = values.map(|((_, value), sum)| (value, sum));
            let billable = billable_month(&key.scope, key.day, total);
            let read = read.remove(&key).unwrap_or_default();
            placed.push((layouts.assign(key, read, total, values), billable));
        }
        let bundled = bundled(&placed, most);
        let mut writes = Vec::new();
        for (index, (day, billable)) in placed.into_iter().enumerate() {
            let own = match bundled.contains(&index) {
                true => bundle(&day, transaction),
                false => day.own_updates(),
            };
            writes.push((day.key.clone(), day.update(billable)));
            writes.extend(own.into_iter().map(|action| (day.key.clone(), action)));
        }
        writes
    }
}

/// Returns the indexes of the days whose values are bundled, so that there are at most so many writes: those with the most
/// values, as few as possible.
fn bundled(placed: &[(Placed<'_>, Option<String>)], most: usize) -> Vec<usize> {
    let own = placed.iter().map(|(day, _)| day.own.len());
    let mut own: Vec<(usize, usize)> = own.enumerate().collect();
    let mut writes = placed.len() + own.iter().map(|(_, own)| own).sum::<usize>();
    own.sort_by_key(|(_, own)| std::cmp::Reverse(*own));
    let mut bundled = Vec::new();
    for (index, own) in own {
        if writes <= most || own < 2 {
            break;
        }
        writes -= own - own.div_ceil(MAX_BUNDLED);
        bundled.push(index);
    }
    bundled
}

/// Returns the puts of the values of a day that are too many for an item each.
fn bundle(day: &Placed<'_>, transaction: &TransactionId) -> Vec<Action> {
    let DayKey { scope, day: of, .. } = &day.key;
    let partition = scope.partition(*of);
    let chunks = day.own.chunks(MAX_BUNDLED).enumerate();
    chunks
        .map(|(number, values)| {
            let mut item = slots_of(values);
            let sk = format!("{}#{number}", bundle_sk(*of, transaction));
            item.extend(keys(&*partition, sk));
            // The id of the transaction makes it the only one with this key.
            Action::put(USAGE, item)
        })
        .collect()
}
