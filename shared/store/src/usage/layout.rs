//! Places of the aggregates by dimensions.
//!
//! A write is charged by kilobytes, and a transaction has at most a hundred of them. So the item of a day's total has slots
//! for the first values of dimensions that come up on that day, and further values have items of their own. A slot is
//! never given to another value. Writers remember the slots that they have seen; each write checks them, so that one that
//! does not know of another's changes nothing, and learns.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tollgate_domain::usage::{Aggregate, DimensionValue};
use tollgate_domain::window::Day;

use super::fields::fields;
use super::scope::UsageScope;
use super::sort_keys::{day_sk, in_shard, parse_value, value_sk, value_text};
use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, keys, s};
use crate::schema::{USAGE, attr};
use crate::transaction::Action;

/// Slots of an item.
pub(super) const SLOTS: usize = 16;
/// Most numbers that one update adds: DynamoDB's bound on an expression is 4 KB.
const MAX_CLAUSES: usize = 380;
/// Days of scopes whose slots an instance remembers.
const MAX_REMEMBERED: usize = 20_000;
/// Time limit for reading layouts.
const READING_TIMEOUT: Duration = Duration::from_secs(1);

/// Key of the item of a day's total, or of one of its shards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DayKey {
    pub(super) scope: UsageScope,
    pub(super) day: Day,
    pub(super) shard: u32,
}

impl DayKey {
    /// Returns the partition key and the sort key.
    fn texts(&self) -> (String, String) {
        let sk = in_shard(day_sk(self.day), self.shard);
        (self.scope.partition(self.day), sk)
    }

    fn key(&self) -> Item {
        let (pk, sk) = self.texts();
        keys(pk, sk)
    }
}

/// Values in the slots of an item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout([Option<Arc<DimensionValue>>; SLOTS]);

impl Layout {
    /// Reads the values in the slots of an item.
    pub(super) fn read(item: &Item) -> Result<Self, StoreError> {
        let mut layout = Self::default();
        for (number, value) in layout.0.iter_mut().enumerate() {
            if let Some(found) = item.get(&slot_value(&slot(number))) {
                *value = Some(Arc::new(read_value(found)?));
            }
        }
        Ok(layout)
    }

    /// Returns the slot of a value.
    pub(super) fn slot_of(&self, value: &DimensionValue) -> Option<usize> {
        let is_value = |slot: &Option<Arc<_>>| slot.as_deref() == Some(value);
        self.0.iter().position(is_value)
    }

    /// Returns the number of slots without a value.
    pub(super) fn room(&self) -> usize {
        self.0.iter().filter(|value| value.is_none()).count()
    }

    /// Returns the slot of a value, or gives it the first one that is free: `None` if there is none.
    pub(super) fn give_slot(&mut self, value: &DimensionValue) -> Option<usize> {
        let slot = self.slot_of(value);
        let slot = slot.or_else(|| self.0.iter().position(Option::is_none))?;
        self.0[slot].get_or_insert_with(|| Arc::new(value.clone()));
        Some(slot)
    }
}

/// Layouts that this instance has read, with the slots that it is about to give. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Layouts(Arc<Mutex<HashMap<DayKey, Layout>>>);

impl Layouts {
    fn lock(&self) -> MutexGuard<'_, HashMap<DayKey, Layout>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &DayKey) -> Option<Layout> {
        self.lock().get(key).cloned()
    }

    pub(super) fn learn(&self, key: DayKey, layout: Layout) {
        self.change(key, Layout::default(), |known| *known = layout);
    }

    /// Changes the layout of an item, which is `otherwise` if it is unknown.
    fn change<T>(
        &self,
        key: DayKey,
        otherwise: Layout,
        change: impl FnOnce(&mut Layout) -> T,
    ) -> T {
        let mut layouts = self.lock();
        if layouts.len() >= MAX_REMEMBERED {
            layouts.clear();
        }
        change(layouts.entry(key).or_insert(otherwise))
    }

    /// Places the aggregates of a day. Its layout is `read` unless another one is remembered.
    pub(super) fn assign<'a>(
        &self,
        key: DayKey,
        read: Layout,
        total: &'a Aggregate,
        values: impl Iterator<Item = (&'a DimensionValue, &'a Aggregate)>,
    ) -> Placed<'a> {
        self.change(key.clone(), read, |layout| {
            Placed::new(key, layout, total, values)
        })
    }
}

