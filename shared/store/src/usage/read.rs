//! Reading aggregates.

use std::collections::BTreeMap;

use tollgate_domain::billing::{BillableDays, billable_days};
use tollgate_domain::id::CustomerId;
use tollgate_domain::usage::{Aggregate, Dimension, DimensionValue, Endpoint};
use tollgate_domain::window::{Day, Month};

use super::fields::{read_own, read_slots};
use super::layout::{read_value, slot_value};
use super::scope::UsageScope;
use super::sort_keys::{DAY, bundled_sk, day_sk, dimension_sk, endpoints_sk, parse_value_sk};
use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, s};
use crate::schema::{USAGE, attr};

const DIMENSIONS: [Dimension; 4] = [
    Dimension::Endpoint,
    Dimension::Key,
    Dimension::Model,
    Dimension::Repeated,
];

fn corrupt() -> StoreError {
    StoreError::corrupt("aggregate", attr::SK)
}

/// Adds an aggregate to that of a value.
fn add_to(
    values: &mut BTreeMap<DimensionValue, Aggregate>,
    value: DimensionValue,
    aggregate: &Aggregate,
) {
    values.entry(value).or_default().merge(aggregate);
}

/// Adds the aggregates in the slots of an item.
fn add_slots(
    values: &mut BTreeMap<DimensionValue, Aggregate>,
    item: &Item,
) -> Result<(), StoreError> {
    for (slot, aggregate) in read_slots(item.iter())? {
        let value = item.get(&slot_value(slot)).ok_or_else(corrupt)?;
        add_to(values, read_value(value)?, &aggregate);
    }
    Ok(())
}

impl Store {
    /// Reads the aggregate of a customer's month consistently: the sum of its days.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn month_usage(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<Aggregate, StoreError> {
        let mut sum = Aggregate::default();
        for day in self.day_usage(customer, month).await?.values() {
            sum.merge(day);
        }
        Ok(sum)
    }

    /// Reads the aggregates of the days of a customer's month consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn day_usage(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<BTreeMap<Day, Aggregate>, StoreError> {
        let scope = UsageScope::Customer(customer.clone());
        self.days_of_month(&scope, month).await
    }

    /// Reads the aggregates of the days of a month consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn days_of_month(
        &self,
        scope: &UsageScope,
        month: Month,
    ) -> Result<BTreeMap<Day, Aggregate>, StoreError> {
        let partition = scope.partition(month.first_day());
        let items = self
            .usage_items(&partition, format!("{DAY}{month}-"))
            .await?;
        let mut days: BTreeMap<Day, Aggregate> = BTreeMap::new();
        for (sk, item) in &items {
            let day = sk.strip_prefix(DAY).map(|rest| match rest.split_once('/') {
                Some((day, _)) => day,
                None => rest,
            });
            let day = day.and_then(|day| day.parse().ok());
            let day = day.ok_or_else(corrupt)?;
            let aggregate = read_own(item.iter())?;
            days.entry(day).or_default().merge(&aggregate);
        }
        Ok(days)
    }

    /// Reads the aggregate of one day of a customer.
    pub(crate) async fn one_day_usage(
        &self,
        customer: &CustomerId,
        day: Day,
    ) -> Result<Aggregate, StoreError> {
        let items = self.usage_items(customer.as_str(), day_sk(day)).await?;
        let mut sum = Aggregate::default();
        for (_, item) in &items {
            sum.merge(&read_own(item.iter())?);
        }
        Ok(sum)
    }

    /// Reads the aggregates of a day by dimensions, consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn dimension_usage(
        &self,
        scope: &UsageScope,
        day: Day,
    ) -> Result<BTreeMap<DimensionValue, Aggregate>, StoreError> {
        let mut values = BTreeMap::new();
        let partition = scope.partition(day);
        for prefix in [day_sk(day), bundled_sk(day)] {
            for (_, item) in self.usage_items(&partition, prefix).await? {
                add_slots(&mut values, &item)?;
            }
        }
        for dimension in DIMENSIONS {
            let prefix = dimension_sk(day.month(), dimension);
            for (sk, item) in self.usage_items(&partition, prefix).await? {
                let (value, of) = parse_value_sk(&sk).ok_or_else(corrupt)?;
                if of == day {
                    add_to(&mut values, value, &read_own(item.iter())?);
                }
            }
        }
        for (value, aggregate) in self.endpoints_before(&partition, day).await? {
            add_to(&mut values, value, &aggregate);
        }
        Ok(values)
    }

    /// Reads the aggregates of a day's endpoints that earlier releases wrote.
    async fn endpoints_before(
        &self,
        partition: &str,
        day: Day,
    ) -> Result<Vec<(DimensionValue, Aggregate)>, StoreError> {
        let prefix = endpoints_sk(day);
        let items = self.usage_items(partition, prefix.clone()).await?;
        let endpoints = items.iter().map(|(sk, item)| {
            // After the day, `/<shard>` if the aggregate is sharded; no method contains a space.
            let endpoint = sk
                .strip_prefix(&prefix)
                .and_then(|rest| rest.split_once('#'))
                .and_then(|(_, endpoint)| endpoint.split_once(' '));
            let (method, route) = endpoint.ok_or_else(corrupt)?;
            let endpoint = Endpoint {
                method: method.to_owned(),
                route: route.to_owned(),
            };
            Ok((DimensionValue::Endpoint(endpoint), read_own(item.iter())?))
        });
        endpoints.collect()
    }

    /// Reads the billable calls of a customer's month by day and plan consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn billable_days(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<BillableDays, StoreError> {
        let days = self.day_usage(customer, month).await?;
        Ok(billable_days(&days))
    }

    /// Reads all usage items of a partition whose sort key begins with `prefix`.
    async fn usage_items(
        &self,
        partition: &str,
        prefix: String,
    ) -> Result<Vec<(String, Item)>, StoreError> {
        let items = self.query_all(
            "reading usage",
            USAGE,
            "pk = :pk AND begins_with(sk, :prefix)",
            [(":pk", s(partition)), (":prefix", s(prefix))],
        );
        let items = items.await?.into_iter();
        let with_sk = items.map(|item| {
            let sk = Reader::new("aggregate", &item).text(attr::SK)?.to_owned();
            Ok((sk, item))
        });
        with_sk.collect()
    }
}
