//! Counted usage, written as the usage-writer does.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tollgate_domain::id::CustomerId;
use tollgate_domain::usage::{Adjustment, Aggregate, Aggregates, DimensionValue, Endpoint};
use tollgate_domain::window::Day;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::{EventPart, ShardCounts, Store, UsageScope, WriteUsageOutcome};

use crate::{p, plans};

/// Time for counting in tests, which nothing but a hanging store uses up.
pub const COUNTING_TIME: Duration = Duration::from_secs(15);

/// Returns an aggregate of billable calls on a plan.
pub fn calls(plan: &str, calls: u64) -> Aggregate {
    Aggregate {
        calls,
        billable: [(p(plan), calls)].into(),
        ..Aggregate::default()
    }
}

/// Returns the aggregates of usage on one day, without dimensions.
pub fn on_day(day: &str, aggregate: Aggregate) -> Aggregates {
    let day: Day = p(day);
    Aggregates {
        months: [(day.month(), aggregate.clone())].into(),
        days: [(day, aggregate)].into(),
        ..Aggregates::default()
    }
}

/// Returns the only part of a usage event with one record, to count these aggregates.
pub fn event_part<'a>(
    id: &'a str,
    customer: &'a CustomerId,
    aggregates: &'a Aggregates,
    received_at: Timestamp,
) -> EventPart<'a> {
    EventPart {
        source: "tollgate:tests",
        id,
        part: 0,
        customer,
        aggregates,
        too_old: None,
        records: 1,
        adjustments: &[],
        rejected: &[],
        body: b"{}",
        received_at,
    }
}

/// Reads the aggregates of the endpoints of a customer's day.
pub async fn endpoint_usage(
    store: &Store,
    customer: &str,
    day: &str,
) -> BTreeMap<Endpoint, Aggregate> {
    let scope = UsageScope::Customer(p(customer));
    let values = store.dimension_usage(&scope, p(day)).await.unwrap();
    let endpoints = values.into_iter();
    let endpoints = endpoints.filter_map(|(value, aggregate)| match value {
        DimensionValue::Endpoint(endpoint) => Some((endpoint, aggregate)),
        _ => None,
    });
    endpoints.collect()
}

/// Counts usage of a customer on a day.
pub async fn add_usage(at: &Fixture, customer: &str, day: &str, aggregate: Aggregate) {
    count(at, customer, &on_day(day, aggregate), &[]).await;
}

/// Counts an adjustment of a customer's usage.
pub async fn adjust(at: &Fixture, customer: &str, adjustment: Adjustment) {
    let mut aggregates = Aggregates::default();
    aggregates.adjust(&adjustment);
    count(at, customer, &aggregates, &[(0, adjustment)]).await;
}

async fn count(
    at: &Fixture,
    customer: &str,
    aggregates: &Aggregates,
    adjustments: &[(usize, Adjustment)],
) {
    let (customer, id) = (p(customer), format!("event-{}", at.entropy.below(u64::MAX)));
    let part = EventPart {
        adjustments,
        ..event_part(&id, &customer, aggregates, at.clock().now())
    };
    let (store, plans, shard_counts) = (&at.store, plans(), ShardCounts::default());
    let parts = [part];
    let written = store.write_usage(&parts, &plans, &shard_counts, COUNTING_TIME);
    let outcomes = written.await;
    assert_eq!(*outcomes[0].as_ref().unwrap(), WriteUsageOutcome::Counted);
}