impl fmt::Debug for Layouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Layouts")
    }
}

/// Returns the text of a slot in attributes.
pub(super) fn slot(number: usize) -> String {
    format!("{number:x}")
}

/// Returns the attribute with the value of a slot.
pub(super) fn slot_value(slot: &str) -> String {
    format!("N{slot}")
}

/// Reads the value of a slot.
pub(super) fn read_value(value: &AttributeValue) -> Result<DimensionValue, StoreError> {
    let value = value.as_s().ok().and_then(|text| parse_value(text));
    value.ok_or_else(|| StoreError::corrupt("aggregate", "value"))
}

/// Aggregates of one scope's day that a transaction adds.
pub(super) struct Placed<'a> {
    pub(super) key: DayKey,
    /// Total of the day.
    total: &'a Aggregate,
    /// Aggregates in slots, by the number of the slot.
    in_slots: Vec<(usize, &'a DimensionValue, &'a Aggregate)>,
    /// Aggregates in items of their own.
    pub(super) own: Vec<(&'a DimensionValue, &'a Aggregate)>,
}

impl<'a> Placed<'a> {
    /// Places the aggregates of a day, by the slots that its item has. New values get the slots that are left. That is
    /// remembered before it is written, so that concurrent writes of this instance give no slot twice.
    fn new(
        key: DayKey,
        layout: &mut Layout,
        total: &'a Aggregate,
        values: impl Iterator<Item = (&'a DimensionValue, &'a Aggregate)>,
    ) -> Self {
        let mut clauses = fields(total).len() + 1;
        let (mut in_slots, mut own) = (Vec::new(), Vec::new());
        for (value, aggregate) in values {
            // The value itself is set.
            let more = fields(aggregate).len() + 1;
            let fits = clauses + more <= MAX_CLAUSES;
            match fits.then(|| layout.give_slot(value)).flatten() {
                Some(slot) => {
                    clauses += more;
                    in_slots.push((slot, value, aggregate));
                }
                None => own.push((value, aggregate)),
            }
        }
        Self {
            key,
            total,
            in_slots,
            own,
        }
    }

    /// Returns the update that adds the total and the aggregates in slots.
    pub(super) fn update(&self, billable_month: Option<String>) -> Action {
        let mut update = Update::adding(self.total);
        for (number, value, aggregate) in &self.in_slots {
            let slot = slot(*number);
            for (name, number) in in_slot(&slot, aggregate) {
                update.add(name, number);
            }
            update.set_once(slot_value(&slot), s(value_text(value)));
        }
        if let Some(partition) = billable_month {
            update.set(attr::BILLABLE_MONTH.to_owned(), s(partition));
        }
        update.build(self.key.key())
    }

    /// Returns the updates of the items of single values, which need not exist yet.
    pub(super) fn own_updates(&self) -> Vec<Action> {
        let DayKey { scope, day, shard } = &self.key;
        let partition = scope.partition(*day);
        let key = |value| keys(&*partition, in_shard(value_sk(*day, value), *shard));
        let own = self.own.iter();
        own.map(|(value, aggregate)| Update::adding(aggregate).build(key(value)))
            .collect()
    }
}

/// Returns the attributes of an aggregate in a slot.
fn in_slot(slot: &str, aggregate: &Aggregate) -> impl Iterator<Item = (String, AttributeValue)> {
    let fields = fields(aggregate).into_iter();
    fields.filter_map(|(field, number)| Some((field.attribute_in(slot)?, number)))
}

