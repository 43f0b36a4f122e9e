//! Requests about more than one item: all pages of a query, batches of keys, and puts.

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use futures_util::stream::{self, StreamExt};

use crate::Store;
use crate::error::StoreError;
use crate::item::Item;
use crate::schema::Table;
use crate::transaction::Backoff;

/// Requests that one operation sends at a time.
const CONCURRENCY: usize = 16;

/// Awaits these futures, some at a time; a slow one delays no others. Returns their outputs in their order.
pub(crate) async fn concurrently<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let numbered = futures.into_iter().enumerate();
    let numbered = numbered.map(|(number, future)| async move { (number, future.await) });
    let unordered = stream::iter(numbered).buffer_unordered(CONCURRENCY);
    let mut outputs: Vec<(usize, F::Output)> = unordered.collect().await;
    outputs.sort_unstable_by_key(|(number, _)| *number);
    outputs.into_iter().map(|(_, output)| output).collect()
}

/// DynamoDB's bound on the keys of one batch.
const BATCH_GET: usize = 100;

impl Store {
    /// Reads the items with these keys that exist, consistently and in any order.
    pub(crate) async fn batch_get(
        &self,
        operation: &'static str,
        table: Table,
        mut keys: Vec<Item>,
    ) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        let mut backoff = Backoff::new();
        while !keys.is_empty() {
            let batch = keys.split_off(keys.len().saturating_sub(BATCH_GET));
            // Keys that a throttled table leaves unread are requested again, as are those of a failed
            // request, up to the backoff's number of tries.
            let (unread, error) = match self.batch_get_once(operation, table, &batch).await {
                Ok((found, unread)) => {
                    items.extend(found);
                    (unread, StoreError::contended(operation))
                }
                Err(error) if error.is_transient() => (batch, error),
                Err(error) => return Err(error),
            };
            if !unread.is_empty() && !backoff.next_try(&self.entropy).await {
                return Err(error);
            }
            keys.extend(unread);
        }
        Ok(items)
    }

    /// Sends one request. Returns the items that it has read, and the keys that are still to be read.
    async fn batch_get_once(
        &self,
        operation: &'static str,
        table: Table,
        keys: &[Item],
    ) -> Result<(Vec<Item>, Vec<Item>), StoreError> {
        let wanted = KeysAndAttributes::builder()
            .set_keys(Some(keys.to_vec()))
            .consistent_read(true)
            .build()
            .map_err(|error| StoreError::request(operation, error))?;
        let found = self
            .client
            .batch_get_item()
            .request_items(self.table(table), wanted)
            .send()
            .await
            .map_err(|error| StoreError::service(operation, error))?;
        let items = found.responses.unwrap_or_default().into_values();
        let unread = found.unprocessed_keys.unwrap_or_default().into_values();
        let unread = unread.flat_map(|left| left.keys);
        Ok((items.flatten().collect(), unread.collect()))
    }

    /// Puts items, whatever is there. If it fails, some of them may have been put.
    pub(crate) async fn put_all(
        &self,
        operation: &'static str,
        table: Table,
        items: Vec<Item>,
    ) -> Result<(), StoreError> {
        let puts = items
            .into_iter()
            .map(|item| self.put(operation, table, item));
        let puts = concurrently(puts.collect()).await;
        puts.into_iter().collect()
    }

    async fn put(
        &self,
        operation: &'static str,
        table: Table,
        item: Item,
    ) -> Result<(), StoreError> {
        let put = self.client.put_item().table_name(self.table(table));
        let put = put.set_item(Some(item));
        let mut backoff = Backoff::new();
        loop {
            let Err(error) = put.clone().send().await else {
                return Ok(());
            };
            let error = StoreError::service(operation, error);
            if !error.is_transient() || !backoff.next_try(&self.entropy).await {
                return Err(error);
            }
        }
    }

    /// Reads all items that meet the key condition, consistently and in the order of their sort keys.
    pub(crate) async fn query_all<const N: usize>(
        &self,
        operation: &'static str,
        table: Table,
        condition: &str,
        values: [(&str, AttributeValue); N],
    ) -> Result<Vec<Item>, StoreError> {
        let values = values.map(|(name, value)| (name.to_owned(), value));
        let query = self
            .client
            .query()
            .table_name(self.table(table))
            .key_condition_expression(condition)
            .set_expression_attribute_values(Some(values.into()))
            .consistent_read(true);
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let found = query
                .clone()
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| StoreError::service(operation, error))?;
            items.extend(found.items.unwrap_or_default());
            start = found.last_evaluated_key;
            if start.is_none() {
                return Ok(items);
            }
        }
    }
}
