//! Sums of usage by day, by day and value of a dimension, and by month.

use std::collections::BTreeMap;

use super::{Adjustment, Cost, DimensionValue, Latencies, UsageRecord};
use crate::id::PlanId;
use crate::money::MicroUsd;
use crate::window::{Day, Month};

/// Sums of a set of usage records and adjustments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aggregate {
    /// Metered calls.
    pub calls: u64,
    /// Billable calls, by plan.
    pub billable: BTreeMap<PlanId, u64>,
    /// Calls with a 4xx status.
    pub client_errors: u64,
    /// Calls with a 5xx status.
    pub server_errors: u64,
    /// Sum of the latencies, in milliseconds.
    pub latency_ms: u64,
    /// Distribution of the latencies. Earlier releases did not keep it: it may have fewer calls.
    pub latencies: Latencies,
    /// Language-model tokens.
    pub tokens: u64,
    /// Language-model tokens without a known price.
    pub unpriced_tokens: u64,
    /// Cost of the calls to the operator, in micro-dollars.
    pub cost: MicroUsd,
    /// Adjustments, which are not included in the other sums.
    pub adjusted: AdjustmentTotals,
}

/// Sums of a set of adjustments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdjustmentTotals {
    /// Number of adjustments.
    pub count: u64,
    /// Billable calls added (positive) or removed (negative), by plan.
    pub billable: BTreeMap<PlanId, i64>,
    /// Cost added (positive) or removed (negative), in micro-dollars.
    pub micro_usd: i64,
}

impl AdjustmentTotals {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        for (plan, calls) in &other.billable {
            let sum = self.billable.entry(plan.clone()).or_default();
            *sum = sum.saturating_add(*calls);
        }
        // A plan whose adjustments cancel out has no member, as if it had none.
        self.billable.retain(|_, calls| *calls != 0);
        self.micro_usd = self.micro_usd.saturating_add(other.micro_usd);
    }

    /// Returns the billable calls added or removed on all plans.
    #[must_use]
    pub fn billable_calls(&self) -> i64 {
        let calls = self.billable.values().copied();
        calls.fold(0, i64::saturating_add)
    }
}

impl From<&Adjustment> for AdjustmentTotals {
    fn from(adjustment: &Adjustment) -> Self {
        let Adjustment { plan, .. } = adjustment;
        let calls = adjustment.billable_calls;
        let calls = (calls != 0).then(|| (plan.clone(), calls));
        Self {
            count: 1,
            billable: calls.into_iter().collect(),
            micro_usd: adjustment.micro_usd,
        }
    }
}

impl Aggregate {
    /// Adds one record.
    pub fn add(&mut self, record: &UsageRecord) {
        self.add_with(record, &record.costs);
    }

    /// Adds one record, with these of its costs.
    fn add_with<'a>(&mut self, record: &UsageRecord, costs: impl IntoIterator<Item = &'a Cost>) {
        self.calls += 1;
        if record.is_billable() {
            *self.billable.entry(record.plan.clone()).or_default() += 1;
        }
        self.client_errors += u64::from((400..500).contains(&record.status));
        self.server_errors += u64::from(record.status >= 500);
        self.latency_ms = self.latency_ms.saturating_add(record.latency_ms);
        self.latencies.add(record.latency_ms);
        for cost in costs {
            let tokens = cost.all_tokens();
            self.tokens = self.tokens.saturating_add(tokens);
            if cost.unpriced {
                self.unpriced_tokens = self.unpriced_tokens.saturating_add(tokens);
            }
            self.cost = self.cost + cost.micro_usd;
        }
    }

    /// Adds the sums of another aggregate.
    pub fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        for (plan, calls) in &other.billable {
            *self.billable.entry(plan.clone()).or_default() += calls;
        }
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.latency_ms = self.latency_ms.saturating_add(other.latency_ms);
        self.latencies.merge(&other.latencies);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.unpriced_tokens = self.unpriced_tokens.saturating_add(other.unpriced_tokens);
        self.cost = self.cost + other.cost;
        self.adjusted.merge(&other.adjusted);
    }

    /// Returns the billable calls on all plans, without adjustments.
    #[must_use]
    pub fn billable_calls(&self) -> u64 {
        self.billable.values().sum()
    }
}

/// Aggregates of a set of usage of one customer, by each of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aggregates {
    /// By UTC day.
    pub days: BTreeMap<Day, Aggregate>,
    /// By UTC day and value of a dimension, without adjustments.
    pub dimensions: BTreeMap<(Day, DimensionValue), Aggregate>,
    /// By UTC month.
    pub months: BTreeMap<Month, Aggregate>,
}

impl Aggregates {
    /// Adds one record to the aggregate of each of its keys.
    pub fn add(&mut self, record: &UsageRecord) {
        let day = Day::containing(record.time);
        self.days.entry(day).or_default().add(record);
        for (value, costs) in record.dimension_values() {
            let sum = self.dimensions.entry((day, value)).or_default();
            sum.add_with(record, costs);
        }
        self.months.entry(day.month()).or_default().add(record);
    }

    /// Adds an adjustment to its day and month. Adjustments have no dimensions.
    pub fn adjust(&mut self, adjustment: &Adjustment) {
        let day = Day::containing(adjustment.time);
        let adjusted = AdjustmentTotals::from(adjustment);
        self.days.entry(day).or_default().adjusted.merge(&adjusted);
        let month = self.months.entry(day.month()).or_default();
        month.adjusted.merge(&adjusted);
    }

    /// Adds the sums of other aggregates, key by key.
    pub fn merge(&mut self, other: &Self) {
        for (day, aggregate) in &other.days {
            self.days.entry(*day).or_default().merge(aggregate);
        }
        for (value, aggregate) in &other.dimensions {
            let sum = self.dimensions.entry(value.clone()).or_default();
            sum.merge(aggregate);
        }
        for (month, aggregate) in &other.months {
            self.months.entry(*month).or_default().merge(aggregate);
        }
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.days.is_empty()
    }
}

impl<'a> FromIterator<&'a UsageRecord> for Aggregates {
    fn from_iter<I: IntoIterator<Item = &'a UsageRecord>>(records: I) -> Self {
        let mut aggregates = Self::default();
        for record in records {
            aggregates.add(record);
        }
        aggregates
    }
}
