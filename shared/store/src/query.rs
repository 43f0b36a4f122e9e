//! Queries of everything under a partition key, however many pages that takes.

use aws_sdk_dynamodb::types::AttributeValue;

use crate::Store;
use crate::error::StoreError;
use crate::item::Item;
use crate::schema::Table;

impl Store {
    /// All items that meet the key condition, read consistently, in the order of their sort keys.
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
