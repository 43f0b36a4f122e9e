//! What usage adds up to: by day, endpoint and month.

use std::collections::BTreeMap;

use super::{Adjustment, UsageRecord};
use crate::id::PlanId;
use crate::money::MicroUsd;
use crate::window::{Day, Month};

/// What a set of records adds up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aggregate {
    /// Calls answered.
    pub calls: u64,
    /// Calls that count towards the included and charged ones, by the plan they were made on.
    pub billable: BTreeMap<PlanId, u64>,
    /// Calls answered with a 4xx status.
    pub client_errors: u64,
    /// Calls answered with a 5xx status.
    pub server_errors: u64,
    /// Sum of the latencies, in milliseconds.
    pub latency_ms: u64,
    /// Language-model tokens.
    pub tokens: u64,
    /// Those of them whose price was not known.
    pub unpriced_tokens: u64,
    /// What the calls cost their provider.
    pub cost: MicroUsd,
    /// Corrections, which are in none of the other numbers.
    pub adjusted: Adjusted,
}

/// What a set of adjustments adds up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adjusted {
    /// How many there are.
    pub count: u64,
    /// Billable calls more, or fewer, than were recorded, by plan.
    pub billable: BTreeMap<PlanId, i64>,
    /// What the calls cost their provider more, or less, in micro-dollars.
    pub micro_usd: i64,
}

impl Adjusted {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        for (plan, calls) in &other.billable {
            let sum = self.billable.entry(plan.clone()).or_default();
            *sum = sum.saturating_add(*calls);
        }
        // What cancels out is as if it had never been.
        self.billable.retain(|_, calls| *calls != 0);
        self.micro_usd = self.micro_usd.saturating_add(other.micro_usd);
    }

    /// Billable calls on all plans.
    #[must_use]
    pub fn billable_calls(&self) -> i64 {
        let calls = self.billable.values().copied();
        calls.fold(0, i64::saturating_add)
    }
}

impl From<&Adjustment> for Adjusted {
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
        self.calls += 1;
        if record.is_billable() {
            *self.billable.entry(record.plan.clone()).or_default() += 1;
        }
        self.client_errors += u64::from((400..500).contains(&record.status));
        self.server_errors += u64::from(record.status >= 500);
        self.latency_ms = self.latency_ms.saturating_add(record.latency_ms);
        for cost in &record.costs {
            let tokens = cost.all_tokens();
            self.tokens = self.tokens.saturating_add(tokens);
            if cost.unpriced {
                self.unpriced_tokens = self.unpriced_tokens.saturating_add(tokens);
            }
            self.cost = self.cost + cost.micro_usd;
        }
    }

    /// Adds another tally.
    pub fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        for (plan, calls) in &other.billable {
            *self.billable.entry(plan.clone()).or_default() += calls;
        }
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.latency_ms = self.latency_ms.saturating_add(other.latency_ms);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.unpriced_tokens = self.unpriced_tokens.saturating_add(other.unpriced_tokens);
        self.cost = self.cost + other.cost;
        self.adjusted.merge(&other.adjusted);
    }

    /// Billable calls on all plans, as they were recorded.
    #[must_use]
    pub fn billable_calls(&self) -> u64 {
        self.billable.values().sum()
    }
}

/// A method and a route template: what endpoint statistics are kept by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// HTTP method.
    pub method: String,
    /// Route template.
    pub route: String,
}

/// The tallies of some usage of one customer, by every key they are stored under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aggregates {
    /// By UTC day.
    pub days: BTreeMap<Day, Aggregate>,
    /// By UTC day and endpoint.
    pub endpoints: BTreeMap<(Day, Endpoint), Aggregate>,
    /// By UTC month.
    pub months: BTreeMap<Month, Aggregate>,
}

impl Aggregates {
    /// Adds one record under each of its keys.
    pub fn add(&mut self, record: &UsageRecord) {
        let day = Day::containing(record.time);
        let endpoint = Endpoint {
            method: record.method.clone(),
            route: record.endpoint.clone(),
        };
        self.days.entry(day).or_default().add(record);
        self.endpoints
            .entry((day, endpoint))
            .or_default()
            .add(record);
        self.months.entry(day.month()).or_default().add(record);
    }

    /// Adds an adjustment to its day and month. It is of no endpoint.
    pub fn adjust(&mut self, adjustment: &Adjustment) {
        let day = Day::containing(adjustment.time);
        let adjusted = Adjusted::from(adjustment);
        self.days.entry(day).or_default().adjusted.merge(&adjusted);
        let month = self.months.entry(day.month()).or_default();
        month.adjusted.merge(&adjusted);
    }

    /// Adds other aggregates.
    pub fn merge(&mut self, other: &Self) {
        for (day, tally) in &other.days {
            self.days.entry(*day).or_default().merge(tally);
        }
        for (endpoint, tally) in &other.endpoints {
            let sum = self.endpoints.entry(endpoint.clone()).or_default();
            sum.merge(tally);
        }
        for (month, tally) in &other.months {
            self.months.entry(*month).or_default().merge(tally);
        }
    }

    /// How many items they are stored in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.days.len() + self.endpoints.len() + self.months.len()
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