/// Returns the attributes of aggregates that one item has in slots, with these values.
pub(super) fn slots_of(values: &[(&DimensionValue, &Aggregate)]) -> Item {
    let mut item = Item::new();
    for (number, (value, aggregate)) in values.iter().enumerate() {
        let slot = slot(number);
        item.extend(in_slot(&slot, aggregate));
        item.insert(slot_value(&slot), s(value_text(value)));
    }
    item
}

/// Update of an item, with the shortest placeholders.
#[derive(Default)]
struct Update {
    added: Vec<String>,
    set: Vec<String>,
    conditions: Vec<String>,
    attributes: Vec<(String, AttributeValue)>,
}

impl Update {
    fn attribute(&mut self, name: String, value: AttributeValue) -> usize {
        self.attributes.push((name, value));
        self.attributes.len() - 1
    }

    fn add(&mut self, name: String, value: AttributeValue) {
        let at = self.attribute(name, value);
        self.added.push(format!("#{at} :{at}"));
    }

    /// Creates the update that adds an aggregate to the one that the item itself is.
    fn adding(aggregate: &Aggregate) -> Self {
        let mut update = Self::default();
        for (field, number) in fields(aggregate) {
            update.add(field.attribute(), number);
        }
        update
    }

    fn set(&mut self, name: String, value: AttributeValue) {
        let at = self.attribute(name, value);
        self.set.push(format!("#{at}=:{at}"));
    }

    /// Sets an attribute that has no other value.
    fn set_once(&mut self, name: String, value: AttributeValue) {
        let at = self.attribute(name, value);
        self.set.push(format!("#{at}=:{at}"));
        // Absent: the slot is free. Equal: it is this value's. Otherwise another writer gave it to another value, to whose
        // sums these would be added.
        self.conditions
            .push(format!("(attribute_not_exists(#{at}) OR #{at}=:{at})"));
    }

    fn build(self, key: Item) -> Action {
        let mut expression = format!("ADD {}", self.added.join(","));
        if !self.set.is_empty() {
            expression.push_str(&format!(" SET {}", self.set.join(",")));
        }
        let mut action = Action::update(USAGE, key, expression);
        if !self.conditions.is_empty() {
            action = action.when(self.conditions.join(" AND "));
        }
        for (at, (name, value)) in self.attributes.into_iter().enumerate() {
            action = action
                .name(format!("#{at}"), name)
                .value(format!(":{at}"), value);
        }
        action
    }
}

impl Store {
    /// Returns the layouts of these items, and reads those that this instance does not remember. One that cannot be read is
    /// empty: a write that relies on it changes nothing, and returns the item.
    pub(super) async fn layouts_of(
        &self,
        wanted: impl Iterator<Item = DayKey>,
    ) -> HashMap<DayKey, Layout> {
        let mut layouts = HashMap::new();
        let mut unknown: BTreeMap<(String, String), DayKey> = BTreeMap::new();
        for key in wanted {
            match self.layouts.get(&key) {
                Some(layout) => _ = layouts.insert(key, layout),
                None => _ = unknown.insert(key.texts(), key),
            }
        }
        if unknown.is_empty() {
            return layouts;
        }
        let to_read = unknown.values().map(DayKey::key).collect();
        let reading = self.batch_get("reading aggregates", USAGE, to_read);
        let read = tokio::time::timeout(READING_TIMEOUT, reading).await;
        for item in read.ok().and_then(Result::ok).unwrap_or_default() {
            let reader = Reader::new("aggregate", &item);
            let (Ok(pk), Ok(sk), Ok(layout)) = (
                reader.text(attr::PK),
                reader.text(attr::SK),
                Layout::read(&item),
            ) else {
                continue;
            };
            if let Some(key) = unknown.remove(&(pk.to_owned(), sk.to_owned())) {
                self.layouts.learn(key.clone(), layout.clone());
                layouts.insert(key, layout);
            }
        }
        layouts
    }
}
