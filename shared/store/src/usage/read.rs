//! Reading aggregates.

use std::collections::BTreeMap;

use tollgate_domain::billing::{BillableDays, billable_days};
use tollgate_domain::id::CustomerId;
use tollgate_domain::usage::{Aggregate, Endpoint};
use tollgate_domain::window::{Day, Month};

use super::aggregate::read_aggregate;
use super::sort_keys::{DAY, day_sk, endpoints_sk};
use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, s};
use crate::schema::{USAGE, attr};

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
        let items = self.usage_items(customer, format!("{DAY}{month}-")).await?;
        let mut days: BTreeMap<Day, Aggregate> = BTreeMap::new();
        for (sk, item) in &items {
            let day = sk.strip_prefix(DAY).map(|rest| match rest.split_once('/') {
                Some((day, _)) => day,
                None => rest,
            });
            let day = day.and_then(|day| day.parse().ok());
            let day = day.ok_or_else(|| StoreError::corrupt("aggregate", attr::SK))?;
            days.entry(day).or_default().merge(&read_aggregate(item)?);
        }
        Ok(days)
    }

    /// Reads the aggregate of one day of a customer.
    pub(crate) async fn one_day_usage(
        &self,
        customer: &CustomerId,
        day: Day,
    ) -> Result<Aggregate, StoreError> {
        self.aggregate(customer, day_sk(day)).await
    }

    /// Sums up the shards of an aggregate.
    async fn aggregate(&self, customer: &CustomerId, sk: String) -> Result<Aggregate, StoreError> {
        let items = self.usage_items(customer, sk).await?;
        let mut sum = Aggregate::default();
        for (_, item) in &items {
            sum.merge(&read_aggregate(item)?);
        }
        Ok(sum)
    }

    /// Reads the aggregates of the endpoints of a customer's day consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn endpoint_usage(
        &self,
        customer: &CustomerId,
        day: Day,
    ) -> Result<BTreeMap<Endpoint, Aggregate>, StoreError> {
        let prefix = endpoints_sk(day);
        let items = self.usage_items(customer, prefix.clone()).await?;
        let mut endpoints: BTreeMap<Endpoint, Aggregate> = BTreeMap::new();
        for (sk, item) in &items {
            // After the day, `/<shard>` if the aggregate is sharded; no method contains a space.
            let endpoint = sk
                .strip_prefix(&prefix)
                .and_then(|rest| rest.split_once('#'))
                .and_then(|(_, endpoint)| endpoint.split_once(' '));
            let (method, route) =
                endpoint.ok_or_else(|| StoreError::corrupt("aggregate", attr::SK))?;
            let endpoint = Endpoint {
                method: method.to_owned(),
                route: route.to_owned(),
            };
            endpoints
                .entry(endpoint)
                .or_default()
                .merge(&read_aggregate(item)?);
        }
        Ok(endpoints)
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

    /// Reads all usage items of a customer whose sort key begins with `prefix`.
    async fn usage_items(
        &self,
        customer: &CustomerId,
        prefix: String,
    ) -> Result<Vec<(String, Item)>, StoreError> {
        let items = self.query_all(
            "reading usage",
            USAGE,
            "pk = :pk AND begins_with(sk, :prefix)",
            [(":pk", s(customer.as_str())), (":prefix", s(prefix))],
        );
        let items = items.await?.into_iter();
        let with_sk = items.map(|item| {
            let sk = Reader::new("aggregate", &item).text(attr::SK)?.to_owned();
            Ok((sk, item))
        });
        with_sk.collect()
    }
}
